/**
 * WGSL source of the matrix products of engine webgpu.
 *
 * Every value of a row depends on that row only, and is summed over k = 0, 1, ...
 * by fused multiply-adds, whatever the tile and the number of rows; sums over
 * rows are taken shard by shard. So bits do not depend on how many shards are
 * computed in one pass.
 *
 * @module
 */
import type { Activation, DenseShape } from "./webgpu-wgsl.ts";
import { activationSource, BATCH, each, LEAF_ROWS } from "./webgpu-wgsl.ts";

/** What a workgroup computes of a product: (rows, columns), in steps of `depth` over the inner dimension. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  /** Side of the square that one invocation computes: 4 or 8. */
  readonly square: 4 | 8;
}

/** The larger a tile, the fewer loads per multiply-add, and the fewer workgroups to fill a GPU with. */
export const TILES = {
  large: { rows: 128, columns: 128, depth: 16, square: 8 },
  medium: { rows: 64, columns: 64, depth: 32, square: 4 },
  small: { rows: 32, columns: 32, depth: 32, square: 4 },
} as const satisfies Record<string, Tile>;

export type TileName = keyof typeof TILES;

/**
 * forward: y (R, O) = activation(x W + b), of x (R, I).
 * inputGradient: (R, I) = dz W^T, of dz (R, O), times the derivative of the activation below, from x (R, I).
 * weightGradient: for each leaf, (I, O) = x^T dz over its rows, and behind it the sums of dz's columns.
 */
export interface Product {
  readonly kind: "forward" | "inputGradient" | "weightGradient";
  readonly layer: DenseShape;
  /** The activation that the kind asks for. */
  readonly activation: Activation;
  /** Rows of a sample: 2 in the discriminator, which sees a fake and, in its own phase, a real image. */
  readonly rowsPerSample: 1 | 2;
  /** Values from the gradient of one leaf to that of the next. */
  readonly leafStride: number;
}

/** What a product's shader reads at its second binding, so that layers can share a shader. */
const LAYER = `
struct Layer {
  num_inputs: u32,
  num_outputs: u32,
  offset: u32,
  rows_per_sample: u32,
  leaf_stride: u32,
}
@group(0) @binding(1) var<uniform> layer: Layer;
`;

/** The words of struct Layer. */
export function layerWords({ layer, rowsPerSample, leafStride }: Product): Uint32Array {
  return Uint32Array.of(layer.numInputs, layer.numOutputs, layer.offset, rowsPerSample, leafStride, 0, 0, 0);
}

/**
 * Workgroups: (column tiles, row tiles, leaves). Bindings: 0 batch, 1 layer, 2 left operand, 3 right
 * operand (with the bias, if it is the parameters), 4 output, 5 (inputGradient only) x.
 */
export function productShader(product: Product, tile: Tile): string {
  const { kind, layer } = product;
  const { numInputs: I, numOutputs: O, offset } = layer;
  const ofWeights = kind === "weightGradient";
  const N = kind === "inputGradient" ? I : O;
  // Whether what follows in memory follows along the inner dimension.
  const alongK = { a: !ofWeights, b: kind === "inputGradient" };
  const aligned = offset % 4 === 0;
  const vector = {
    a: (kind === "inputGradient" ? O : I) % 4 === 0,
    b: O % 4 === 0 && (ofWeights || aligned),
    c: N % 4 === 0 && (!ofWeights || aligned),
  };
  const k = ofWeights ? "leaf_row(k)" : "k";
  const outputs = "layer.num_outputs";
  const a: Operand = {
    vector: vector.a,
    stride: kind === "inputGradient" ? outputs : "layer.num_inputs",
    offset: "",
    k,
    alongK: alongK.a,
  };
  const offsetOfWeights = ofWeights ? "" : "layer.offset + ";
  const b: Operand = { vector: vector.b, stride: outputs, offset: offsetOfWeights, k, alongK: alongK.b };
  const { square, rows: BM, columns: BN, depth: BK } = tile;
  const quarters = square / 4;
  const transfers = transfersOf(tile, alongK);
  return `${BATCH}${LAYER}
@group(0) @binding(2) var<storage, read> a: array<${type(vector.a)}>;
@group(0) @binding(3) var<storage, read> b: array<${type(vector.b)}>;
@group(0) @binding(4) var<storage, read_write> c: array<${type(vector.c)}>;
${kind === "inputGradient" ? `@group(0) @binding(5) var<storage, read> y: array<${type(vector.c)}>;` : ""}
${sizesSource(kind)}
${operandSource("a", "m", "M", a)}
${operandSource("b", "n", "N", b)}
${outputSource(product, vector)}
/** Tiles of the operands: for each k the values along m or n, four in one. */
var<workgroup> tile_a: array<vec4f, ${(BM * BK) / 4}>;
var<workgroup> tile_b: array<vec4f, ${(BN * BK) / 4}>;

@compute @workgroup_size(${numInvocations(tile)})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let k_end = enter(group.z);
  let m0 = group.y * ${BM}u;
  let n0 = group.x * ${BN}u;
  let ty = local / ${BN / square}u;
  let tx = local % ${BN / square}u;
  ${each(square, (i) => each(quarters, (q) => `var c${i}${q} = vec4f();`))}
  ${ofWeights ? "var bias = vec4f();" : ""}
  ${[...new Set(transfers.map(({ block }) => `var ${block}: mat4x4f;`))].join(" ")}
  let is_needed = m0 + 4u * ty < M && n0 + 4u * tx < N;
  // Each round loads what the next one multiplies, so that loads have the time of a round.
  for (var k0 = 0u; k0 < k_end + ${BK}u; k0 += ${BK}u) {
    ${transfers.map(({ load }) => load).join("\n    ")}
    if (k0 > 0u) {
      ${ofWeights ? biasSource(tile) : ""}
      // The last of them may be shorter.
      let num_kb = min(${BK / 4}u, (k_end + ${BK + 3}u - k0) / 4u);
      for (var kb = 0u; is_needed && kb < num_kb; kb++) {
        ${each(quarters, (q) => `let at_a${q} = ${position(`ty + ${(q * BM) / 8}u`, alongK.a)};`)}
        ${each(quarters, (q) => `let at_b${q} = ${position(`tx + ${(q * BN) / 8}u`, alongK.b)};`)}
        for (var k = 4u * kb; k < 4u * kb + 4u; k++) {
          ${multiplyAddSource(tile)}
        }
      }
      workgroupBarrier();
    }
    ${transfers.map(({ store }) => store).join("\n    ")}
    workgroupBarrier();
  }
  ${each(square, (i) =>
    each(quarters, (q) => {
      const row = (i % 4) + (i < 4 ? 0 : BM / 2);
      return `put(group.z, m0 + 4u * ty + ${row}u, n0 + 4u * tx + ${(q * BN) / 2}u, c${i}${q});`;
    }),
  )}
  ${ofWeights ? `if (group.y == 0u && local < ${BN / 4}u) { put_bias(group.z, n0 + 4u * local, bias); }` : ""}
}
`;
}

