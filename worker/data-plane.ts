/**
 * The transport of the all-reduce: one PULL socket that all peers send to, one
 * PUSH socket to each peer that the schedule exchanges with, and for peers on
 * the same host a shared file that holds the values, so that only headers
 * travel through ZeroMQ. What the messages mean is the exchange's.
 *
 * Buffers: partial sums may be overwritten once the reduction is done (every
 * receiver has then used them); a result may be overwritten when the next
 * reduction is done (every peer has then received it). The shared file keeps
 * the same rule with two halves, used by turns.
 *
 * @module
 */
import type { Push } from "zeromq";
import { decodeRounded, encodeRounded } from "../shared/bf16.ts";
import type { Door } from "../shared/door.ts";
import { openDoor } from "../shared/door.ts";
import { describeError } from "../shared/errors.ts";
import { alignedFrame, bytesOf, floatsOf } from "../shared/frames.ts";
import type { RunKey } from "../shared/keys.ts";
import { Outbox } from "../shared/outbox.ts";
import type { Updates } from "../shared/phases.ts";
import type { DataAddress, Peer } from "../shared/protocol.ts";
import { decodeHeader, encodeHeader } from "../shared/header.ts";
import { pull, push, receiveAll } from "../shared/sockets.ts";
import type { Partial } from "../shared/tree-sum.ts";
import type { AttachedMessage, DataMessage, StateMessage } from "./data-messages.ts";
import { parsePeerMessage } from "./data-messages.ts";
import type { CopyTo, Outgoing } from "./collective.ts";
import { SEGMENT_FLOATS } from "./collective.ts";
import type { Group, TransferredState } from "./exchange.ts";
import { Exchange, isRefusal } from "./exchange.ts";
import { Interrupted } from "./interrupted.ts";
import { arePartners } from "./schedule.ts";
import { PeerFile, SharedFile } from "./shared-file.ts";

/** A generation and how its members are reached. */
export interface PeerGroup extends Omit<Group, "worldSize"> {
  /** All members, sorted by rank. */
  readonly peers: readonly Peer[];
  /** Whether to use shared memory where it can be used. */
  readonly shared: boolean;
}

interface PeerLink {
  readonly socket: Push;
  readonly outbox: Outbox;
  /** The peer's shared file, if it can be read here. */
  readonly file: PeerFile | null;
}

interface Waiter<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

/** Room for a segment and its header; a larger frame closes the connection of whoever sent it. */
const MAX_FRAME_BYTES = SEGMENT_FLOATS * 4 + 4096;

/** More ranks than a run can have. */
const MAX_PEERS = 4096;

export class DataPlane {
  readonly #door: Door;
  readonly #key: RunKey | null;
  readonly #onError: (error: Error) => void;
  readonly #onRefused: (reason: string) => void;
  readonly #onMessage: (what: "received" | "sent", message: object) => void;
  /** A payload is the frames behind a header. */
  readonly #exchange: Exchange<readonly Buffer[]>;
  readonly #links = new Map<number, PeerLink>();
  /** Null where there is no shared memory. */
  readonly #sharedFile: SharedFile | null;
  /** Set once the shared memory is full. */
  #sharesNoMore = false;
  /** The generation in which a peer last said that it can read the shared file; it may say so before connect(). */
  readonly #attached = new Map<number, string>();
  /** Sockets that send this worker's state. */
  #stateLinks: Push[] = [];
  #group: PeerGroup | null = null;
  #reducing: Waiter<void> | null = null;
  #receiving: Waiter<TransferredState> | null = null;

