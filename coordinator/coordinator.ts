/**
 * The coordinator: the shell that turns the decisions of the membership core
 * into messages, batches, checkpoints, pictures and metrics. It is off the
 * critical path: workers reduce and step among themselves.
 *
 * @module
 */
import { Piscina } from "piscina";
import type { Router } from "zeromq";
import type { RunConfig } from "../shared/config.ts";
import { samplesPerStep } from "../shared/config.ts";
import type { TrainingState } from "../shared/checkpoint.ts";
import { describeError, ProtocolError, UsageError } from "../shared/errors.ts";
import { bytesOf } from "../shared/frames.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import type { Model } from "../shared/nn/models.ts";
import { MODELS } from "../shared/nn/models.ts";
import { Outbox } from "../shared/outbox.ts";
import type { CoordinatorBulkMessage, CoordinatorMessage } from "../shared/protocol.ts";
import {
  decodeHeader,
  encodeHeader,
  MAX_HEADER_BYTES,
  parseWorkerBulkMessage,
  parseWorkerMessage,
} from "../shared/protocol.ts";
import { SAMPLE_COUNT } from "../shared/samples.ts";
import { parseEndpoint, receiveAll, router } from "../shared/sockets.ts";
import { BatchStream } from "./batch-stream.ts";
import type { Dataset } from "./dataset/dataset.ts";
import type { Effect, Input, MembershipConfig, MembershipState } from "./membership.ts";
import { advance, initialState } from "./membership.ts";
import type { BatchTask, PoolData } from "./pool-tasks.ts";
import type { Reporter } from "./reporter.ts";
import type { RunPaths } from "./run-directory.ts";
import { RunOutputs } from "./run-outputs.ts";

export interface CoordinatorOptions {
  readonly config: RunConfig;
  readonly dataset: Dataset;
  readonly paths: RunPaths;
  /** Control endpoint to listen on; port * takes any. */
  readonly bind: string;
  /** Step after which training ends. */
  readonly endStep: number;
  /** State to start from, or null for the seed's. */
  readonly checkpoint: { readonly globalStep: number; readonly state: TrainingState } | null;
  readonly reporter: Reporter;
  /** Told the control endpoint once workers may connect; returns what stops them. */
  readonly onListening: (endpoint: string, onExit: (workerId: string, how: string) => void) => void;
}

export interface Outcome {
  readonly ok: boolean;
  readonly reason: string;
  /** Newest step that is saved, or null. */
  readonly savedStep: number | null;
  readonly globalStep: number;
}

