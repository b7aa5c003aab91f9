/**
 * A coordinator's process of a simulated cluster: the product's membership
 * core, around a simulated disk. It does what coordinator/coordinator.ts and
 * coordinator/run-outputs.ts do.
 *
 * @module
 */
import type {
  Effect,
  Input,
  LocalProcess,
  MembershipConfig,
  MembershipState,
} from "../../coordinator/membership/state.ts";
import { advance } from "../../coordinator/membership.ts";
import { initialState } from "../../coordinator/membership/state.ts";
import type { CoordinatorMessage, WorkerMessage } from "../../shared/protocol.ts";
import { HEARTBEAT_MS } from "../../shared/heartbeat.ts";
import { Sequences } from "../../shared/sequence.ts";
import { rankSamples } from "../../shared/sharding.ts";
import { WakingClock } from "../../shared/waking-clock.ts";
import type { Cluster } from "./cluster.ts";
import type { Process } from "./network.ts";
import type { CoordinatorBulk, WorkerBulk } from "./simulated-worker.ts";
import type { ToyState } from "./toy-replica.ts";

export interface SavedState {
  readonly state: ToyState;
  readonly hash: string;
  /** Whether it can be read: writing may have been torn. */
  readonly isWhole: boolean;
}

/** The folder of a run: it outlives processes. */
export interface Disk {
  readonly checkpoints: Map<number, SavedState>;
  /** Steps of the lines of metrics. */
  metrics: number[];
  /** Until when nothing can be written, and how long writing takes. */
  fullUntilMs: number;
  writeMs: number;
}

const TICK_MS = 250;
const KEEP_CHECKPOINTS = 2;

/** Steps whose batches were sent, and those that each rank has used. */
interface Stream {
  readonly generation: number;
  readonly endStep: number;
  next: number;
  readonly consumed: number[];
}

export class SimulatedCoordinator {
  readonly process: Process;
  readonly term: string;
  readonly #cluster: Cluster;
  readonly #config: MembershipConfig;
  readonly #clock: WakingClock;
  readonly #reachable = new Set<string>();
  readonly #sequences = new Sequences();
  #state: MembershipState;
  #stream: Stream | null = null;
  #next: Extract<Effect, { type: "train" }> | null = null;
  #trainedMs: number | null = null;
  #savedStep: number | null;
  #receivedState: number | null;
  #receivedPicture: number | null;
  /** Files to write, the first of which is being written. */
  #writing: (() => void)[] = [];
  #onSettled: (() => void)[] = [];
  /** States of steps that are not committed. */
  #waiting: { readonly globalStep: number; readonly write: () => boolean }[] = [];
  /** Writes the newest state, again if the disk was full. */
  #lastWrite: (() => boolean) | null = null;

