/**
 * One rank of an all-reduce, as a worker does it: a data plane, and vectors in
 * host memory. The only file of the benchmark that knows the data plane's interface.
 *
 * The parent sends a ReduceRequest and, once it has every rank's address, all
 * of them; it gets an address and, from rank 0, a ReduceResult.
 *
 * @module
 */
import { fillUniform, streamKey } from "../../shared/random.ts";
import type { DataAddress } from "../../shared/protocol.ts";
import { coveringNodes, rankShards } from "../../shared/sharding.ts";
import type { Partial } from "../../shared/tree-sum.ts";
import { SEGMENT_FLOATS, SegmentPool } from "../../worker/collective.ts";
import { DataPlane } from "../../worker/data-plane.ts";
import { HostMemory } from "../../worker/host-memory.ts";
import { median } from "./statistics.ts";

export interface ReduceRequest {
  readonly rank: number;
  readonly processes: number;
  readonly floats: number;
  readonly repetitions: number;
  /** Whether values may travel through shared memory, or else by tcp. */
  readonly shared: boolean;
}

export interface ReduceResult {
  /** Median time of a sum, in milliseconds. */
  readonly ms: number;
}

/** As many as a run has by default. */
const NUM_SHARDS = 4;

/** Values of the sum that is a barrier. */
const BARRIER_FLOATS = 64;

const GENERATION = 1;

const fail = (reason: unknown): void => {
  console.error(reason);
  process.exit(1);
};

process.once("message", (request: ReduceRequest) => {
  reduceRepeatedly(request).then((ms) => {
    // The parent ends all ranks once it has the result of one.
    if (request.rank === 0) process.send?.({ ms } satisfies ReduceResult);
  }, fail);
});
// Nothing must stay behind when the parent is gone.
process.once("disconnect", () => process.exit());

async function reduceRepeatedly(request: ReduceRequest): Promise<number> {
  const { rank, processes, floats, repetitions, shared } = request;
  const plane = await DataPlane.bind("127.0.0.1", fail, fail);
  process.send?.(plane.address);
  const addresses = await new Promise<readonly DataAddress[]>((resolve) =>
    process.once("message", (all: readonly DataAddress[]) => resolve(all)),
  );

  const memory = await HostMemory.create({ fused: false });
  const nodes = coveringNodes(rankShards(NUM_SHARDS, processes, rank), NUM_SHARDS);
  const numSegments = SegmentPool.buffersFor(NUM_SHARDS);
  const perSum = nodes.length + 1;
  memory.reserve([
    ...Array<number>(perSum).fill(BARRIER_FLOATS),
    ...Array<number>(perSum).fill(floats),
    ...Array<number>(numSegments).fill(SEGMENT_FLOATS),
  ]);
  const vectors = (
    length: number,
  ): { readonly partials: readonly Partial[]; readonly sum: Float32Array } => ({
    partials: nodes.map((node) => ({ node, values: memory.allocate(length) })),
    sum: memory.allocate(length),
  });
  const barrier = vectors(BARRIER_FLOATS);
  const gradient = vectors(floats);
  for (const { values } of gradient.partials) fillUniform(values, streamKey(rank, "noise"), 1);
  plane.connect({
    term: "bench",
    generation: GENERATION,
    rank,
    peers: addresses.map((data, peer) => ({ rank: peer, workerId: `rank-${peer}`, data })),
    numShards: NUM_SHARDS,
    position: { globalStep: 0, phase: 0 },
    numPhases: 2,
    add: memory.add,
    round: memory.roundToBf16,
    shared,
    buffers: Array.from({ length: numSegments }, () => memory.allocate(SEGMENT_FLOATS)),
  });

  const warmup = Math.max(2, Math.floor(repetitions / 3));
  const times: number[] = [];
  for (let i = 0; i < warmup + repetitions; i++) {
    await plane.reduce(i, 0, barrier.partials, barrier.sum, 0);
    const startMs = performance.now();
    await plane.reduce(i, 1, gradient.partials, gradient.sum, 0);
    times.push(performance.now() - startMs);
  }
  return median(times.slice(warmup));
}
