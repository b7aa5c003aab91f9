import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Test } from "tap";
import t from "tap";
import { Coordinator } from "../../coordinator/coordinator.ts";
import { loadDataset } from "../../coordinator/dataset/dataset.ts";
import { Reporter } from "../../coordinator/reporter.ts";
import { holdNewRun } from "../../coordinator/held-run.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { CLI, goneProcesses, metricsOf, run, Running, start, TRAINING_FLAGS } from "./processes.ts";

/** Small enough for a step in a few milliseconds. */
const TRAIN = [...TRAINING_FLAGS, "--seed", "1", "--shards", "4", "--global-batch-size", "8"];
/** Longer than any of these tests. */
const LONG = [...TRAIN, "--checkpoint-every", "1000", "--max-steps", "100000", "--workers"];
const LOST = /Lost worker|going back|has ended|are lost/;

/** Of the runs of this file: the metrics of their steps, without speeds. */
const traces: (readonly string[])[] = [];

/** Step at which a run has stopped as it says; all of it must be saved. */
function stoppedAt(t: Test, runDir: string, output: string): number {
  const step = Number(/Stopped at step (\d+) of 100000, saved\. Results in/.exec(output)?.[1]);
  t.same(newestOf(runDir), step, "its state is saved");
  traces.push(linesOf(runDir));
  t.equal(traces.at(-1)?.length, step, "and so are all metrics");
  return step;
}

/** Metrics without speeds: losses and norms of gradients, and so, of every bit of the parameters. */
function linesOf(runDir: string): readonly string[] {
  return metricsOf(runDir).map(({ workers: _workers, imagesPerSecond: _speed, ...line }) =>
    JSON.stringify(line),
  );
}

/** Step of the newest checkpoint. */
function newestOf(runDir: string): number {
  const names = readdirSync(join(runDir, "checkpoints")).filter((name) => name.startsWith("step-"));
  return Math.max(...names.map((name) => Number(name.slice("step-".length))));
}

const byHand = (endpoint: string, id: string): Running =>
  start(["worker", "--coordinator", endpoint, "--worker-id", id]);

/** A coordinator and its workers, each started by hand, once they train. */
async function trainingByHand(
  runDir: string,
  ids: readonly string[],
  flags: readonly string[] = [],
): Promise<{
  readonly coordinator: Running;
  readonly workers: readonly Running[];
  readonly endpoint: string;
}> {
  const args = ["coordinator", ...LONG, `${ids.length}`, "--bind", "tcp://127.0.0.1:*"];
  const coordinator = start([...args, "--run-dir", runDir, ...flags]);
  const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
  const workers = ids.map((id) => byHand(endpoint, id));
  await coordinator.until(/^step [1-9]/m);
  return { coordinator, workers, endpoint };
}

/** Continues a run for ten steps, with one worker of this machine. */
async function continued(runDir: string, from: number): Promise<void> {
  const flags = ["--workers", "1", "--min-workers", "1", "--max-steps", `${from + 10}`, "--run-dir", runDir];
  const { code, output } = await run(["train", "--resume", ...flags]);
  if (code !== 0 || !output.includes(`steps ${from} to ${from + 10}`)) throw new Error(output);
  traces.push(linesOf(runDir));
}

for (const signal of ["SIGTERM", "SIGUSR1"] as const) {
  t.test(
    `${signal} to the process group, twice: the step under way is saved, and nothing lost`,
    async (t) => {
      const runDir = join(t.testdir(), "run");
      const running = start(["train", ...LONG, "2", "--run-dir", runDir], { detached: true });
      await running.until(/^step [1-9]/m);
      const group = -(running.child.pid ?? 0);
      process.kill(group, signal);
      await sleep(100);
      // Batch systems send it twice. The run may have ended meanwhile.
      if (!running.isEnded) process.kill(group, signal);
      const { code, output } = await running.finished;
      t.equal(code, signal === "SIGTERM" ? 143 : 138, output);
      t.equal(output.match(/finishing the step under way/g)?.length, 1);
      t.notMatch(output, LOST);
      t.notMatch(output, /Trained to step|Debugger/);
      t.same(await goneProcesses(runDir), []);
      await continued(runDir, stoppedAt(t, runDir, output));
    },
  );
}

t.test("SIGTERM to a coordinator and to all that were started by hand: all is saved", async (t) => {
  const runDir = join(t.testdir(), "run");
  const { coordinator, workers } = await trainingByHand(runDir, ["a", "b"]);
  for (const { child } of [...workers, coordinator]) child.kill("SIGTERM");
  const { code, output } = await coordinator.finished;
  t.equal(code, 143, output);
  t.notMatch(output, LOST);
  for (const worker of workers) t.equal((await worker.finished).code, 75, worker.output);
  stoppedAt(t, runDir, output);
});

