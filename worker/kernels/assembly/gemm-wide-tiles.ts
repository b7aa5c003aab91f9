/**
 * Tiles of C in registers, for vectors of 128 bits in pairs: 4x16. See gemm-layout.ts.
 */
import { add } from "./elementwise";
import { copyRows, madd, ROW_BYTES, TILE_BYTES, TILE_COLUMNS, TILE_FLOATS, TILE_ROWS } from "./gemm-layout";
import { roundToBf16 } from "./half";

/**
 * A 4x16 tile of C.
 *
 * @param a (kc,4) packed. @param b (kc,16) packed. @param stride Bytes between the tile's rows.
 * @param start From where the sums start. @param startStride Bytes between its rows; 0 for one row of zeros.
 */
export function wideTile(
  kc: i32,
  a: usize,
  b: usize,
  c: usize,
  stride: usize,
  start: usize,
  startStride: usize,
): void {
  let c00 = v128.load(start);
  let c01 = v128.load(start, 16);
  let c02 = v128.load(start, 32);
  let c03 = v128.load(start, 48);
  start += startStride;
  let c10 = v128.load(start);
  let c11 = v128.load(start, 16);
  let c12 = v128.load(start, 32);
  let c13 = v128.load(start, 48);
  start += startStride;
  let c20 = v128.load(start);
  let c21 = v128.load(start, 16);
  let c22 = v128.load(start, 32);
  let c23 = v128.load(start, 48);
  start += startStride;
  let c30 = v128.load(start);
  let c31 = v128.load(start, 16);
  let c32 = v128.load(start, 32);
  let c33 = v128.load(start, 48);
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
    const a2 = v128.load_splat<f32>(a, 8);
    c20 = madd(c20, a2, b0);
    c21 = madd(c21, a2, b1);
    c22 = madd(c22, a2, b2);
    c23 = madd(c23, a2, b3);
    const a3 = v128.load_splat<f32>(a, 12);
    c30 = madd(c30, a3, b0);
    c31 = madd(c31, a3, b1);
    c32 = madd(c32, a3, b2);
    c33 = madd(c33, a3, b3);
    a += TILE_ROWS << 2;
    b += TILE_COLUMNS << 2;
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  v128.store(c, c02, 32);
  v128.store(c, c03, 48);
  c += stride;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  v128.store(c, c12, 32);
  v128.store(c, c13, 48);
  c += stride;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  v128.store(c, c22, 32);
  v128.store(c, c23, 48);
  c += stride;
  v128.store(c, c30);
  v128.store(c, c31, 16);
  v128.store(c, c32, 32);
  v128.store(c, c33, 48);
}

/** A tile of C as a tree sum, as treeTile() in gemm-tiles.ts. */
export function wideTreeTile(
  leaves: usize,
  numLeaves: i32,
  a: usize,
  b: usize,
  c: usize,
  stride: usize,
  stack: usize,
): void {
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
    let c20 = c00;
    let c21 = c00;
    let c22 = c00;
    let c23 = c00;
    let c30 = c00;
    let c31 = c00;
    let c32 = c00;
    let c33 = c00;
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
      const a2 = v128.load_splat<f32>(a, 8);
      c20 = madd(c20, a2, b0);
      c21 = madd(c21, a2, b1);
      c22 = madd(c22, a2, b2);
      c23 = madd(c23, a2, b3);
      const a3 = v128.load_splat<f32>(a, 12);
      c30 = madd(c30, a3, b0);
      c31 = madd(c31, a3, b1);
      c32 = madd(c32, a3, b2);
      c33 = madd(c33, a3, b3);
      a += TILE_ROWS << 2;
      b += TILE_COLUMNS << 2;
    }
    const isLast = leaf === numLeaves;
    const bottom = isLast ? stack : top - ctz(leaf) * TILE_BYTES;
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
      c20 = f32x4.add(v128.load(top, 128), c20);
      c21 = f32x4.add(v128.load(top, 144), c21);
      c22 = f32x4.add(v128.load(top, 160), c22);
      c23 = f32x4.add(v128.load(top, 176), c23);
      c30 = f32x4.add(v128.load(top, 192), c30);
      c31 = f32x4.add(v128.load(top, 208), c31);
      c32 = f32x4.add(v128.load(top, 224), c32);
      c33 = f32x4.add(v128.load(top, 240), c33);
    }
    let out = isLast ? c : top;
    const outStride = isLast ? stride : TILE_COLUMNS << 2;
    v128.store(out, c00);
    v128.store(out, c01, 16);
    v128.store(out, c02, 32);
    v128.store(out, c03, 48);
    out += outStride;
    v128.store(out, c10);
    v128.store(out, c11, 16);
    v128.store(out, c12, 32);
    v128.store(out, c13, 48);
    out += outStride;
    v128.store(out, c20);
    v128.store(out, c21, 16);
    v128.store(out, c22, 32);
    v128.store(out, c23, 48);
    out += outStride;
    v128.store(out, c30);
    v128.store(out, c31, 16);
    v128.store(out, c32, 32);
    v128.store(out, c33, 48);
    if (isLast) return;
    top += TILE_BYTES;
  }
}

/**
 * The same, with every node of the tree rounded to bfloat16: in memory, as V8 would not join the rounding, nor the loop before it.
 *
 * @param zeros A row of them.
 */
export function wideTreeTileBf16(
  leaves: usize,
  numLeaves: i32,
  a: usize,
  b: usize,
  c: usize,
  stride: usize,
  stack: usize,
  zeros: usize,
): void {
  let top = stack;
  for (let leaf: i32 = 1; leaf <= numLeaves; leaf++) {
    const length = load<i32>(leaves, 4) - load<i32>(leaves);
    leaves += 4;
    wideTile(length, a, b, top, ROW_BYTES, zeros, 0);
    a += (<usize>length * TILE_ROWS) << 2;
    b += (<usize>length * TILE_COLUMNS) << 2;
    roundToBf16(TILE_FLOATS, top);
    const bottom = leaf === numLeaves ? stack : top - ctz(leaf) * TILE_BYTES;
    while (top > bottom) {
      top -= TILE_BYTES;
      add(TILE_FLOATS, top, top + TILE_BYTES, top);
      roundToBf16(TILE_FLOATS, top);
    }
    top += TILE_BYTES;
  }
  copyRows(TILE_ROWS, TILE_COLUMNS, stack, ROW_BYTES, c, stride);
}
