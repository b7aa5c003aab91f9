/**
 * A worker process: joins a coordinator, holds a replica, and trains in
 * lockstep with its peers until the coordinator lets it go. The shell around
 * the training step: sockets, timers, and what to say when something is wrong.
 *
 * @module
 */
import { createSocket } from "node:dgram";
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { Dealer } from "zeromq";
import { describeError, ProtocolError } from "../shared/errors.ts";
import { bytesOf, floatsOf } from "../shared/frames.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import { MODELS } from "../shared/nn/models.ts";
import type { Model } from "../shared/nn/models.ts";
import { OBJECTIVES } from "../shared/nn/objectives.ts";
import { Outbox } from "../shared/outbox.ts";
import { phasesOfStep } from "../shared/phases.ts";
import type { StartMessage, WorkerBulkMessage, WorkerId, WorkerMessage } from "../shared/protocol.ts";
import {
  decodeHeader,
  encodeHeader,
  MAX_HEADER_BYTES,
  parseCoordinatorBulkMessage,
  parseCoordinatorMessage,
} from "../shared/protocol.ts";
import { dealer, parseEndpoint, receiveAll } from "../shared/sockets.ts";
import { rankSamples } from "../shared/sharding.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../shared/version.ts";
import { BatchQueue } from "./batch-queue.ts";
import { DataPlane } from "./data-plane.ts";
import type { Engine } from "./engine/engine.ts";
import { loadEngine } from "./engine/engine.ts";
import type { ParameterOrder } from "./engine/parameter-order.ts";
import type { Replica } from "./replica.ts";
import type { HostMemory } from "./host-memory.ts";
import { initialReplica, replicaFrom, replicaLengths, snapshot } from "./replica.ts";
import type { TrainLoopParts } from "./train-loop.ts";
import { trainLoop } from "./train-loop.ts";
import { NonFiniteError, StepBuffers } from "./train-step.ts";

export interface WorkerOptions {
  /** Control endpoint, tcp://host:port. */
  readonly coordinator: string;
  readonly workerId: WorkerId;
  /** Interface of the data plane, or null for the one that faces the coordinator. */
  readonly dataHost: string | null;
  /** How long to try to reach the coordinator at first, in milliseconds. */
  readonly connectTimeoutMs: number;
  readonly log: (text: string) => void;
}

/** How often each side says that it is there. */
export const HEARTBEAT_MS = 500;

/** Waiting longer than this is said aloud. */
const LONG_WAIT_MS = 2000;

/** The largest frame from the coordinator: a vector of state. */
const MAX_BULK_FRAME_BYTES = 2 ** 31;

/** The run ended for a reason that this worker was told, or found out. The message is for the user. */
export class WorkerStopped extends Error {
  override name = "WorkerStopped";
}

/**
 * Runs until the coordinator says that all is saved.
 *
 * @throws {WorkerStopped} If the run cannot go on; the message says why and what to do.
 */
export async function runWorker(options: WorkerOptions): Promise<void> {
  const worker = new Worker(options);
  try {
    await worker.run();
  } finally {
    worker.close();
  }
}

interface Wait {
  readonly what: () => string;
  readonly sinceMs: number;
  saidMs: number;
}

