/** Sums in fixed orders, and the check that all values are finite. */
import { loadPart, storePart } from "./lanes";

/** Sums over the rows of x (M,N), row 0 first: bias gradients. @param out (N,) values. */
export function columnSums(M: i32, N: i32, x: usize, out: usize): void {
  const stride = (<usize>N) << 2;
  let n = N;
  // A cache line of columns at a time: 16.
  for (; n >= 16; n -= 16) {
    let s0 = f32x4.splat(0);
    let s1 = s0;
    let s2 = s0;
    let s3 = s0;
    let p = x;
    for (let i: i32 = 0; i < M; i++) {
      s0 = f32x4.add(s0, v128.load(p));
      s1 = f32x4.add(s1, v128.load(p, 16));
      s2 = f32x4.add(s2, v128.load(p, 32));
      s3 = f32x4.add(s3, v128.load(p, 48));
      p += stride;
    }
    v128.store(out, s0);
    v128.store(out, s1, 16);
    v128.store(out, s2, 32);
    v128.store(out, s3, 48);
    x += 64;
    out += 64;
  }
  for (; n > 0; n -= 4) {
    const whole = n >= 4;
    let s = f32x4.splat(0);
    let p = x;
    for (let i: i32 = 0; i < M; i++) {
      s = f32x4.add(s, whole ? v128.load(p) : loadPart(p, n));
      p += stride;
    }
    if (whole) v128.store(out, s);
    else storePart(out, s, n);
    x += 16;
    out += 16;
  }
}

/**
 * Sum of squares in float64, where squares of float32 are exact and cannot
 * overflow: the result is finite exactly if all values are. Element i goes to
 * accumulator i mod 4, in order; the four are summed as (0 + 1) + (2 + 3).
 */
export function sumSquares(n: i32, x: usize): f64 {
  let low = f64x2.splat(0);
  let high = low;
  for (; n >= 4; n -= 4) {
    const v = v128.load(x);
    low = addSquares(low, v);
    high = addSquares(high, v128.shuffle<f64>(v, v, 1, 1));
    x += 16;
  }
  if (n > 0) {
    const v = loadPart(x, n);
    low = addSquares(low, v);
    high = addSquares(high, v128.shuffle<f64>(v, v, 1, 1));
  }
  const first = f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1);
  return first + (f64x2.extract_lane(high, 0) + f64x2.extract_lane(high, 1));
}

/** Squares of the first two lanes. */
function addSquares(sum: v128, v: v128): v128 {
  const x = f64x2.promote_low_f32x4(v);
  return f64x2.add(sum, f64x2.mul(x, x));
}

/** 1 if no value is infinite or NaN, else 0. */
export function allFinite(n: i32, x: usize): i32 {
  const magnitude = i32x4.splat(0x7fffffff);
  let largest = i32x4.splat(0);
  for (; n >= 4; n -= 4) {
    largest = i32x4.max_s(largest, v128.and(v128.load(x), magnitude));
    x += 16;
  }
  if (n > 0) largest = i32x4.max_s(largest, v128.and(loadPart(x, n), magnitude));
  return i32(!v128.any_true(i32x4.ge_s(largest, i32x4.splat(0x7f800000))));
}
