/**
 * The coordinator: the shell that turns the decisions of the membership core
 * into messages, batches, checkpoints, pictures and metrics. It is off the
 * critical path: workers reduce and step among themselves.
 *
 * @module
 */
import { createHash, randomUUID } from "node:crypto";
import { join, resolve } from "node:path";
import { Piscina } from "piscina";
import type { RunConfig } from "../shared/config.ts";
import { maxWorkersOf, samplesPerStep, trainingConfig } from "../shared/config.ts";
import type { TrainingState } from "../shared/checkpoint.ts";
import { codeHash } from "../shared/code-hash.ts";
import { EventRing } from "../shared/event-ring.ts";
import { fromHere } from "../shared/endpoint.ts";
import { describeError, ProtocolError, RunLostError, UsageError } from "../shared/errors.ts";
import { bytesOf } from "../shared/frames.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import type { RunKey } from "../shared/keys.ts";
import type { Model } from "../shared/nn/models.ts";
import { MODELS } from "../shared/nn/models.ts";
import type {
  AdminAnswer,
  AdminRequest,
  CoordinatorBulkMessage,
  ProcessId,
  RunStatus,
  WorkerBulkMessage,
  WorkerId,
  WorkerMessage,
} from "../shared/protocol.ts";
import { HEARTBEAT_MS } from "../shared/heartbeat.ts";
import { describeRefused } from "../shared/refusals.ts";
import { SAMPLE_COUNT } from "../shared/samples.ts";
import { WakingClock } from "../shared/waking-clock.ts";
import { BatchStream } from "./batch-stream.ts";
import { listCheckpoints, loadNewest, stateOf } from "./checkpoint-store.ts";
import type { Dataset } from "./dataset/dataset.ts";
import type { HeldRun } from "./held-run.ts";
import type {
  Effect,
  Input,
  LocalProcess,
  Member,
  MembershipConfig,
  MembershipState,
  StoredState,
} from "./membership/state.ts";
import { memberStatus } from "./member-status.ts";
import { advance } from "./membership.ts";
import { initialState } from "./membership/state.ts";
import type { PlaneAddresses } from "./planes.ts";
import { Planes } from "./planes.ts";
import type { BatchTask, PoolData } from "./pool-tasks.ts";
import type { Reporter } from "./reporter.ts";
import { RunOutputs } from "./run-outputs.ts";
import { Speed } from "./speed.ts";

export interface CoordinatorOptions {
  readonly config: RunConfig;
  readonly dataset: Dataset;
  readonly run: HeldRun;
  /** Control endpoint to listen on; port * takes any. */
  readonly bind: string;
  /** The run's key, or null: then whoever reaches the sockets can join. */
  readonly key: RunKey | null;
  /** Step after which training ends. */
  readonly endStep: number;
  /** State to start from, or null for the seed's. */
  readonly checkpoint: { readonly globalStep: number; readonly state: TrainingState } | null;
  /** Last step whose metrics are in the folder already. */
  readonly recordedStep: number;
  readonly reporter: Reporter;
  /** Workers that this machine starts at first. */
  readonly localWorkers: readonly WorkerId[];
  /** Called once nothing can prevent the run any more: it is made, or goes on, with this. */
  readonly onBound: () => Promise<void>;
  /** What starts one more worker, given the control endpoint. */
  readonly joinCommand: (endpoint: string) => string;
  /** Told the control endpoint once workers may connect. */
  readonly onListening: (endpoint: string, onExit: (ended: LocalProcess, how: string) => void) => void;
  /** Starts a process of a local worker, once no other process of that worker is left. */
  readonly onLaunch: (started: LocalProcess, delayMs: number) => void;
  /** Ends such a process, or starts it no more. */
  readonly onKill: (process: ProcessId) => void;
}

export interface Outcome {
  readonly ok: boolean;
  /** Whether it ended since its workers had to leave, and is to be started again. */
  readonly again: boolean;
  readonly reason: string;
  /** Newest step that is saved, or null. */
  readonly savedStep: number | null;
  readonly globalStep: number;
}

