/**
 * WGSL sources of the kernels of engine webgpu beside its matrix products: the
 * discriminator's last layer with the losses, pixels, and tree sums.
 *
 * @module
 */
import type { Activation, DenseShape } from "./webgpu-wgsl.ts";
import { activationSource, BATCH, each, float, LEAF_ROWS, MAX_LEAVES } from "./webgpu-wgsl.ts";

/** weight softplus(sign logit), as in shared/nn/objectives.ts. */
export interface HeadLoss {
  readonly weight: number;
  readonly sign: 1 | -1;
}

export interface Head {
  /** The discriminator's last layer, whose output is the logit. */
  readonly layer: DenseShape;
  /** Losses of the batch's first `samples` rows, and of those behind them. */
  readonly losses: readonly [HeadLoss, HeadLoss];
  /** The activation below, if its gradient is wanted. */
  readonly below: Activation | null;
  /** Where losses begin in the results; behind them come probabilities. */
  readonly resultOffset: number;
}

/** Most workgroups in one dimension that we use; the rest go into the second one. */
export const MAX_ROW_GROUPS = 32768;

/**
 * Logits, losses and their derivatives: one workgroup per row, (rows, rows / MAX_ROW_GROUPS). Bindings: 0
 * batch, 1 x (R, I), 2 parameters, 3 gradient by the layer's sum (R,), 4 results, 5 (if below) gradient
 * by the sum below (R, I).
 */
export function headShader({ layer, losses, below, resultOffset }: Head): string {
  const { numInputs: I, offset } = layer;
  const [first, second] = losses;
  return `${BATCH}
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> parameters: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> results: array<f32>;
${below === null ? "" : "@group(0) @binding(5) var<storage, read_write> gradient_below: array<f32>;"}
var<workgroup> sums: array<f32, 64>;
${activationSource(layer, "f32").replaceAll("activate", "head_activate")}
${below === null ? "" : activationSource(below, "f32").replaceAll("tanh_of", "tanh_below")}

/** log(1 + t) for 0 <= t <= 1 by the series of atanh, as WGSL lets log be wrong by 5e-7 there. */
fn log_1_plus(t: f32) -> f32 {
  let s = t / (2.0 + t);
  let q = s * s;
  return 2.0 * s * (1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0))))));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = group.y * ${MAX_ROW_GROUPS}u + group.x;
  let is_row = row < batch.rows;
  var sum = 0.0;
  if (is_row) {
    for (var i = local; i < ${I}u; i += 64u) { sum = fma(x[row * ${I}u + i], parameters[${offset}u + i], sum); }
  }
  sums[local] = sum;
  for (var n = 32u; n > 0u; n /= 2u) {
    workgroupBarrier();
    if (local < n) { sums[local] += sums[local + n]; }
  }
  workgroupBarrier();
  if (!is_row) { return; }
  let logit = head_activate(sums[0] + parameters[${offset + I}u]);
  let is_first = row < batch.samples;
  let sign_of = select(${float(second.sign)}, ${float(first.sign)}, is_first);
  let weight = select(${float(second.weight)}, ${float(first.weight)}, is_first);
  let score = sign_of * logit;
  let by_logit = weight * sign_of * batch.scale / (1.0 + exp(-score));
  let by_sum = head_activate_backward(by_logit, logit);
  if (local == 0u) {
    gradient[row] = by_sum;
    results[${resultOffset}u + row] = weight * (max(score, 0.0) + log_1_plus(exp(-abs(score))));
    results[${resultOffset}u + batch.rows + row] = 1.0 / (1.0 + exp(-logit));
  }
  ${
    below === null
      ? ""
      : `for (var i = local; i < ${I}u; i += 64u) {
    let at = row * ${I}u + i;
    gradient_below[at] = activate_backward(by_sum * parameters[${offset}u + i], x[at]);
  }`
  }
}
`;
}