class Worker {
  readonly #options: WorkerOptions;
  readonly #routingId = randomUUID();
  readonly #control: Dealer;
  readonly #controlOutbox: Outbox;
  #bulk: { readonly socket: Dealer; readonly outbox: Outbox } | null = null;
  #dataPlane: DataPlane | null = null;
  #engine: Engine | null = null;
  #batches: BatchQueue | null = null;
  #start: StartMessage | null = null;
  #stateArrived: ((frames: Buffer[]) => void) | null = null;
  #timer: NodeJS.Timeout | null = null;
  #heardMs: number | null = null;
  readonly #startedMs = performance.now();
  #position = { globalStep: 0, phase: "start" };
  #wait: Wait | null = null;
  #hasEnded = false;
  #resolve!: (outcome: Error | null) => void;
  readonly #finished: Promise<Error | null>;

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.#control = dealer(this.#routingId, { maxFrameBytes: MAX_HEADER_BYTES });
    this.#controlOutbox = new Outbox(
      this.#control,
      (error) => void this.#fail("Cannot send to the coordinator", error),
    );
    this.#finished = new Promise((resolve) => (this.#resolve = resolve));
  }

  async run(): Promise<void> {
    const { coordinator, workerId, dataHost, log } = this.#options;
    const { host, port } = parseEndpoint(coordinator);
    this.#dataPlane = await DataPlane.bind(
      dataHost ?? (await localAddressTowards(host, Number(port))),
      (error) => void this.#fail("Data plane failed", error),
      (reason) => log(`Refused a data message: ${reason}`),
    );
    this.#control.connect(coordinator);
    receiveAll(this.#control, (frames) => this.#receiveControl(frames)).catch(
      (error: unknown) => void this.#fail("Control plane failed", error),
    );
    this.#send({
      type: "join",
      protocolVersion: PROTOCOL_VERSION,
      packageVersion: PACKAGE_VERSION,
      workerId,
      host: hostname(),
      pid: process.pid,
      runtime: `node ${process.versions.node}`,
      data: this.#dataPlane.address,
    });
    this.#timer = setInterval(() => this.#tick(), HEARTBEAT_MS);
    const outcome = await this.#finished;
    if (outcome !== null) throw outcome;
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#control.close();
    this.#bulk?.socket.close();
    this.#dataPlane?.close();
    this.#engine?.dispose();
  }

  /** Ends the worker. @param outcome Why, or null if all went well. */
  #finish(outcome: Error | null): void {
    this.#hasEnded = true;
    this.#resolve(outcome);
  }

  /** Ends the worker on the coordinator's word, which waits for the answer. */
  async #leave(outcome: Error | null): Promise<void> {
    this.#hasEnded = true;
    this.#send({ type: "left", generation: this.#start?.generation ?? 0 });
    await this.#lastWords();
    this.#finish(outcome);
  }

  /** Ends the worker for a reason of its own, and tells the coordinator as far as that can still be told. */
  async #fail(what: string, error: unknown): Promise<void> {
    // Closing makes sockets fail; that is no news.
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    const reason = `${what}: ${describeError(error)}`;
    this.#send({ type: "failed", reason: reason.slice(0, 4000) });
    await this.#lastWords();
    this.#finish(new WorkerStopped(reason));
  }

  /** Gives ZeroMQ the time to send what is queued, but not more than it takes where nobody listens. */
  async #lastWords(): Promise<void> {
    await Promise.race([this.#controlOutbox.flush(), sleep(500)]);
    // The queue is ZeroMQ's now, and its thread sends while this one sleeps.
    await sleep(50);
  }

  #send(message: WorkerMessage): void {
    this.#controlOutbox.push([encodeHeader(message)]);
  }

  #sendBulk(message: WorkerBulkMessage, frames: readonly Uint8Array[] = []): void {
    this.#bulk?.outbox.push([encodeHeader(message), ...frames]);
  }

  #receiveControl(frames: Buffer[]): void {
    this.#heardMs = performance.now();
    const message = parseCoordinatorMessage(decodeHeader(frames[0]));
    switch (message.type) {
      case "heartbeat":
        return;
      case "refuse":
        return this.#finish(new WorkerStopped(`The coordinator refused this worker: ${message.reason}`));
      case "abort":
        return void this.#leave(new WorkerStopped(`The run has stopped: ${message.reason}`));
      case "exit":
        return void this.#leave(null);
      case "finish":
        if (message.generation === this.#start?.generation) this.#batches?.finishAt(message.globalStep);
        return;
      case "start":
        if (this.#start !== null) throw new ProtocolError("Cannot start twice in one incarnation");
        this.#start = message;
        this.#train(message).catch(
          (error: unknown) => void this.#fail(`At step ${this.#position.globalStep}`, error),
        );
    }
  }

  #receiveBulk(frames: Buffer[]): void {
    this.#heardMs = performance.now();
    const message = parseCoordinatorBulkMessage(decodeHeader(frames[0]));
    if (message.generation !== this.#start?.generation) return;
    if (message.type === "batch") this.#batches?.put(message.globalStep, frames[1]);
    else this.#stateArrived?.(frames);
  }

  #tick(): void {
    const nowMs = performance.now();
    const { coordinator, connectTimeoutMs, log } = this.#options;
    const silentMs = nowMs - (this.#heardMs ?? this.#startedMs);
    const limitMs =
      this.#heardMs === null ? connectTimeoutMs : (this.#start?.config.failureTimeoutMs ?? 10_000);
    if (silentMs > limitMs) {
      const what = this.#heardMs === null ? "Cannot reach the coordinator" : "Lost the coordinator";
      const advice =
        this.#heardMs === null
          ? "check that it runs and that this machine reaches it"
          : "start it again with --resume to continue from the last checkpoint";
      return this.#finish(
        new WorkerStopped(
          `${what} at ${coordinator}: silent for ${(silentMs / 1000).toFixed(1)} s; ${advice}`,
        ),
      );
    }
    if (this.#heardMs === null && silentMs > LONG_WAIT_MS && this.#wait === null) {
      this.#wait = {
        what: () => `the coordinator at ${coordinator} to answer`,
        sinceMs: this.#startedMs,
        saidMs: 0,
      };
    } else if (this.#heardMs !== null && this.#start === null) {
      this.#wait = null;
    }
    const wait = this.#wait;
    const isLong = wait !== null && nowMs - wait.sinceMs > LONG_WAIT_MS;
    if (isLong && nowMs - wait.saidMs > 5000) {
      wait.saidMs = nowMs;
      log(`Waiting for ${wait.what()}, for ${((nowMs - wait.sinceMs) / 1000).toFixed(1)} s`);
    }
    if (this.#heardMs !== null) {
      this.#send({
        type: "heartbeat",
        generation: this.#start?.generation ?? 0,
        globalStep: this.#position.globalStep,
        phase: this.#position.phase,
        waitingFor: isLong ? wait.what() : null,
      });
    }
  }

  /** Awaits something that may take long; the timer says for what. */
  async #waiting<T>(what: () => string, promise: Promise<T>): Promise<T> {
    this.#wait = { what, sinceMs: performance.now(), saidMs: 0 };
    try {
      return await promise;
    } finally {
      this.#wait = null;
    }
  }

  async #train(start: StartMessage): Promise<void> {
    const { config, generation, rank, worldSize } = start;
    this.#position = { globalStep: start.globalStep, phase: "start" };
    const batches = new BatchQueue(start.endStep);
    this.#batches = batches;
    const model = MODELS[config.model]({ latentDim: config.latentDim, imagePixels: IMAGE_PIXELS });
    const phases = phasesOfStep(config.discriminatorSteps);
    const own = rankSamples(config.globalBatchSize, config.shards, worldSize, rank);
    const { engine, memory } = await loadEngine(
      config,
      { model, objective: OBJECTIVES[config.objective], maxSamples: own.end - own.start },
      [...replicaLengths(model), ...StepBuffers.lengths(model, phases, config.shards)],
    );
    this.#engine = engine;
    this.#openBulk(start);
    const replica = await this.#initialState(start, model, memory, engine.order);
    engine.setParameters("generator", replica.generator.parameters);
    engine.setParameters("discriminator", replica.discriminator.parameters);
    const dataPlane = this.#dataPlane as DataPlane;
    const buffers = new StepBuffers(model, phases, config.shards, memory);
    dataPlane.connect({
      generation,
      rank,
      peers: start.peers,
      numShards: config.shards,
      add: memory.add,
      round: memory.roundToBf16,
      shared: config.sharedMemory,
      buffers: buffers.segments,
    });
    this.#options.log(`Rank ${rank} of ${worldSize}: ${engine.description}, ${dataPlane.description}`);
    const { generator, discriminator } = replica;
    const parameterHash = `${memory.hash(generator.parameters)}-${memory.hash(discriminator.parameters)}`;
    this.#send({ type: "ready", generation, parameterHash });
    await this.#runLoop({ start, model, engine, memory, replica, buffers, batches, dataPlane });
  }

  #openBulk(start: StartMessage): void {
    const { host } = parseEndpoint(this.#options.coordinator);
    const socket = dealer(this.#routingId, { maxFrameBytes: MAX_BULK_FRAME_BYTES });
    const outbox = new Outbox(socket, (error) => void this.#fail("Cannot send to the coordinator", error));
    socket.connect(`tcp://${host}:${start.bulkPort}`);
    this.#bulk = { socket, outbox };
    receiveAll(socket, (frames) => this.#receiveBulk(frames)).catch(
      (error: unknown) => void this.#fail("Bulk plane failed", error),
    );
  }

  async #initialState(
    start: StartMessage,
    model: Model,
    memory: HostMemory,
    order: ParameterOrder,
  ): Promise<Replica> {
    const hello = { type: "hello", generation: start.generation } as const;
    if (start.stateFrom === "seed") {
      this.#sendBulk(hello);
      return initialReplica(model, start.config.seed, memory, order);
    }
    const arrived = new Promise<Buffer[]>((resolve) => (this.#stateArrived = resolve));
    this.#sendBulk(hello);
    const [header, ...frames] = await this.#waiting(
      () => "the checkpoint's state from the coordinator",
      arrived,
    );
    const message = parseCoordinatorBulkMessage(decodeHeader(header));
    if (message.type !== "state") throw new ProtocolError(`Cannot start from "${message.type}"`);
    const lengths = replicaLengths(model);
    return replicaFrom(
      model,
      frames.map((frame, i) => floatsOf(frame, lengths[i])),
      message,
      memory,
      order,
    );
  }

  async #runLoop(parts: TrainLoopParts): Promise<void> {
    const { start, model, engine, memory, replica } = parts;
    const { generation } = start;
    const { generator, discriminator } = replica;
    try {
      const globalStep = await trainLoop(parts, {
        onPosition: (step, phase) => (this.#position = { globalStep: step, phase }),
        waiting: (what, promise) => this.#waiting(what, promise),
        onCredit: (step) => this.#sendBulk({ type: "credit", generation, globalStep: step }),
        onStep: (step, metrics, timing) =>
          this.#send({
            type: "step",
            generation,
            globalStep: step,
            metrics,
            timing,
            generatorHash: memory.hash(generator.parameters),
            discriminatorHash: memory.hash(discriminator.parameters),
          }),
        onState: (step) => {
          const steps = { generatorSteps: generator.adam.step, discriminatorSteps: discriminator.adam.step };
          this.#sendBulk(
            { type: "state", generation, globalStep: step, ...steps },
            snapshot(model, replica, engine.order).map(bytesOf),
          );
        },
        onSamples: (step, pixels) =>
          this.#sendBulk({ type: "samples", generation, globalStep: step }, [pixels]),
      });
      this.#position = { globalStep, phase: "finished" };
      this.#send({ type: "finished", generation, globalStep });
      await this.#waiting(() => "the coordinator to save the last checkpoint", this.#finished);
    } catch (error) {
      if (!(error instanceof NonFiniteError)) throw error;
      this.#send({ type: "nonFinite", generation, ...this.#position, own: error.own });
      await this.#waiting(() => "the coordinator's word on a gradient that is not finite", this.#finished);
    }
  }
}

/** Address of the interface whose route leads to the host. No packet is sent. */
function localAddressTowards(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const bare = host.replace(/^\[|\]$/g, "");
    const socket = createSocket(bare.includes(":") ? "udp6" : "udp4");
    socket.once("error", (error) => {
      socket.close();
      reject(new WorkerStopped(`Cannot find a route to the coordinator's host "${host}": ${error.message}`));
    });
    socket.connect(port, bare, () => {
      const { address, family } = socket.address();
      socket.close();
      resolve(family === "IPv6" ? `[${address}]` : address);
    });
  });
}
