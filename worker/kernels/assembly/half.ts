/**
 * 16-bit floats for gradients on the wire: bfloat16 (the upper half of a
 * float32) and IEEE binary16. Rounding is to nearest, ties to even; NaN stays
 * NaN; what is too large becomes infinite. Only integer operations, but for
 * two exactly rounded additions around binary16's subnormal numbers.
 *
 * Source of the binary16 conversions: Giesen 2012, "float->half variants" (float_to_half_fast3_rtne, half_to_float).
 */
import { loadPart, loadPart16, storePart, storePart16 } from "./lanes";

/** Four lanes below 2^16 to four 16-bit words. */
function store4x16(p: usize, lanes: v128): void {
  v128.store_lane<u64>(p, i16x8.narrow_i32x4_u(lanes, lanes), 0);
}

function load4x16(p: usize): v128 {
  return i32x4.extend_low_i16x8_u(v128.load_zero<u64>(p));
}

function toBf16(bits: v128): v128 {
  const magnitude = v128.and(bits, i32x4.splat(0x7fffffff));
  const isNaN = i32x4.gt_s(magnitude, i32x4.splat(0x7f800000));
  const odd = v128.and(i32x4.shr_u(bits, 16), i32x4.splat(1));
  const rounded = i32x4.shr_u(i32x4.add(bits, i32x4.add(i32x4.splat(0x7fff), odd)), 16);
  const quiet = v128.or(i32x4.shr_u(bits, 16), i32x4.splat(0x40));
  return v128.bitselect(quiet, rounded, isNaN);
}

/** Rounded to bfloat16, as float32. */
export function roundLanesToBf16(bits: v128): v128 {
  return fromBf16(toBf16(bits));
}

/** x = x rounded to bfloat16, as float32. */
export function roundToBf16(n: i32, x: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(x, roundLanesToBf16(v128.load(x)));
    x += 16;
  }
  if (n > 0) storePart(x, roundLanesToBf16(loadPart(x, n)), n);
}

function fromBf16(word: v128): v128 {
  return i32x4.shl(word, 16);
}

function toF16(bits: v128): v128 {
  const magnitude = v128.and(bits, i32x4.splat(0x7fffffff));
  const sign = i32x4.shr_u(v128.xor(bits, magnitude), 16);
  // Normal: move the exponent's bias from 127 to 15 and round at bit 13; a carry into the exponent is right.
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(magnitude, i32x4.add(i32x4.splat(0xc8000fff), odd)), 13);
  // Subnormal: adding 0.5 leaves the value, rounded to units of 2^-24, in the low bits.
  const subnormal = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  const isSmall = i32x4.lt_s(magnitude, i32x4.splat(0x38800000));
  const isLarge = i32x4.ge_s(magnitude, i32x4.splat(0x47800000));
  const isNaN = i32x4.gt_s(magnitude, i32x4.splat(0x7f800000));
  let out = v128.bitselect(subnormal, normal, isSmall);
  out = v128.bitselect(i32x4.splat(0x7c00), out, isLarge);
  out = v128.bitselect(i32x4.splat(0x7e00), out, isNaN);
  return v128.or(out, sign);
}

function fromF16(half: v128): v128 {
  const sign = i32x4.shl(v128.and(half, i32x4.splat(0x8000)), 16);
  const magnitude = i32x4.shl(v128.and(half, i32x4.splat(0x7fff)), 13);
  const exponent = v128.and(magnitude, i32x4.splat(0x0f800000));
  const normal = i32x4.add(magnitude, i32x4.splat(0x38000000));
  // Infinite and NaN: the largest exponent stays the largest.
  const special = i32x4.add(normal, i32x4.splat(0x38000000));
  // Subnormal: with the exponent of 2^-14, less 2^-14, which is exact.
  const least = i32x4.splat(0x38800000);
  const subnormal = f32x4.sub(i32x4.add(magnitude, least), least);
  let out = v128.bitselect(special, normal, i32x4.eq(exponent, i32x4.splat(0x0f800000)));
  out = v128.bitselect(subnormal, out, i32x4.eq(exponent, i32x4.splat(0)));
  return v128.or(out, sign);
}

/** @param x n floats. @param y n words of bfloat16. */
export function f32ToBf16(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    store4x16(y, toBf16(v128.load(x)));
    x += 16;
    y += 8;
  }
  if (n > 0) storePart16(y, toBf16(loadPart(x, n)), n);
}

/** @param x n words of bfloat16. @param y n floats. */
export function bf16ToF32(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(y, fromBf16(load4x16(x)));
    x += 8;
    y += 16;
  }
  if (n > 0) storePart(y, fromBf16(loadPart16(x, n)), n);
}

/** out = a + b, in float32. @param a n floats. @param b n words of bfloat16. @param out n floats; may be a. */
export function addBf16(n: i32, a: usize, b: usize, out: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(out, f32x4.add(v128.load(a), fromBf16(load4x16(b))));
    a += 16;
    b += 8;
    out += 16;
  }
  if (n > 0) storePart(out, f32x4.add(loadPart(a, n), fromBf16(loadPart16(b, n))), n);
}

/** @param x n floats. @param y n words of binary16. */
export function f32ToF16(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    store4x16(y, toF16(v128.load(x)));
    x += 16;
    y += 8;
  }
  if (n > 0) storePart16(y, toF16(loadPart(x, n)), n);
}

/** @param x n words of binary16. @param y n floats. */
export function f16ToF32(n: i32, x: usize, y: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(y, fromF16(load4x16(x)));
    x += 8;
    y += 16;
  }
  if (n > 0) storePart(y, fromF16(loadPart16(x, n)), n);
}

/** out = a + b, in float32. @param a n floats. @param b n words of binary16. @param out n floats; may be a. */
export function addF16(n: i32, a: usize, b: usize, out: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(out, f32x4.add(v128.load(a), fromF16(load4x16(b))));
    a += 16;
    b += 8;
    out += 16;
  }
  if (n > 0) storePart(out, f32x4.add(loadPart(a, n), fromF16(loadPart16(b, n))), n);
}
