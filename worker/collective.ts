/**
 * What every schedule of the all-reduce shares: the interface of one
 * all-reduce of one phase as a pure state machine, its plan, and its messages.
 * The schedules are in reduction.ts and halving-doubling.ts; schedule.ts chooses.
 *
 * @module
 */
import type { Range } from "../shared/sharding.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";
import type { DataMessage } from "./data-messages.ts";

/** Most values per message: 2 MiB. Part of no bits. */
export const SEGMENT_FLOATS = 1 << 19;

export interface CollectivePlan {
  /** Id of the coordinator's process, which counts generations. */
  readonly term: string;
  readonly generation: number;
  readonly worldSize: number;
  readonly rank: number;
  readonly numShards: number;
  /** Values in the vector. */
  readonly length: number;
  /** Most values per message, {@linkcode SEGMENT_FLOATS} if absent. */
  readonly segmentFloats?: number;
  readonly add: Add;
  /** The values below this index are rounded to bfloat16 in every sum; 0 for none. */
  readonly numRounded: number;
  readonly round: (values: Float32Array) => void;
  readonly pool: SegmentPool;
}

/** Buffers for values of peers while they are summed. */
export class SegmentPool {
  readonly #free: Float32Array[];
  /** Values in a buffer. */
  readonly #length: number;

  /** Buffers that a sum over so many shards can hold at once. */
  static buffersFor(numShards: number): number {
    return Math.ceil(Math.log2(Math.max(2, numShards))) + 1;
  }

  /** @param buffers Of one length, which no segment exceeds. */
  constructor(buffers: readonly Float32Array[]) {
    this.#free = [...buffers];
    this.#length = buffers.at(0)?.length ?? 0;
  }

  take(length: number): Float32Array {
    const buffer = this.#free.pop();
    if (buffer === undefined) throw new Error("Cannot sum as more buffers are in use than a tree can hold");
    return buffer.subarray(0, length);
  }

  give(values: Float32Array): void {
    this.#free.push(new Float32Array(values.buffer, values.byteOffset, this.#length));
  }
}

/** Copies values that a peer sent, wherever they lie, to a vector of their length. */
export type CopyTo = (target: Float32Array) => void;

export interface Outgoing {
  readonly to: number;
  readonly message: DataMessage;
  /** A view: unchanged until the receiver has used it. */
  readonly values: Float32Array;
}

/**
 * One all-reduce of one phase, without sockets. For every schedule: once it is
 * done, every peer has used this rank's partial sums; and a peer starts the
 * next one only when it has received all of this one, so when the next is done
 * here, nobody needs the result of this one from this rank any more.
 */
export interface Collective {
  /** Whether the result is complete. */
  readonly done: boolean;
  /**
   * Brings in this rank's partial sums.
   *
   * @param partials The covering nodes of this rank's shards, (length,) each; they may not change until done.
   * @returns Messages to send, in order: first what peers wait for longest.
   */
  start(partials: readonly Partial[]): readonly Outgoing[];
  /**
   * Takes in a message of a peer, before or after {@linkcode start}.
   *
   * @param copyTo Called at once or later, once.
   * @returns Messages to send.
   * @throws {ProtocolError} If it is not one that this phase still waits for.
   */
  receive(message: DataMessage, copyTo: CopyTo): readonly Outgoing[];
  /** Ranks from which messages are missing, one entry per message. */
  missingFrom(): readonly number[];
  /** The same in words, for a worker that has to wait; null if nothing is missing. */
  describeMissing(): string | null;
}

/** How many values of a range, from its start, lie below numRounded. */
function roundedIn({ start, end }: Range, numRounded: number): number {
  return Math.max(0, Math.min(end, numRounded) - start);
}

/** One all-reduce and its place in the run: what the schedules build on. */
export class CollectiveContext {
  readonly plan: CollectivePlan;
  readonly globalStep: number;
  readonly phase: number;
  readonly result: Float32Array;

  /** @throws {RangeError} If the result has another length than the plan. */
  constructor(plan: CollectivePlan, globalStep: number, phase: number, result: Float32Array) {
    if (result.length !== plan.length) {
      throw new RangeError(
        `Cannot reduce as the result must have ${plan.length} values: got ${result.length}`,
      );
    }
    this.plan = plan;
    this.globalStep = globalStep;
    this.phase = phase;
    this.result = result;
  }

  get segmentFloats(): number {
    return this.plan.segmentFloats ?? SEGMENT_FLOATS;
  }

  /** Adds values of a range as the tree asks for. */
  addIn({ start, end }: Range): Add {
    const { add, round, numRounded } = this.plan;
    const count = roundedIn({ start, end }, numRounded);
    if (count === 0) return add;
    return (out, left, right) => {
      add(out, left, right);
      round(out.subarray(0, count));
    };
  }

  header(type: DataMessage["type"], range: Range, node: Range): DataMessage {
    return {
      type,
      term: this.plan.term,
      generation: this.plan.generation,
      globalStep: this.globalStep,
      phase: this.phase,
      from: this.plan.rank,
      firstShard: node.start,
      endShard: node.end,
      at: null,
      numRounded: roundedIn(range, this.plan.numRounded),
      start: range.start,
      end: range.end,
    };
  }

  /** @param ranks From whom, one entry per missing message. */
  describeMissing(ranks: Iterable<number>): string {
    const counts = new Map<number, number>();
    for (const rank of ranks) counts.set(rank, (counts.get(rank) ?? 0) + 1);
    const list = [...counts].map(([rank, n]) => `${n} segments from rank ${rank}`).join(", ");
    return `${list} (all-reduce of step ${this.globalStep}, phase ${this.phase})`;
  }
}