  /** Starts, or resumes a run that has begun. */
  constructor(cluster: Cluster, process: Process, config: MembershipConfig) {
    this.process = process;
    this.term = config.term;
    this.#cluster = cluster;
    this.#config = config;
    const { world, disk, checks } = cluster;
    const newest = this.#newest();
    const globalStep = newest ?? 0;
    this.#savedStep = this.#receivedState = this.#receivedPicture = newest;
    const recorded = disk.metrics.at(-1) ?? 0;
    checks.wentTo(this.term, recorded);
    const from = newest === null ? "seed" : "checkpoint";
    this.#clock = new WakingClock(() => world.nowMs);
    this.#state = initialState(config, { globalStep, from }, recorded, this.#clock.now());
    world.every(process, TICK_MS, () => this.#tick());
    world.every(process, HEARTBEAT_MS, () => this.#heartbeat());
  }

  get state(): MembershipState {
    return this.#state;
  }

  #newest(): number | null {
    const whole = [...this.#cluster.disk.checkpoints].filter(([, { isWhole }]) => isWhole);
    return whole.length === 0 ? null : Math.max(...whole.map(([step]) => step));
  }

  receiveControl(from: string, sequence: number, message: WorkerMessage): void {
    this.#input({ type: "message", from, sequence, message });
  }

  receiveBulk(from: string, message: WorkerBulk): void {
    const { members, generation } = this.#state;
    const rank = members.findIndex((m) => m.incarnation === from);
    if (rank < 0) return;
    switch (message.type) {
      case "hello":
        this.#reachable.add(from);
        if (message.wantsState && message.generation === generation) this.#sendState(from);
        return this.#startStream();
      case "credit": {
        const stream = this.#stream;
        if (stream === null || message.generation !== stream.generation) return;
        stream.consumed[rank] = Math.max(stream.consumed[rank], message.globalStep);
        return this.#pump();
      }
      case "state":
        return this.#saveState(message);
      case "samples":
        this.#receivedPicture = message.globalStep;
        return this.#enqueue(() => true);
    }
  }

  /** A process of this machine has ended. */
  exited(ended: LocalProcess, how: string): void {
    this.process.run(() => this.#input({ type: "exited", ...ended, how }));
  }

  /** The process is told to end. */
  finish(): void {
    this.process.run(() => this.#input({ type: "finish" }));
  }

  scale(workers: number): void {
    this.process.run(() => this.#input({ type: "scale", workers }));
  }

  #input(input: Input): void {
    const before = this.#state;
    const { state, effects } = advance(before, input, this.#clock.now(), this.#config);
    this.#state = state;
    if (state.status === "starting" && state.generation !== before.generation) this.#checkBeginning(effects);
    for (const effect of effects) this.#run(effect);
    this.#writeCommitted();
  }

  #checkBeginning(effects: readonly Effect[]): void {
    const { checks } = this.#cluster;
    for (const effect of effects) {
      if (effect.type !== "send" || effect.message.type !== "start") continue;
      const best = this.#cluster.bestReplica(this);
      checks.began(this.term, effect.message.position, best);
      return;
    }
  }

  #run(effect: Effect): void {
    const { world, checks, disk } = this.#cluster;
    switch (effect.type) {
      case "send":
        return this.#send(effect.to, effect.message);
      case "log":
      case "refused":
        return this.#cluster.note(`${this.process.name}: ${effect.text}`);
      case "pause":
        this.#trainedMs = null;
        this.#next = null;
        this.#stream = null;
        return;
      case "restore":
        return this.#settled(() =>
          world.after(world.between(1, 100), () => this.process.run(() => this.#restored())),
        );
      case "train":
        this.#next = effect;
        return this.#startStream();
      case "launch":
        return world.after(effect.delayMs, () => this.process.run(() => this.#cluster.launch(effect, this)));
      case "kill":
        return this.#cluster.killLocal(effect.process);
      case "rewind":
        disk.metrics = disk.metrics.filter((step) => step <= effect.globalStep);
        return checks.rewound(this.term, effect.globalStep);
      case "commit":
        checks.commit(this.term, effect.globalStep);
        disk.metrics.push(effect.globalStep);
        return;
      case "trained":
        this.#trainedMs = this.#clock.now();
        return this.#checkSaved();
      case "end":
        // What has arrived is still written.
        return this.#settled(() => this.#cluster.finished(this, effect.ok, effect.reason));
    }
  }

  #send(to: string, message: CoordinatorMessage): void {
    const sequence = this.#sequences.of(to, message);
    this.#cluster.toWorker(this, to, "control", (worker) => worker.receiveControl(to, sequence, message));
  }

  #sendBulk(to: string, message: CoordinatorBulk): void {
    this.#cluster.toWorker(this, to, "bulk", (worker) => worker.receiveBulk(to, message));
  }

  #tick(): void {
    this.#input({ type: "tick" });
    const { globalStep } = this.#state;
    const hasReceived = this.#receivedState === globalStep && this.#receivedPicture === globalStep;
    if (this.#trainedMs === null || hasReceived) return;
    if (this.#clock.now() - this.#trainedMs > this.#config.run.stragglerTimeoutMs) {
      this.#input({ type: "missing" });
    }
  }

  #heartbeat(): void {
    const { members, joining } = this.#state;
    const safe = Math.min(this.#cluster.disk.metrics.at(-1) ?? 0, this.#savedStep ?? 0);
    for (const { incarnation } of [...members, ...joining]) {
      this.#send(incarnation, { type: "heartbeat", safe });
    }
  }

  #sendState(to: string): void {
    const { stored, generation } = this.#state;
    const saved = this.#cluster.disk.checkpoints.get(stored.globalStep);
    if (saved !== undefined) this.#sendBulk(to, { type: "state", generation, state: saved.state });
  }

  #restored(): void {
    const newest = this.#newest();
    const globalStep = newest ?? 0;
    this.#receivedState = this.#savedStep;
    this.#receivedPicture = null;
    this.#waiting = [];
    this.#input({
      type: "restored",
      stored: { globalStep, from: newest === null ? "seed" : "checkpoint" },
    });
  }

