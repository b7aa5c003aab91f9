/**
 * How each kind of fault is injected, how it proves that it fired, and when
 * the run has recovered from it.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Cluster } from "./cluster.ts";
import { PATIENCE_MS } from "./cluster.ts";
import type { SmallDisk } from "./small-disk.ts";
import type { Found } from "./journal.ts";
import type { Draw, FaultKind } from "./plan.ts";

export interface FaultContext {
  readonly cluster: Cluster;
  readonly disk: SmallDisk | null;
  readonly draw: Draw;
}

export interface FiredFault {
  /** Which process or link. */
  readonly target: string;
  /** Last committed step before the fault. */
  readonly atStep: number;
  /** What processes or the kernel said about it. */
  readonly evidence: readonly string[];
  /** From the fault, or from its end where training cannot go on during it, to the next committed step. */
  readonly recoveredMs: number;
}

/** @throws {Error} If the fault did not fire, or the run did not recover. */
export type Fault = (context: FaultContext) => Promise<FiredFault>;

const REFILL_MS = 50;

interface Victim {
  readonly id: string;
  readonly pid: number;
}

function victimOf({ cluster, draw }: FaultContext, name = "victim"): Victim {
  const { workers } = cluster.view;
  const [id, pid] = workers[Math.floor(draw(name) * workers.length)];
  return { id, pid };
}

/** One for a fault that must have another worker. */
function otherVictim(context: FaultContext, { id: first }: Victim): Victim {
  const workers = context.cluster.view.workers.filter(([id]) => id !== first);
  const [id, pid] = workers[Math.floor(context.draw("second victim") * workers.length)];
  return { id, pid };
}

const nameOf = ({ id, pid }: Victim): string => `${id} (pid ${pid})`;

/** The coordinator's word that it goes on without a process. */
function lost({ cluster }: FaultContext, { id, pid }: Victim, from: number): Promise<Found> {
  const pattern = new RegExp(`Lost worker "${id}" \\((?:rank \\d+, )?pid ${pid} .*`);
  return cluster.journal.line("coordinator", pattern, from, PATIENCE_MS);
}

function joinedAgain({ cluster }: FaultContext, { id, pid }: Victim, from: number): Promise<Found> {
  const pattern = new RegExp(`^Worker "${id}" joined \\(pid ${pid} .*holds step \\d+`);
  return cluster.journal.line("coordinator", pattern, from, PATIENCE_MS);
}

/** State of a process as the kernel tells: T is stopped. */
function stateOf(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2)[0];
}

async function stop(pid: number): Promise<void> {
  process.kill(pid, "SIGSTOP");
  for (let i = 0; i < 200 && stateOf(pid) !== "T"; i++) await sleep(5);
  if (stateOf(pid) !== "T") throw new Error(`Process ${pid} does not stop: it is in state ${stateOf(pid)}`);
}

const killWorker: Fault = async (context) => {
  const { cluster } = context;
  const { journal, view } = cluster;
  const victim = victimOf(context);
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  process.kill(victim.pid, "SIGKILL");
  const { match, line } = await lost(context, victim, from);
  const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(line), PATIENCE_MS);
  return { target: nameOf(victim), atStep, evidence: [match[0]], recoveredMs: atMs - firedMs };
};

const stopLong: Fault = async (context) => {
  const { cluster, draw } = context;
  const { journal, view, options } = cluster;
  const victim = victimOf(context);
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  await stop(victim.pid);
  try {
    const gone = await lost(context, victim, from);
    const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(gone.line), PATIENCE_MS);
    await sleep(draw("longer") * options.failureTimeoutMs);
    process.kill(victim.pid, "SIGCONT");
    const back = await joinedAgain(context, victim, from);
    const evidence = [`state T`, gone.match[0], back.match[0]];
    return { target: nameOf(victim), atStep, evidence, recoveredMs: atMs - firedMs };
  } finally {
    process.kill(victim.pid, "SIGCONT");
  }
};

