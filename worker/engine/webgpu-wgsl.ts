/**
 * What the WGSL sources of engine webgpu have in common. Sizes that do not
 * change are written into the source; what differs from batch to batch is read
 * from a buffer (BATCH).
 *
 * @module
 */
import type { KernelActivation } from "../kernels/kernels.ts";

export interface Activation {
  readonly activation: KernelActivation;
  readonly alpha: number;
}

/** A dense layer y = activation(x W + b) with W (I, O) and b behind it. */
export interface DenseShape extends Activation {
  readonly numInputs: number;
  readonly numOutputs: number;
  /** Position of W in the flat vector of parameters. */
  readonly offset: number;
}

/** Leaves (shards) whose gradients lie in memory together; also the fan-in of a node of the kernel for tree sums. */
export const MAX_LEAVES = 8;

/** Bytes from the header of one group of leaves to the next; headers are bound on their own. */
export const BATCH_BYTES = 256;

/**
 * Header of a batch, as seen by one group of its leaves.
 *
 * samples: in the batch. rows: of the discriminator, which in its own phase are the samples' fake images,
 * then their real ones. token: comes back behind the results, as proof that they are this batch's.
 * leaves: where the samples of each leaf begin, and where those of the last end.
 */
export const BATCH = `
struct Batch {
  samples: u32,
  rows: u32,
  num_leaves: u32,
  token: f32,
  /** 1 / global batch size. */
  scale: f32,
  leaves: array<u32, ${MAX_LEAVES + 1}>,
}
@group(0) @binding(0) var<storage, read> batch: Batch;
`;

/** Row of the k-th of a leaf's rows: its fake images, then its real ones. */
export const LEAF_ROWS = `
var<private> leaf_start: u32;
var<private> leaf_samples: u32;
fn leaf_row(k: u32) -> u32 {
  if (k < leaf_samples) { return leaf_start + k; }
  return batch.samples + leaf_start + (k - leaf_samples);
}
/** @returns The leaf's samples. */
fn enter_leaf(leaf: u32) -> u32 {
  let start = batch.leaves[leaf];
  let samples = batch.leaves[leaf + 1u] - start;
  leaf_start = start;
  leaf_samples = samples;
  return samples;
}
`;

/** Our own, as WGSL lets a driver's tanh be wrong by 1e-5 and overflow. */
const TANH = `
fn tanh_of(x: TYPE) -> TYPE {
  let e = exp(-2.0 * abs(x));
  return sign(x) * ((1.0 - e) / (1.0 + e));
}
`;

export function activationSource({ activation, alpha }: Activation, type: "f32" | "vec4f"): string {
  const forward = {
    none: "return z;",
    leakyRelu: `return select(${float(alpha)} * z, z, z > ${type}());`,
    tanh: "return tanh_of(z);",
    sigmoid: "return 1.0 / (1.0 + exp(-z));",
  }[activation];
  // By the output, as only that is kept.
  const derivative = {
    none: "return dy;",
    leakyRelu: `return select(${float(alpha)} * dy, dy, y > ${type}());`,
    tanh: `return dy * fma(-y, y, ${type}(1.0));`,
    sigmoid: "return dy * (y * (1.0 - y));",
  }[activation];
  return `
${activation === "tanh" ? TANH.replaceAll("TYPE", type) : ""}
fn activate(z: ${type}) -> ${type} { ${forward} }
fn activate_backward(dy: ${type}, y: ${type}) -> ${type} { ${derivative} }
`;
}

export function each(n: number, source: (i: number) => string): string {
  return Array.from({ length: n }, (_, i) => source(i)).join(" ");
}

/** A float32 constant. */
export function float(x: number): string {
  return `f32(${x})`;
}
