/**
 * The transport of the all-reduce: one PULL socket that all peers send to, one
 * PUSH socket to each peer that the schedule exchanges with, and for peers on
 * the same host a shared file that holds the values, so that only headers travel through ZeroMQ. Messages of a
 * phase that this worker has not begun are kept; peers can be at most one phase
 * ahead, since the phase after that needs this worker's part.
 *
 * Buffers: partial sums may be overwritten once the reduction is done (every
 * receiver has then used them); a result may be overwritten when the next
 * reduction is done (every peer has then received it). The shared file keeps
 * the same rule with two halves, used by turns.
 *
 * @module
 */
import type { Pull, Push } from "zeromq";
import { decodeRounded, encodeRounded } from "../shared/bf16.ts";
import { describeError, ProtocolError } from "../shared/errors.ts";
import { alignedFrame, bytesOf, floatsOf } from "../shared/frames.ts";
import { Outbox } from "../shared/outbox.ts";
import type { DataAddress, Peer } from "../shared/protocol.ts";
import { decodeHeader, encodeHeader } from "../shared/protocol.ts";
import { pull, push, receiveAll } from "../shared/sockets.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";
import type { AttachedMessage, DataMessage } from "./data-messages.ts";
import { parsePeerMessage } from "./data-messages.ts";
import type { Collective, CopyTo, Outgoing } from "./collective.ts";
import { SEGMENT_FLOATS, SegmentPool } from "./collective.ts";
import { arePartners, createCollective } from "./schedule.ts";
import { PeerFile, SharedFile } from "./shared-file.ts";

export interface Group {
  readonly generation: number;
  readonly rank: number;
  readonly peers: readonly Peer[];
  readonly numShards: number;
  readonly add: Add;
  /** Rounds to bfloat16, in place. */
  readonly round: (values: Float32Array) => void;
  /** Whether to use shared memory where it can be used. */
  readonly shared: boolean;
  /** {@linkcode SegmentPool.buffersFor} buffers of SEGMENT_FLOATS values, for sums. */
  readonly buffers: readonly Float32Array[];
}

interface Received {
  readonly message: DataMessage;
  readonly copyTo: CopyTo;
}

interface PeerLink {
  readonly socket: Push;
  readonly outbox: Outbox;
  /** The peer's shared file, if it can be read here. */
  readonly file: PeerFile | null;
}

interface Running {
  readonly key: string;
  readonly reduction: Collective;
  resolve(): void;
}

/** Room for a segment and its header; a larger frame closes the connection of whoever sent it. */
const MAX_FRAME_BYTES = SEGMENT_FLOATS * 4 + 4096;

/** More ranks than a run can have. */
const MAX_PEERS = 4096;

/** Messages kept for a phase that this worker has not begun: two phases of a large model, not more. */
const MAX_EARLY_MESSAGES = 20_000;

export class DataPlane {
  readonly #pull: Pull;
  readonly #onError: (error: Error) => void;
  readonly #onRefused: (reason: string) => void;
  readonly #links = new Map<number, PeerLink>();
  /** Null where there is no shared memory. */
  readonly #sharedFile: SharedFile | null;
  /** Set once the shared memory is full. */
  #sharesNoMore = false;
  /** The generation in which a peer last said that it can read the shared file; it may say so before connect(). */
  readonly #attached = new Map<number, number>();
  readonly #early = new Map<string, Received[]>();
  #numEarly = 0;
  #group: Group | null = null;
  #pool = new SegmentPool([]);
  #running: Running | null = null;