const stopShort: Fault = async (context) => {
  const { cluster, draw } = context;
  const { view, options } = cluster;
  const victim = victimOf(context);
  const atStep = view.globalStep;
  const firedMs = performance.now();
  await stop(victim.pid);
  const stopMs = (0.1 + 0.3 * draw("duration")) * options.failureTimeoutMs;
  await sleep(stopMs);
  const during = view.globalStep;
  process.kill(victim.pid, "SIGCONT");
  const { globalStep, atMs } = await view.stepAfter(performance.now(), PATIENCE_MS);
  const evidence = [
    `state T for ${Math.round(stopMs)} ms; step ${atStep}, then ${during}, then ${globalStep}`,
  ];
  return { target: nameOf(victim), atStep, evidence, recoveredMs: atMs - firedMs };
};

const join: Fault = async ({ cluster, draw }) => {
  const { journal, view, options } = cluster;
  const evidence: string[] = [];
  if (cluster.targetSize === options.maxWorkers) {
    evidence.push((await cluster.scale(options.workers)).output.trim());
  }
  const workerId = `x-${Math.floor(draw("name") * 1e6)}`;
  const [atStep, from] = [view.globalStep, journal.end];
  cluster.startByHand(workerId);
  const pattern = new RegExp(`^Worker "${workerId}" joined .*`);
  const { line, match } = await journal.line("coordinator", pattern, from, PATIENCE_MS);
  const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(line), PATIENCE_MS);
  evidence.push(match[0]);
  return { target: workerId, atStep, evidence, recoveredMs: atMs - line.atMs };
};

const scale: Fault = async ({ cluster, draw }) => {
  const { journal, view } = cluster;
  const before = cluster.targetSize;
  const fewer = 1 + Math.floor(draw("fewer") * (before - 1));
  const [atStep, from] = [view.globalStep, journal.end];
  await cluster.scale(fewer);
  const { line, match } = await journal.line("coordinator", /^.*: scaled to \d+ workers/, from, PATIENCE_MS);
  const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(line), PATIENCE_MS);
  await cluster.scale(before);
  const evidence = [match[0], `then ${before} workers again`];
  return { target: `${before} to ${fewer} workers`, atStep, evidence, recoveredMs: atMs - line.atMs };
};

const killCoordinator: Fault = async ({ cluster, draw }) => {
  const { journal, view, options } = cluster;
  const target = `coordinator (pid ${cluster.coordinatorPid})`;
  const [atStep, from] = [view.globalStep, journal.end];
  await cluster.killCoordinator();
  const ended = await journal.line("chaos", /^The coordinator has ended: SIGKILL/, from, PATIENCE_MS);
  await sleep(2 * draw("outage") * options.failureTimeoutMs);
  const restartedMs = performance.now();
  const back = journal.end;
  await cluster.resumeCoordinator();
  const { globalStep, atMs } = await view.stepAfterGeneration(back, PATIENCE_MS);
  const evidence = [ended.line.text, `its next one committed step ${globalStep}`];
  return { target, atStep, evidence, recoveredMs: atMs - restartedMs };
};

const endJob: Fault = async ({ cluster }) => {
  const { journal, view } = cluster;
  const target = `all processes, the coordinator's pid ${cluster.coordinatorPid} among them`;
  const [atStep, from] = [view.globalStep, journal.end];
  const { code, output } = await cluster.endJob();
  if (code !== 143) throw new Error(`The coordinator ended with code ${code}: ${output.slice(-2000)}`);
  const pattern = /^Stopped at step (\d+) of \d+, saved/;
  const stopped = await journal.line("coordinator", pattern, from, PATIENCE_MS);
  const restartedMs = performance.now();
  const back = journal.end;
  await cluster.resumeCoordinator();
  const { atMs } = await view.stepAfterGeneration(back, PATIENCE_MS);
  const begun = view.generations.find(({ index }) => index >= back);
  if (begun?.startStep !== Number(stopped.match[1])) {
    throw new Error(`It went on from step ${begun?.startStep} after: ${stopped.match[0]}`);
  }
  const evidence = [stopped.match[0], `its next one went on from step ${begun.startStep}`];
  return { target, atStep, evidence, recoveredMs: atMs - restartedMs };
};

