/**
 * Activations and their derivatives, elementwise over n float32 values; input
 * and output may be the same vector. Only exactly rounded operations (+ - * /)
 * and integer operations, no relaxed ones: the same bits in both builds, on
 * every machine, at every position.
 *
 * tanh, sigmoid and softplus are within 3 units in the last place, keep the
 * sign of 0 where the function does, saturate for large inputs and give NaN for NaN.
 */
import { loadPart, storePart } from "./lanes";

const LOG2E: f32 = 1.44269504;
/** ln 2 in two parts; the first has 9 trailing zero bits, so that n * LN2_HIGH is exact for |n| < 2^9. */
const LN2_HIGH: f32 = 0.693145752;
const LN2_LOW: f32 = 1.42860677e-6;

/** (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2, interpolated at Chebyshev points; absolute error below 7e-8. */
function expSeries(r: v128): v128 {
  let q = f32x4.splat(0.0013926176);
  q = f32x4.add(f32x4.mul(q, r), f32x4.splat(0.008363173));
  q = f32x4.add(f32x4.mul(q, r), f32x4.splat(0.041666556));
  q = f32x4.add(f32x4.mul(q, r), f32x4.splat(0.16666578));
  return f32x4.add(f32x4.mul(q, r), f32x4.splat(0.5));
}

/** x - n ln 2, for integers n as floats. */
function reduce(x: v128, n: v128): v128 {
  return f32x4.sub(f32x4.sub(x, f32x4.mul(n, f32x4.splat(LN2_HIGH))), f32x4.mul(n, f32x4.splat(LN2_LOW)));
}

/** Adding 1.5 * 2^23 rounds a float32 below 2^22 to an integer, which then stands in its low bits. */
const ROUND: f32 = 12582912;

/** 2^n as a float, for n in -126..127 in the low bits of a sum with ROUND. */
function powerOfTwo(n: v128): v128 {
  return i32x4.shl(i32x4.add(n, i32x4.splat(127)), 23);
}

/** exp(-|x|), down to the subnormal numbers and 0. */
function expOfMinusAbs(x: v128): v128 {
  // pmin keeps its first argument, so also a NaN, unless the second is smaller.
  const y = f32x4.neg(f32x4.pmin(f32x4.abs(x), f32x4.splat(104)));
  const rounded = f32x4.add(f32x4.mul(y, f32x4.splat(LOG2E)), f32x4.splat(ROUND));
  const r = reduce(y, f32x4.sub(rounded, f32x4.splat(ROUND)));
  const e = f32x4.add(f32x4.splat(1), f32x4.add(r, f32x4.mul(f32x4.mul(r, r), expSeries(r))));
  // In two factors, as 2^n itself may be below the normal numbers; only the second can round.
  const n = i32x4.sub(rounded, f32x4.splat(ROUND));
  const half = i32x4.shr_s(n, 1);
  return f32x4.mul(f32x4.mul(e, powerOfTwo(half)), powerOfTwo(i32x4.sub(n, half)));
}

/** 1 / (1 + exp(-x)) = max(1, exp(x)) / (1 + exp(-|x|)). */
function sigmoid(x: v128): v128 {
  const e = expOfMinusAbs(x);
  const negative = f32x4.lt(x, f32x4.splat(0));
  return f32x4.div(v128.bitselect(e, f32x4.splat(1), negative), f32x4.add(f32x4.splat(1), e));
}

/**
 * After a matrix product: bias, then activation, in place on C (M,N).
 *
 * @param bias Pointer to (N,) values, or 0.
 * @param activation 0 none, 1 leakyRelu, 2 tanh, 3 sigmoid.
 * @param alpha Slope of leakyRelu below 0.
 */
export function biasActivation(M: i32, N: i32, C: usize, bias: usize, activation: i32, alpha: f32): void {
  if (bias !== 0) {
    let c = C;
    for (let i: i32 = 0; i < M; i++) {
      let b = bias;
      let n = N;
      for (; n >= 4; n -= 4) {
        v128.store(c, f32x4.add(v128.load(c), v128.load(b)));
        c += 16;
        b += 16;
      }
      if (n > 0) storePart(c, f32x4.add(loadPart(c, n), loadPart(b, n)), n);
      c += (<usize>n) << 2;
    }
  }
  if (activation === 1) leakyReluForward(M * N, C, C, alpha);
  else if (activation === 2) tanhForward(M * N, C, C);
  else if (activation === 3) sigmoidForward(M * N, C, C);
}

/** The choice of leakyRelu and of its derivative: value where sign > 0, else slope value. */
function leak(value: v128, sign: v128, slope: v128): v128 {
  return v128.bitselect(value, f32x4.mul(slope, value), f32x4.gt(sign, f32x4.splat(0)));
}

/** y = x > 0 ? x : alpha x. */
export function leakyReluForward(n: i32, x: usize, y: usize, alpha: f32): void {
  const slope = f32x4.splat(alpha);
  for (; n >= 4; n -= 4) {
    const v = v128.load(x);
    v128.store(y, leak(v, v, slope));
    x += 16;
    y += 16;
  }
  if (n > 0) {
    const v = loadPart(x, n);
    storePart(y, leak(v, v, slope), n);
  }
}

