/**
 * A whole cluster in one process: a coordinator, workers, their hosts, disk
 * and network, a user who starts again what has ended, and faults. Everything
 * follows from a seed and a plan of faults.
 *
 * @module
 */
import type { LocalProcess, MembershipConfig } from "../../coordinator/membership/state.ts";
import type { RunConfig } from "../../shared/config.ts";
import { parseRunConfig } from "../../shared/config.ts";
import type { StepReport } from "../../shared/protocol.ts";
import type { DataMessage, StateMessage } from "../../worker/data-messages.ts";
import type { Held } from "../../worker/session.ts";
import { Checks, InvariantError } from "./checks.ts";
import type { Fault } from "./faults.ts";
import { Process, World } from "./network.ts";
import type { Disk } from "./simulated-coordinator.ts";
import { SimulatedCoordinator } from "./simulated-coordinator.ts";
import { SimulatedWorker } from "./simulated-worker.ts";
import type { ToyReplica } from "./toy-replica.ts";
import { calmRun } from "./toy-replica.ts";

export interface ClusterOptions {
  readonly seed: number;
  readonly workers: number;
  readonly minWorkers: number;
  readonly shards: number;
  readonly steps: number;
  readonly discriminatorSteps: number;
  readonly checkpointEvery: number;
  /** Workers are started by the coordinator's process and end with it; else each has a host of its own. */
  readonly isLocal: boolean;
  readonly maxDelayMs: number;
  readonly faults: readonly Fault[];
}

export interface RunResult {
  readonly simulatedMs: number;
  readonly numEvents: number;
  /** Faults that hit something. */
  readonly fired: readonly Fault["type"][];
  readonly counts: Checks["counts"];
}

/** Where the coordinator runs. */
const HOME = "host-0";
/** A run that has not ended this long after the last fault hangs. Several times every time-out. */
const PATIENCE_MS = 120_000;
/** How often the user looks whether enough workers are there. */
const USER_MS = 3000;
/** How often it is looked whether the process is gone whose name another one gets. */
const LAUNCH_AGAIN_MS = 10;
const MAX_EVENTS = 2_000_000;

export class Cluster {
  readonly world: World;
  readonly checks: Checks;
  readonly disk: Disk = { checkpoints: new Map(), metrics: [], fullUntilMs: 0, writeMs: 20 };
  readonly #options: ClusterOptions;
  readonly #config: RunConfig;
  readonly #workers = new Map<string, SimulatedWorker>();
  readonly #notes: string[] = [];
  readonly #fired: Fault["type"][] = [];
  #coordinator: SimulatedCoordinator | null = null;
  #numProcesses = 0;
  /** Workers that the user starts by hand. */
  #numByHand = 0;
  #isDone = false;