const endMachine: Fault = async (context) => {
  const { cluster } = context;
  const { journal, network, view } = cluster;
  if (network === null) throw new Error("Cannot end a machine without a network");
  const victim = victimOf(context);
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  const pids = network.processesOn(cluster.hostOf(victim.id));
  for (const pid of pids) process.kill(pid, "SIGTERM");
  const pattern = new RegExp(`^"${victim.id}" \\(SIGTERM\\): told to leave, let go after step \\d+`);
  const { line, match } = await journal.line("coordinator", pattern, from, PATIENCE_MS);
  const ended = await journal.line(
    "chaos",
    new RegExp(`^${victim.id} has ended: code 75`),
    from,
    PATIENCE_MS,
  );
  const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(line), PATIENCE_MS);
  const evidence = [match[0], ended.line.text];
  return { target: nameOf(victim), atStep, evidence, recoveredMs: atMs - firedMs };
};

const killAll: Fault = async (context) => {
  const { journal, view } = context.cluster;
  const victims = view.workers.map(([id, pid]) => ({ id, pid }));
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  for (const { pid } of victims) process.kill(pid, "SIGKILL");
  const evidence = await Promise.all(
    victims.map(async (victim) => (await lost(context, victim, from)).match[0]),
  );
  const back = await journal.line(
    "coordinator",
    /^Every worker that held the state is gone: .*/,
    from,
    PATIENCE_MS,
  );
  const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(back.line), PATIENCE_MS);
  const target = victims.map(nameOf).join(", ");
  return { target, atStep, evidence: [...evidence, back.match[0]], recoveredMs: atMs - firedMs };
};

const killTwo: Fault = async (context) => {
  const { cluster } = context;
  const { journal, view, options } = cluster;
  const first = victimOf(context);
  const second = otherVictim(context, first);
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  process.kill(first.pid, "SIGKILL");
  // The second cannot take part in the recovery from the loss of the first, which so lasts until it is killed.
  if (cluster.network !== null) await sleep(options.failureTimeoutMs / 8);
  await stop(second.pid);
  const gone = await lost(context, first, from);
  const numGenerations = view.generations.length;
  process.kill(second.pid, "SIGKILL");
  const goneToo = await lost(context, second, from);
  if (view.generations.length > numGenerations)
    throw new Error("The run had recovered before the second kill");
  const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(goneToo.line), PATIENCE_MS);
  const evidence = [gone.match[0], goneToo.match[0]];
  return { target: `${nameOf(first)}, ${nameOf(second)}`, atStep, evidence, recoveredMs: atMs - firedMs };
};

const sameName: Fault = async (context) => {
  const { cluster } = context;
  const { view } = cluster;
  const victim = victimOf(context);
  const [atStep, numGenerations] = [view.globalStep, view.generations.length];
  const { code, output } = await cluster.rivalOf(victim.id);
  const refused = new RegExp(`refused this worker: .*name "${victim.id}" belongs to .*`).exec(output);
  if (code !== 1 || refused === null) throw new Error(`It was not refused, code ${code}: ${output}`);
  const firedMs = performance.now();
  const { atMs } = await view.stepAfter(firedMs, PATIENCE_MS);
  if (view.generations.length > numGenerations) throw new Error("It changed the members");
  return { target: nameOf(victim), atStep, evidence: [refused[0]], recoveredMs: atMs - firedMs };
};

const diskFull: Fault = async ({ cluster, disk }) => {
  const { journal, view, runDir } = cluster;
  if (disk === null) throw new Error("Cannot fill the disk as checkpoints are not on one of their own");
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  disk.fill();
  const { freeBytes } = disk;
  // A checkpoint that was being written makes room when it replaces an old one.
  const filling = setInterval(() => disk.fill(), REFILL_MS);
  let failed: Found;
  try {
    failed = await journal.line("coordinator", /^Checkpoint failure \d+ of .*/, from, PATIENCE_MS);
  } finally {
    clearInterval(filling);
    disk.free();
  }
  const { atMs } = await view.stepAfter(firedMs, PATIENCE_MS);
  const index = journal.lines.indexOf(failed.line);
  const saved = await journal.line("coordinator", /^Checkpoint of step \d+/, index, PATIENCE_MS);
  const evidence = [`${freeBytes} bytes free`, failed.match[0], saved.match[0]];
  return { target: `${runDir}/checkpoints`, atStep, evidence, recoveredMs: atMs - firedMs };
};

type Direction = readonly [from: number, to: number];

