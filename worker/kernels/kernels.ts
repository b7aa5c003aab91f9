/**
 * The training kernels (WASM SIMD, sources in assembly/) over a memory that
 * the caller owns. Every pointer is a byte offset into it; nothing is
 * allocated and nothing is checked: a wrong length writes where it should not,
 * so only the engine, which knows its layout, calls these.
 *
 * Two arithmetics of one source: plain gives the same bits on every machine;
 * fused uses relaxed multiply-adds in the matrix product: faster, other bits,
 * and the same bits on every machine that fuses them, which is checked. All
 * other kernels are the same in both, bit for bit. kernel-builds.ts has the
 * builds of each for vectors of 128 and of 256 bits, which have the same bits.
 *
 * @module
 */
import { setFlagsFromString } from "node:v8";
import { chooseKernels, compileKernels } from "./kernel-builds.ts";
import type { ConvSizes, DirectKernels, Ending, Pointer, RawExports } from "./raw-kernels.ts";

export type { Pointer } from "./raw-kernels.ts";

/** What a sum does with the values that are there, by the numbers of assembly/gemm.ts. */
const SUM_MODES = { store: 0, continue: 1, tree: 2, treeBf16: 3 } as const;
export type SumMode = keyof typeof SUM_MODES;

/** Leaves of a tree sum: leaf i is start[i]..start[i + 1]. */
export interface Leaves {
  /** (count + 1,) int32, ascending from 0 to the length of the sum. */
  readonly starts: Pointer;
  readonly count: number;
}

const ACTIVATIONS = { none: 0, leakyRelu: 1, tanh: 2, sigmoid: 3 } as const;
export type KernelActivation = keyof typeof ACTIVATIONS;

/** What follows the finished sums of a product or a convolution. */
export interface ProductEnding {
  /** A value for each column (channel), added to every row (pixel). */
  readonly bias?: Pointer;
  /** Applied last. Default "none". */
  readonly activation?: KernelActivation;
  /** Slope of leakyRelu below 0. */
  readonly alpha?: number;
}

/**
 * C (M,N) = op(A) (M,K) . op(B) (K,N), row-major float32, then bias and activation.
 *
 * Each element is summed over k = 0, 1, ..., K-1 in this order, whatever M, N
 * and its place: a row of a batch has the same bits in any slice of the batch.
 */
export interface Product extends ProductEnding {
  /** A is stored as (K,M). Default false: (M,K). */
  readonly transA?: boolean;
  /** B is stored as (N,K). Default false: (K,N). */
  readonly transB?: boolean;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly a: Pointer;
  readonly b: Pointer;
  /** Must not overlap a, b or scratch. */
  readonly c: Pointer;
  /** gemmScratchBytes(M, K, mode) bytes. */
  readonly scratch: Pointer;
  /**
   * store (default): C = product. continue: the sum over k goes on
   * from C, as if K were longer. tree: C = the sums over the leaves of k, added in
   * the canonical tree. treeBf16: the same, every node of the tree rounded to bfloat16.
   */
  readonly mode?: SumMode;
  /** Whether the stored B, and C, are in panels of 16 columns (assembly/gemm.ts). C then has no ending. */
  readonly panelsB?: boolean;
  readonly panelsC?: boolean;
  /** With the trees. */
  readonly leaves?: Leaves | undefined;
}

/** Sizes and placement of a convolution. Padding below and to the right follows from the sizes; no dilation. */
export interface ConvShape {
  readonly batch: number;
  /** Of x (batch, inHeight, inWidth, inChannels). */
  readonly inHeight: number;
  readonly inWidth: number;
  readonly inChannels: number;
  /** Of w (filterHeight, filterWidth, inChannels, outChannels). */
  readonly filterHeight: number;
  readonly filterWidth: number;
  /** Of y (batch, outHeight, outWidth, outChannels). */
  readonly outHeight: number;
  readonly outWidth: number;
  readonly outChannels: number;
  readonly strideY: number;
  readonly strideX: number;
  readonly padTop: number;
  readonly padLeft: number;
}

export interface Conv2D extends ProductEnding {
  readonly shape: ConvShape;
  readonly x: Pointer;
  readonly w: Pointer;
  readonly y: Pointer;
  /** convScratchBytes(shape) bytes. */
  readonly scratch: Pointer;
}

/** dx; with an ending, also the forward pass of a transposed convolution (bias: inChannels values). */
export interface Conv2DBackpropInput extends ProductEnding {
  readonly shape: ConvShape;
  readonly dy: Pointer;
  readonly w: Pointer;
  readonly dx: Pointer;
  readonly scratch: Pointer;
}

export interface Conv2DBackpropFilter {
  readonly shape: ConvShape;
  readonly x: Pointer;
  readonly dy: Pointer;
  readonly dw: Pointer;
  readonly scratch: Pointer;
  /** store (default), or continue the sum that is in dw. */
  readonly mode?: "store" | "continue";
}

export interface Kernels extends DirectKernels {
  readonly memory: WebAssembly.Memory;
  /** Whether the matrix product uses fused multiply-adds. */
  readonly fused: boolean;
  /** Whether its products are made for vectors of 256 bits: other speed, the same bits. */
  readonly wide: boolean;
  gemm(product: Product): void;
  /** Enough for any smaller M and K too. */
  gemmScratchBytes(M: number, K: number, mode?: SumMode): number;
  /** Convolutions sum in fixed orders too: the bits of y and dx do not depend on the batch. */
  conv2d(convolution: Conv2D): void;
  conv2dBackpropInput(convolution: Conv2DBackpropInput): void;
  conv2dBackpropFilter(convolution: Conv2DBackpropFilter): void;
  convScratchBytes(shape: ConvShape): number;
  /** Bias (or null) and activation in place on C (M,N), as the end of a product. */
  biasActivation(
    M: number,
    N: number,
    c: Pointer,
    bias: Pointer | null,
    activation: KernelActivation,
    alpha?: number,
  ): void;
  allFinite(n: number, x: Pointer): boolean;
  /** Sixteen hexadecimal digits: hashWords() of hash-words.ts. @param n Number of 32-bit words. */
  hashWords(n: number, x: Pointer): string;
}