  private constructor(
    door: Door,
    key: RunKey | null,
    sharedFile: SharedFile | null,
    onError: (error: Error) => void,
    onRefused: (reason: string) => void,
    onMessage: (what: "received" | "sent", message: object) => void,
  ) {
    this.#onMessage = onMessage;
    this.#door = door;
    this.#key = key;
    this.#sharedFile = sharedFile;
    this.#onError = onError;
    this.#onRefused = onRefused;
    this.#exchange = new Exchange(
      (message, frames) =>
        message.type === "state" ? stateSource(message, frames) : this.#sourceOf(message, frames),
      (frames) => frames.reduce((sum, { byteLength }) => sum + byteLength, 0),
      onRefused,
    );
  }

  /**
   * @param host Interface to listen on.
   * @param onError Told when the plane cannot work any more.
   * @param onRefused Told of messages and connections that were dropped, with the reason.
   * @param onMessage Told of every header.
   * @param key The run's key, or null: then whoever reaches the socket can send to it.
   */
  static async bind(
    host: string,
    onError: (error: Error) => void,
    onRefused: (reason: string) => void,
    key: RunKey | null = null,
    onMessage: (what: "received" | "sent", message: object) => void = () => undefined,
  ): Promise<DataPlane> {
    const socket = pull({ maxFrameBytes: MAX_FRAME_BYTES, key });
    const door = await openDoor(socket, `tcp://${host}:*`, key, (reason) =>
      onRefused(`connection: ${reason}`),
    );
    const plane = new DataPlane(door, key, SharedFile.create(), onError, onRefused, onMessage);
    receiveAll(socket, (frames) => plane.#receive(frames)).catch(onError);
    return plane;
  }

  get address(): DataAddress {
    return { endpoint: this.#door.endpoint, sharedFile: this.#sharedFile?.address ?? null };
  }

  /** How gradients reach the peers, for the log. */
  get description(): string {
    const links = [...this.#links.values()];
    const numShared = links.filter(({ file }) => file !== null).length;
    return `all-reduce with ${numShared} peers through shared memory, ${links.length - numShared} by tcp`;
  }

  /** Begins a generation; everything of the one before it is over. */
  connect(group: PeerGroup): void {
    const { term, generation, rank: from, peers, shared } = group;
    this.interrupt();
    this.#closeLinks();
    this.#group = group;
    for (const { rank, data } of peers) {
      if (!arePartners(peers.length, group.numShards, from, rank)) continue;
      const socket = push(this.#key, data.endpoint.startsWith("tcp://["));
      try {
        socket.connect(data.endpoint);
      } catch (error) {
        // It said so itself, and is waited for as if it did not answer.
        this.#onRefused(`address ${data.endpoint} of rank ${rank}: ${describeError(error)}`);
      }
      const outbox = new Outbox(socket, (error) => {
        if (!socket.closed) this.#onError(new Error(`Cannot send to rank ${rank}`, { cause: error }));
      });
      const file = shared && data.sharedFile !== null ? PeerFile.open(data.sharedFile) : null;
      this.#links.set(rank, { socket, outbox, file });
      if (file !== null) {
        outbox.push([encodeHeader({ type: "attached", term, generation, from } satisfies AttachedMessage)]);
      }
    }
    this.#exchange.connect({ ...group, worldSize: peers.length });
  }

  /** Ends what waits, and whatever is asked for before the next connect(), with {@linkcode Interrupted}. */
  interrupt(): void {
    this.#exchange.interrupt();
    for (const waiter of [this.#reducing, this.#receiving]) waiter?.reject(new Interrupted());
    this.#reducing = null;
    this.#receiving = null;
  }

  /**
   * Sends a state to a peer of the generation.
   *
   * @param state Its vectors may not change any more.
   * @throws {Interrupted} If the generation is over.
   */
  sendState(to: number, state: TransferredState): void {
    const segments = this.#exchange.stateSegments(state);
    const { endpoint } = (this.#group as PeerGroup).peers[to].data;
    // Its own socket, as the schedule may not exchange with this peer.
    const socket = push(this.#key, endpoint.startsWith("tcp://["));
    socket.connect(endpoint);
    const outbox = new Outbox(socket, (error) => {
      if (!socket.closed) this.#onError(new Error(`Cannot send state to rank ${to}`, { cause: error }));
    });
    for (const { message, values } of segments) outbox.push([encodeHeader(message), bytesOf(values)]);
    this.#stateLinks.push(socket);
  }

  /**
   * Waits for a state that a peer sends in this generation.
   *
   * @param lengths Of its vectors.
   * @param updates That it has seen.
   * @throws {Interrupted} If the generation ends before.
   */
  receiveState(lengths: readonly number[], updates: Updates): Promise<TransferredState> {
    return new Promise((resolve, reject) => {
      this.#exchange.expectState(lengths, updates);
      this.#receiving = { resolve, reject };
      this.#settle();
    });
  }

  /**
   * Sums over all shards of the run.
   *
   * @param partials This rank's partial sums: the covering nodes of its shards.
   * @param result Receives the sum, unless this worker is alone; see the module text for when it may be used again.
   * @param numRounded The values below this index are rounded to bfloat16 in every sum; 0 for none.
   * @returns Where the sum is.
   * @throws {Interrupted} If the generation ends before.
   */
  async reduce(
    globalStep: number,
    phase: number,
    partials: readonly Partial[],
    result: Float32Array,
    numRounded: number,
  ): Promise<Float32Array> {
    // A rank alone has all shards in one node.
    if (this.#exchange.group.worldSize === 1) return partials[0].values;
    this.#sharedFile?.turn();
    this.#send(this.#exchange.reduce(globalStep, phase, partials, result, numRounded));
    const finished = new Promise<void>((resolve, reject) => (this.#reducing = { resolve, reject }));
    this.#settle();
    await finished;
    return result;
  }

  /** For whom and what the reduction under way waits, or null. */
  describeWaiting(): string | null {
    return this.#exchange.describeWaiting();
  }

  /** Ranks for which the reduction under way waits. */
  get waitingRanks(): readonly number[] {
    return this.#exchange.waitingRanks;
  }

  close(): void {
    this.#closeLinks();
    this.#sharedFile?.close();
    this.#door.close();
  }

  #closeLinks(): void {
    for (const { socket, file } of this.#links.values()) {
      socket.close();
      file?.close();
    }
    this.#links.clear();
    for (const socket of this.#stateLinks) socket.close();
    this.#stateLinks = [];
  }

  #receive(frames: Buffer[]): void {
    try {
      const message = parsePeerMessage(decodeHeader(frames.at(0)));
      this.#onMessage("received", message);
      if (message.type === "attached") {
        if (message.from < MAX_PEERS) this.#attached.set(message.from, generationKey(message));
        return;
      }
      this.#send(this.#exchange.receive(message, frames.slice(1)));
      this.#settle();
    } catch (error) {
      if (isRefusal(error)) return this.#onRefused(describeError(error));
      this.#onError(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Where the values of a message are: in its frame, or in the sender's shared file. */
  #sourceOf({ from, at, numRounded, start, end }: DataMessage, frames: readonly Buffer[]): CopyTo {
    if (frames.length !== (at === null ? 1 : 0)) {
      throw new RangeError(`Cannot use data message with ${frames.length} frames of values`);
    }
    if (at === null) {
      if (numRounded > end - start)
        throw new RangeError(`Cannot use data message with ${numRounded} rounded values`);
      if (numRounded === 0) {
        const values = floatsOf(frames[0], end - start);
        return (target) => target.set(values);
      }
      const bytes = alignedFrame(frames[0], (end - start) * 4 - numRounded * 2);
      return (target) => decodeRounded(bytes, numRounded, target);
    }
    const file = this.#links.get(from)?.file;
    if (file?.holds(at, (end - start) * 4) !== true) {
      throw new RangeError(`Cannot use data message as rank ${from} shares no file with values at ${at}`);
    }
    return (target) => file.read(at, target);
  }

  #send(outgoing: readonly Outgoing[]): void {
    // What several peers get is written once.
    const written = new Map<Float32Array, number | null>();
    for (const { to, message, values } of outgoing) {
      const shared = this.#group?.shared === true && this.#attached.get(to) === generationKey(message);
      if (shared && !written.has(values)) written.set(values, this.#share(values));
      const at = shared ? (written.get(values) ?? null) : null;
      const header = encodeHeader({ ...message, at });
      this.#onMessage("sent", message);
      const { numRounded } = message;
      const frame = (): Uint8Array => (numRounded > 0 ? encodeRounded(values, numRounded) : bytesOf(values));
      this.#links.get(to)?.outbox.push(at === null ? [header, frame()] : [header]);
    }
  }

  /** @returns Where the values are in the shared file, or null if it is full: then values travel by tcp from now on. */
  #share(values: Float32Array): number | null {
    if (this.#sharedFile === null || this.#sharesNoMore) return null;
    try {
      return this.#sharedFile.write(values);
    } catch (error) {
      this.#sharesNoMore = true;
      this.#onRefused(`values for the shared memory: ${describeError(error)}; sending by tcp from now on`);
      return null;
    }
  }

  /** Ends waits whose end has come. */
  #settle(): void {
    if (this.#exchange.isReduced) {
      this.#exchange.settle();
      this.#reducing?.resolve();
      this.#reducing = null;
    }
    const state = this.#receiving === null ? null : this.#exchange.takeState();
    if (state !== null) {
      this.#receiving?.resolve(state);
      this.#receiving = null;
    }
  }
}

function stateSource({ start, end }: StateMessage, frames: readonly Buffer[]): CopyTo {
  if (frames.length !== 1) throw new RangeError(`Cannot use state with ${frames.length} frames of values`);
  const values = floatsOf(frames[0], end - start);
  return (target) => target.set(values);
}

function generationKey({ term, generation }: { readonly term: string; readonly generation: number }): string {
  return `${term}/${generation}`;
}
