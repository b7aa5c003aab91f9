/**
 * The coordinator's side of the network: the control plane, and the bulk plane for batches, states and
 * pictures. What comes in is parsed here or refused; what it means is the coordinator's.
 *
 * @module
 */
import type { Router } from "zeromq";
import type { Door } from "../shared/door.ts";
import { openDoor } from "../shared/door.ts";
import { describeError, ProtocolError } from "../shared/errors.ts";
import type { RunKey } from "../shared/keys.ts";
import { Outbox } from "../shared/outbox.ts";
import type {
  AdminAnswer,
  AdminRequest,
  CoordinatorBulkMessage,
  CoordinatorMessage,
  RunStatus,
  WorkerBulkMessage,
  WorkerMessage,
} from "../shared/protocol.ts";
import { decodeHeader, encodeHeader, MAX_HEADER_BYTES } from "../shared/header.ts";
import { speakerOf } from "../shared/heartbeat.ts";
import { parseControlMessage, parseWorkerBulkMessage, refusedVersion } from "../shared/protocol.ts";
import { decodeSequence, encodeSequence, Sequences } from "../shared/sequence.ts";
import { parseEndpoint } from "../shared/endpoint.ts";
import { receiveAll, router } from "../shared/sockets.ts";
import { Doorkeeper } from "./doorkeeper.ts";

/** How workers reach the planes. */
export interface PlaneAddresses {
  /** Control endpoint, tcp://host:port. */
  readonly endpoint: string;
  /** Port of the bulk plane on the same host. */
  readonly bulkPort: number;
}

export interface PlanesOptions {
  /** The run's key, or null: then whoever reaches the sockets can send to them. */
  readonly key: RunKey | null;
  /** Largest frame of a worker on the bulk plane. */
  readonly maxBulkFrameBytes: number;
  /** Told of some of what is refused, as a line for the log. */
  readonly say: (text: string) => void;
  /** Whether a worker of this incarnation has joined and is not lost. */
  readonly isKnown: (incarnation: string) => boolean;
  /** @throws {ProtocolError} If the message is refused. So do the next two. */
  readonly onMessage: (from: string, sequence: number, message: WorkerMessage) => void;
  /** A user's command. */
  readonly onRequest: (request: AdminRequest) => AdminAnswer;
  readonly onBulk: (from: string, message: WorkerBulkMessage, payload: readonly Buffer[]) => void;
  /** The planes, or what uses their messages, cannot go on. */
  readonly onBroken: (error: unknown) => void;
}

export class Planes {
  readonly #options: PlanesOptions;
  readonly #control: Router;
  readonly #bulk: Router;
  readonly #controlOutbox: Outbox;
  readonly #bulkOutbox: Outbox;
  readonly #sequences = new Sequences();
  readonly #doorkeeper: Doorkeeper;
  #doors: readonly Door[] = [];

  constructor(options: PlanesOptions) {
    this.#options = options;
    const { key, maxBulkFrameBytes, say } = options;
    this.#doorkeeper = new Doorkeeper(say);
    this.#control = router({ maxFrameBytes: MAX_HEADER_BYTES, key });
    this.#bulk = router({ maxFrameBytes: maxBulkFrameBytes, key });
    this.#controlOutbox = new Outbox(this.#control, (error) => this.#undeliverable("control", error));
    this.#bulkOutbox = new Outbox(this.#bulk, (error) => this.#undeliverable("bulk", error));
  }

  /**
   * Binds both planes.
   *
   * @param bind Control endpoint; port * takes any. The bulk plane takes any port of the same interface.
   * @throws {Error} If it cannot be bound.
   */
  async open(bind: string): Promise<PlaneAddresses> {
    const { host } = parseEndpoint(bind);
    const control = await this.#openDoor(this.#control, bind, "control");
    const bulk = await this.#openDoor(this.#bulk, `tcp://${host}:*`, "bulk");
    this.#doors = [control, bulk];
    return { endpoint: control.endpoint, bulkPort: Number(parseEndpoint(bulk.endpoint).port) };
  }

  /** Begins to receive, until the planes are closed. */
  receive(): void {
    const { onBroken } = this.#options;
    receiveAll(this.#control, (frames) => this.#receiveControl(frames)).catch(onBroken);
    receiveAll(this.#bulk, (frames) => this.#receiveBulk(frames)).catch(onBroken);
  }

  send(to: string, message: CoordinatorMessage): void {
    const sequence = this.#sequences.of(to, message);
    this.#controlOutbox.push([to, encodeHeader(message), encodeSequence(sequence)]);
  }

  sendBulk(to: string, message: CoordinatorBulkMessage, frames: readonly Uint8Array[]): void {
    this.#bulkOutbox.push([to, encodeHeader(message), ...frames]);
  }

  /** A worker may not join. */
  refusedJoin(text: string): void {
    this.#doorkeeper.refusedJoin(text);
  }

  get refused(): RunStatus["refused"] {
    return this.#doorkeeper.counts;
  }

  close(): void {
    for (const door of this.#doors) door.close();
  }

  #openDoor(socket: Router, endpoint: string, plane: string): Promise<Door> {
    return openDoor(socket, endpoint, this.#options.key, (reason) =>
      this.#doorkeeper.refusedConnection(
        `Refused a connection to the ${plane} plane at ${socket.lastEndpoint}: ${reason}`,
      ),
    );
  }

  #receiveControl(frames: readonly Buffer[]): void {
    const sender = frames[0].toString("latin1");
    const { incarnation, isPulse } = speakerOf(sender);
    this.#guarded(incarnation, () => {
      if (frames.length < 2 || frames.length > 3)
        throw new ProtocolError(`Cannot use control message of ${frames.length} frames`);
      const header = decodeHeader(frames[1]);
      const reason = refusedVersion(header);
      if (reason !== null) {
        this.send(sender, { type: "refuse", reason });
        throw new ProtocolError(reason);
      }
      const message = parseControlMessage(header);
      if ((message.type === "busy") !== isPulse)
        throw new ProtocolError(`Cannot use "${message.type}" of ${sender}`);
      if (message.type === "status" || message.type === "scale" || message.type === "stop") {
        this.#controlOutbox.push([sender, encodeHeader(this.#options.onRequest(message))]);
        return;
      }
      this.#options.onMessage(incarnation, decodeSequence(frames.at(2)), message);
    });
  }

  #receiveBulk(frames: readonly Buffer[]): void {
    const from = frames[0].toString("latin1");
    this.#guarded(from, () => {
      const message = parseWorkerBulkMessage(decodeHeader(frames.at(1)));
      this.#options.onBulk(from, message, frames.slice(2));
    });
  }

  #guarded(from: string, use: () => void): void {
    try {
      this.#doorkeeper.guard(from, !this.#options.isKnown(from), use);
    } catch (error) {
      this.#options.onBroken(error);
    }
  }

  /** The receiver is gone: the membership core will notice by its silence or exit. */
  #undeliverable(plane: string, error: unknown): void {
    if (this.#control.closed || (error as NodeJS.ErrnoException).code === "EHOSTUNREACH") return;
    this.#doorkeeper.undeliverable(`Cannot send on the ${plane} plane: ${describeError(error)}`);
  }
}
