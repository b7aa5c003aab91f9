/**
 * The exports of the compiled training kernels, as typed signatures; kernels.ts
 * wraps those with many arguments.
 *
 * @module
 */

/** Byte offset into the memory. float32 vectors may start at any multiple of 4. */
export type Pointer = number;

/** Kernels that are called as they are exported. n counts elements; unless noted, input and output may be the same vector. */
export interface DirectKernels {
  /** y = x > 0 ? x : alpha x. */
  readonly leakyReluForward: (n: number, x: Pointer, y: Pointer, alpha: number) => void;
  /** dx = dy (sign > 0 ? 1 : alpha). @param sign The input or, if alpha >= 0, the output of the forward pass. */
  readonly leakyReluBackward: (n: number, dy: Pointer, sign: Pointer, dx: Pointer, alpha: number) => void;
  readonly tanhForward: (n: number, x: Pointer, y: Pointer) => void;
  /** dx = dy (1 - y^2). @param y The forward pass's output. */
  readonly tanhBackward: (n: number, dy: Pointer, y: Pointer, dx: Pointer) => void;
  readonly sigmoidForward: (n: number, x: Pointer, y: Pointer) => void;
  /** dx = dy y (1 - y). @param y The forward pass's output. */
  readonly sigmoidBackward: (n: number, dy: Pointer, y: Pointer, dx: Pointer) => void;
  /** y = log(1 + exp(x)). */
  readonly softplusForward: (n: number, x: Pointer, y: Pointer) => void;
  /** dx = dy sigmoid(x). @param x The forward pass's input. */
  readonly softplusBackward: (n: number, dy: Pointer, x: Pointer, dx: Pointer) => void;
  /** out = a + b. */
  readonly add: (n: number, a: Pointer, b: Pointer, out: Pointer) => void;
  /** y = y + alpha x. */
  readonly addScaled: (n: number, alpha: number, x: Pointer, y: Pointer) => void;
  /** y = alpha x. */
  readonly scale: (n: number, alpha: number, x: Pointer, y: Pointer) => void;
  /** y = x / 127.5 - 1. @param x n bytes; must not overlap y. */
  readonly pixelsToReal: (n: number, x: Pointer, y: Pointer) => void;
  /** y (N,M) = x (M,N) transposed. x and y must not overlap. */
  readonly transpose: (M: number, N: number, x: Pointer, y: Pointer) => void;
  /** out (N,) = sums over the rows of x (M,N), row 0 first. */
  readonly columnSums: (M: number, N: number, x: Pointer, out: Pointer) => void;
  /** Sum of squares in float64; not finite exactly if a value is not. */
  readonly sumSquares: (n: number, x: Pointer) => number;
  /** @param x n floats. @param y n words of 16 bits: bfloat16, rounded to nearest even; may start where x starts. */
  readonly f32ToBf16: (n: number, x: Pointer, y: Pointer) => void;
  /** The reverse; x and y must not overlap. */
  readonly bf16ToF32: (n: number, x: Pointer, y: Pointer) => void;
  /** out = a + b. @param a, out n floats. @param b n words of bfloat16. */
  readonly addBf16: (n: number, a: Pointer, b: Pointer, out: Pointer) => void;
  /** x = x rounded to bfloat16, as float32. */
  readonly roundToBf16: (n: number, x: Pointer) => void;
  /** As f32ToBf16, for IEEE binary16. */
  readonly f32ToF16: (n: number, x: Pointer, y: Pointer) => void;
  readonly f16ToF32: (n: number, x: Pointer, y: Pointer) => void;
  readonly addF16: (n: number, a: Pointer, b: Pointer, out: Pointer) => void;
  /**
   * One Adam step in place: the bits of adamStep() in shared/adam.ts.
   *
   * @param biasCorrection1 1 - beta1^t. @param biasCorrection2 1 - beta2^t.
   * @returns 1 if parameters and moments are finite afterwards, else 0.
   */
  readonly adam: (
    n: number,
    parameters: Pointer,
    m: Pointer,
    v: Pointer,
    gradient: Pointer,
    learningRate: number,
    beta1: number,
    beta2: number,
    epsilon: number,
    biasCorrection1: number,
    biasCorrection2: number,
  ) => number;
}

/** batch; height, width, channels of x; height, width of the filter; height, width, channels of y; strides; padding. */
export type ConvSizes = readonly [
  batch: number,
  inHeight: number,
  inWidth: number,
  inChannels: number,
  filterHeight: number,
  filterWidth: number,
  outHeight: number,
  outWidth: number,
  outChannels: number,
  strideY: number,
  strideX: number,
  padTop: number,
  padLeft: number,
];

/** The end of a product: bias or 0, activation by number, slope of leakyRelu. */
export type Ending = readonly [bias: Pointer, activation: number, alpha: number];

/** What assembly/index.ts exports. */
export interface RawExports extends DirectKernels {
  gemm(
    transA: number,
    transB: number,
    M: number,
    N: number,
    K: number,
    a: Pointer,
    b: Pointer,
    c: Pointer,
    scratch: Pointer,
    mode: number,
    ...rest: readonly [...Ending, panels: number, leaves: Pointer, numLeaves: number]
  ): void;
  gemmScratchBytes(M: number, K: number, mode: number): number;
  biasActivation(M: number, N: number, c: Pointer, bias: Pointer, activation: number, alpha: number): void;
  allFinite(n: number, x: Pointer): number;
  hashWords(n: number, x: Pointer): bigint;
  conv2d(...args: [...ConvSizes, x: Pointer, w: Pointer, y: Pointer, scratch: Pointer, ...Ending]): void;
  conv2dBackpropInput(
    ...args: [...ConvSizes, dy: Pointer, w: Pointer, dx: Pointer, scratch: Pointer, ...Ending]
  ): void;
  conv2dBackpropFilter(
    ...args: [...ConvSizes, x: Pointer, dy: Pointer, dw: Pointer, scratch: Pointer, mode: number]
  ): void;
  convScratchBytes(rows: number, patch: number, outChannels: number): number;
}