/** Cuts directions between two hosts, until the run goes on, or for a while if it does not without them. */
async function cut(
  context: FaultContext,
  target: string,
  victims: readonly Victim[],
  directions: readonly Direction[],
): Promise<FiredFault> {
  const { cluster, draw } = context;
  const { journal, network, view, options } = cluster;
  if (network === null) throw new Error("Cannot cut a link without a network");
  const before = directions.map(([host]) => network.numSwallowed(host));
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  const lostOne = new RegExp(
    `Lost worker "(?:${victims.map(({ id }) => id).join("|")})" \\((?:rank \\d+, )?pid .*`,
  );
  const healed: number[] = [];
  const evidence: string[] = [];
  let recovery: { readonly atMs: number };
  for (const [a, b] of directions) network.cut(a, b);
  try {
    const gone = await journal.line("coordinator", lostOne, from, PATIENCE_MS);
    evidence.push(gone.match[0]);
    recovery = await view.stepAfterGeneration(journal.lines.indexOf(gone.line), PATIENCE_MS);
    await sleep(2 * draw("longer") * options.failureTimeoutMs);
  } finally {
    for (const [a, b] of directions) network.heal(a, b);
    healed.push(performance.now());
  }
  const numSwallowed = directions.map(([host], i) => network.numSwallowed(host) - before[i]);
  if (numSwallowed.includes(0))
    throw new Error(`Nothing was lost on the way ${target}: the cut did not fire`);
  evidence.push(`${numSwallowed.join(" and ")} packets lost in ${Math.round(healed[0] - firedMs)} ms`);
  return { target, atStep, evidence, recoveredMs: recovery.atMs - firedMs };
}

const toCoordinator =
  (directions: (host: number) => readonly Direction[], arrow: string): Fault =>
  async (context) => {
    const victim = victimOf(context);
    const host = context.cluster.hostOf(victim.id);
    return cut(context, `coordinator ${arrow} ${nameOf(victim)}`, [victim], directions(host));
  };

const betweenWorkers =
  (directions: (a: number, b: number) => readonly Direction[], arrow: string): Fault =>
  async (context) => {
    const a = victimOf(context);
    const b = otherVictim(context, a);
    const hosts = [a, b].map(({ id }) => context.cluster.hostOf(id));
    return cut(context, `${nameOf(a)} ${arrow} ${nameOf(b)}`, [a, b], directions(hosts[0], hosts[1]));
  };

const linkDown: Fault = async (context) => {
  const { cluster, draw } = context;
  const { journal, network, view, options } = cluster;
  if (network === null) throw new Error("Cannot pull a cable without a network");
  const victim = victimOf(context);
  const host = cluster.hostOf(victim.id);
  const [atStep, from] = [view.globalStep, journal.end];
  const firedMs = performance.now();
  const evidence: string[] = [];
  network.setLink(host, "down");
  try {
    const gone = await lost(context, victim, from);
    evidence.push(`link ${network.linkState(host)}`, gone.match[0]);
    const { atMs } = await view.stepAfterGeneration(journal.lines.indexOf(gone.line), PATIENCE_MS);
    await sleep(2 * draw("longer") * options.failureTimeoutMs);
    return { target: nameOf(victim), atStep, evidence, recoveredMs: atMs - firedMs };
  } finally {
    network.setLink(host, "up");
  }
};

export const FAULTS: Readonly<Record<FaultKind, Fault>> = {
  "kill-worker": killWorker,
  "stop-long": stopLong,
  "stop-short": stopShort,
  join,
  scale,
  "kill-coordinator": killCoordinator,
  "end-job": endJob,
  "end-machine": endMachine,
  "kill-all": killAll,
  "kill-two": killTwo,
  "same-name": sameName,
  "disk-full": diskFull,
  partition: toCoordinator(
    (host) => [
      [0, host],
      [host, 0],
    ],
    "-x-",
  ),
  "partition-in": toCoordinator((host) => [[0, host]], "-x>"),
  "partition-out": toCoordinator((host) => [[host, 0]], "<x-"),
  "partition-peers": betweenWorkers(
    (a, b) => [
      [a, b],
      [b, a],
    ],
    "-x-",
  ),
  "partition-peers-one-way": betweenWorkers((a, b) => [[a, b]], "-x>"),
  "link-down": linkDown,
};
