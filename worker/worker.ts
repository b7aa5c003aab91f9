/**
 * A worker process: joins a coordinator, holds a replica, and trains in
 * lockstep with its peers until the coordinator lets it go. The shell that
 * turns the decisions of the session into messages and training.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Dealer } from "zeromq";
import { runPaths } from "../coordinator/run-directory.ts";
import { codeHash } from "../shared/code-hash.ts";
import { requireKey } from "../shared/door.ts";
import { describeError } from "../shared/errors.ts";
import { EventRing } from "../shared/event-ring.ts";
import { explainToClient, watchHandshakes } from "../shared/handshakes.ts";
import type { RunKey } from "../shared/keys.ts";
import { Outbox } from "../shared/outbox.ts";
import type { ProcessId, WorkerBulkMessage, WorkerId, WorkerMessage } from "../shared/protocol.ts";
import { decodeHeader, encodeHeader, MAX_HEADER_BYTES } from "../shared/header.ts";
import { HEARTBEAT_MS } from "../shared/heartbeat.ts";
import { parseCoordinatorMessage } from "../shared/protocol.ts";
import { Refusals } from "../shared/refusals.ts";
import { decodeSequence, encodeSequence } from "../shared/sequence.ts";
import { RUNTIME_DESCRIPTION } from "../shared/runtime.ts";
import { bracketed, isIPv6Endpoint, parseEndpoint } from "../shared/endpoint.ts";
import { dealer, receiveAll } from "../shared/sockets.ts";
import { WakingClock } from "../shared/waking-clock.ts";
import { DataPlane } from "./data-plane.ts";
import { runOf } from "./emergency-checkpoint.ts";
import { localAddressTowards } from "./local-address.ts";
import type { CoordinatorAddress } from "./pulse.ts";
import { Pulse } from "./pulse.ts";
import type { Outcome, SessionConfig, SessionEffect, SessionInput, SessionState } from "./session.ts";
import { advanceSession, initialSession } from "./session.ts";
import { Trainer } from "./trainer.ts";

export interface WorkerOptions {
  /** Control endpoint, tcp://host:port. */
  readonly coordinator: string;
  readonly workerId: WorkerId;
  readonly process: ProcessId;
  /** Interface of the data plane, or null for the one that faces the coordinator. */
  readonly dataHost: string | null;
  /** The run's key, or null if the run has none. */
  readonly key: RunKey | null;
  /** Whether to listen without a key where others may reach it. */
  readonly insecure: boolean;
  /** Index of the GPU to compute on, or null for the engine's choice. */
  readonly device: number | null;
  /** How long to try to reach the coordinator at first, in milliseconds. */
  readonly connectTimeoutMs: number;
  /** Resolves when the process that started this one is gone, if that can be known. */
  readonly orphaned: Promise<void> | null;
  /** Resolves to the signal by which this process is told to end, with the time to do so well. */
  readonly told: Promise<string>;
  readonly log: (text: string) => void;
}

/** How long to wait before a handshake that failed is tried again, in milliseconds. */
const RETRY_MS = 1000;

/** The largest frame from the coordinator: a vector of state. */
const MAX_BULK_FRAME_BYTES = 2 ** 31;

/** The run ended for a reason that this worker was told, or found out. The message is for the user. */
export class WorkerStopped extends Error {
  override name = "WorkerStopped";
}

/**
 * Runs until the coordinator lets this worker go, or, if it was told to end, nothing of it can be lost.
 *
 * @returns How it has ended.
 * @throws {WorkerStopped} If the run cannot go on; the message says why and what to do.
 * @throws {UsageError} If it would listen where others may reach it, without a key.
 */
export async function runWorker(options: WorkerOptions): Promise<Exclude<Outcome["how"], "failed">> {
  const events = new EventRing();
  let failed: (reason: string) => void = () => undefined;
  const { coordinator, key, insecure, log } = options;
  const ipv6 = await isIPv6Endpoint(coordinator);
  const host = bracketed(options.dataHost ?? (await localAddressTowards(coordinator, ipv6)));
  requireKey(host, options.dataHost === null ? "which faces the coordinator" : "--data-host", key, insecure);
  const refusals = new Refusals(log);
  const dataPlane = await DataPlane.bind(
    host,
    (error) => failed(`Data plane failed: ${describeError(error)}`),
    (reason) => refusals.note(`Refused by the data plane: ${reason}`),
    key,
    (what, message) => events.add(what, message),
  );
  const worker = new Worker(options, ipv6, dataPlane, events);
  failed = (reason) => worker.fail(reason);
  try {
    const { how, reason } = await worker.run();
    if (how === "failed") {
      await worker.writeEvents();
      throw new WorkerStopped(reason ?? "");
    }
    if (reason !== null) log(reason);
    return how;
  } finally {
    await worker.close();
    dataPlane.close();
  }
}

