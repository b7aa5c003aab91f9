/**
 * One all-reduce of one phase, without sockets: what to send, what has
 * arrived, and what is missing. Reduce-scatter: the gradient is cut into one
 * chunk per rank, and each rank receives every other rank's partial sums of
 * its own chunk and finishes the canonical tree. All-gather: it sends the
 * finished chunk to all. Chunks travel in segments, so that summing one
 * overlaps with the transfer of the next.
 *
 * Source of the scheme: Rabenseifner 2004 (reduce-scatter and all-gather), here
 * with direct exchange, since a ring would sum in an order that depends on worldSize.
 *
 * @module
 */
import { ProtocolError } from "../shared/errors.ts";
import type { Range } from "../shared/sharding.ts";
import { coveringNodes, part, rankShards } from "../shared/sharding.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";
import { TreeSum } from "../shared/tree-sum.ts";
import type { DataMessage } from "./data-messages.ts";

/** Values per segment: 2 MiB. Part of no bits. */
export const SEGMENT_FLOATS = 1 << 19;

export interface ReductionPlan {
  readonly generation: number;
  readonly worldSize: number;
  readonly rank: number;
  readonly numShards: number;
  /** Values in the vector. */
  readonly length: number;
  readonly segmentFloats?: number;
  readonly add: Add;
  readonly pool: SegmentPool;
}

/** Buffers for values of peers while they are summed. */
export class SegmentPool {
  readonly #free: Float32Array[];

  /** Buffers that a sum over so many shards can hold at once, of SEGMENT_FLOATS each. */
  static buffersFor(numShards: number): number {
    return Math.ceil(Math.log2(Math.max(2, numShards))) + 1;
  }

  constructor(buffers: readonly Float32Array[]) {
    this.#free = [...buffers];
  }

  take(length: number): Float32Array {
    const buffer = this.#free.pop();
    if (buffer === undefined) throw new Error("Cannot sum as more buffers are in use than a tree can hold");
    return buffer.subarray(0, length);
  }

  give(values: Float32Array): void {
    this.#free.push(new Float32Array(values.buffer, values.byteOffset, SEGMENT_FLOATS));
  }
}

/** Copies values that a peer sent, wherever they lie, to a vector of their length. */
export type CopyTo = (target: Float32Array) => void;

export interface Outgoing {
  readonly to: number;
  readonly message: DataMessage;
  /** A view: unchanged until the receiver has it. */
  readonly values: Float32Array;
}

interface Segment {
  readonly range: Range;
  readonly owner: number;
  /** Partial sums by first shard, this rank's own or a peer's, until the owner has them all. */
  readonly partials: Map<number, Partial | { readonly node: Range; readonly copyTo: CopyTo }>;
  done: boolean;
}

export class Reduction {
  readonly #plan: ReductionPlan;
  readonly #globalStep: number;
  readonly #phase: number;
  readonly #result: Float32Array;
  readonly #segments: readonly Segment[];
  /** Nodes that every rank sums on its own, in order of shards. */
  readonly #nodes: readonly { readonly node: Range; readonly rank: number }[];
  #started = false;
  #numOpen: number;

