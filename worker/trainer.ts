/**
 * The training of one worker: its engine and replica, which live as long as
 * the process, and the generation under way, from taking the state to the last
 * step. What it has to tell goes to the session as inputs.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";
import { maxWorkersOf } from "../shared/config.ts";
import { describeError, ProtocolError } from "../shared/errors.ts";
import { bytesOf, floatsOf } from "../shared/frames.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import type { Model } from "../shared/nn/models.ts";
import { MODELS } from "../shared/nn/models.ts";
import { OBJECTIVES } from "../shared/nn/objectives.ts";
import type { Updates } from "../shared/phases.ts";
import { areUpdates, phasesOfStep, updatesAt } from "../shared/phases.ts";
import type {
  Position,
  PrepareMessage,
  StartMessage,
  StepReport,
  WorkerBulkMessage,
} from "../shared/protocol.ts";
import { decodeHeader } from "../shared/header.ts";
import { comparePositions, parseCoordinatorBulkMessage } from "../shared/protocol.ts";
import { largestNode } from "../shared/sharding.ts";
import { BatchQueue } from "./batch-queue.ts";
import type { DataPlane } from "./data-plane.ts";
import { saveInEmergency } from "./emergency-checkpoint.ts";
import type { Engine } from "./engine/engine.ts";
import { loadEngine } from "./engine/engine.ts";
import type { HostMemory } from "./host-memory.ts";
import { Interrupted } from "./interrupted.ts";
import type { Replica } from "./replica.ts";
import {
  emptyReplica,
  initialize,
  replicaLengths,
  restore,
  snapshot,
  stateHash,
  stepsOf,
  trainingState,
} from "./replica.ts";
import type { Held, Observed, SessionInput } from "./session.ts";
import type { TrainLoopParts } from "./train-loop.ts";
import { trainLoop } from "./train-loop.ts";
import type { Measured, Progress } from "./train-step.ts";
import { EngineError, NonFiniteError, StepBuffers } from "./train-step.ts";

export interface TrainerOptions {
  readonly dataPlane: DataPlane;
  /** Index of the GPU to compute on, or null for the engine's choice. */
  readonly device: number | null;
  readonly report: (input: SessionInput) => void;
  readonly sendBulk: (message: WorkerBulkMessage, frames?: readonly Uint8Array[]) => void;
  /** Of steps that the coordinator may not have recorded, the last ones among them. */
  readonly reports: () => readonly StepReport[];
  readonly log: (text: string) => void;
}

/** What a worker keeps from generation to generation. */
interface Own {
  readonly runId: string;
  readonly model: Model;
  readonly engine: Engine;
  readonly memory: HostMemory;
  readonly buffers: StepBuffers;
  readonly replica: Replica;
  readonly progress: Progress;
  /** Whether the replica holds a state of the run, at `progress`. */
  hasState: boolean;
}

export class Trainer {
  readonly #options: TrainerOptions;
  #own: Own | null = null;
  #batches: BatchQueue | null = null;
  #start: StartMessage | null = null;
  #stateArrived: { resolve(frames: readonly Buffer[]): void; reject(error: Error): void } | null = null;
  /** The generation under way; never rejects. */
  #generation: Promise<void> = Promise.resolve();
  #isInterrupted = false;
  #position = { globalStep: 0, phase: "start" };
  #wait: { readonly what: () => string; readonly sinceMs: number } | null = null;

  constructor(options: TrainerOptions) {
    this.#options = options;
  }

  /** Where the replica is, or null if it holds no state. */
  get held(): Held {
    if (this.#own === null || !this.#own.hasState) return null;
    const { globalStep, phase } = this.#own.progress;
    return { runId: this.#own.runId, position: { globalStep, phase } };
  }

  observe(): Observed {
    const wait = this.#wait;
    return {
      ...this.#position,
      waiting: wait === null ? null : { what: wait.what(), forMs: performance.now() - wait.sinceMs },
      waitingRanks: this.#options.dataPlane.waitingRanks,
    };
  }

  /** Loads what does not depend on a generation, before the first one. */
  prepare(run: PrepareMessage, onPrepared: () => void): void {
    this.#run(async () => {
      await this.#prepared(run);
      onPrepared();
    });
  }

  /** Begins a generation. The one before it has been stopped. */
  train(start: StartMessage): void {
    this.#isInterrupted = false;
    this.#start = start;
    this.#run(() => this.#train(start));
  }