t.test("some workers are told to leave: the others go on at once, and nothing changes", async (t) => {
  const runDir = join(t.testdir(), "run");
  const ids = ["a", "b", "c"];
  // Were they taken for lost, it would be after longer than the test has.
  const { coordinator, workers, endpoint } = await trainingByHand(runDir, ids, ["--failure-timeout", "600"]);
  const [a, b, c] = workers;
  b.child.kill("SIGTERM");
  b.child.kill("SIGTERM");
  t.equal((await b.finished).code, 75, b.output);
  t.match(b.output, /SIGTERM: told to leave/);
  await coordinator.until(/Generation 2: 2 workers/);
  const d = byHand(endpoint, "d");
  await coordinator.until(/Generation 3: 3 workers/);
  a.child.kill("SIGUSR2");
  c.child.kill("SIGINT");
  t.equal((await a.finished).code, 75, a.output);
  t.equal((await c.finished).code, 75, c.output);
  await coordinator.until(/"a" \(SIGUSR2\)(, "c" \(SIGINT\))?: told to leave, let go after step \d+/);
  await coordinator.until(/Generation [45]: 1 workers/);
  t.equal((await run(["stop", runDir])).code, 0);
  const { code, output } = await coordinator.finished;
  t.equal(code, 0, output);
  t.equal((await d.finished).code, 0, "the user wants no more of it");
  t.notMatch(output, LOST);
  stoppedAt(t, runDir, output);
});

t.test("too few workers may stay: the run is saved, and says to be started again", async (t) => {
  const runDir = join(t.testdir(), "run");
  const { coordinator, workers } = await trainingByHand(runDir, ["a", "b"], ["--min-workers", "2"]);
  workers[0].child.kill("SIGTERM");
  const { code, output } = await coordinator.finished;
  t.equal(code, 75, output);
  for (const worker of workers) t.equal((await worker.finished).code, 75, worker.output);
  t.match(output, /"a" \(SIGTERM\): told to leave, which would leave 1 of at least 2 workers/);
  t.notMatch(output, LOST);
  stoppedAt(t, runDir, output);
});

t.test(
  "a worker whose coordinator is gone is told to leave: its state is saved where it is found",
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const { coordinator, workers } = await trainingByHand(runDir, ["a"]);
    coordinator.child.kill("SIGKILL");
    await coordinator.finished;
    workers[0].child.kill("SIGTERM");
    const { code, output } = await workers[0].finished;
    t.equal(code, 75, output);
    t.match(output, /SIGTERM, and the coordinator is silent/);
    const globalStep = newestOf(runDir);
    t.ok(globalStep > 0, "what no coordinator could save");
    await continued(runDir, globalStep);
  },
);

t.test("all workers vanish while a run stops: it ends, and says what is saved", async (t) => {
  const runDir = join(t.testdir(), "run");
  const { coordinator, workers } = await trainingByHand(runDir, ["a", "b"], ["--failure-timeout", "3"]);
  // Stopped, they cannot send a last state, and the request is answered before they are missed.
  for (const { child } of workers) child.kill("SIGSTOP");
  coordinator.child.kill("SIGTERM");
  await coordinator.until(/SIGTERM: finishing/);
  for (const { child } of workers) child.kill("SIGKILL");
  const { code, output } = await coordinator.finished;
  t.equal(code, 1, output);
  t.notMatch(output, /going back/);
  t.match(output, /Stopped at step (\d+) of 100000, but its last \1 steps could not be saved/);
  t.match(output, /No checkpoint had been written yet/);
});

t.test("a request to stop that comes before a coordinator listens is not lost", async (t) => {
  const config = parseRunConfig({ workers: 1, maxSteps: 10, dataset: "synthetic", shards: 1 });
  const dataset = await loadDataset({
    ...{ dataset: "synthetic", dataDir: null, verify: true },
    ...{ onLog: () => undefined, onProgress: () => undefined },
  });
  const held = await holdNewRun(join(t.testdir(), "run"), () => undefined);
  t.teardown(() => held.release());
  let numStarted = 0;
  const coordinator = new Coordinator({
    ...{ config, dataset, run: held, bind: "tcp://127.0.0.1:*", key: null, endStep: 10, checkpoint: null },
    ...{ recordedStep: 0, reporter: new Reporter("json"), localWorkers: ["worker-0"] },
    onBound: () => held.begin(config),
    joinCommand: () => "",
    onListening: () => void (numStarted += 1),
    onLaunch: () => undefined,
    onKill: () => undefined,
  });
  coordinator.requestStop();
  t.match(await coordinator.run(), { ok: true, again: false, reason: "Stopped before training began" });
  t.equal(numStarted, 0, "no worker is started");
});

/** Whether a process can be the first one of a namespace of process ids here. */
const unsharing = spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0;

/** Starts the command line as a container's first process, where there are any, and gives its id here. */
async function startFirst(
  args: readonly string[],
): Promise<{ readonly running: Running; pid: () => number }> {
  if (!unsharing) {
    const running = start(args);
    return { running, pid: () => running.child.pid ?? 0 };
  }
  const flags = ["--pid", "--fork", "--kill-child", "--mount-proc", process.execPath, CLI];
  const running = new Running("unshare", [...flags, ...args]);
  const { pid = 0 } = running.child;
  const pidOfFirst = (): number => Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim());
  while (!running.isEnded && pidOfFirst() === 0) await sleep(10);
  return { running, pid: pidOfFirst };
}