/** Faults that `lockstep status` shows. */
const MAX_FAULTS = 10;
const TICK_MS = 250;
/** Time that workers have to answer the last message, in milliseconds. */
const LEAVE_MS = 1500;

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #planes: Planes;
  readonly #pool: Piscina;
  readonly #outputs: RunOutputs;
  readonly #events = new EventRing();
  readonly #speed = new Speed();
  readonly #clock = new WakingClock();
  readonly #finished: Promise<Outcome>;
  #resolve!: (outcome: Outcome) => void;
  #membershipConfig!: MembershipConfig;
  #state!: MembershipState;
  #stream: BatchStream | null = null;
  /** The generation to stream to, once all its members can be reached on the bulk plane. */
  #next: Extract<Effect, { type: "train" }> | null = null;
  readonly #reachable = new Set<string>();
  #checkpoint: CoordinatorOptions["checkpoint"];
  #timers: NodeJS.Timeout[] = [];
  /** Since when all members have finished, or null. */
  #trainedMs: number | null = null;
  readonly #lastFaults: RunStatus["lastFaults"] = [];
  /** Incarnations that have answered "exit" or "abort", or have ended. */
  readonly #left = new Set<string>();
  #onLeft: (() => void) | null = null;
  /** A request to stop may come before there is anything to stop. */
  #isToStop = false;
  /** Why the run is another process's, or null. */
  #lost: string | null = null;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    this.#checkpoint = options.checkpoint;
    const { dataset, config } = options;
    const { generator, discriminator } = this.#model();
    const largestFrame = 4 * Math.max(generator.numParameters, discriminator.numParameters);
    this.#planes = new Planes({
      key: options.key,
      maxBulkFrameBytes: Math.max(largestFrame, SAMPLE_COUNT * IMAGE_PIXELS) + 4096,
      say: (text) => options.reporter.log("warn", text),
      isKnown: (incarnation) => this.#isKnown(incarnation),
      onMessage: (from, sequence, message) => this.#receive(from, sequence, message),
      onRequest: (request) => this.#answer(request),
      onBulk: (from, message, payload) => this.#receiveBulk(from, message, payload),
      onBroken: (error) => this.#broken(error),
    });
    const data: PoolData = {
      pixels: dataset.pixels.buffer,
      numImages: dataset.numImages,
      imagePixels: dataset.imagePixels,
      seed: config.seed,
    };
    this.#pool = new Piscina({
      filename: new URL("./pool-tasks.js", import.meta.url).href,
      // One can write a checkpoint while the other assembles batches. A thread that ends is dear to start again.
      minThreads: 2,
      maxThreads: 2,
      workerData: data,
    });
    this.#outputs = new RunOutputs({
      ...{ config, dataset, run: options.run, reporter: options.reporter, pool: this.#pool },
      model: this.#model(),
      savedStep: options.checkpoint?.globalStep ?? null,
      recordedStep: options.recordedStep,
      isLast: (globalStep) => globalStep === this.#state.endStep,
      committedStep: () => this.#state.globalStep,
      onWritten: () => this.#checkSaved(),
      // No worker is told to go: each keeps its state for a coordinator that is started again, or saves it elsewhere.
      onGivenUp: (reason) => this.#end(false, reason),
    });
    this.#finished = new Promise((resolve) => (this.#resolve = resolve));
  }

  /** Runs until training has ended or failed. All sockets are closed afterwards. */
  async run(): Promise<Outcome> {
    const { bind, config, endStep, checkpoint, dataset, localWorkers, onListening, reporter } = this.#options;
    const addresses = await this.#open(bind);
    const { endpoint, bulkPort } = addresses;
    const { run } = this.#options;
    this.#membershipConfig = {
      run: config,
      term: randomUUID().slice(0, 8),
      runId: runIdOf(config, dataset.sha256),
      codeHash: codeHash(),
      endStep,
      numImages: dataset.numImages,
      dataset: { name: dataset.name, sha256: dataset.sha256 },
      folder: { checkpoints: resolve(run.paths.checkpoints), identity: run.identity, hold: run.hold },
      bulkPort,
      joinCommand: this.#options.joinCommand(endpoint),
      localWorkers,
    };
    this.#state = initialState(
      this.#membershipConfig,
      storedStateOf(checkpoint),
      this.#options.recordedStep,
      this.#clock.now(),
    );
    this.#planes.receive();
    this.#timers = [
      setInterval(() => this.#tick(), TICK_MS),
      setInterval(() => this.#heartbeat(), HEARTBEAT_MS),
    ];
    if (this.#isToStop) this.requestStop();
    await this.#outputs.checkSpace();
    run.watch((reason) => this.#lose(reason));
    await run
      .setEndpoint(fromHere(endpoint))
      .catch((error: unknown) =>
        reporter.log("warn", `lockstep status and stop need this run's address: ${describeError(error)}`),
      );
    reporter.log("info", `Coordinator listens on ${endpoint} for ${config.workers} workers`);
    if (this.#state.status !== "ended") {
      onListening(endpoint, ({ workerId, process }, how) => {
        const { members, joining } = this.#state;
        const member = [...members, ...joining].find((m) => m.process === process);
        if (member !== undefined) this.#noteLeft(member.incarnation);
        this.#input({ type: "exited", workerId, process, how });
      });
      for (const first of this.#state.local) this.#options.onLaunch(first, 0);
    }
    const finished = await this.#finished;
    await this.#close();
    if (this.#lost !== null) throw new RunLostError(this.#lost);
    const outcome = this.#withSaved(finished);
    if (!outcome.ok) await this.#writeEvents();
    return outcome;
  }

  /** A run that was stopped has ended well only if its last state is on disk. */
  #withSaved(outcome: Outcome): Outcome {
    const { savedStep } = this.#outputs;
    const { globalStep, ok, reason } = outcome;
    const numLost = globalStep - (savedStep ?? 0);
    if (!ok || numLost <= 0) return { ...outcome, savedStep };
    const lost = `its last ${numLost} steps could not be saved, as no worker was left that held them`;
    return { ...outcome, savedStep, ok: false, again: false, reason: `${reason}, but ${lost}` };
  }

  /** Begins to listen, and with that the run. @throws {UsageError} If either cannot be. */
  async #open(bind: string): Promise<PlaneAddresses> {
    try {
      const addresses = await this.#planes.open(bind).catch((error: unknown) => {
        throw new UsageError(
          `Cannot listen on ${bind}: ${describeError(error)}. Give --bind another port or an address of this machine`,
        );
      });
      await this.#options.onBound();
      return addresses;
    } catch (error) {
      this.#planes.close();
      await this.#pool.close();
      throw error;
    }
  }

  /** The run is another coordinator's, which has no use for these workers' states: it computes the same. */
  #lose(reason: string): void {
    this.#lost = reason;
    const { members, joining } = this.#state;
    for (const { incarnation } of [...members, ...joining]) {
      this.#planes.send(incarnation, { type: "abort", reason: "another coordinator has it now" });
    }
    this.#end(false, reason);
  }

  /** Ends training with the step under way; state and pictures are saved. */
  requestStop(): void {
    this.#isToStop = true;
    if (this.#state !== undefined) this.#input({ type: "finish" });
  }

  #noteLeft(incarnation: string): void {
    this.#left.add(incarnation);
    this.#onLeft?.();
  }

  /** Resolves when every member has answered the last message; after a while even so, as some may be gone. */
  #membersLeft(): Promise<void> {
    return new Promise((resolve) => {
      this.#onLeft = () => {
        if (this.#state.members.every((m) => this.#left.has(m.incarnation))) resolve();
      };
      this.#onLeft();
      setTimeout(resolve, LEAVE_MS);
    });
  }

  #model(): Model {
    const { config, dataset } = this.#options;
    return MODELS[config.model]({ latentDim: config.latentDim, imagePixels: dataset.imagePixels });
  }

  async #writeEvents(): Promise<void> {
    const { run, reporter } = this.#options;
    if (!(await run.isOurs().catch(() => true))) return;
    const path = join(run.paths.events, "coordinator.ndjson");
    await this.#events.write(path).then(
      () => reporter.log("info", `The last protocol events are in ${path}`),
      (error: unknown) => reporter.log("warn", `Cannot write the last events: ${describeError(error)}`),
    );
  }

  async #close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#outputs.close();
    await this.#membersLeft();
    this.#planes.close();
    await this.#pool.close();
    const refused = describeRefused(this.#planes.refused);
    if (refused !== null) this.#options.reporter.log("warn", `Refused in all: ${refused}`);
  }

  #input(input: Input): void {
    const { state, effects } = advance(this.#state, input, this.#clock.now(), this.#membershipConfig);
    // A flood of strangers, who change nothing, may not drive the members' events out of the ring.
    if (input.type !== "message" || state !== this.#state) this.#note(input, effects);
    this.#state = state;
    for (const effect of effects) this.#run(effect);
    this.#outputs.committed();
  }

  #note(input: Input, effects: readonly Effect[]): void {
    const isRoutine =
      input.type === "tick" ||
      (input.type === "message" && ["heartbeat", "busy"].includes(input.message.type));
    if (!isRoutine) this.#events.add("input", input);
    for (const effect of effects) this.#events.add("effect", effect);
  }

  #run(effect: Effect): void {
    switch (effect.type) {
      case "send":
        return this.#planes.send(effect.to, effect.message);
      case "log":
        if (effect.level !== "info") {
          this.#lastFaults.push({ at: new Date().toISOString(), text: effect.text.slice(0, 4000) });
          if (this.#lastFaults.length > MAX_FAULTS) this.#lastFaults.shift();
        }
        return this.#options.reporter.log(effect.level, effect.text);
      case "refused":
        return this.#planes.refusedJoin(effect.text);
      case "pause":
        this.#trainedMs = null;
        this.#next = null;
        this.#stream?.stop();
        this.#stream = null;
        return;
      case "restore":
        return void this.#restore();
      case "rewind":
        return this.#outputs.rewind(effect.globalStep);
      case "train":
        this.#next = effect;
        return this.#startStream();
      case "launch":
        return this.#options.onLaunch({ workerId: effect.workerId, process: effect.process }, effect.delayMs);
      case "kill":
        return this.#options.onKill(effect.process);
      case "commit":
        return this.#commit(effect);
      case "trained":
        this.#trainedMs = this.#clock.now();
        return this.#checkSaved();
      case "end":
        return this.#end(effect.ok, effect.reason, effect.again);
    }
  }

  #tick(): void {
    this.#input({ type: "tick" });
    const { stragglerTimeoutMs } = this.#options.config;
    const { globalStep } = this.#state;
    if (this.#trainedMs === null || stragglerTimeoutMs === 0 || this.#outputs.hasReceived(globalStep)) return;
    if (this.#clock.now() - this.#trainedMs <= stragglerTimeoutMs) return;
    this.#input({ type: "missing" });
  }

  #heartbeat(): void {
    const { members, joining } = this.#state;
    const safe = Math.min(this.#outputs.recordedStep, this.#outputs.savedStep ?? 0);
    for (const { incarnation } of [...members, ...joining]) {
      this.#planes.send(incarnation, { type: "heartbeat", safe });
    }
  }

  #broken(error: unknown): void {
    this.#end(false, `The coordinator failed: ${describeError(error)}`);
  }

  #receive(from: string, sequence: number, message: WorkerMessage): void {
    if ((message.type === "left" || message.type === "failed") && this.#isKnown(from)) this.#noteLeft(from);
    this.#input({ type: "message", from, sequence, message });
  }

  #answer(request: AdminRequest): AdminAnswer {
    const { run } = this.#membershipConfig;
    switch (request.type) {
      case "status":
        return { type: "status", run: this.#status() };
      case "stop":
        this.#options.reporter.log("info", "Asked to stop: finishing the step under way");
        this.requestStop();
        return { type: "done", text: "The run ends with the step under way, and saves its state" };
      case "scale": {
        const { workers } = request;
        const limit = maxWorkersOf(run);
        if (workers < run.minWorkers || workers > limit) {
          const reason = `Cannot scale to ${workers} workers as the run takes ${run.minWorkers} to ${limit} (--min-workers, --max-workers, --shards)`;
          return { type: "cannot", reason };
        }
        const { members, joining } = this.#state;
        const numMissing = workers - members.length - joining.length;
        this.#options.reporter.log("info", `Asked to scale to ${workers} workers`);
        this.#input({ type: "scale", workers });
        const byHand = this.#options.localWorkers.length === 0 && numMissing > 0;
        const text = byHand
          ? `Start ${numMissing} more: ${this.#membershipConfig.joinCommand}`
          : `Scaling to ${workers} workers`;
        return { type: "done", text };
      }
    }
  }

  #status(): RunStatus {
    const { status, generation, globalStep, endStep } = this.#state;
    const { config } = this.#options;
    return {
      refused: this.#planes.refused,
      ...{ status, generation, globalStep, endStep },
      imagesPerSecond: status === "training" ? this.#speed.stepsPerSecond * samplesPerStep(config) : 0,
      members: memberStatus(this.#state, config.shards, this.#clock.now()),
      lastFaults: [...this.#lastFaults],
    };
  }

  #receiveBulk(from: string, message: WorkerBulkMessage, payload: readonly Buffer[]): void {
    const { members, generation } = this.#state;
    const rank = members.findIndex((m) => m.incarnation === from);
    if (rank < 0 || message.generation > generation) {
      throw new ProtocolError(
        `Cannot use "${message.type}" of generation ${message.generation} from rank ${rank}`,
      );
    }
    const { endStep } = this.#membershipConfig;
    if (message.type !== "hello" && message.globalStep > endStep) {
      throw new ProtocolError(
        `Cannot use "${message.type}" of step ${message.globalStep} in a run of ${endStep}`,
      );
    }
    switch (message.type) {
      case "hello":
        this.#reachable.add(from);
        if (message.wantsState && message.generation === generation) this.#sendState(from);
        return this.#startStream();
      case "credit":
        // Of an older generation: nothing is streamed to it any more.
        if (message.generation === generation) this.#stream?.credit(rank, message.globalStep);
        return;
      // A state has the same bits whichever generation reached it.
      case "state":
        return this.#outputs.saveState(message, payload);
      case "samples":
        return this.#outputs.savePicture(message.globalStep, payload);
    }
  }

  /** Whether a worker of this incarnation has joined and is not lost. */
  #isKnown(from: string): boolean {
    const { members, joining } = this.#state;
    const isFrom = ({ incarnation }: Member): boolean => incarnation === from;
    return members.some(isFrom) || joining.some(isFrom);
  }

  #sendState(to: string): void {
    const checkpoint = this.#checkpoint;
    if (checkpoint === null) return;
    const { generator, discriminator } = checkpoint.state;
    const frames = [generator, discriminator].flatMap((n) => [
      bytesOf(n.parameters),
      bytesOf(n.m),
      bytesOf(n.v),
    ]);
    const header: CoordinatorBulkMessage = {
      type: "state",
      generation: this.#state.generation,
      globalStep: checkpoint.globalStep,
      generatorSteps: generator.step,
      discriminatorSteps: discriminator.step,
    };
    this.#planes.sendBulk(to, header, frames);
  }

  /** Looks for the newest state on disk, after all that is to be written is there. */
  async #restore(): Promise<void> {
    const { reporter, run } = this.#options;
    const { checkpoints } = run.paths;
    try {
      await this.#outputs.settled();
      const onDamaged = (reason: string): void => reporter.log("warn", `${reason}. Trying the one before it`);
      const hasCheckpoint = (await listCheckpoints(checkpoints)).length > 0;
      const { savedStep } = this.#outputs;
      if (!hasCheckpoint && savedStep !== null) {
        return this.#end(
          false,
          `No worker is left, and the checkpoint of step ${savedStep} is gone from ${checkpoints}: put it back, then resume`,
        );
      }
      const newest = hasCheckpoint ? await loadNewest(checkpoints, onDamaged) : null;
      this.#checkpoint =
        newest === null
          ? null
          : { globalStep: newest.manifest.globalStep, state: stateOf(newest, this.#model()) };
      const stored = storedStateOf(this.#checkpoint);
      this.#outputs.found(newest?.manifest.globalStep ?? null);
      this.#input({ type: "restored", stored });
    } catch (error) {
      this.#broken(error);
    }
  }

  /** Streams batches to a generation that is ready, once all its members have said hello. */
  #startStream(): void {
    const { config } = this.#options;
    const { members } = this.#state;
    const next = this.#next;
    if (next === null || !members.every(({ incarnation }) => this.#reachable.has(incarnation))) return;
    this.#next = null;
    const { generation, globalStep, endStep } = next;
    this.#speed.begin(globalStep, performance.now());
    this.#stream = new BatchStream({
      config,
      worldSize: members.length,
      startStep: globalStep,
      endStep,
      prefetchSteps: config.prefetchSteps,
      assemble: async (task: BatchTask) =>
        new Uint8Array((await this.#pool.run(task, { name: "assembleBatch" })) as ArrayBuffer),
      send: (rank, step, batch) =>
        this.#planes.sendBulk(members[rank].incarnation, { type: "batch", generation, globalStep: step }, [
          batch,
        ]),
      onError: (error) => this.#broken(error),
    });
    this.#stream.pump();
  }

  #commit({ globalStep, metrics, timings }: Extract<Effect, { type: "commit" }>): void {
    const { config, dataset, reporter } = this.#options;
    this.#speed.committed(globalStep, performance.now());
    const { stepsPerSecond } = this.#speed;
    const perStep = samplesPerStep(config);
    const imagesPerSecond = stepsPerSecond * perStep;
    const epoch = (globalStep * perStep) / dataset.numImages;
    const { endStep } = this.#state;
    const workers = Object.fromEntries(timings);
    this.#outputs.writeMetrics(globalStep, { globalStep, epoch, ...metrics, imagesPerSecond, workers });
    reporter.progress({
      globalStep,
      endStep,
      epoch,
      numEpochs: (endStep * perStep) / dataset.numImages,
      metrics,
      imagesPerSecond,
      secondsLeft: (endStep - globalStep) / stepsPerSecond,
    });
  }

  /** The last state and picture may arrive after the workers' word that they have finished. */
  #checkSaved(): void {
    const { globalStep } = this.#state;
    if (this.#trainedMs === null || !this.#outputs.isComplete(globalStep)) return;
    if (this.#outputs.savedStep === globalStep) return this.#input({ type: "saved" });
    if (this.#outputs.retryLast(globalStep)) return;
    this.#end(
      false,
      `Trained to step ${globalStep}, but its checkpoint could not be written. Make room in ${this.#options.run.paths.checkpoints}, then resume`,
    );
  }

  #end(ok: boolean, reason: string, again = false): void {
    const { globalStep } = this.#state;
    this.#resolve({ ok, again, reason, savedStep: this.#outputs.savedStep, globalStep });
  }
}

/** Names all runs that reach the same states: what decides the bits. */
function runIdOf(config: RunConfig, datasetSha256: string): string {
  const text = JSON.stringify([trainingConfig(config), datasetSha256]);
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

function storedStateOf(checkpoint: CoordinatorOptions["checkpoint"]): StoredState {
  return checkpoint === null
    ? { globalStep: 0, from: "seed" }
    : { globalStep: checkpoint.globalStep, from: "checkpoint" };
}