/** dx = dy (sign > 0 ? 1 : alpha). @param sign The input x, or the output y if alpha >= 0. */
export function leakyReluBackward(n: i32, dy: usize, sign: usize, dx: usize, alpha: f32): void {
  const slope = f32x4.splat(alpha);
  for (; n >= 4; n -= 4) {
    v128.store(dx, leak(v128.load(dy), v128.load(sign), slope));
    dy += 16;
    sign += 16;
    dx += 16;
  }
  if (n > 0) storePart(dx, leak(loadPart(dy, n), loadPart(sign, n), slope), n);
}

/** sign(x) -t / (2 + t) with t = exp(-2|x|) - 1, in which nothing cancels near 0. */
function tanh(x: v128): v128 {
  // tanh(10) rounds to 1.
  const z = f32x4.mul(f32x4.pmin(f32x4.abs(x), f32x4.splat(10)), f32x4.splat(-2));
  const rounded = f32x4.add(f32x4.mul(z, f32x4.splat(LOG2E)), f32x4.splat(ROUND));
  const r = reduce(z, f32x4.sub(rounded, f32x4.splat(ROUND)));
  const e = f32x4.add(r, f32x4.mul(f32x4.mul(r, r), expSeries(r)));
  const s = powerOfTwo(rounded);
  const t = f32x4.add(f32x4.mul(s, e), f32x4.sub(s, f32x4.splat(1)));
  return v128.bitselect(x, f32x4.div(t, f32x4.add(f32x4.splat(2), t)), i32x4.splat(0x80000000));
}

/** y = tanh(x). */
export function tanhForward(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(y, tanh(v128.load(x)));
    x += 16;
    y += 16;
  }
  if (n > 0) storePart(y, tanh(loadPart(x, n)), n);
}

function tanhGradient(dy: v128, y: v128): v128 {
  return f32x4.mul(dy, f32x4.sub(f32x4.splat(1), f32x4.mul(y, y)));
}

/** dx = dy (1 - y^2). @param y The output of tanhForward. */
export function tanhBackward(n: i32, dy: usize, y: usize, dx: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(dx, tanhGradient(v128.load(dy), v128.load(y)));
    dy += 16;
    y += 16;
    dx += 16;
  }
  if (n > 0) storePart(dx, tanhGradient(loadPart(dy, n), loadPart(y, n)), n);
}

/** y = 1 / (1 + exp(-x)). */
export function sigmoidForward(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(y, sigmoid(v128.load(x)));
    x += 16;
    y += 16;
  }
  if (n > 0) storePart(y, sigmoid(loadPart(x, n)), n);
}

function sigmoidGradient(dy: v128, y: v128): v128 {
  return f32x4.mul(dy, f32x4.mul(y, f32x4.sub(f32x4.splat(1), y)));
}

/** dx = dy (y (1 - y)). @param y The output of sigmoidForward. */
export function sigmoidBackward(n: i32, dy: usize, y: usize, dx: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(dx, sigmoidGradient(v128.load(dy), v128.load(y)));
    dy += 16;
    y += 16;
    dx += 16;
  }
  if (n > 0) storePart(dx, sigmoidGradient(loadPart(dy, n), loadPart(y, n)), n);
}

/**
 * log(1 + exp(x)) = max(x, 0) + log(1 + e), e = exp(-|x|); the logarithm is
 * 2 atanh(s) with s = e / (2 + e) <= 1/3, whose series in s^2 (interpolated at
 * Chebyshev points, absolute error below 4e-9) is as exact for tiny e.
 */
function softplus(x: v128): v128 {
  const zero = f32x4.splat(0);
  const e = expOfMinusAbs(x);
  const s = f32x4.div(e, f32x4.add(f32x4.splat(2), e));
  const s2 = f32x4.mul(s, s);
  let q = f32x4.splat(0.11612165);
  q = f32x4.add(f32x4.mul(q, s2), f32x4.splat(0.108532876));
  q = f32x4.add(f32x4.mul(q, s2), f32x4.splat(0.14296179));
  q = f32x4.add(f32x4.mul(q, s2), f32x4.splat(0.19999853));
  q = f32x4.add(f32x4.mul(q, s2), f32x4.splat(0.33333334));
  const twice = f32x4.add(s, s);
  const log = f32x4.add(twice, f32x4.mul(f32x4.mul(twice, s2), q));
  return f32x4.add(v128.bitselect(x, zero, f32x4.gt(x, zero)), log);
}

/** y = log(1 + exp(x)). */
export function softplusForward(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(y, softplus(v128.load(x)));
    x += 16;
    y += 16;
  }
  if (n > 0) storePart(y, softplus(loadPart(x, n)), n);
}

/** dx = dy sigmoid(x): the derivative of softplus. @param x The input of softplusForward. */
export function softplusBackward(n: i32, dy: usize, x: usize, dx: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(dx, f32x4.mul(v128.load(dy), sigmoid(v128.load(x))));
    dy += 16;
    x += 16;
    dx += 16;
  }
  if (n > 0) storePart(dx, f32x4.mul(loadPart(dy, n), sigmoid(loadPart(x, n))), n);
}
