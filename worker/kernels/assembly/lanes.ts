/**
 * The last one to three elements of a vector. A tail runs through the same
 * vector code as the body, so an element's bits never depend on its position.
 */

/** @param count Number of 32-bit lanes to read, 1..3; the other lanes are 0. */
export function loadPart(p: usize, count: i32): v128 {
  let x = v128.load_zero<u32>(p);
  if (count > 1) x = v128.load_lane<u32>(p, x, 1, 4);
  if (count > 2) x = v128.load_lane<u32>(p, x, 2, 8);
  return x;
}

/** @param count Number of 32-bit lanes to write, 1..3. */
export function storePart(p: usize, x: v128, count: i32): void {
  v128.store_lane<u32>(p, x, 0);
  if (count > 1) v128.store_lane<u32>(p, x, 1, 4);
  if (count > 2) v128.store_lane<u32>(p, x, 2, 8);
}

/** Unsigned 16-bit values, widened to 32 bits. @param count 1..3. */
export function loadPart16(p: usize, count: i32): v128 {
  let x = i32x4.splat(load<u16>(p));
  if (count > 1) x = i32x4.replace_lane(x, 1, load<u16>(p, 2));
  if (count > 2) x = i32x4.replace_lane(x, 2, load<u16>(p, 4));
  return x;
}

/** The low halves of the lanes. @param count 1..3. */
export function storePart16(p: usize, x: v128, count: i32): void {
  store<u16>(p, i32x4.extract_lane(x, 0));
  if (count > 1) store<u16>(p, i32x4.extract_lane(x, 1), 2);
  if (count > 2) store<u16>(p, i32x4.extract_lane(x, 2), 4);
}