  #startStream(): void {
    const { members } = this.#state;
    const next = this.#next;
    if (next === null || !members.every(({ incarnation }) => this.#reachable.has(incarnation))) return;
    this.#next = null;
    const { generation, globalStep, endStep } = next;
    this.#stream = { generation, endStep, next: globalStep, consumed: members.map(() => globalStep) };
    this.#pump();
  }

  #pump(): void {
    const stream = this.#stream;
    if (stream === null) return;
    const { run } = this.#config;
    const { members } = this.#state;
    while (stream.next < Math.min(stream.endStep, Math.min(...stream.consumed) + run.prefetchSteps)) {
      const globalStep = stream.next++;
      for (const [rank, { incarnation }] of members.entries()) {
        const samples = rankSamples(run.globalBatchSize, run.shards, members.length, rank);
        const { generation } = stream;
        this.#sendBulk(incarnation, { type: "batch", generation, globalStep, samples });
      }
    }
  }

  #saveState({ globalStep, state, hash }: Extract<WorkerBulk, { type: "state" }>): void {
    if (this.#receivedState === globalStep && this.#savedStep === globalStep) return;
    this.#receivedState = globalStep;
    const write = (): boolean => {
      const { checkpoints, fullUntilMs } = this.#cluster.disk;
      if (fullUntilMs > this.#cluster.world.nowMs) return false;
      checkpoints.set(globalStep, { state, hash, isWhole: true });
      const steps = [...checkpoints.keys()].sort((a, b) => b - a);
      for (const old of steps.slice(KEEP_CHECKPOINTS)) checkpoints.delete(old);
      this.#savedStep = globalStep;
      return true;
    };
    this.#waiting.push({ globalStep, write });
    this.#writeCommitted();
  }

  /** No checkpoint is ahead of the metrics. */
  #writeCommitted(): void {
    const { globalStep } = this.#state;
    const ready = this.#waiting.filter((waiting) => waiting.globalStep <= globalStep);
    this.#waiting = this.#waiting.filter((waiting) => waiting.globalStep > globalStep);
    for (const { write } of ready) {
      this.#lastWrite = write;
      this.#enqueue(write);
    }
  }

  /** @param write Returns false if it must be tried again. */
  #enqueue(write: () => boolean): void {
    const { world, disk } = this.#cluster;
    const attempt = (): void =>
      world.after(disk.writeMs * world.between(0.5, 1.5), () =>
        this.process.run(() => {
          // Only the last one must be there.
          if (!write() && this.#trainedMs !== null) return attempt();
          this.#writing.shift();
          this.#writing.at(0)?.();
          if (this.#writing.length === 0) for (const settled of this.#onSettled.splice(0)) settled();
          this.#checkSaved();
        }),
      );
    this.#writing.push(attempt);
    if (this.#writing.length === 1) attempt();
  }

  #settled(then: () => void): void {
    if (this.#writing.length === 0) then();
    else this.#onSettled.push(then);
  }

  #checkSaved(): void {
    const { globalStep } = this.#state;
    if (this.#trainedMs === null || this.#writing.length > 0) return;
    if (this.#receivedState !== globalStep || this.#receivedPicture !== globalStep) return;
    if (this.#savedStep === globalStep) return this.#input({ type: "saved" });
    if (this.#lastWrite !== null) this.#enqueue(this.#lastWrite);
  }
}
