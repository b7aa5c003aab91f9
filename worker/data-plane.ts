/**
 * The sockets of the all-reduce: one PULL socket that peers send to, one
 * PUSH socket to each peer that the schedule exchanges with. Messages of a phase that this worker has not begun
 * are kept; peers can be at most one phase ahead, since the phase after that
 * needs this worker's part.
 *
 * Buffers: partial sums may be overwritten once the reduction is done (every
 * receiver has then used them); a result may be overwritten when the next
 * reduction is done (every peer has then received it).
 *
 * @module
 */
import type { Pull, Push } from "zeromq";
import { describeError } from "../shared/errors.ts";
import { bytesOf, floatsOf } from "../shared/frames.ts";
import { Outbox } from "../shared/outbox.ts";
import type { Peer } from "../shared/protocol.ts";
import { decodeHeader, encodeHeader } from "../shared/protocol.ts";
import { pull, push, receiveAll } from "../shared/sockets.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";
import type { Collective, DataMessage, Outgoing } from "./collective.ts";
import { parseDataMessage, SEGMENT_FLOATS } from "./collective.ts";
import { arePartners, createCollective } from "./schedule.ts";

export interface Group {
  readonly generation: number;
  readonly rank: number;
  readonly peers: readonly Peer[];
  readonly numShards: number;
  readonly add: Add;
}

interface Received {
  readonly message: DataMessage;
  readonly values: Float32Array;
}

interface Running {
  readonly key: string;
  readonly reduction: Collective;
  resolve(): void;
}

/** Room for a segment and its header; a larger frame closes the connection of whoever sent it. */
const MAX_FRAME_BYTES = SEGMENT_FLOATS * 4 + 4096;

/** Messages kept for a phase that this worker has not begun: two phases of a large model, not more. */
const MAX_EARLY_MESSAGES = 20_000;

export class DataPlane {
  readonly #pull: Pull;
  readonly #onError: (error: Error) => void;
  readonly #onRefused: (reason: string) => void;
  readonly #outboxes = new Map<number, { readonly socket: Push; readonly outbox: Outbox }>();
  readonly #early = new Map<string, Received[]>();
  #numEarly = 0;
  #group: Group | null = null;
  #running: Running | null = null;

  private constructor(socket: Pull, onError: (error: Error) => void, onRefused: (reason: string) => void) {
    this.#pull = socket;
    this.#onError = onError;
    this.#onRefused = onRefused;
  }

  /**
   * @param host Interface to listen on.
   * @param onError Told when the plane cannot work any more.
   * @param onRefused Told of messages that were dropped, with the reason.
   */
  static async bind(
    host: string,
    onError: (error: Error) => void,
    onRefused: (reason: string) => void,
  ): Promise<DataPlane> {
    const socket = pull({ maxFrameBytes: MAX_FRAME_BYTES });
    await socket.bind(`tcp://${host}:*`);
    const plane = new DataPlane(socket, onError, onRefused);
    receiveAll(socket, (frames) => plane.#receive(frames)).catch(onError);
    return plane;
  }

  get endpoint(): string {
    return this.#pull.lastEndpoint ?? "";
  }

  connect(group: Group): void {
    this.#group = group;
    for (const { rank, dataEndpoint } of group.peers) {
      if (!arePartners(group.peers.length, group.numShards, group.rank, rank)) continue;
      const socket = push();
      socket.connect(dataEndpoint);
      const outbox = new Outbox(socket, (error) => {
        if (!socket.closed) this.#onError(new Error(`Cannot send to rank ${rank}`, { cause: error }));
      });
      this.#outboxes.set(rank, { socket, outbox });
    }
  }

  /**
   * Sums over all shards of the run.
   *
   * @param partials This rank's partial sums: the covering nodes of its shards.
   * @param result Receives the sum; see the module text for when it may be used again.
   */
  async reduce(
    globalStep: number,
    phase: number,
    partials: readonly Partial[],
    result: Float32Array,
  ): Promise<void> {
    const group = this.#group;
    if (group === null || this.#running !== null)
      throw new Error("Cannot reduce as the data plane must be idle");
    const { generation, rank, peers, numShards, add } = group;
    const plan = { generation, worldSize: peers.length, rank, numShards, length: result.length, add };
    const reduction = createCollective(plan, globalStep, phase, result);
    const key = keyOf(generation, globalStep, phase);
    const finished = new Promise<void>((resolve) => {
      this.#running = { key, reduction, resolve };
    });
    this.#send(reduction.start(partials));
    const early = this.#early.get(key) ?? [];
    this.#early.delete(key);
    this.#numEarly -= early.length;
    for (const received of early) this.#use(reduction, received);
    this.#settle();
    await finished;
  }

  /** For whom and what the reduction under way waits, or null. */
  describeWaiting(): string | null {
    return this.#running?.reduction.describeMissing() ?? null;
  }

  close(): void {
    for (const { socket } of this.#outboxes.values()) socket.close();
    this.#pull.close();
  }

  #receive(frames: Buffer[]): void {
    try {
      const message = parseDataMessage(decodeHeader(frames[0]));
      const group = this.#group;
      if (frames.length !== 2)
        throw new RangeError(`Cannot use data message of ${frames.length} frames: must be 2`);
      if (group === null || message.generation !== group.generation) {
        throw new RangeError(
          `Cannot use data message of generation ${message.generation}: now ${group?.generation ?? "none"}`,
        );
      }
      const received: Received = { message, values: floatsOf(frames[1], message.end - message.start) };
      const key = keyOf(message.generation, message.globalStep, message.phase);
      const running = this.#running;
      if (running?.key === key) {
        this.#use(running.reduction, received);
        this.#settle();
        return;
      }
      if (this.#numEarly >= MAX_EARLY_MESSAGES)
        throw new RangeError("Cannot keep more messages of later phases");
      this.#early.set(key, [...(this.#early.get(key) ?? []), received]);
      this.#numEarly += 1;
    } catch (error) {
      this.#onRefused(describeError(error));
    }
  }

  #use(reduction: Collective, { message, values }: Received): void {
    try {
      this.#send(reduction.receive(message, values));
    } catch (error) {
      this.#onRefused(describeError(error));
    }
  }

  #send(outgoing: readonly Outgoing[]): void {
    for (const { to, message, values } of outgoing) {
      this.#outboxes.get(to)?.outbox.push([encodeHeader(message), bytesOf(values)]);
    }
  }

  #settle(): void {
    const running = this.#running;
    if (running === null || !running.reduction.done) return;
    this.#running = null;
    running.resolve();
  }
}

function keyOf(generation: number, globalStep: number, phase: number): string {
  return `${generation}/${globalStep}/${phase}`;
}
