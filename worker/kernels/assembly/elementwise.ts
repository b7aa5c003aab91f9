/** Sums and scalings of float32 vectors; input and output may be the same vector. */
import { loadPart, storePart } from "./lanes";

/** out = a + b: one step of an all-reduce. */
export function add(n: i32, a: usize, b: usize, out: usize): void {
  for (; n >= 8; n -= 8) {
    const low = f32x4.add(v128.load(a), v128.load(b));
    const high = f32x4.add(v128.load(a, 16), v128.load(b, 16));
    v128.store(out, low);
    v128.store(out, high, 16);
    a += 32;
    b += 32;
    out += 32;
  }
  if (n >= 4) {
    v128.store(out, f32x4.add(v128.load(a), v128.load(b)));
    a += 16;
    b += 16;
    out += 16;
    n -= 4;
  }
  if (n > 0) storePart(out, f32x4.add(loadPart(a, n), loadPart(b, n)), n);
}

/** y = y + alpha x: product rounded, then sum rounded. */
export function addScaled(n: i32, alpha: f32, x: usize, y: usize): void {
  const factor = f32x4.splat(alpha);
  for (; n >= 4; n -= 4) {
    v128.store(y, f32x4.add(v128.load(y), f32x4.mul(factor, v128.load(x))));
    x += 16;
    y += 16;
  }
  if (n > 0) storePart(y, f32x4.add(loadPart(y, n), f32x4.mul(factor, loadPart(x, n))), n);
}

/** y = alpha x. */
export function scale(n: i32, alpha: f32, x: usize, y: usize): void {
  const factor = f32x4.splat(alpha);
  for (; n >= 4; n -= 4) {
    v128.store(y, f32x4.mul(factor, v128.load(x)));
    x += 16;
    y += 16;
  }
  if (n > 0) storePart(y, f32x4.mul(factor, loadPart(x, n)), n);
}

/**
 * y = f(f(x / 127.5) - 1), f = Math.fround. @param x n bytes. @param y n floats in -1..1.
 */
export function pixelsToReal(n: i32, x: usize, y: usize): void {
  const half = f32x4.splat(127.5);
  const one = f32x4.splat(1);
  for (; n >= 4; n -= 4) {
    const words = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load_zero<u32>(x)));
    v128.store(y, f32x4.sub(f32x4.div(f32x4.convert_i32x4_s(words), half), one));
    x += 4;
    y += 16;
  }
  for (; n > 0; n--) {
    store<f32>(y, <f32>load<u8>(x) / <f32>127.5 - <f32>1);
    x += 1;
    y += 4;
  }
}