  #run(work: () => Promise<void>): void {
    this.#generation = work().catch((error: unknown) => {
      if (error instanceof Interrupted) return;
      const reason = `At step ${this.#position.globalStep}: ${describeError(error)}`;
      this.#options.report({ type: "broken", reason, byEngine: error instanceof EngineError });
    });
  }

  /** Ends the generation under way; what was applied stays applied. */
  async stop(): Promise<void> {
    this.#isInterrupted = true;
    this.#batches?.interrupt();
    this.#options.dataPlane.interrupt();
    this.#stateArrived?.reject(new Interrupted());
    this.#stateArrived = null;
    await this.#generation;
  }

  /**
   * Saves the state where the user finds it, since no coordinator is left.
   *
   * @returns What became of it, for the user.
   */
  async save(): Promise<{ readonly isSaved: boolean; readonly text: string }> {
    const own = this.#own;
    const start = this.#start;
    if (own === null || start === null || !own.hasState) return { isSaved: false, text: "It held no state" };
    // Batches that are here already are used first; then all workers stand at the beginning of the same step.
    const isBetweenSteps = (): boolean =>
      own.progress.phase === 0 && ["batch", "finished"].includes(this.#position.phase);
    for (let i = 0; i < 30 && !isBetweenSteps(); i++) await sleep(100);
    await this.stop();
    const { globalStep, phase } = own.progress;
    return saveInEmergency(start, {
      reports: this.#options.reports(),
      model: own.model,
      globalStep,
      state: phase === 0 ? trainingState(own.model, own.replica, own.engine.order) : null,
      say: this.#options.log,
    });
  }

  /** Takes in a message of the bulk plane. @throws {ProtocolError} If it is malformed. */
  receiveBulk(frames: readonly Buffer[]): void {
    const message = parseCoordinatorBulkMessage(decodeHeader(frames[0]));
    const start = this.#start;
    if (message.generation !== start?.generation) return;
    const { globalStep } = message;
    if (globalStep < start.position.globalStep || globalStep > start.endStep || frames.length < 2) {
      throw new ProtocolError(
        `Cannot use "${message.type}" of step ${globalStep} with ${frames.length} frames`,
      );
    }
    if (message.type === "batch") this.#batches?.put(globalStep, frames[1]);
    else this.#stateArrived?.resolve(frames);
  }

  dispose(): void {
    this.#own?.engine.dispose();
  }

  /** Awaits something that may take long; {@linkcode observe} says for what. */
  async #waiting<T>(what: () => string, promise: Promise<T>): Promise<T> {
    this.#wait = { what, sinceMs: performance.now() };
    try {
      return await promise;
    } finally {
      this.#wait = null;
    }
  }

  /** @throws {Interrupted} If the members change. */
  async #train(start: StartMessage): Promise<void> {
    const { config, term, generation, rank, worldSize, stateFrom } = start;
    const { dataPlane, log, report, sendBulk } = this.#options;
    const batches = new BatchQueue(start.endStep);
    this.#batches = batches;
    this.#position = { globalStep: start.position.globalStep, phase: "start" };
    const own = await this.#prepared(start);
    // Loading an engine cannot be interrupted.
    if (this.#isInterrupted) throw new Interrupted();
    const { model, engine, memory, buffers, replica } = own;
    buffers.reset();
    dataPlane.connect({
      ...{ term, generation, rank, peers: start.peers, numShards: config.shards },
      ...{ position: start.position, numPhases: phasesOfStep(config.discriminatorSteps).length },
      ...{ add: memory.add, round: memory.roundToBf16, buffers: buffers.segments },
      shared: config.sharedMemory,
    });
    sendBulk({ type: "hello", generation, wantsState: stateFrom === "checkpoint" });
    await this.#takeState(start, own);
    engine.setParameters("generator", replica.generator.parameters);
    engine.setParameters("discriminator", replica.discriminator.parameters);
    if (start.stateTo.length > 0) {
      const state = {
        ...stepsOf(replica),
        measured: own.progress.measured,
        reports: this.#options.reports(),
        vectors: snapshot(model, replica, engine.order),
      };
      for (const to of start.stateTo) dataPlane.sendState(to, state);
    }
    log(`Rank ${rank} of ${worldSize}: ${engine.description}, ${dataPlane.description}`);
    report({ type: "ready", generation, stateHash: stateHash(replica, memory) });
    await this.#runLoop({ ...own, start, batches, dataPlane });
  }

  /** What does not depend on the generation, of this run. */
  async #prepared(run: Pick<StartMessage, "config" | "runId">): Promise<Own> {
    if (this.#own !== null && this.#own.runId !== run.runId) {
      this.#own.engine.dispose();
      this.#own = null;
    }
    return (this.#own ??= await this.#load(run));
  }

  async #load({ config, runId }: Pick<StartMessage, "config" | "runId">): Promise<Own> {
    const { globalBatchSize, shards, minWorkers, discriminatorSteps } = config;
    const model = MODELS[config.model]({ latentDim: config.latentDim, imagePixels: IMAGE_PIXELS });
    const phases = phasesOfStep(discriminatorSteps);
    const { engine, memory } = await loadEngine(
      config,
      {
        model,
        objective: OBJECTIVES[config.objective],
        // A run that stops may go on with fewer: nodes for which there is no room are then computed in parts.
        maxSamples: largestNode(globalBatchSize, shards, minWorkers, maxWorkersOf(config)),
        device: this.#options.device,
      },
      [...replicaLengths(model), ...StepBuffers.lengths(model, phases, shards)],
    );
    return {
      runId,
      model,
      engine,
      memory,
      replica: emptyReplica(model, memory),
      buffers: new StepBuffers(model, phases, shards, memory),
      progress: { globalStep: 0, phase: 0, measured: null },
      hasState: false,
    };
  }

  /** Brings the replica to the position that the generation starts from. */
  async #takeState({ stateFrom, position, config }: StartMessage, own: Own): Promise<void> {
    const updates = updatesAt(position, config.discriminatorSteps);
    const { model, replica, engine, progress } = own;
    if (stateFrom === "own") return this.#checkHeld(position);
    // Until the new state is complete there is none.
    own.hasState = false;
    let measured: Measured | null = null;
    switch (stateFrom) {
      case "seed":
        initialize(replica, model, config.seed, engine.order);
        break;
      case "peer": {
        const arriving = this.#options.dataPlane.receiveState(replicaLengths(model), updates);
        const state = await this.#waiting(() => "another worker's state", arriving);
        restore(replica, model, state.vectors, updates, engine.order);
        measured = state.measured;
        this.#options.report({ type: "took", reports: state.reports });
        break;
      }
      case "checkpoint":
        await this.#takeCheckpoint(own, updates);
    }
    Object.assign(progress, { ...position, measured } satisfies Progress);
    own.hasState = true;
  }

  #checkHeld(position: Position): void {
    const held = this.held?.position ?? null;
    if (held !== null && comparePositions(held, position) === 0) return;
    throw new ProtocolError(
      `Cannot go on from step ${position.globalStep}, phase ${position.phase} as the state is at ${JSON.stringify(held)}`,
    );
  }

  async #takeCheckpoint({ model, replica, engine }: Own, updates: Updates): Promise<void> {
    const arrived = new Promise<readonly Buffer[]>(
      (resolve, reject) => (this.#stateArrived = { resolve, reject }),
    );
    const [header, ...frames] = await this.#waiting(() => "the checkpoint's state", arrived);
    const message = parseCoordinatorBulkMessage(decodeHeader(header));
    if (message.type !== "state" || !areUpdates(message, updates)) {
      throw new ProtocolError(`Cannot start from "${message.type}" of step ${message.globalStep}`);
    }
    const lengths = replicaLengths(model);
    const vectors = frames.map((frame, i) => floatsOf(frame, lengths[i]));
    restore(replica, model, vectors, updates, engine.order);
  }

  async #runLoop(parts: TrainLoopParts): Promise<void> {
    const { start, model, engine, memory, replica, progress } = parts;
    const { generation } = start;
    const { generator, discriminator } = replica;
    const { report, sendBulk } = this.#options;
    try {
      await trainLoop(parts, {
        onPosition: (step, phase) => (this.#position = { globalStep: step, phase }),
        waiting: (what, promise) => this.#waiting(what, promise),
        onCredit: (step) => sendBulk({ type: "credit", generation, globalStep: step }),
        onStep: (step, metrics, timing) => {
          const generatorHash = memory.hash(generator.parameters);
          const discriminatorHash = memory.hash(discriminator.parameters);
          const hashes = { generatorHash, discriminatorHash };
          report({ type: "step", generation, report: { globalStep: step, metrics, timing, ...hashes } });
        },
        onState: (step) =>
          sendBulk(
            { type: "state", generation, globalStep: step, ...stepsOf(replica) },
            snapshot(model, replica, engine.order).map(bytesOf),
          ),
        onSamples: (step, pixels) => sendBulk({ type: "samples", generation, globalStep: step }, [pixels]),
      });
      this.#position = { globalStep: progress.globalStep, phase: "finished" };
      report({ type: "trained", generation, globalStep: progress.globalStep });
    } catch (error) {
      if (!(error instanceof NonFiniteError)) throw error;
      const { isApplied, own } = error;
      // Nobody may take or save what is left.
      if (isApplied && this.#own !== null) this.#own.hasState = false;
      report({ type: "nonFinite", generation, ...this.#position, isApplied, own });
    }
  }
}