export function numInvocations({ rows, columns, square }: Tile): number {
  return (rows / square) * (columns / square);
}

/** M, N and K; enter() sets them, and returns K so that the compiler knows it to be the same everywhere. */
function sizesSource(kind: Product["kind"]): string {
  const sizes = "var<private> M: u32; var<private> N: u32; var<private> K: u32;";
  const rows = "select(batch.samples, batch.rows, layer.rows_per_sample == 2u)";
  const body = {
    forward: `M = ${rows}; N = layer.num_outputs; K = layer.num_inputs; return layer.num_inputs;`,
    inputGradient: `M = ${rows}; N = layer.num_inputs; K = layer.num_outputs; return layer.num_outputs;`,
    weightGradient: `M = layer.num_inputs; N = layer.num_outputs;
  let k = enter_leaf(leaf) * layer.rows_per_sample;
  K = k;
  return k;`,
  }[kind];
  return `${sizes}
${kind === "weightGradient" ? LEAF_ROWS : ""}
fn enter(leaf: u32) -> u32 {
  ${body}
}`;
}

interface Operand {
  readonly vector: boolean;
  /** Values from a row to the next. */
  readonly stride: string;
  /** Position of the first value, and a plus sign; or nothing. */
  readonly offset: string;
  /** Row of k, where k goes over rows. */
  readonly k: string;
  readonly alongK: boolean;
}

/** load_a(m, k) or load_b(n, k): four values that follow in memory, with zeros where the matrix has ended. */
function operandSource(name: "a" | "b", outer: "m" | "n", size: "M" | "N", operand: Operand): string {
  const { vector, stride, offset, k, alongK } = operand;
  const at = alongK ? `${offset}${outer} * ${stride} + k` : `${offset}${k} * ${stride} + ${outer}`;
  const [next, end] = alongK ? ["k", "K"] : [outer, size];
  const body = vector
    ? `return ${name}[(${at}) / 4u];`
    : `let at = ${at};
  var v = vec4f(${name}[at], 0.0, 0.0, 0.0);
  if (${next} + 1u < ${end}) { v.y = ${name}[at + 1u]; }
  if (${next} + 2u < ${end}) { v.z = ${name}[at + 2u]; }
  if (${next} + 3u < ${end}) { v.w = ${name}[at + 3u]; }
  return v;`;
  return `fn load_${name}(${outer}: u32, k: u32) -> vec4f {
  if (${outer} >= ${size} || k >= K) { return vec4f(); }
  ${body}
}`;
}