/** (func (export "f") (param a b c f32) (result f32) lane 0 of f32x4.relaxed_madd of the splatted parameters) */
const MULTIPLY_ADD = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...[0x01, 0x08, 0x01, 0x60, 0x03, 0x7d, 0x7d, 0x7d, 0x01, 0x7d],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x07, 0x05, 0x01, 0x01, 0x66, 0x00, 0x00],
  ...[0x0a, 0x16, 0x01, 0x14, 0x00, 0x20, 0x00, 0xfd, 0x13, 0x20, 0x01, 0xfd, 0x13, 0x20, 0x02, 0xfd, 0x13],
  ...[0xfd, 0x85, 0x02, 0xfd, 0x1f, 0x00, 0x0b],
);

/**
 * Whether relaxed multiply-adds run here and round once, as IEEE 754's fused multiply-add: then the
 * relaxed build too has the same bits on every such machine. Node 22 and Deno know relaxed SIMD; Node 20
 * has it behind a flag, which this sets. Processors without fused multiply-add (x64 before 2013) round twice.
 */
export function fusesMultiplyAdd(): boolean {
  if (!WebAssembly.validate(MULTIPLY_ADD)) setFlagsFromString("--experimental-wasm-relaxed-simd");
  if (!WebAssembly.validate(MULTIPLY_ADD)) return false;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(MULTIPLY_ADD));
  const multiplyAdd = exports["f"] as (a: number, b: number, c: number) => number;
  // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last term is lost if the product is rounded.
  return multiplyAdd(1 + 2 ** -12, 1 + 2 ** -12, -(1 + 2 ** -11)) === 2 ** -24;
}

export interface KernelOptions {
  /** Not shared; may grow later. */
  readonly memory: WebAssembly.Memory;
  /** Needs fusesMultiplyAdd(). */
  readonly fused: boolean;
  /** Default: what is faster here. */
  readonly wide?: boolean;
}

/**
 * @throws {Error} If fused multiply-adds are asked for where there are none.
 * @throws {WebAssembly.CompileError} If the runtime has no WASM SIMD.
 */
export async function loadKernels({ memory, fused, wide }: KernelOptions): Promise<Kernels> {
  if (fused && !fusesMultiplyAdd()) {
    throw new Error(
      "Cannot use fused multiply-adds as this processor or runtime has none: begin the run with --deterministic-kernels",
    );
  }
  wide ??= (await chooseKernels(fused)).wide;
  const instance = await WebAssembly.instantiate(await compileKernels({ fused, wide }), { env: { memory } });
  const raw = instance.exports as unknown as RawExports;
  return {
    ...raw,
    memory,
    fused,
    wide,
    gemm(product) {
      const { transA = false, transB = false, M, N, K, a, b, c, scratch } = product;
      const mode = SUM_MODES[product.mode ?? "store"];
      const { starts, count } = product.leaves ?? { starts: 0, count: 0 };
      const ending = endingOf(product);
      const panels = (product.panelsB === true ? 1 : 0) + (product.panelsC === true ? 2 : 0);
      const rest = [...ending, panels, starts, count] as const;
      raw.gemm(Number(transA), Number(transB), M, N, K, a, b, c, scratch, mode, ...rest);
    },
    gemmScratchBytes: (M, K, mode = "store") => raw.gemmScratchBytes(M, K, SUM_MODES[mode]),
    conv2d(convolution) {
      const { shape, x, w, y, scratch } = convolution;
      raw.conv2d(...sizesOf(shape), x, w, y, scratch, ...endingOf(convolution));
    },
    conv2dBackpropInput(convolution) {
      const { shape, dy, w, dx, scratch } = convolution;
      raw.conv2dBackpropInput(...sizesOf(shape), dy, w, dx, scratch, ...endingOf(convolution));
    },
    conv2dBackpropFilter({ shape, x, dy, dw, scratch, mode = "store" }) {
      raw.conv2dBackpropFilter(...sizesOf(shape), x, dy, dw, scratch, SUM_MODES[mode]);
    },
    convScratchBytes(shape) {
      const rows = shape.batch * shape.outHeight * shape.outWidth;
      const patch = shape.filterHeight * shape.filterWidth * shape.inChannels;
      return raw.convScratchBytes(rows, patch, shape.outChannels);
    },
    biasActivation(M, N, c, bias, activation, alpha = 0) {
      raw.biasActivation(M, N, c, bias ?? 0, ACTIVATIONS[activation], alpha);
    },
    allFinite: (n, x) => raw.allFinite(n, x) === 1,
    hashWords: (n, x) => BigInt.asUintN(64, raw.hashWords(n, x)).toString(16).padStart(16, "0"),
  };
}

function endingOf({ bias = 0, activation = "none", alpha = 0 }: ProductEnding): Ending {
  return [bias, ACTIVATIONS[activation], alpha];
}

function sizesOf(shape: ConvShape): ConvSizes {
  const { batch, inHeight, inWidth, inChannels, filterHeight, filterWidth } = shape;
  const { outHeight, outWidth, outChannels, strideY, strideX, padTop, padLeft } = shape;
  return [
    ...([batch, inHeight, inWidth, inChannels, filterHeight, filterWidth] as const),
    ...([outHeight, outWidth, outChannels, strideY, strideX, padTop, padLeft] as const),
  ];
}