  /** @param result Receives the sum: (length,), in use until {@linkcode done} and as long as peers may still receive it. */
  constructor(plan: ReductionPlan, globalStep: number, phase: number, result: Float32Array) {
    if (result.length !== plan.length) {
      throw new RangeError(
        `Cannot reduce as the result must have ${plan.length} values: got ${result.length}`,
      );
    }
    this.#plan = plan;
    this.#globalStep = globalStep;
    this.#phase = phase;
    this.#result = result;
    this.#segments = segmentsOf(plan);
    this.#numOpen = this.#segments.length;
    this.#nodes = Array.from({ length: plan.worldSize }, (_, rank) =>
      coveringNodes(rankShards(plan.numShards, plan.worldSize, rank), plan.numShards).map((node) => ({
        node,
        rank,
      })),
    ).flat();
  }

  get done(): boolean {
    return this.#numOpen === 0;
  }

  /**
   * Brings in this rank's partial sums.
   *
   * @param partials The covering nodes of this rank's shards, (length,) each; they may not change until done.
   * @returns Messages to send, in order: first what peers wait for longest.
   */
  start(partials: readonly Partial[]): readonly Outgoing[] {
    const { rank, worldSize } = this.#plan;
    this.#started = true;
    const outgoing: Outgoing[] = [];
    for (const segment of this.#segments) {
      if (segment.owner === rank) {
        for (const { node, values } of partials) {
          segment.partials.set(node.start, {
            node,
            values: values.subarray(segment.range.start, segment.range.end),
          });
        }
      } else {
        for (const { node, values } of partials) {
          outgoing.push({
            to: segment.owner,
            message: this.#header("scatter", segment.range, node),
            values: values.subarray(segment.range.start, segment.range.end),
          });
        }
      }
    }
    // Round-robin over receivers, so that no peer waits for another one's whole chunk.
    const byPeer = Array.from({ length: worldSize }, (_, peer) => outgoing.filter((o) => o.to === peer));
    const interleaved: Outgoing[] = [];
    for (let i = 0; i < Math.max(...byPeer.map((list) => list.length)); i++) {
      for (let shift = 1; shift < worldSize; shift++) {
        const next = byPeer[(rank + shift) % worldSize][i];
        if (next !== undefined) interleaved.push(next);
      }
    }
    return [...interleaved, ...this.#finishSegments(this.#segments.filter((s) => s.owner === rank))];
  }

  /**
   * Takes in a message of a peer, before or after {@linkcode start}.
   *
   * @param copyTo Called at once or later, once.
   * @returns Messages to send.
   * @throws {ProtocolError} If it fits no open segment of this phase.
   */
  receive(message: DataMessage, copyTo: CopyTo): readonly Outgoing[] {
    const segment = this.#segments.find(
      (s) => s.range.start === message.start && s.range.end === message.end,
    );
    if (segment === undefined || segment.done) {
      throw new ProtocolError(`Cannot use ${this.#describe(message)}: no such open segment`);
    }
    if (message.type === "gather") {
      if (message.from !== segment.owner || segment.owner === this.#plan.rank) {
        throw new ProtocolError(
          `Cannot use ${this.#describe(message)}: rank ${segment.owner} owns that segment`,
        );
      }
      copyTo(this.#result.subarray(segment.range.start, segment.range.end));
      this.#close(segment);
      return [];
    }
    const node: Range = { start: message.firstShard, end: message.endShard };
    const expected = this.#nodes.some(
      (n) => n.rank === message.from && n.node.start === node.start && n.node.end === node.end,
    );
    if (segment.owner !== this.#plan.rank || !expected || segment.partials.has(node.start)) {
      throw new ProtocolError(
        `Cannot use ${this.#describe(message)}: not expected by rank ${this.#plan.rank}`,
      );
    }
    segment.partials.set(node.start, { node, copyTo });
    return this.#started ? this.#finishSegments([segment]) : [];
  }

  /** What is missing and from whom, for a worker that has to wait; null if nothing. */
  describeMissing(): string | null {
    if (this.done) return null;
    const ranks = new Map<number, number>();
    const note = (rank: number): void => void ranks.set(rank, (ranks.get(rank) ?? 0) + 1);
    for (const segment of this.#segments) {
      if (segment.done) continue;
      if (segment.owner !== this.#plan.rank) note(segment.owner);
      else for (const { node, rank } of this.#nodes) if (!segment.partials.has(node.start)) note(rank);
    }
    const list = [...ranks].map(([rank, n]) => `${n} segments from rank ${rank}`).join(", ");
    return `${list} (all-reduce of step ${this.#globalStep}, phase ${this.#phase})`;
  }

  #finishSegments(segments: readonly Segment[]): readonly Outgoing[] {
    const { rank, worldSize, numShards } = this.#plan;
    const outgoing: Outgoing[] = [];
    for (const segment of segments) {
      if (segment.done || segment.partials.size < this.#nodes.length) continue;
      const target = this.#result.subarray(segment.range.start, segment.range.end);
      this.#sumInto(target, segment);
      this.#close(segment);
      const message = this.#header("gather", segment.range, { start: 0, end: numShards });
      for (let shift = 1; shift < worldSize; shift++) {
        outgoing.push({ to: (rank + shift) % worldSize, message, values: target });
      }
    }
    return outgoing;
  }

  /** Finishes the tree over a segment's partial sums in `target`. */
  #sumInto(target: Float32Array, segment: Segment): void {
    const { numShards, add, pool } = this.#plan;
    const take = (): Float32Array => pool.take(target.length);
    const tree = new TreeSum(numShards, add, take, (values) => pool.give(values), target);
    for (const partial of [...segment.partials.values()].sort((a, b) => a.node.start - b.node.start)) {
      if ("values" in partial) {
        tree.push(partial.node, partial.values, false);
      } else {
        const values = take();
        partial.copyTo(values);
        tree.push(partial.node, values, true);
      }
    }
    // A rank alone has all shards in one node, and nothing to add.
    const [{ values }] = tree.take();
    if (values !== target) target.set(values);
  }

  #close(segment: Segment): void {
    segment.done = true;
    segment.partials.clear();
    this.#numOpen -= 1;
  }

  #header(type: DataMessage["type"], range: Range, node: Range): DataMessage {
    return {
      type,
      generation: this.#plan.generation,
      globalStep: this.#globalStep,
      phase: this.#phase,
      from: this.#plan.rank,
      firstShard: node.start,
      endShard: node.end,
      at: null,
      start: range.start,
      end: range.end,
    };
  }

  #describe(m: DataMessage): string {
    return `"${m.type}" of step ${m.globalStep}, phase ${m.phase}, shards ${m.firstShard}..${m.endShard}, values ${m.start}..${m.end} from rank ${m.from}`;
  }
}

function segmentsOf(plan: ReductionPlan): readonly Segment[] {
  const size = plan.segmentFloats ?? SEGMENT_FLOATS;
  const segments: Segment[] = [];
  for (let owner = 0; owner < plan.worldSize; owner++) {
    const chunk = part(plan.length, plan.worldSize, owner);
    for (let start = chunk.start; start < chunk.end; start += size) {
      const range = { start, end: Math.min(start + size, chunk.end) };
      segments.push({ range, owner, partials: new Map(), done: false });
    }
  }
  return segments;
}