t.test("a container's first process ends by every signal, whatever it does", async (t) => {
  const dir = t.testdir();
  if (!unsharing) t.comment("No namespaces of process ids here: tried with plain processes");
  const codes = { SIGTERM: 143, SIGINT: 130, SIGHUP: 129, SIGUSR1: 138, SIGUSR2: 140 } as const;
  const tried: (() => Promise<void>)[] = [];
  for (const [signal, expected] of Object.entries(codes)) {
    tried.push(async () => {
      const { running, pid } = await startFirst(["worker", "--coordinator", "tcp://127.0.0.1:1"]);
      await running.until(/Waiting for the coordinator/);
      process.kill(pid(), signal);
      const { code, output } = await running.finished;
      t.equal(code, expected, output);
      t.notMatch(output, /Debugger/);
    });
  }
  // Before its workers are there, at two moments.
  for (const [i, moment] of [/^Data: /m, /^Run in /m].entries()) {
    tried.push(async () => {
      const runDir = join(dir, `run-${i}`);
      const { running, pid } = await startFirst(["train", ...LONG, "2", "--run-dir", runDir]);
      await running.until(moment);
      process.kill(pid(), "SIGTERM");
      t.equal((await running.finished).code, 143, running.output);
      t.notMatch(running.output, /Trained/);
      t.same(await goneProcesses(runDir), []);
    });
  }
  // A mirror that never answers.
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const connected = new Promise<void>((resolve) => server.once("connection", () => resolve()));
  const mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  tried.push(async () => {
    const { running, pid } = await startFirst(["download", "--data-dir", dir, "--mirror", mirror]);
    await connected;
    process.kill(pid(), "SIGTERM");
    t.equal((await running.finished).code, 143, running.output);
  });
  await Promise.all(tried.map((attempt) => attempt()));
  server.close();
});

/** A session with a terminal of its own, which closes when this process ends. */
const TERMINAL = `
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
while True:
    try:
        os.write(1, os.read(terminal, 1000))
    except OSError:
        break
`;
const noTerminal = spawnSync("python3", ["-c", "import pty"]).status !== 0;

t.test(
  "a terminal closes: what nohup has put in the background goes on, what uses the terminal stops",
  { skip: noTerminal && "a terminal is made by Python" },
  async (t) => {
    const dir = t.testdir();
    const quoted = (args: readonly string[]): string => args.map((arg) => `'${arg}'`).join(" ");
    const log = join(dir, "log");
    const background = quoted([
      process.execPath,
      CLI,
      "train",
      ...LONG,
      "2",
      "--run-dir",
      join(dir, "nohup"),
    ]);
    const foreground = quoted([process.execPath, CLI, "train", ...LONG, "2", "--run-dir", join(dir, "run")]);
    const inTerminal = (line: string): Running => new Running("python3", ["-c", TERMINAL, line]);
    const sessions = [inTerminal(`nohup ${background} > '${log}' 2>&1 & wait`), inTerminal(foreground)];
    const until = async (file: string, pattern: RegExp): Promise<void> => {
      while (!existsSync(file) || !pattern.test(readFileSync(file, "utf8"))) await sleep(50);
    };
    const paths = ["nohup", "run"].map((name) => join(dir, name, "run.log"));
    for (const path of paths) await until(path, /^Generation 1/m);
    for (const { child } of sessions) child.kill("SIGKILL");
    await until(paths[1], /^Stopped at step \d+ of 100000/m);
    t.match(readFileSync(paths[1], "utf8"), /SIGHUP: finishing the step under way/);
    await until(log, /^SIGHUP: the terminal has closed\. Going on/m);
    const before = inspectedStep(join(dir, "nohup"));
    await until(join(dir, "nohup", "metrics.jsonl"), new RegExp(`"globalStep":${before + 20}\\b`));
    const stop = await run(["stop", join(dir, "nohup")]);
    t.equal(stop.code, 0, stop.output);
    await until(log, /^Stopped at step \d+ of 100000, saved/m);
    t.same(await goneProcesses(dir), []);
  },
);

function inspectedStep(runDir: string): number {
  return metricsOf(runDir).at(-1)?.globalStep ?? 0;
}

t.test("all of these runs have trained what a run has that nothing disturbs", async (t) => {
  const longest = Math.max(...traces.map(({ length }) => length));
  const runDir = join(t.testdir(), "run");
  const flags = ["--workers", "1", "--max-steps", `${longest}`, "--run-dir", runDir];
  const { code, output } = await run(["train", ...TRAIN, ...flags]);
  t.equal(code, 0, output);
  const calm = linesOf(runDir);
  t.equal(calm.length, longest);
  t.equal(traces.length, 8, "no run was left out");
  for (const lines of traces) t.same(lines, calm.slice(0, lines.length));
});