/** put(leaf, m, n, sums): what becomes of four sums of a row. */
function outputSource(product: Product, vector: { readonly b: boolean; readonly c: boolean }): string {
  const { kind, activation } = product;
  const store = vector.c
    ? "fn store(at: u32, n: u32, v: vec4f) { c[at / 4u] = v; }"
    : `fn store(at: u32, n: u32, v: vec4f) {
  c[at] = v.x;
  if (n + 1u < N) { c[at + 1u] = v.y; }
  if (n + 2u < N) { c[at + 2u] = v.z; }
  if (n + 3u < N) { c[at + 3u] = v.w; }
}`;
  const load = (name: "b" | "y", wide: boolean): string =>
    wide
      ? `fn read_at(at: u32, n: u32) -> vec4f { return ${name}[at / 4u]; }`
      : `fn read_at(at: u32, n: u32) -> vec4f {
  var v = vec4f(${name}[at], 0.0, 0.0, 0.0);
  if (n + 1u < N) { v.y = ${name}[at + 1u]; }
  if (n + 2u < N) { v.z = ${name}[at + 2u]; }
  if (n + 3u < N) { v.w = ${name}[at + 3u]; }
  return v;
}`;
  const guard = "if (m >= M || n >= N) { return; }";
  switch (kind) {
    case "forward":
      return `${store}
${load("b", vector.b)}
${activationSource(activation, "vec4f")}
fn put(leaf: u32, m: u32, n: u32, sums: vec4f) {
  ${guard}
  store(m * N + n, n, activate(sums + read_at(layer.offset + layer.num_inputs * N + n, n)));
}`;
    case "inputGradient":
      return `${store}
${load("y", vector.c)}
${activationSource(activation, "vec4f")}
fn put(leaf: u32, m: u32, n: u32, sums: vec4f) {
  ${guard}
  store(m * N + n, n, activate_backward(sums, read_at(m * N + n, n)));
}`;
    case "weightGradient":
      return `${store}
fn put(leaf: u32, m: u32, n: u32, sums: vec4f) {
  ${guard}
  store(leaf * layer.leaf_stride + layer.offset + m * N + n, n, sums);
}
fn put_bias(leaf: u32, n: u32, sums: vec4f) {
  if (n < N) { store(leaf * layer.leaf_stride + layer.offset + M * N + n, n, sums); }
}`;
  }
}

interface Transfer {
  /** Variable that holds sixteen values on their way from an operand to its tile. */
  readonly block: string;
  readonly load: string;
  readonly store: string;
}

/** How an invocation's share of both tiles gets there: a square of one of them, or of each. */
function transfersOf({ rows, columns, depth, square }: Tile, alongK: Readonly<Record<"a" | "b", boolean>>) {
  const invocations = numInvocations({ rows, columns, depth, square });
  const either = (rows * depth) / 16 < invocations;
  const half = invocations / 2;
  const transfer = (name: "a" | "b", size: number): Transfer => {
    const block = either ? "block" : `block_${name}`;
    const index = either && name === "b" ? `(local - ${half}u)` : "local";
    const condition = either ? `if (local ${name === "a" ? "<" : ">="} ${half}u) ` : "";
    // Neighbours load what follows in memory.
    const [outer, kb] = alongK[name]
      ? [`${index} / ${depth / 4}u`, `${index} % ${depth / 4}u`]
      : [`${index} % ${size / 4}u`, `${index} / ${size / 4}u`];
    const origin = name === "a" ? "m0" : "n0";
    const loads = each(4, (i) => {
      const [along, across] = alongK[name] ? [`outer + ${i}u`, "k"] : ["outer", `k + ${i}u`];
      return `${i > 0 ? ", " : ""}load_${name}(${along}, ${across})`;
    });
    return {
      block,
      load: `${condition}{
        let outer = ${origin} + 4u * (${outer});
        let k = k0 + 4u * (${kb});
        ${block} = ${alongK[name] ? "transpose" : ""}(mat4x4f(${loads}));
      }`,
      store: `${condition}{
        let kb = ${kb};
        let at = kb * ${size}u + ${position(outer, alongK[name])};
        ${each(4, (i) => `tile_${name}[at + ${(i * size) / 4}u] = ${block}[${i}];`)}
      }`,
    };
  };
  return [transfer("a", rows), transfer("b", columns)];
}

/**
 * Where in a tile's row a value lies. Neighbouring invocations that hold values along k would all write to
 * one memory bank, so there the position changes with k.
 */
function position(outer: string, alongK: boolean): string {
  return alongK ? `((${outer}) ^ kb)` : `(${outer})`;
}

/** Sums of the right operand's columns, by the workgroups of the first rows. */
function biasSource({ columns: BN, depth: BK }: Tile): string {
  return `if (group.y == 0u && local < ${BN / 4}u) {
        for (var k = 0u; k < ${BK}u; k++) { bias += tile_b[k * ${BN / 4}u + local]; }
      }`;
}

function multiplyAddSource({ rows: BM, columns: BN, square }: Tile): string {
  const quarters = square / 4;
  const sums = each(square, (i) => {
    const factor = `a${Math.floor(i / 4)}.${"xyzw"[i % 4]}`;
    return each(quarters, (q) => `c${i}${q} = fma(vec4f(${factor}), b${q}, c${i}${q});`);
  });
  return `{
        ${each(quarters, (q) => `let a${q} = tile_a[k * ${BM / 4}u + at_a${q}];`)}
        ${each(quarters, (q) => `let b${q} = tile_b[k * ${BN / 4}u + at_b${q}];`)}
        ${sums}
      }`;
}

function type(vector: boolean): string {
  return vector ? "vec4f" : "f32";
}
