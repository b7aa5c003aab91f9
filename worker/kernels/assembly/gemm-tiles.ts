/** Tiles of C in registers, for 128 bits: 2x16. See gemm-layout.ts. */
import { roundLanesToBf16 } from "./half";
import { madd, MODE_CONTINUE, MODE_TREE_BF16, TILE_BYTES, TILE_COLUMNS, TILE_ROWS } from "./gemm-layout";

/**
 * A 2x16 tile of C. One k per turn: unrolled, V8 hoists the loads and spills.
 *
 * @param a (kc,2) packed. @param b (kc,16) packed. @param stride Bytes between the tile's rows.
 */
export function tile(kc: i32, a: usize, b: usize, c: usize, stride: usize, mode: i32): void {
  const second = c + stride;
  let c00 = f32x4.splat(0);
  let c01 = c00;
  let c02 = c00;
  let c03 = c00;
  let c10 = c00;
  let c11 = c00;
  let c12 = c00;
  let c13 = c00;
  if (mode === MODE_CONTINUE) {
    c00 = v128.load(c);
    c01 = v128.load(c, 16);
    c02 = v128.load(c, 32);
    c03 = v128.load(c, 48);
    c10 = v128.load(second);
    c11 = v128.load(second, 16);
    c12 = v128.load(second, 32);
    c13 = v128.load(second, 48);
  }
  const end = b + ((<usize>kc * TILE_COLUMNS) << 2);
  while (b < end) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    const b2 = v128.load(b, 32);
    const b3 = v128.load(b, 48);
    const a0 = v128.load_splat<f32>(a);
    c00 = madd(c00, a0, b0);
    c01 = madd(c01, a0, b1);
    c02 = madd(c02, a0, b2);
    c03 = madd(c03, a0, b3);
    const a1 = v128.load_splat<f32>(a, 4);
    c10 = madd(c10, a1, b0);
    c11 = madd(c11, a1, b1);
    c12 = madd(c12, a1, b2);
    c13 = madd(c13, a1, b3);
    a += TILE_ROWS << 2;
    b += TILE_COLUMNS << 2;
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  v128.store(c, c02, 32);
  v128.store(c, c03, 48);
  v128.store(second, c10);
  v128.store(second, c11, 16);
  v128.store(second, c12, 32);
  v128.store(second, c13, 48);
}

/**
 * A tile of C as a tree sum. After i leaves the sums of perfect subtrees wait on a stack, one for each 1 in
 * the binary number i, the largest first: the canonical tree's left sides. A leaf's sum takes in those on top
 * whose right sibling it completes, in registers; the stack stays in the L1 cache.
 */
export function treeTile(
  leaves: usize,
  numLeaves: i32,
  a: usize,
  b: usize,
  c: usize,
  stride: usize,
  stack: usize,
  mode: i32,
): void {
  const second = c + stride;
  const rounds = mode === MODE_TREE_BF16;
  let top = stack;
  let leaf: i32 = 0;
  while (true) {
    const length = load<i32>(leaves, 4) - load<i32>(leaves);
    leaves += 4;
    leaf++;
    let c00 = f32x4.splat(0);
    let c01 = c00;
    let c02 = c00;
    let c03 = c00;
    let c10 = c00;
    let c11 = c00;
    let c12 = c00;
    let c13 = c00;
    const end = b + ((<usize>length * TILE_COLUMNS) << 2);
    while (b < end) {
      const b0 = v128.load(b);
      const b1 = v128.load(b, 16);
      const b2 = v128.load(b, 32);
      const b3 = v128.load(b, 48);
      const a0 = v128.load_splat<f32>(a);
      c00 = madd(c00, a0, b0);
      c01 = madd(c01, a0, b1);
      c02 = madd(c02, a0, b2);
      c03 = madd(c03, a0, b3);
      const a1 = v128.load_splat<f32>(a, 4);
      c10 = madd(c10, a1, b0);
      c11 = madd(c11, a1, b1);
      c12 = madd(c12, a1, b2);
      c13 = madd(c13, a1, b3);
      a += TILE_ROWS << 2;
      b += TILE_COLUMNS << 2;
    }
    if (rounds) {
      c00 = roundLanesToBf16(c00);
      c01 = roundLanesToBf16(c01);
      c02 = roundLanesToBf16(c02);
      c03 = roundLanesToBf16(c03);
      c10 = roundLanesToBf16(c10);
      c11 = roundLanesToBf16(c11);
      c12 = roundLanesToBf16(c12);
      c13 = roundLanesToBf16(c13);
    }
    const bottom = leaf === numLeaves ? stack : top - ctz(leaf) * TILE_BYTES;
    while (top > bottom) {
      top -= TILE_BYTES;
      c00 = f32x4.add(v128.load(top), c00);
      c01 = f32x4.add(v128.load(top, 16), c01);
      c02 = f32x4.add(v128.load(top, 32), c02);
      c03 = f32x4.add(v128.load(top, 48), c03);
      c10 = f32x4.add(v128.load(top, 64), c10);
      c11 = f32x4.add(v128.load(top, 80), c11);
      c12 = f32x4.add(v128.load(top, 96), c12);
      c13 = f32x4.add(v128.load(top, 112), c13);
      if (rounds) {
        c00 = roundLanesToBf16(c00);
        c01 = roundLanesToBf16(c01);
        c02 = roundLanesToBf16(c02);
        c03 = roundLanesToBf16(c03);
        c10 = roundLanesToBf16(c10);
        c11 = roundLanesToBf16(c11);
        c12 = roundLanesToBf16(c12);
        c13 = roundLanesToBf16(c13);
      }
    }
    if (leaf === numLeaves) {
      v128.store(c, c00);
      v128.store(c, c01, 16);
      v128.store(c, c02, 32);
      v128.store(c, c03, 48);
      v128.store(second, c10);
      v128.store(second, c11, 16);
      v128.store(second, c12, 32);
      v128.store(second, c13, 48);
      return;
    }
    v128.store(top, c00);
    v128.store(top, c01, 16);
    v128.store(top, c02, 32);
    v128.store(top, c03, 48);
    v128.store(top, c10, 64);
    v128.store(top, c11, 80);
    v128.store(top, c12, 96);
    v128.store(top, c13, 112);
    top += TILE_BYTES;
  }
}