/** One incarnation's connection to the coordinator: control plane, and bulk plane from the first generation on. */
class Link {
  /** Never used twice: the coordinator takes each for another incarnation. */
  readonly routingId = randomUUID();
  readonly #onError: (what: string, error: unknown) => void;
  readonly #key: RunKey | null;
  readonly #ipv6: boolean;
  readonly control: { readonly socket: Dealer; readonly outbox: Outbox };
  #bulk: { readonly socket: Dealer; readonly outbox: Outbox } | null = null;
  #numSent = 0;

  /** @param onRefused Told why the coordinator cannot be talked to, and whether ZeroMQ tries no more. */
  constructor(
    { endpoint, key, ipv6 }: CoordinatorAddress,
    onMessage: (frames: Buffer[]) => void,
    onRefused: (why: string, isFinal: boolean) => void,
    onError: (what: string, error: unknown) => void,
  ) {
    this.#onError = onError;
    this.#key = key;
    this.#ipv6 = ipv6;
    this.control = this.#open("Control plane", MAX_HEADER_BYTES, onMessage);
    // Before connect(), as nothing is told of what happened before.
    watchHandshakes(this.control.socket, (failure) => {
      onRefused(explainToClient(failure, key !== null), failure !== "closed");
    });
    this.control.socket.connect(endpoint);
  }