/**
 * Gradient of a layer with one output, for each leaf: (I + 1,), the bias's last. Workgroups: ((I + 1) / 16,
 * 1, leaves). Bindings: 0 batch, 1 x (R, I), 2 gradient by the layer's sum (R,), 3 gradients of the leaves.
 */
export function headGradientShader(layer: DenseShape, rowsPerSample: 1 | 2, leafStride: number): string {
  const { numInputs: I, offset } = layer;
  return `${BATCH}${LEAF_ROWS}
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let numRows = enter_leaf(group.z) * ${rowsPerSample}u;
  let column = group.x * 16u + local % 16u;
  let lane = local / 16u;
  var sum = 0.0;
  if (column <= ${I}u) {
    for (var k = lane; k < numRows; k += 16u) {
      let row = leaf_row(k);
      var factor = 1.0;
      if (column < ${I}u) { factor = x[row * ${I}u + column]; }
      sum = fma(factor, gradient[row], sum);
    }
  }
  sums[local] = sum;
  workgroupBarrier();
  if (lane != 0u || column > ${I}u) { return; }
  for (var i = 1u; i < 16u; i++) { sum += sums[i * 16u + local]; }
  c[group.z * ${leafStride}u + ${offset}u + column] = sum;
}
`;
}

/** Begins main() of a kernel whose invocations handle one value each, `index`: workgroups are (values / 256, the rest). */
const LINEAR_MAIN = `
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let index = (group.y * groups.x + group.x) * 256u + local;`;

/**
 * Pixels 0..255, four to a word, to [-1, 1]; they become the rows behind the batch's fake images. Bindings:
 * 0 batch, 1 words, 2 images. One value is one word.
 */
export function pixelsShader(imagePixels: number): string {
  return `${BATCH}
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> images: array<f32>;
${LINEAR_MAIN}
  let length = batch.samples * ${imagePixels}u;
  if (4u * index >= length) { return; }
  for (var i = 0u; i < 4u; i++) {
    let at = 4u * index + i;
    if (at < length) {
      images[length + at] = f32(extractBits(words[index], 8u * i, 8u)) / 127.5 - 1.0;
    }
  }
}
`;
}

/**
 * Sum of up to MAX_LEAVES vectors in the canonical tree (shared/tree-sum.ts). Bindings: 0 batch, 1 vectors,
 * one every `stride` values, 2 their sum.
 *
 * @param bf16 Whether the vectors and every sum are rounded to bfloat16, as in shared/bf16.ts.
 * @param tokenAt Where in the sum the batch's token goes, or null.
 */
export function treeSumShader(length: number, stride: number, bf16: boolean, tokenAt: number | null): string {
  const levels: string[] = [];
  for (let half = 1; half < MAX_LEAVES; half *= 2) {
    for (let i = 0; i + half < MAX_LEAVES; i += 2 * half) {
      levels.push(`if (${i + half}u < n) { v${i} = rounded(v${i} + v${i + half}); }`);
    }
  }
  return `${BATCH}
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read_write> sum: array<f32>;
${bf16 ? ROUNDED : "fn rounded(x: f32) -> f32 { return x; }"}
${LINEAR_MAIN}
  if (index >= ${length}u) { return; }
  let n = batch.num_leaves;
  ${each(MAX_LEAVES, (i) => `var v${i} = 0.0; if (${i}u < n) { v${i} = rounded(vectors[index + ${i * stride}u]); }`)}
  ${levels.join("\n  ")}
  sum[index] = v0;
  ${tokenAt === null ? "" : `if (index == 0u) { sum[${tokenAt}u] = batch.token; }`}
}
`;
}

/** To bfloat16, ties to even; NaN stays NaN. */
const ROUNDED = `
fn rounded(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  let even = bits + 0x7fffu + ((bits >> 16u) & 1u);
  return bitcast<f32>(select(even, bits | 0x400000u, is_nan) & 0xffff0000u);
}
`;