  constructor(options: ClusterOptions) {
    const { seed, shards, steps, discriminatorSteps, checkpointEvery, workers, minWorkers } = options;
    this.#options = options;
    this.world = new World(seed, options.maxDelayMs);
    this.checks = new Checks(calmRun(seed, steps, discriminatorSteps, shards));
    this.#config = parseRunConfig({
      ...{ seed, shards, discriminatorSteps, checkpointEvery, workers, minWorkers },
      ...{ globalBatchSize: 2 * shards + 1, maxSteps: steps, maxRestarts: 1e6, prefetchSteps: 3 },
      ...{ failureTimeoutMs: 2000, stragglerTimeoutMs: 5000, orphanTimeoutMs: 20_000 },
    });
  }

  /** What was said and done, for the report of a failure. */
  get notes(): readonly string[] {
    return this.#notes;
  }

  note(text: string): void {
    this.#notes.push(`${(this.world.nowMs / 1000).toFixed(3)} ${text}`);
  }

  /** @throws {InvariantError} If an invariant does not hold, or the run does not end. */
  run(): RunResult {
    const { faults, steps } = this.#options;
    this.#startCoordinator();
    this.#watch();
    let endMs = PATIENCE_MS;
    for (const fault of faults) {
      this.world.after(fault.atMs, () => this.#inject(fault));
      const { forMs, downMs } = fault as { forMs?: number; downMs?: number };
      endMs = Math.max(endMs, fault.atMs + (forMs ?? downMs ?? 0) + PATIENCE_MS);
    }
    while (!this.#isDone) {
      if (!this.world.step() || this.world.nowMs > endMs || this.world.numEvents > MAX_EVENTS) {
        throw new InvariantError(`The run has not ended, long after the last fault: ${this.#describe()}`);
      }
    }
    const { disk, checks, world } = this;
    checks.end(steps, disk.checkpoints.get(steps)?.hash ?? null, disk.metrics);
    const { nowMs: simulatedMs, numEvents } = world;
    return { simulatedMs, numEvents, fired: this.#fired, counts: checks.counts };
  }

  #describe(): string {
    const state = this.#coordinator?.state;
    const members = state?.members.map((m) => `${m.incarnation} ${JSON.stringify(m.paused)} ${m.readyHash}`);
    const workers = [...this.#workers.values()].map((w) => `${w.incarnation} ${JSON.stringify(w.held)}`);
    return `${state?.status} generation ${state?.generation} step ${state?.globalStep}, members ${members?.join("; ")}, workers ${workers.join("; ")}`;
  }

  #startCoordinator(): void {
    const { isLocal, workers, minWorkers } = this.#options;
    this.#numByHand = isLocal ? minWorkers : workers;
    const process = new Process(`coordinator#${++this.#numProcesses}`, HOME);
    const localWorkers = isLocal ? Array.from({ length: workers }, (_, i) => `worker-${i}`) : [];
    const config: MembershipConfig = {
      ...{ run: this.#config, term: process.name, runId: "run", codeHash: "c", endStep: this.#options.steps },
      ...{
        numImages: 1000,
        dataset: { name: "toy", sha256: "0" },
        folder: { checkpoints: "/", identity: "toy", hold: "1" },
      },
      ...{ bulkPort: 1, joinCommand: "npx lockstep worker", localWorkers },
    };
    this.note(`${process.name} starts`);
    const coordinator = new SimulatedCoordinator(this, process, config);
    this.#coordinator = coordinator;
    for (const first of coordinator.state.local) this.launch(first, coordinator);
  }

  /** Starts a worker process on the coordinator's host, once no other of its name is left there. */
  launch(started: LocalProcess, coordinator: SimulatedCoordinator): void {
    const isWanted = coordinator.state.local.some(({ process }) => process === started.process);
    if (!coordinator.process.alive || !isWanted) return;
    if (this.#workers.has(started.workerId)) {
      return this.world.after(LAUNCH_AGAIN_MS, () =>
        coordinator.process.run(() => this.launch(started, coordinator)),
      );
    }
    this.#startWorker(started.workerId, HOME, started.process);
  }

  #startWorker(workerId: string, host: string, processId: string | null): void {
    const process = new Process(`${workerId}#${++this.#numProcesses}`, host);
    this.note(`${process.name} starts`);
    // A process takes a while to come up.
    this.#workers.set(workerId, new SimulatedWorker(this, workerId, process, processId));
  }

  /** The user starts workers by hand as long as there are too few. */
  #watch(): void {
    const { isLocal, workers } = this.#options;
    const look = (): void => {
      if (this.#coordinator !== null && this.#workers.size < this.#numByHand) this.#startByHand();
      this.world.after(USER_MS, look);
    };
    if (!isLocal) for (let i = 0; i < workers; i++) this.#startByHand();
    this.world.after(USER_MS, look);
  }

  #startByHand(): void {
    for (let i = 0; ; i++) {
      const workerId = `hand-${i}`;
      if (this.#workers.has(workerId)) continue;
      return this.#startWorker(workerId, `host-${i + 1}`, null);
    }
  }

  toCoordinator(
    from: SimulatedWorker,
    plane: "control" | "bulk" | "pulse",
    deliver: (coordinator: SimulatedCoordinator, incarnation: string) => void,
  ): void {
    const { incarnation } = from;
    this.world.send(from.process, HOME, `${plane} of ${incarnation}`, () => {
      const coordinator = this.#coordinator;
      coordinator?.process.run(() => deliver(coordinator, incarnation));
    });
  }

  toWorker(
    from: SimulatedCoordinator,
    incarnation: string,
    plane: "control" | "bulk",
    deliver: (worker: SimulatedWorker) => void,
  ): void {
    const worker = this.#byProcess(incarnation.slice(0, incarnation.lastIndexOf(".")));
    if (worker === undefined) return;
    this.world.send(from.process, worker.process.host, `${plane} to ${incarnation}`, () =>
      worker.process.run(() => deliver(worker)),
    );
  }

  toPeer(
    from: SimulatedWorker,
    endpoint: string,
    message: DataMessage | StateMessage,
    values: Float32Array,
  ): void {
    const peer = this.#byProcess(endpoint);
    if (peer === undefined) return;
    const { term, generation } = message;
    // Every generation has its own sockets.
    this.world.send(from.process, peer.process.host, `${term}/${generation} to ${endpoint}`, () =>
      peer.process.run(() => peer.receiveData(message, values)),
    );
  }

  #byProcess(name: string): SimulatedWorker | undefined {
    const worker = this.#workers.get(name.slice(0, name.indexOf("#")));
    return worker?.process.name === name ? worker : undefined;
  }

  /** Most advanced step of the replicas that the coordinator has and can reach, or null. */
  bestReplica({ state }: SimulatedCoordinator): number | null {
    const steps = [...state.members, ...state.joining].flatMap(({ workerId, incarnation }) => {
      const worker = this.#workers.get(workerId);
      const held = worker?.incarnation === incarnation ? worker.held : null;
      if (worker?.process.running !== true || !this.world.areConnected(HOME, worker.process.host)) return [];
      return held === null ? [] : [held.position.globalStep];
    });
    return steps.length === 0 ? null : Math.max(...steps);
  }

  /** A worker that is left alone saves its state, where that is the run's folder. @returns Whether it did. */
  saveEmergency(
    worker: SimulatedWorker,
    held: Held,
    replica: ToyReplica | null,
    reports: readonly StepReport[],
  ): boolean {
    if (!worker.isLocal || held === null || replica === null) return false;
    const last = this.disk.metrics.at(-1) ?? 0;
    // A coordinator at work keeps others out.
    const isLocked = this.#coordinator !== null;
    const missing = isLocked
      ? []
      : reports.filter((report) => report.globalStep > last).map((report) => report.globalStep);
    this.disk.metrics.push(...missing);
    if (held.position.phase !== 0) return false;
    const { state, hash, globalStep } = replica;
    this.disk.checkpoints.set(globalStep, { state, hash, isWhole: true });
    return true;
  }

  /** A worker process has ended. */
  ended(worker: SimulatedWorker, how: string): void {
    worker.process.end();
    this.#gone(worker, how);
  }

  #gone(worker: SimulatedWorker, how: string): void {
    this.#workers.delete(worker.workerId);
    const coordinator = this.#coordinator;
    if (worker.isLocal && coordinator !== null) {
      const { workerId, processId: process } = worker;
      this.world.after(this.world.between(1, 5), () => coordinator.exited({ workerId, process }, how));
    }
  }

  /** The coordinator ends a worker of its machine. */
  killLocal(processId: string): void {
    const worker = [...this.#workers.values()].find((one) => one.processId === processId);
    if (worker?.isLocal !== true) return;
    this.world.kill(worker.process, false);
    this.#gone(worker, "killed by SIGKILL");
  }

  /** The run is complete, or stops; then the user starts it again. */
  finished(coordinator: SimulatedCoordinator, ok: boolean, reason: string): void {
    this.note(`${coordinator.process.name} ends the run: ${reason}`);
    if (!ok) throw new InvariantError(`The run failed: ${reason}`);
    const { globalStep } = coordinator.state;
    if (globalStep === this.#options.steps) {
      this.#isDone = true;
      return;
    }
    const saved = [...this.disk.checkpoints].filter(([, { isWhole }]) => isWhole).map(([step]) => step);
    this.checks.stopped(coordinator.term, globalStep, Math.max(0, ...saved), this.bestReplica(coordinator));
    this.#coordinator = null;
    coordinator.process.end();
    this.#restart(coordinator, 1000);
  }

  /** The coordinator's process is gone. The user waits until all that it has left behind has ended, and starts it again. */
  #restart({ term }: SimulatedCoordinator, downMs: number): void {
    const locals = [...this.#workers.values()].filter(({ isLocal }) => isLocal);
    this.note(`${term} leaves ${locals.length} workers behind`);
    for (const worker of locals) this.world.after(this.world.between(1, 20), () => worker.orphan());
    this.world.after(downMs + (this.#options.isLocal ? 3000 : 0), () => this.#startCoordinator());
  }

  #inject(fault: Fault): void {
    if (this.#isDone) return;
    const hit = this.#hit(fault);
    this.note(`FAULT ${JSON.stringify(fault)}${hit === null ? ": no target" : ` on ${hit}`}`);
    if (hit !== null) this.#fired.push(fault.type);
  }

  /** @returns What was hit, or null. */
  #hit(fault: Fault): string | null {
    const { world, disk } = this;
    const workers = [...this.#workers.values()].sort((a, b) => (a.workerId < b.workerId ? -1 : 1));
    const target = (index: number): SimulatedWorker | undefined => workers.at(index % workers.length);
    const hostOf = (index: number): string =>
      index === 0 ? HOME : (target(index - 1)?.process.host ?? HOME);
    const coordinator = this.#coordinator;
    switch (fault.type) {
      case "kill": {
        const worker = target(fault.target);
        if (worker === undefined) return null;
        world.kill(worker.process, fault.isMachineGone);
        this.#gone(worker, "killed by SIGKILL");
        return worker.process.name;
      }
      case "killAll":
        for (const worker of workers) {
          world.kill(worker.process, true);
          this.#gone(worker, "killed by SIGKILL");
        }
        return workers.length === 0 ? null : "all";
      case "stop": {
        const process = target(fault.target)?.process;
        if (process?.running !== true) return null;
        process.stop();
        world.after(fault.forMs, () => process.continue());
        return process.name;
      }
      case "block": {
        const worker = target(fault.target);
        if (worker?.process.running !== true) return null;
        worker.block(fault.forMs);
        return worker.process.name;
      }
      case "stopCoordinator": {
        if (coordinator?.process.running !== true) return null;
        const { process } = coordinator;
        process.stop();
        world.after(fault.forMs, () => process.continue());
        return process.name;
      }
      case "killCoordinator": {
        if (coordinator === null) return null;
        this.#coordinator = null;
        world.kill(coordinator.process, fault.isMachineGone);
        this.#restart(coordinator, fault.downMs);
        return coordinator.process.name;
      }
      case "partition": {
        const [a, b] = [hostOf(fault.a), hostOf(fault.b)];
        if (a === b) return null;
        world.block(a, b, fault.forMs);
        if (!fault.isOneWay) world.block(b, a, fault.forMs);
        return `${a} and ${b}`;
      }
      case "reset": {
        const [a, b] = [hostOf(fault.a), hostOf(fault.b)];
        if (a === b) return null;
        world.reset(a, b);
        return `${a} and ${b}`;
      }
      case "slow": {
        const host = target(fault.target)?.process.host;
        if (host === undefined) return null;
        world.setSlowness(host, fault.factor);
        world.after(fault.forMs, () => world.setSlowness(host, 1));
        return host;
      }
      case "leave": {
        // Workers of the coordinator's machine leave that to it.
        const byHand = workers.filter(({ isLocal }) => !isLocal);
        const told = byHand.map((_, i) => byHand[(fault.target + i) % byHand.length]).slice(0, fault.count);
        for (const worker of told) world.after(world.between(0, 50), () => worker.tell());
        const isTold = fault.isCoordinatorTold && coordinator !== null;
        if (isTold) world.after(world.between(0, 50), () => coordinator.finish());
        if (told.length === 0 && !isTold) return null;
        const names = told.map(({ process }) => process.name);
        return [...names, ...(isTold ? [coordinator.process.name] : [])].join(", ");
      }
      case "join":
        if (this.#workers.size >= this.#options.shards) return null;
        this.#startByHand();
        return "the cluster";
      case "scale": {
        if (coordinator?.process.running !== true) return null;
        const { isLocal, minWorkers, shards } = this.#options;
        const workers = Math.min(shards, Math.max(minWorkers, fault.workers));
        if (!isLocal) this.#numByHand = workers;
        coordinator.scale(workers);
        return coordinator.process.name;
      }
      case "diskFull":
        disk.fullUntilMs = Math.max(disk.fullUntilMs, world.nowMs + fault.forMs);
        return "disk";
      case "diskSlow":
        disk.writeMs = fault.writeMs;
        world.after(fault.forMs, () => (disk.writeMs = 20));
        return "disk";
    }
  }
}