  #open(plane: string, maxFrameBytes: number, onMessage: (frames: Buffer[]) => void): Link["control"] {
    const socket = dealer(this.routingId, { maxFrameBytes, key: this.#key, ipv6: this.#ipv6 });
    // Closing makes sockets fail; that is no news.
    const onError = (error: unknown): void => {
      if (!socket.closed) this.#onError(`${plane} failed`, error);
    };
    const outbox = new Outbox(socket, onError);
    receiveAll(socket, onMessage).catch(onError);
    return { socket, outbox };
  }

  send(message: WorkerMessage): void {
    this.#numSent += 1;
    this.control.outbox.push([encodeHeader(message), encodeSequence(this.#numSent)]);
  }

  openBulk(endpoint: string, onMessage: (frames: Buffer[]) => void): void {
    if (this.#bulk !== null) return;
    this.#bulk = this.#open("Bulk plane", MAX_BULK_FRAME_BYTES, onMessage);
    this.#bulk.socket.connect(endpoint);
  }

  sendBulk(message: WorkerBulkMessage, frames: readonly Uint8Array[]): void {
    this.#bulk?.outbox.push([encodeHeader(message), ...frames]);
  }

  close(): void {
    this.control.socket.close();
    this.#bulk?.socket.close();
  }
}

class Worker {
  readonly #options: WorkerOptions;
  readonly #ipv6: boolean;
  readonly #config: SessionConfig;
  readonly #trainer: Trainer;
  readonly #finished: Promise<Outcome>;
  #resolve!: (outcome: Outcome) => void;
  readonly #clock = new WakingClock();
  readonly #pulse: Pulse;
  #session: SessionState = initialSession(this.#clock.now());
  #link: Link | null = null;
  readonly #unreachable: Refusals;
  #timer: NodeJS.Timeout | null = null;
  readonly #events: EventRing;
  /** Of a connection whose handshake has failed. */
  #retry: NodeJS.Timeout | null = null;

  /** @param ipv6 Of the coordinator's address. */
  constructor(options: WorkerOptions, ipv6: boolean, dataPlane: DataPlane, events: EventRing) {
    this.#events = events;
    this.#ipv6 = ipv6;
    const { coordinator, workerId, connectTimeoutMs, device, key, log } = options;
    this.#options = options;
    this.#pulse = new Pulse({ endpoint: coordinator, key, ipv6 }, log);
    this.#unreachable = new Refusals(log);
    this.#config = {
      ...{ coordinator, workerId, process: options.process, connectTimeoutMs },
      ...{ host: hostname(), pid: process.pid, runtime: RUNTIME_DESCRIPTION, codeHash: codeHash() },
      data: dataPlane.address,
    };
    this.#trainer = new Trainer({
      ...{ dataPlane, device, log },
      report: (input) => this.#input(input),
      reports: () => this.#session.reports,
      sendBulk: (message, frames = []) => this.#link?.sendBulk(message, frames),
    });
    this.#finished = new Promise((resolve) => (this.#resolve = resolve));
  }

  async run(): Promise<Outcome> {
    void this.#options.orphaned?.then(() => this.#input({ type: "orphaned" }));
    void this.#options.told.then((signal) => this.#input({ type: "told", signal }));
    this.#timer = setInterval(() => {
      this.#pulse.turn();
      this.#input({ type: "tick", observed: this.#trainer.observe() });
    }, HEARTBEAT_MS);
    this.#input({ type: "open" });
    return await this.#finished;
  }

  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#disconnect();
    this.#trainer.dispose();
    await this.#pulse.close();
  }

  /** Ends the worker, and tells the coordinator as far as that can still be told. */
  fail(reason: string): void {
    this.#input({ type: "broken", reason, byEngine: false });
  }

  /** For a run that has died: into its folder, or, where that is not here or another's, into the working directory. */
  async writeEvents(): Promise<void> {
    const { start } = this.#session;
    if (start === null) return;
    const root = await runOf(start.folder);
    const name = `${this.#options.workerId.replace(/[^\w.-]/g, "_")}-${process.pid}.ndjson`;
    const path = root === null ? resolve(`lockstep-events-${name}`) : join(runPaths(root).events, name);
    await this.#events.write(path).then(
      () => this.#options.log(`The last protocol events are in ${path}`),
      (error: unknown) => this.#options.log(`Cannot write the last events: ${describeError(error)}`),
    );
  }

  #input(input: SessionInput): void {
    const { state, effects } = advanceSession(this.#session, input, this.#clock.now(), this.#config);
    this.#session = state;
    this.#note(input, effects);
    for (const effect of effects) this.#run(effect);
  }

  #note(input: SessionInput, effects: readonly SessionEffect[]): void {
    const isRoutine =
      input.type === "tick" || (input.type === "message" && input.message.type === "heartbeat");
    if (isRoutine) return;
    this.#events.add("input", input);
    for (const effect of effects) this.#events.add("effect", effect);
  }

  #run(effect: SessionEffect): void {
    switch (effect.type) {
      case "connect":
        return this.#connect(effect.link);
      case "disconnect":
        return this.#disconnect();
      case "send":
        return this.#link?.send(effect.message);
      case "prepare": {
        const { link, message } = effect;
        return this.#trainer.prepare(message, () =>
          this.#input({ type: "prepared", link, runId: message.runId }),
        );
      }
      case "train": {
        const { host } = parseEndpoint(this.#options.coordinator);
        this.#link?.openBulk(`tcp://${host}:${effect.start.bulkPort}`, (frames) =>
          this.#trainer.receiveBulk(frames),
        );
        return this.#trainer.train(effect.start);
      }
      case "stop":
        return void this.#trainer
          .stop()
          .then(() => this.#input({ type: "stopped", held: this.#trainer.held }));
      case "save":
        return void this.#trainer.save().then((saved) => this.#input({ type: "saved", ...saved }));
      case "log":
        return this.#options.log(effect.text);
      case "flush":
        return void this.#flush().then(() => this.#input({ type: "flushed" }));
      case "end":
        return this.#resolve(effect.outcome);
    }
  }

  #disconnect(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#link?.close();
    this.#link = null;
    this.#pulse.speakFor(null);
  }

  #connect(link: number): void {
    this.#disconnect();
    const onMessage = (frames: Buffer[]): void => {
      const message = parseCoordinatorMessage(decodeHeader(frames.at(0)));
      this.#input({ type: "message", link, sequence: decodeSequence(frames.at(1)), message });
    };
    const { coordinator, key } = this.#options;
    const created: Link = new Link(
      { endpoint: coordinator, key, ipv6: this.#ipv6 },
      onMessage,
      (why, isFinal) => {
        this.#unreachable.note(`Cannot talk to the coordinator at ${coordinator}: ${why}. Trying again`);
        // A coordinator that has the right key may take the place of this one.
        if (isFinal && this.#link === created) this.#retry = setTimeout(() => this.#connect(link), RETRY_MS);
      },
      (what, error) => this.fail(`${what}: ${describeError(error)}`),
    );
    this.#link = created;
    this.#pulse.speakFor(created.routingId);
  }

  /** Gives ZeroMQ the time to send what is queued, but not more than it takes where nobody listens. */
  async #flush(): Promise<void> {
    await Promise.race([this.#link?.control.outbox.flush(), sleep(500)]);
    // The queue is ZeroMQ's now, and its thread sends while this one sleeps.
    await sleep(50);
  }
}
