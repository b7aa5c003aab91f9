/**
 * A batch computed one shard after another, for engines whose bits depend on
 * the number of rows of a pass.
 *
 * @module
 */
import { roundToBf16 } from "../../shared/bf16.ts";
import type { Model } from "../../shared/nn/models.ts";
import type { NetworkName } from "../../shared/nn/network.ts";
import type { Add } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Batch, RealBatch } from "./engine.ts";

/**
 * Gradient and metrics of a batch as the canonical tree sum over its shards.
 *
 * @param name The network that the gradient is of.
 * @param bf16 Whether gradients are rounded in every node of the tree.
 * @param out Receives numParameters gradients, then metrics.
 * @param pass Computes them for a batch of one shard.
 */
export async function sumShards<B extends Batch>(
  { model, bf16 }: { readonly model: Model; readonly bf16: boolean },
  name: NetworkName,
  batch: B,
  out: Float32Array,
  pass: (part: B, out: Float32Array, shard: number) => void | Promise<void>,
): Promise<void> {
  const { numParameters } = model[name];
  const round = (vector: Float32Array): void => {
    if (bf16) roundToBf16(vector.subarray(0, numParameters));
  };
  const { shardSizes } = batch;
  if (shardSizes.length === 1) {
    await pass(batch, out, 0);
    round(out);
    return;
  }
  const allocate = (): Float32Array => new Float32Array(out.length);
  const add: Add = (target, left, right) => {
    addInJavaScript(target, left, right);
    round(target);
  };
  const sum = new TreeSum(shardSizes.length, add, allocate, undefined, out);
  for (const [shard, part] of splitBatch(batch, model).entries()) {
    const vector = allocate();
    await pass(part, vector, shard);
    round(vector);
    sum.push({ start: shard, end: shard + 1 }, vector, true);
  }
}

/** A batch of every shard. Keeps what else the batch has. */
function splitBatch<B extends Batch>(batch: B, { generator, discriminator }: Model): readonly B[] {
  let start = 0;
  return batch.shardSizes.map((numSamples) => {
    const end = start + numSamples;
    const noise = batch.noise.slice(start * generator.numInputs, end * generator.numInputs);
    const { numInputs } = discriminator;
    const { pixels, uniforms }: Partial<RealBatch> = batch;
    const own = { shardSizes: [numSamples], noise, uniforms: uniforms?.slice(start, end) };
    const real = pixels === undefined ? {} : { pixels: pixels.slice(start * numInputs, end * numInputs) };
    start = end;
    return { ...batch, ...own, ...real };
  });
}