  private constructor(
    socket: Pull,
    sharedFile: SharedFile | null,
    onError: (error: Error) => void,
    onRefused: (reason: string) => void,
  ) {
    this.#pull = socket;
    this.#sharedFile = sharedFile;
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
    const plane = new DataPlane(socket, SharedFile.create(), onError, onRefused);
    receiveAll(socket, (frames) => plane.#receive(frames)).catch(onError);
    return plane;
  }

  get address(): DataAddress {
    return { endpoint: this.#pull.lastEndpoint ?? "", sharedFile: this.#sharedFile?.address ?? null };
  }

  /** How gradients reach the peers, for the log. */
  get description(): string {
    const links = [...this.#links.values()];
    const numShared = links.filter(({ file }) => file !== null).length;
    return `all-reduce with ${numShared} peers through shared memory, ${links.length - numShared} by tcp`;
  }

  connect(group: Group): void {
    const { generation, rank: from, shared } = group;
    this.#group = group;
    this.#pool = new SegmentPool(group.buffers);
    for (const { rank, data } of group.peers) {
      if (!arePartners(group.peers.length, group.numShards, from, rank)) continue;
      const socket = push();
      socket.connect(data.endpoint);
      const outbox = new Outbox(socket, (error) => {
        if (!socket.closed) this.#onError(new Error(`Cannot send to rank ${rank}`, { cause: error }));
      });
      const file = shared && data.sharedFile !== null ? PeerFile.open(data.sharedFile) : null;
      this.#links.set(rank, { socket, outbox, file });
      if (file !== null) {
        outbox.push([encodeHeader({ type: "attached", generation, from } satisfies AttachedMessage)]);
      }
    }
  }

  /**
   * Sums over all shards of the run.
   *
   * @param partials This rank's partial sums: the covering nodes of its shards.
   * @param result Receives the sum, unless this worker is alone; see the module text for when it may be used again.
   * @param numRounded The values below this index are rounded to bfloat16 in every sum; 0 for none.
   * @returns Where the sum is.
   */
  async reduce(
    globalStep: number,
    phase: number,
    partials: readonly Partial[],
    result: Float32Array,
    numRounded: number,
  ): Promise<Float32Array> {
    const group = this.#group;
    if (group === null || this.#running !== null)
      throw new Error("Cannot reduce as the data plane must be idle");
    const { generation, rank, peers, numShards, add, round } = group;
    // A rank alone has all shards in one node.
    if (peers.length === 1) return partials[0].values;
    const worldSize = peers.length;
    const plan = {
      generation,
      worldSize,
      rank,
      numShards,
      length: result.length,
      add,
      round,
      numRounded,
      pool: this.#pool,
    };
    const reduction = createCollective(plan, globalStep, phase, result);
    const key = keyOf(generation, globalStep, phase);
    const finished = new Promise<void>((resolve) => {
      this.#running = { key, reduction, resolve };
    });
    this.#sharedFile?.turn();
    this.#send(reduction.start(partials));
    const early = this.#early.get(key) ?? [];
    this.#early.delete(key);
    this.#numEarly -= early.length;
    for (const received of early) this.#use(reduction, received);
    this.#settle();
    await finished;
    return result;
  }

  /** For whom and what the reduction under way waits, or null. */
  describeWaiting(): string | null {
    return this.#running?.reduction.describeMissing() ?? null;
  }

  close(): void {
    for (const { socket, file } of this.#links.values()) {
      socket.close();
      file?.close();
    }
    this.#sharedFile?.close();
    this.#pull.close();
  }

  #receive(frames: Buffer[]): void {
    try {
      const message = parsePeerMessage(decodeHeader(frames[0]));
      if (message.type === "attached") {
        if (message.from < MAX_PEERS) this.#attached.set(message.from, message.generation);
        return;
      }
      const group = this.#group;
      if (group === null || message.generation !== group.generation) {
        throw new RangeError(
          `Cannot use data message of generation ${message.generation}: now ${group?.generation ?? "none"}`,
        );
      }
      const received: Received = { message, copyTo: this.#sourceOf(message, frames.slice(1)) };
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
    if (file === null || file === undefined) {
      throw new RangeError(`Cannot use data message as rank ${from} shares no file`);
    }
    return (target) => file.read(at, target);
  }

  #use(reduction: Collective, { message, copyTo }: Received): void {
    let outgoing: readonly Outgoing[];
    try {
      outgoing = reduction.receive(message, copyTo);
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        this.#onError(error instanceof Error ? error : new Error(String(error)));
        return;
      }
      this.#onRefused(describeError(error));
      return;
    }
    this.#send(outgoing);
  }

  #send(outgoing: readonly Outgoing[]): void {
    // What several peers get is written once.
    const written = new Map<Float32Array, number | null>();
    for (const { to, message, values } of outgoing) {
      const shared = this.#group?.shared === true && this.#attached.get(to) === message.generation;
      if (shared && !written.has(values)) written.set(values, this.#share(values));
      const at = shared ? (written.get(values) ?? null) : null;
      const header = encodeHeader({ ...message, at });
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
