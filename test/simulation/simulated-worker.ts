/**
 * A worker process of a simulated cluster: the product's session and exchange,
 * around a toy replica. It does what worker/worker.ts and worker/trainer.ts do,
 * with simulated time in place of sockets and engines.
 *
 * @module
 */
import { phasesOfStep, updatesAt } from "../../shared/phases.ts";
import type { CoordinatorMessage, PrepareMessage, StartMessage, StepReport } from "../../shared/protocol.ts";
import { HEARTBEAT_MS } from "../../shared/heartbeat.ts";
import { UNNUMBERED } from "../../shared/sequence.ts";
import { rankSamples, rankShards } from "../../shared/sharding.ts";
import { addInJavaScript } from "../../shared/tree-sum.ts";
import { WakingClock } from "../../shared/waking-clock.ts";
import type { CopyTo, Outgoing } from "../../worker/collective.ts";
import { SegmentPool } from "../../worker/collective.ts";
import type { DataMessage, StateMessage } from "../../worker/data-messages.ts";
import { Exchange } from "../../worker/exchange.ts";
import { Interrupted } from "../../worker/interrupted.ts";
import type { Held, SessionConfig, SessionEffect, SessionInput, SessionState } from "../../worker/session.ts";
import { advanceSession, initialSession } from "../../worker/session.ts";
import { InvariantError } from "./checks.ts";
import type { Cluster } from "./cluster.ts";
import type { Process } from "./network.ts";
import type { ToyState } from "./toy-replica.ts";
import { gradientLength, STATE_LENGTHS, ToyReplica } from "./toy-replica.ts";

/** What a worker sends on the bulk plane. */
export type WorkerBulk =
  | { readonly type: "hello"; readonly generation: number; readonly wantsState: boolean }
  | { readonly type: "credit"; readonly generation: number; readonly globalStep: number }
  | {
      readonly type: "state";
      readonly globalStep: number;
      readonly state: ToyState;
      readonly hash: string;
    }
  | { readonly type: "samples"; readonly globalStep: number };

/** What a worker gets on the bulk plane. */
export type CoordinatorBulk =
  | {
      readonly type: "batch";
      readonly generation: number;
      readonly globalStep: number;
      /** Samples of the global batch that the batch is made of. */
      readonly samples: { readonly start: number; readonly end: number };
    }
  | { readonly type: "state"; readonly generation: number; readonly state: ToyState };

type DataPayload = Float32Array;
/** Segments as small as possible, so that a vector needs several. */
const SEGMENT_FLOATS = 4;

/** Why the training coroutine stands still. */
type Wait =
  | { readonly type: "until"; readonly what: string; readonly isOver: () => boolean }
  /** Not to be interrupted. */
  | { readonly type: "busy"; readonly forMs: number };

export class SimulatedWorker {
  readonly workerId: string;
  /** What it says that its process is. */
  readonly processId: string;
  readonly process: Process;
  /** Whether it ends with the coordinator's process. */
  readonly isLocal: boolean;
  readonly #cluster: Cluster;
  readonly #config: SessionConfig;
  readonly #exchange: Exchange<DataPayload>;
  readonly #clock: WakingClock;
  #session: SessionState;
  #replica: ToyReplica | null = null;
  #runId = "";
  #hasState = false;
  #batches = new Map<number, { readonly start: number; readonly end: number }>();
  #endStep = 0;
  #checkpoint: ToyState | null = null;
  #training: Generator<Wait, void, void> | null = null;
  #wait: Wait | null = null;
  #waitSinceMs = 0;
  #interrupted = false;
  #onStopped: (() => void) | null = null;
  #position = { globalStep: 0, phase: "start" };
  #numSent = 0;
  #saved: number | null = null;
  #pictured: number | null = null;

