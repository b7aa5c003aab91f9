/**
 * What every schedule of the all-reduce shares: the interface of one
 * all-reduce of one phase as a pure state machine, its plan, and its messages.
 * The schedules are in reduction.ts and halving-doubling.ts; schedule.ts chooses.
 *
 * @module
 */
import { z } from "zod";
import { ProtocolError } from "../shared/errors.ts";
import type { Range } from "../shared/sharding.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";

/** Most values per message: 1 MiB. Part of no bits. */
export const SEGMENT_FLOATS = 1 << 18;

const index = z
  .int()
  .min(0)
  .max(2 ** 48);

/** Header of a data-plane message; one frame of float32 values start..end follows. */
const DataMessageSchema = z.strictObject({
  type: z.enum(["scatter", "gather"]),
  generation: index,
  globalStep: index,
  phase: index,
  /** Rank of the sender. */
  from: index,
  /** Shards summed in the values: a tree node for "scatter", all of them for "gather". */
  firstShard: index,
  endShard: index,
  /** Position of the values in the gradient. */
  start: index,
  end: index,
});
export type DataMessage = z.infer<typeof DataMessageSchema>;

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseDataMessage(header: unknown): DataMessage {
  const result = DataMessageSchema.safeParse(header);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(
    `Cannot parse data message as '${issue.path.join(".")}' is wrong: ${issue.message}`,
  );
}

export function describeDataMessage(m: DataMessage): string {
  return `"${m.type}" of step ${m.globalStep}, phase ${m.phase}, shards ${m.firstShard}..${m.endShard}, values ${m.start}..${m.end} from rank ${m.from}`;
}

export interface CollectivePlan {
  readonly generation: number;
  readonly worldSize: number;
  readonly rank: number;
  readonly numShards: number;
  /** Values in the vector. */
  readonly length: number;
  /** Most values per message, {@linkcode SEGMENT_FLOATS} if absent. */
  readonly segmentFloats?: number;
  readonly add: Add;
}

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
   * @returns Messages to send.
   * @throws {ProtocolError} If it is not one that this phase still waits for.
   */
  receive(message: DataMessage, values: Float32Array): readonly Outgoing[];
  /** What is missing and from whom, for a worker that has to wait; null if nothing. */
  describeMissing(): string | null;
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

  header(type: DataMessage["type"], range: Range, node: Range): DataMessage {
    return {
      type,
      generation: this.plan.generation,
      globalStep: this.globalStep,
      phase: this.phase,
      from: this.plan.rank,
      firstShard: node.start,
      endShard: node.end,
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