const TICK_MS = 250;
const HEARTBEAT_MS = 500;
/** Time that workers have to answer the last message, in milliseconds. */
const LEAVE_MS = 1500;
/** Speed is averaged over the commits of this long, in milliseconds. */
const SPEED_WINDOW_MS = 5000;

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #control: Router;
  readonly #bulk: Router;
  readonly #controlOutbox: Outbox;
  readonly #bulkOutbox: Outbox;
  readonly #pool: Piscina;
  readonly #outputs: RunOutputs;
  readonly #commits: { readonly globalStep: number; readonly atMs: number }[] = [];
  readonly #finished: Promise<Outcome>;
  #resolve!: (outcome: Outcome) => void;
  #membershipConfig!: MembershipConfig;
  #state!: MembershipState;
  #stream: BatchStream | null = null;
  #timers: NodeJS.Timeout[] = [];
  #isTrained = false;
  #numRefused = 0;
  /** Incarnations that have answered "exit" or "abort", or have ended. */
  readonly #left = new Set<string>();
  #onLeft: (() => void) | null = null;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    const { dataset, config } = options;
    const { generator, discriminator } = this.#model();
    const largestFrame = 4 * Math.max(generator.numParameters, discriminator.numParameters);
    this.#control = router({ maxFrameBytes: MAX_HEADER_BYTES });
    this.#bulk = router({ maxFrameBytes: Math.max(largestFrame, SAMPLE_COUNT * IMAGE_PIXELS) + 4096 });
    this.#controlOutbox = new Outbox(this.#control, (error) => this.#undeliverable("control", error));
    this.#bulkOutbox = new Outbox(this.#bulk, (error) => this.#undeliverable("bulk", error));
    const data: PoolData = {
      pixels: dataset.pixels,
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
      ...{ config, dataset, paths: options.paths, reporter: options.reporter, pool: this.#pool },
      model: this.#model(),
      savedStep: options.checkpoint?.globalStep ?? null,
      onWritten: () => this.#checkSaved(),
    });
    this.#finished = new Promise((resolve) => (this.#resolve = resolve));
  }

  /** Runs until training has ended or failed. All sockets are closed afterwards. */
  async run(): Promise<Outcome> {
    const { bind, config, endStep, checkpoint, dataset, onListening, reporter } = this.#options;
    const { host } = parseEndpoint(bind);
    try {
      await this.#control.bind(bind);
      await this.#bulk.bind(`tcp://${host}:*`);
    } catch (error) {
      await this.#pool.close();
      throw new UsageError(
        `Cannot listen on ${bind}: ${describeError(error)}. Give --bind another port or an address of this machine`,
      );
    }
    const endpoint = this.#control.lastEndpoint ?? bind;
    const startStep = checkpoint?.globalStep ?? 0;
    this.#membershipConfig = {
      run: config,
      startStep,
      endStep,
      numImages: dataset.numImages,
      stateFrom: checkpoint === null ? "seed" : "checkpoint",
      bulkPort: Number(parseEndpoint(this.#bulk.lastEndpoint ?? "").port),
      endpoint,
    };
    this.#state = initialState(this.#membershipConfig, performance.now());
    receiveAll(this.#control, (frames) => this.#receiveControl(frames)).catch((e: unknown) =>
      this.#broken(e),
    );
    receiveAll(this.#bulk, (frames) => this.#receiveBulk(frames)).catch((e: unknown) => this.#broken(e));
    this.#timers = [
      setInterval(() => this.#input({ type: "tick" }), TICK_MS),
      setInterval(() => this.#heartbeat(), HEARTBEAT_MS),
    ];
    reporter.log("info", `Coordinator listens on ${endpoint} for ${config.workers} workers`);
    onListening(endpoint, (workerId, how) => {
      const member = this.#state.members.find((m) => m.workerId === workerId);
      if (member !== undefined) this.#noteLeft(member.incarnation);
      this.#input({ type: "exited", workerId, how });
    });
    const outcome = await this.#finished;
    await this.#close();
    return { ...outcome, savedStep: this.#outputs.savedStep };
  }

  /** Ends training after the steps whose batches are under way; state and pictures are saved. */
  requestStop(): void {
    if (this.#state === undefined) return;
    const globalStep = this.#stream?.stop() ?? this.#state.globalStep;
    this.#input({ type: "finish", globalStep });
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

  async #close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#outputs.close();
    await this.#membersLeft();
    this.#control.close();
    this.#bulk.close();
    await this.#pool.close();
    if (this.#numRefused > 0) {
      this.#options.reporter.log("warn", `${this.#numRefused} malformed or unexpected messages were refused`);
    }
  }

  #input(input: Input): void {
    const { state, effects } = advance(this.#state, input, performance.now(), this.#membershipConfig);
    this.#state = state;
    for (const effect of effects) this.#run(effect);
  }

  #run(effect: Effect): void {
    switch (effect.type) {
      case "send":
        return this.#send(effect.to, effect.message);
      case "log":
        return this.#options.reporter.log(effect.level, effect.text);
      case "train":
        return this.#startStream();
      case "commit":
        return this.#commit(effect);
      case "trained":
        this.#isTrained = true;
        return this.#checkSaved();
      case "end":
        return this.#end(effect.ok, effect.reason);
    }
  }

  #send(to: string, message: CoordinatorMessage): void {
    this.#controlOutbox.push([to, encodeHeader(message)]);
  }

  #sendBulk(to: string, message: CoordinatorBulkMessage, frames: readonly Uint8Array[]): void {
    this.#bulkOutbox.push([to, encodeHeader(message), ...frames]);
  }

  #heartbeat(): void {
    const joined = this.#state.members.length;
    for (const { incarnation } of this.#state.members) {
      this.#send(incarnation, { type: "heartbeat", joined, expected: this.#options.config.workers });
    }
  }

  /** The receiver is gone: the membership core will notice by its silence or exit. */
  #undeliverable(plane: string, error: unknown): void {
    if (this.#control.closed || (error as NodeJS.ErrnoException).code === "EHOSTUNREACH") return;
    this.#options.reporter.log("warn", `Cannot send on the ${plane} plane: ${describeError(error)}`);
  }

  #broken(error: unknown): void {
    this.#end(false, `The coordinator failed: ${describeError(error)}`);
  }

  #receiveControl(frames: Buffer[]): void {
    this.#guarded(frames, () => {
      if (frames.length !== 2)
        throw new ProtocolError(`Cannot use control message of ${frames.length} frames`);
      const message = parseWorkerMessage(decodeHeader(frames[1]));
      const from = frames[0].toString("latin1");
      if (message.type === "left" || message.type === "failed") this.#noteLeft(from);
      this.#input({ type: "message", from, message });
    });
  }

  #receiveBulk(frames: Buffer[]): void {
    this.#guarded(frames, () => {
      const message = parseWorkerBulkMessage(decodeHeader(frames[1]));
      const from = frames[0].toString("latin1");
      const rank = this.#state.members.findIndex((m) => m.incarnation === from);
      if (rank < 0 || message.generation !== this.#state.generation) {
        throw new ProtocolError(
          `Cannot use "${message.type}" of generation ${message.generation} from rank ${rank}`,
        );
      }
      const payload = frames.slice(2);
      switch (message.type) {
        case "hello":
          return this.#sendState(from);
        case "credit":
          return this.#stream?.credit(rank, message.globalStep);
        case "state":
          return this.#outputs.saveState(message, payload);
        case "samples":
          return this.#outputs.savePicture(message.globalStep, payload);
      }
    });
  }

  /** A peer's malformed message is refused, counted and said; it never ends the run. */
  #guarded(frames: readonly Buffer[], use: () => void): void {
    try {
      use();
    } catch (error) {
      if (!(error instanceof ProtocolError)) return this.#broken(error);
      this.#numRefused += 1;
      if (this.#numRefused <= 10) {
        const from =
          frames[0]
            ?.toString("latin1")
            .replace(/[^\x20-\x7e]/g, "?")
            .slice(0, 40) ?? "";
        this.#options.reporter.log("warn", `Refused a message from ${from}: ${describeError(error)}`);
      }
    }
  }

  #sendState(to: string): void {
    const { checkpoint } = this.#options;
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
    this.#sendBulk(to, header, frames);
  }

  #startStream(): void {
    const { config, endStep } = this.#options;
    const { members, generation, globalStep } = this.#state;
    this.#commits.push({ globalStep, atMs: performance.now() });
    this.#stream = new BatchStream({
      config,
      worldSize: members.length,
      startStep: globalStep,
      endStep,
      prefetchSteps: config.prefetchSteps,
      assemble: (task: BatchTask) => this.#pool.run(task, { name: "assembleBatch" }) as Promise<Uint8Array>,
      send: (rank, step, batch) =>
        this.#sendBulk(members[rank].incarnation, { type: "batch", generation, globalStep: step }, [batch]),
      onError: (error) => this.#broken(error),
    });
    this.#stream.pump();
  }

  #commit({ globalStep, metrics, timings }: Extract<Effect, { type: "commit" }>): void {
    const { config, dataset, reporter } = this.#options;
    const nowMs = performance.now();
    this.#commits.push({ globalStep, atMs: nowMs });
    while (this.#commits.length > 2 && nowMs - this.#commits[0].atMs > SPEED_WINDOW_MS) this.#commits.shift();
    const first = this.#commits[0];
    const perStep = samplesPerStep(config);
    const stepsPerSecond = ((globalStep - first.globalStep) * 1000) / Math.max(1e-3, nowMs - first.atMs);
    const imagesPerSecond = stepsPerSecond * perStep;
    const epoch = (globalStep * perStep) / dataset.numImages;
    const { endStep } = this.#state;
    const workers = Object.fromEntries(timings);
    this.#outputs.writeMetrics({ globalStep, epoch, ...metrics, imagesPerSecond, workers });
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
    if (!this.#isTrained || !this.#outputs.isComplete(globalStep)) return;
    if (this.#outputs.savedStep === globalStep) return this.#input({ type: "saved" });
    this.#end(false, `The checkpoint of step ${globalStep} could not be written`);
  }

  #end(ok: boolean, reason: string): void {
    this.#resolve({ ok, reason, savedStep: this.#outputs.savedStep, globalStep: this.#state.globalStep });
  }
}
