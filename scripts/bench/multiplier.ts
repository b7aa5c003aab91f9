/**
 * Matrix products on our kernels, called as the engine calls them.
 *
 * @module
 */
import { fillUniform, streamKey } from "../../shared/random.ts";
import { HostMemory } from "../../worker/host-memory.ts";
import type { TrainingProduct } from "./training-products.ts";

/** Computes a product once, on some values. */
export type Multiply = (product: TrainingProduct) => void;

/**
 * @param products All that will be computed.
 * @param fused Needs fusesMultiplyAdd().
 */
export async function multiplierFor(products: readonly TrainingProduct[], fused: boolean): Promise<Multiply> {
  const memory = await HostMemory.create({ fused });
  const { kernels } = memory;
  const most = (length: (product: TrainingProduct) => number): number => Math.max(...products.map(length));
  const lengths = [
    most(({ M, K }) => M * K),
    most(({ N, K }) => N * K),
    most(({ M, N }) => M * N),
    most(({ M, K }) => Math.ceil(kernels.gemmScratchBytes(M, K) / 4)),
  ];
  memory.reserve(lengths);
  const vectors = lengths.map((length) => memory.allocate(length));
  for (const vector of vectors) fillUniform(vector, streamKey(0, "noise"), 1);
  const [a, b, c, scratch] = vectors.map((vector) => memory.pointer(vector));
  return ({ M, N, K, transA, transB, weights }) => {
    const panels = weights === "B" ? { panelsB: true } : { panelsC: true };
    kernels.gemm({ M, N, K, transA, transB, a, b, c, scratch, ...panels });
  };
}
