/**
 * Metrics of a batch: sums over shards in the canonical tree, so that they too
 * have the same bits for any number of workers.
 *
 * @module
 */
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Batch } from "./engine.ts";

export function numSamplesOf({ shardSizes }: Pick<Batch, "shardSizes">): number {
  return shardSizes.reduce((sum, n) => sum + n, 0);
}

/**
 * For each vector of values per sample: the sum over each shard in float64, divided by the global batch
 * size and rounded, then added in the canonical tree.
 *
 * @param vectors (samples,) each. @returns (vectors,).
 */
export function shardSums(
  vectors: readonly Float32Array[],
  shardSizes: readonly number[],
  globalBatchSize: number,
): Float32Array {
  const sum = new TreeSum(shardSizes.length, addInJavaScript, () => new Float32Array(vectors.length));
  let start = 0;
  for (const [shard, n] of shardSizes.entries()) {
    const own = vectors.map(
      (v) => v.subarray(start, start + n).reduce((total, x) => total + x, 0) / globalBatchSize,
    );
    sum.push({ start: shard, end: shard + 1 }, Float32Array.from(own), true);
    start += n;
  }
  return sum.take()[0].values;
}
