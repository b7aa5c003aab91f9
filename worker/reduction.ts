/**
 * The direct schedule of the all-reduce, for any number of ranks and shards.
 * Reduce-scatter: the gradient is cut into one
 * chunk per rank, and each rank receives every other rank's partial sums of
 * its own chunk and finishes the canonical tree. All-gather: it sends the
 * finished chunk to all. Chunks travel in segments, so that summing one
 * overlaps with the transfer of the next. Each rank sends at least 2 (worldSize - 1) messages.
 *
 * Source of the scheme: Rabenseifner 2004 (reduce-scatter and all-gather), here
 * with direct exchange, since a ring would sum in an order that depends on worldSize.
 *
 * @module
 */
import { ProtocolError } from "../shared/errors.ts";
import type { Range } from "../shared/sharding.ts";
import { coveringNodes, part, rankShards } from "../shared/sharding.ts";
import type { Partial } from "../shared/tree-sum.ts";
import { TreeSum } from "../shared/tree-sum.ts";
import type { Collective, CollectivePlan, CopyTo, Outgoing } from "./collective.ts";
import { CollectiveContext } from "./collective.ts";
import type { DataMessage } from "./data-messages.ts";
import { describeDataMessage } from "./data-messages.ts";

interface Segment {
  readonly range: Range;
  readonly owner: number;
  /** Partial sums by first shard, this rank's own or a peer's, until the owner has them all. */
  readonly partials: Map<number, Partial | { readonly node: Range; readonly copyTo: CopyTo }>;
  done: boolean;
}

export class Reduction implements Collective {
  readonly #context: CollectiveContext;
  /** By first value. */
  readonly #segments: ReadonlyMap<number, Segment>;
  /** Nodes that every rank sums on its own, in order of shards, by first shard. */
  readonly #nodes: ReadonlyMap<number, { readonly node: Range; readonly rank: number }>;
  #started = false;
  #numOpen: number;

  /** @param result Receives the sum: (length,), in use until {@linkcode done} and as long as peers may still receive it. */
  constructor(plan: CollectivePlan, globalStep: number, phase: number, result: Float32Array) {
    this.#context = new CollectiveContext(plan, globalStep, phase, result);
    this.#segments = segmentsOf(plan, this.#context.segmentFloats);
    this.#numOpen = this.#segments.size;
    this.#nodes = new Map(
      Array.from({ length: plan.worldSize }, (_, rank) =>
        coveringNodes(rankShards(plan.numShards, plan.worldSize, rank), plan.numShards).map(
          (node) => [node.start, { node, rank }] as const,
        ),
      ).flat(),
    );
  }

  get done(): boolean {
    return this.#numOpen === 0;
  }

  start(partials: readonly Partial[]): readonly Outgoing[] {
    const { rank, worldSize } = this.#context.plan;
    this.#started = true;
    const own: Segment[] = [];
    const byPeer = Array.from({ length: worldSize }, (): Outgoing[] => []);
    for (const segment of this.#segments.values()) {
      const { start, end } = segment.range;
      if (segment.owner === rank) own.push(segment);
      for (const { node, values } of partials) {
        const view = values.subarray(start, end);
        if (segment.owner === rank) segment.partials.set(node.start, { node, values: view });
        else {
          const message = this.#context.header("scatter", segment.range, node);
          byPeer[segment.owner].push({ to: segment.owner, message, values: view });
        }
      }
    }
    // Round-robin over receivers, so that no peer waits for another one's whole chunk.
    const interleaved: Outgoing[] = [];
    for (let i = 0; i < Math.max(...byPeer.map((list) => list.length)); i++) {
      for (let shift = 1; shift < worldSize; shift++) {
        const next = byPeer[(rank + shift) % worldSize][i];
        if (next !== undefined) interleaved.push(next);
      }
    }
    return [...interleaved, ...this.#finishSegments(own)];
  }

  receive(message: DataMessage, copyTo: CopyTo): readonly Outgoing[] {
    const { rank } = this.#context.plan;
    const segment = this.#segments.get(message.start);
    if (segment === undefined || segment.range.end !== message.end || segment.done) {
      throw new ProtocolError(`Cannot use ${describeDataMessage(message)}: no such open segment`);
    }
    if (message.type === "gather") {
      if (message.from !== segment.owner || segment.owner === rank) {
        throw new ProtocolError(
          `Cannot use ${describeDataMessage(message)}: rank ${segment.owner} owns that segment`,
        );
      }
      copyTo(this.#context.result.subarray(message.start, message.end));
      this.#close(segment);
      return [];
    }
    const expected = this.#nodes.get(message.firstShard);
    if (
      segment.owner !== rank ||
      expected?.rank !== message.from ||
      expected.node.end !== message.endShard ||
      segment.partials.has(message.firstShard)
    ) {
      throw new ProtocolError(`Cannot use ${describeDataMessage(message)}: not expected by rank ${rank}`);
    }
    segment.partials.set(message.firstShard, { node: expected.node, copyTo });
    return this.#started ? this.#finishSegments([segment]) : [];
  }

  describeMissing(): string | null {
    return this.done ? null : this.#context.describeMissing(this.missingFrom());
  }

  missingFrom(): readonly number[] {
    const ranks: number[] = [];
    for (const segment of this.#segments.values()) {
      if (segment.done) continue;
      if (segment.owner !== this.#context.plan.rank) ranks.push(segment.owner);
      else for (const [first, { rank }] of this.#nodes) if (!segment.partials.has(first)) ranks.push(rank);
    }
    return ranks;
  }

  #finishSegments(segments: readonly Segment[]): readonly Outgoing[] {
    const { rank, worldSize, numShards } = this.#context.plan;
    const outgoing: Outgoing[] = [];
    for (const segment of segments) {
      if (segment.done || segment.partials.size < this.#nodes.size) continue;
      const target = this.#context.result.subarray(segment.range.start, segment.range.end);
      this.#sumInto(target, segment);
      this.#close(segment);
      const message = this.#context.header("gather", segment.range, { start: 0, end: numShards });
      for (let shift = 1; shift < worldSize; shift++) {
        outgoing.push({ to: (rank + shift) % worldSize, message, values: target });
      }
    }
    return outgoing;
  }

  /** Finishes the tree over a segment's partial sums in `target`. */
  #sumInto(target: Float32Array, segment: Segment): void {
    const { numShards, pool } = this.#context.plan;
    const add = this.#context.addIn(segment.range);
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
}

function segmentsOf(plan: CollectivePlan, size: number): ReadonlyMap<number, Segment> {
  const segments = new Map<number, Segment>();
  for (let owner = 0; owner < plan.worldSize; owner++) {
    const chunk = part(plan.length, plan.worldSize, owner);
    for (let start = chunk.start; start < chunk.end; start += size) {
      const range = { start, end: Math.min(start + size, chunk.end) };
      segments.set(start, { range, owner, partials: new Map(), done: false });
    }
  }
  return segments;
}