  /** @param processId Given by the coordinator that has started it, or null. */
  constructor(cluster: Cluster, workerId: string, process: Process, processId: string | null) {
    const isLocal = processId !== null;
    this.#cluster = cluster;
    this.workerId = workerId;
    this.processId = processId ?? process.name;
    this.process = process;
    this.isLocal = isLocal;
    this.#config = {
      ...{
        coordinator: "tcp://coordinator:1",
        workerId,
        process: this.processId,
        host: process.host,
        pid: 1,
        runtime: "simulated",
        codeHash: "c",
      },
      ...{ data: { endpoint: process.name, sharedFile: null }, connectTimeoutMs: 60_000 },
    };
    this.#exchange = new Exchange<DataPayload>(
      (message, values): CopyTo =>
        (target) =>
          target.set(values.subarray(0, message.end - message.start)),
      ({ byteLength }) => byteLength,
      (reason) => cluster.note(`${this.process.name} refused ${reason}`),
    );
    this.#clock = new WakingClock(() => cluster.world.nowMs);
    this.#session = initialSession(this.#clock.now());
    process.run(() => this.#input({ type: "open" }));
    cluster.world.every(process, HEARTBEAT_MS, () =>
      this.#input({ type: "tick", observed: this.#observe() }),
    );
  }

  /** Computes for so long that its event loop does not turn; its pulse goes on. */
  block(forMs: number): void {
    const { world } = this.#cluster;
    const sinceMs = world.nowMs;
    this.process.stop();
    const beat = (): void => {
      const busyMs = world.nowMs - sinceMs;
      if (!this.process.alive || this.process.running || busyMs >= forMs) return;
      this.#cluster.toCoordinator(this, "pulse", (coordinator, incarnation) =>
        coordinator.receiveControl(incarnation, UNNUMBERED, { type: "busy", forMs: busyMs }),
      );
      world.after(HEARTBEAT_MS, beat);
    };
    world.after(HEARTBEAT_MS, beat);
    world.after(forMs, () => this.process.continue());
  }

  /** Routing id of the newest connection. */
  get incarnation(): string {
    return `${this.process.name}.${this.#session.link}`;
  }

  get held(): Held {
    if (this.#replica === null || !this.#hasState) return null;
    const { globalStep, phase } = this.#replica;
    return { runId: this.#runId, position: { globalStep, phase } };
  }

  receiveControl(incarnation: string, sequence: number, message: CoordinatorMessage): void {
    if (incarnation !== this.incarnation || !this.#session.isLinked) return;
    this.#input({ type: "message", link: this.#session.link, sequence, message });
  }

  receiveBulk(incarnation: string, message: CoordinatorBulk): void {
    if (incarnation !== this.incarnation || !this.#session.isLinked) return;
    if (message.generation !== this.#session.generation) return;
    if (message.type === "batch") this.#batches.set(message.globalStep, message.samples);
    else this.#checkpoint = message.state;
    this.#proceed();
  }

  receiveData(message: DataMessage | StateMessage, values: DataPayload): void {
    this.#send(this.#exchange.receive(message, values));
    this.#proceed();
  }

  /** The process that started this one is gone. */
  orphan(): void {
    this.process.run(() => this.#input({ type: "orphaned" }));
  }

  /** The process is told to end. */
  tell(): void {
    this.process.run(() => this.#input({ type: "told", signal: "SIGTERM" }));
  }

  #observe(): Extract<SessionInput, { type: "tick" }>["observed"] {
    const forMs = this.#cluster.world.nowMs - this.#waitSinceMs;
    return {
      ...this.#position,
      waiting: this.#wait?.type === "until" ? { what: this.#wait.what, forMs } : null,
      waitingRanks: this.#exchange.waitingRanks,
    };
  }

  #input(input: SessionInput): void {
    const { state, effects } = advanceSession(this.#session, input, this.#clock.now(), this.#config);
    this.#session = state;
    for (const effect of effects) this.#run(effect);
  }

  #run(effect: SessionEffect): void {
    const { world } = this.#cluster;
    switch (effect.type) {
      case "connect":
        this.#numSent = 0;
        return;
      case "disconnect":
        return;
      case "send": {
        const sequence = ++this.#numSent;
        return this.#cluster.toCoordinator(this, "control", (coordinator, incarnation) =>
          coordinator.receiveControl(incarnation, sequence, effect.message),
        );
      }
      case "prepare": {
        const { link, message } = effect;
        this.#interrupted = false;
        this.#training = this.#prepare(message, () =>
          this.#input({ type: "prepared", link, runId: message.runId }),
        );
        return this.#resume();
      }
      case "train":
        this.#interrupted = false;
        this.#training = this.#train(effect.start);
        return this.#resume();
      case "stop":
        this.#interrupted = true;
        this.#exchange.interrupt();
        this.#onStopped = () => this.#input({ type: "stopped", held: this.held });
        return this.#training === null ? this.#stopped() : this.#proceed();
      case "save":
        return world.after(world.between(10, 1500), () =>
          this.process.run(() => {
            const isSaved = this.#cluster.saveEmergency(
              this,
              this.held,
              this.#replica,
              this.#session.reports,
            );
            this.#input({ type: "saved", isSaved, text: isSaved ? "saved" : "not saved" });
          }),
        );
      case "log":
        return this.#cluster.note(`${this.process.name}: ${effect.text}`);
      case "flush":
        return world.after(50, () => this.process.run(() => this.#input({ type: "flushed" })));
      case "end": {
        const { how, reason } = effect.outcome;
        this.#cluster.note(`${this.process.name} ends: ${how}, ${reason}`);
        return this.#cluster.ended(this, how);
      }
    }
  }

  #stopped(): void {
    const then = this.#onStopped;
    this.#onStopped = null;
    then?.();
  }

  /** Runs the training on, if what it waits for has come. */
  #proceed(): void {
    if (this.#wait?.type !== "until") return;
    if (this.#interrupted || this.#wait.isOver()) this.#resume();
  }

  #resume(): void {
    const training = this.#training;
    if (training === null) return;
    this.#wait = null;
    let next: IteratorResult<Wait, void>;
    try {
      next = this.#interrupted ? training.throw(new Interrupted()) : training.next();
    } catch (error) {
      if (!(error instanceof Interrupted)) throw error;
      next = { done: true, value: undefined };
    }
    if (next.done === true) {
      this.#training = null;
      return this.#stopped();
    }
    const wait = next.value;
    this.#wait = wait;
    const { world } = this.#cluster;
    this.#waitSinceMs = world.nowMs;
    if (wait.type === "busy") {
      const forMs = wait.forMs * world.slownessOf(this.process.host);
      world.after(forMs, () => this.process.run(() => this.#resume()));
    } else this.#proceed();
  }

  #send(outgoing: readonly Outgoing[]): void {
    for (const { to, message, values } of outgoing) this.#toPeer(to, message, values.slice());
  }

  #toPeer(rank: number, message: DataMessage | StateMessage, values: Float32Array): void {
    const peer = this.#session.start?.peers[rank];
    if (peer === undefined) throw new InvariantError(`${this.process.name} sends to rank ${rank}`);
    this.#cluster.toPeer(this, peer.data.endpoint, message, values);
  }

  #bulk(message: WorkerBulk): void {
    this.#cluster.toCoordinator(this, "bulk", (coordinator, incarnation) =>
      coordinator.receiveBulk(incarnation, message),
    );
  }

  *#prepare(run: PrepareMessage, onPrepared: () => void): Generator<Wait, void, void> {
    yield* this.#load(run);
    onPrepared();
  }

  /** Loading an engine. */
  *#load({ runId, config }: Pick<StartMessage, "runId" | "config">): Generator<Wait, ToyReplica, void> {
    if (this.#replica !== null) return this.#replica;
    yield { type: "busy", forMs: this.#cluster.world.between(5, 400) };
    this.#runId = runId;
    return (this.#replica = new ToyReplica(config.seed));
  }

  *#train(start: StartMessage): Generator<Wait, void, void> {
    const { world, checks } = this.#cluster;
    const { config, term, generation, rank, worldSize, stateFrom, position } = start;
    const { shards, discriminatorSteps, globalBatchSize } = config;
    this.#batches = new Map();
    this.#checkpoint = null;
    this.#saved = this.#pictured = null;
    this.#endStep = start.endStep;
    this.#position = { globalStep: position.globalStep, phase: "start" };
    const replica = yield* this.#load(start);
    const buffers = Array.from(
      { length: SegmentPool.buffersFor(shards) },
      () => new Float32Array(SEGMENT_FLOATS),
    );
    this.#exchange.connect({
      ...{ term, generation, rank, worldSize, numShards: shards },
      ...{ position, numPhases: discriminatorSteps + 1 },
      ...{ add: addInJavaScript, round: () => undefined, buffers, segmentFloats: SEGMENT_FLOATS },
    });
    this.#bulk({ type: "hello", generation, wantsState: stateFrom === "checkpoint" });
    yield* this.#takeState(start, replica);
    if (start.stateTo.length > 0) {
      const { vectors, steps } = replica.state;
      const [generatorSteps, discriminatorSteps] = steps;
      const { reports } = this.#session;
      const state = { generatorSteps, discriminatorSteps, measured: null, reports, vectors };
      for (const to of start.stateTo) {
        for (const { message, values } of this.#exchange.stateSegments(state)) {
          this.#toPeer(to, message, values);
        }
      }
    }
    this.#input({ type: "ready", generation, stateHash: replica.hash });

    const samples = rankSamples(globalBatchSize, shards, worldSize, rank);
    const own = rankShards(shards, worldSize, rank);
    const phases = phasesOfStep(discriminatorSteps);
    for (;;) {
      const { globalStep } = replica;
      this.#bulk({ type: "credit", generation, globalStep });
      this.#position = { globalStep, phase: "batch" };
      if (globalStep >= this.#endStep) break;
      yield { type: "until", what: `batch ${globalStep}`, isOver: () => this.#batches.has(globalStep) };
      const batch = this.#batches.get(globalStep);
      if (batch?.start !== samples.start || batch.end !== samples.end) {
        throw new InvariantError(`${this.process.name} got samples of another rank for step ${globalStep}`);
      }
      while (replica.globalStep === globalStep) {
        const { network, index, name } = phases[replica.phase];
        this.#position = { globalStep, phase: name };
        yield { type: "busy", forMs: world.between(0.5, 4) };
        const partials = replica.partials(network, own, shards, generation);
        let reduced = partials[0].values;
        if (worldSize > 1) {
          reduced = new Float32Array(gradientLength(network));
          this.#send(this.#exchange.reduce(globalStep, index, partials, reduced, 0));
          yield { type: "until", what: "the all-reduce", isOver: () => this.#exchange.isReduced };
          this.#exchange.settle();
        }
        checks.sum(this.process.name, replica, ToyReplica.fault(network, reduced, shards, generation));
        replica.apply(network, reduced, index === phases.length - 1);
        checks.state(this.process.name, replica, replica.hash, "applied");
      }
      this.#batches.delete(globalStep);
      this.#report(generation, replica);
      if (rank === 0 && replica.globalStep % config.checkpointEvery === 0) this.#save(replica);
    }
    if (rank === 0) {
      this.#save(replica);
      if (this.#pictured !== replica.globalStep) {
        this.#pictured = replica.globalStep;
        this.#bulk({ type: "samples", globalStep: replica.globalStep });
      }
    }
    this.#position = { globalStep: replica.globalStep, phase: "finished" };
    this.#input({ type: "trained", generation, globalStep: replica.globalStep });
  }

  *#takeState(
    { stateFrom, position, config }: StartMessage,
    replica: ToyReplica,
  ): Generator<Wait, void, void> {
    const { checks } = this.#cluster;
    if (stateFrom === "own") {
      const held = this.held?.position;
      if (held?.globalStep !== position.globalStep || held.phase !== position.phase) {
        throw new InvariantError(`${this.process.name} is told to go on from a state that it does not hold`);
      }
      return;
    }
    this.#hasState = false;
    if (stateFrom === "seed") {
      replica.restore(new ToyReplica(config.seed).state, position);
    } else if (stateFrom === "peer") {
      this.#exchange.expectState(STATE_LENGTHS, updatesAt(position, config.discriminatorSteps));
      let taken = this.#exchange.takeState();
      if (taken === null) {
        const isOver = (): boolean => (taken = this.#exchange.takeState()) !== null;
        yield { type: "until", what: "another worker's state", isOver };
      }
      if (taken === null) throw new Interrupted();
      const { vectors, generatorSteps, discriminatorSteps, reports } = taken;
      this.#input({ type: "took", reports });
      replica.restore({ vectors, steps: [generatorSteps, discriminatorSteps] }, position);
    } else {
      yield { type: "until", what: "the checkpoint", isOver: () => this.#checkpoint !== null };
      replica.restore(this.#checkpoint as unknown as ToyState, position);
    }
    this.#hasState = true;
    checks.state(this.process.name, replica, replica.hash, "restored");
  }

  #report(generation: number, replica: ToyReplica): void {
    const metrics = {
      ...{ discriminatorLoss: 0, generatorLoss: 0, realProbability: 0, fakeProbability: 0 },
      ...{ discriminatorGradientNorm: 0, generatorGradientNorm: 0 },
    };
    const timing = { computeMs: 0, allReduceMs: 0, waitMs: 0, applyMs: 0 };
    const hashes = { generatorHash: replica.hash, discriminatorHash: "" };
    const report: StepReport = { globalStep: replica.globalStep, metrics, timing, ...hashes };
    this.#input({ type: "step", generation, report });
  }

  #save(replica: ToyReplica): void {
    const { globalStep, state, hash } = replica;
    if (this.#saved === globalStep) return;
    this.#saved = globalStep;
    this.#bulk({ type: "state", globalStep, state, hash });
  }
}
