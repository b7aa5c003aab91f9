/** Packing of the operands of the matrix product: A in groups of TILE_ROWS rows, B in panels of 16 columns. */
import { loadPart } from "./lanes";
import { TILE_COLUMNS, TILE_ROWS } from "./gemm-layout";

/** Rows of A (stored row by row) to groups (k, TILE_ROWS); missing rows of the last group become 0. */
export function packA(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
  if (WIDE) packFours(rows, kc, from, stride, to);
  else packPairs(rows, kc, from, stride, to);
}

/** Columns of A (stored as (K,M)) to groups (k, TILE_ROWS). */
export function packTransposedA(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
  if (WIDE) packTransposedFours(rows, kc, from, stride, to);
  else packTransposedPairs(rows, kc, from, stride, to);
}

/** To pairs (k,2). */
function packPairs(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
  for (let i: i32 = 0; i < rows; i += TILE_ROWS) {
    let p = from + <usize>i * stride;
    let left = kc;
    if (i + 1 < rows) {
      for (; left >= 4; left -= 4) {
        const x = v128.load(p);
        const y = v128.load(p + stride);
        v128.store(to, v128.shuffle<f32>(x, y, 0, 4, 1, 5));
        v128.store(to, v128.shuffle<f32>(x, y, 2, 6, 3, 7), 16);
        p += 16;
        to += 32;
      }
      for (; left > 0; left--) {
        store<f32>(to, load<f32>(p));
        store<f32>(to, load<f32>(p + stride), 4);
        p += 4;
        to += 8;
      }
    } else {
      for (; left > 0; left--) {
        store<f32>(to, load<f32>(p));
        store<f32>(to, 0, 4);
        p += 4;
        to += 8;
      }
    }
  }
}

/** To fours (k,4). */
function packFours(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
  for (let i: i32 = 0; i < rows; i += 4) {
    packColumns(kc, min(4, rows - i), from + <usize>i * stride, stride, to, 16);
    to += (<usize>kc) << 4;
  }
}

/** To pairs (k,2), eight columns (half a cache line) at a time. */
function packTransposedPairs(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
  const pair = (<usize>kc) << 3;
  let i: i32 = 0;
  for (; i + 8 <= rows; i += 8) {
    let p = from + ((<usize>i) << 2);
    let q = to;
    for (let k: i32 = 0; k < kc; k++) {
      const x = v128.load(p);
      const y = v128.load(p, 16);
      v128.store_lane<u64>(q, x, 0);
      v128.store_lane<u64>(q + pair, x, 1);
      v128.store_lane<u64>(q + pair * 2, y, 0);
      v128.store_lane<u64>(q + pair * 3, y, 1);
      p += stride;
      q += 8;
    }
    to += pair * 4;
  }
  for (; i < rows; i += TILE_ROWS) {
    let p = from + ((<usize>i) << 2);
    const both = i + 1 < rows;
    for (let k: i32 = 0; k < kc; k++) {
      store<f32>(to, load<f32>(p));
      store<f32>(to, both ? load<f32>(p, 4) : 0, 4);
      p += stride;
      to += 8;
    }
  }
}

/** To fours (k,4), eight columns (half a cache line) at a time. */
function packTransposedFours(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
  const four = (<usize>kc) << 4;
  let i: i32 = 0;
  for (; i + 8 <= rows; i += 8) {
    let p = from + ((<usize>i) << 2);
    let q = to;
    for (let k: i32 = 0; k < kc; k++) {
      v128.store(q, v128.load(p));
      v128.store(q + four, v128.load(p, 16));
      p += stride;
      q += 16;
    }
    to += four * 2;
  }
  for (; i < rows; i += 4) {
    const count = min(4, rows - i);
    let p = from + ((<usize>i) << 2);
    for (let k: i32 = 0; k < kc; k++) {
      v128.store(to, count === 4 ? v128.load(p) : loadPart(p, count));
      p += stride;
      to += 16;
    }
  }
}

/** Up to 16 columns of B (stored row by row) to a panel (k,16); missing columns become 0. */
export function packB(kc: i32, columns: i32, from: usize, stride: usize, to: usize): void {
  if (columns === TILE_COLUMNS) {
    for (let k: i32 = 0; k < kc; k++) {
      v128.store(to, v128.load(from));
      v128.store(to, v128.load(from, 16), 16);
      v128.store(to, v128.load(from, 32), 32);
      v128.store(to, v128.load(from, 48), 48);
      from += stride;
      to += TILE_COLUMNS << 2;
    }
    return;
  }
  for (let k: i32 = 0; k < kc; k++) {
    for (let j: i32 = 0; j < TILE_COLUMNS; j++) {
      store<f32>(to + ((<usize>j) << 2), j < columns ? load<f32>(from + ((<usize>j) << 2)) : 0);
    }
    from += stride;
    to += TILE_COLUMNS << 2;
  }
}

/** Up to 16 rows of B (stored as (N,K)) to a panel (k,16); missing columns become 0. */
export function packTransposedB(kc: i32, columns: i32, from: usize, stride: usize, to: usize): void {
  for (let j: i32 = 0; j < TILE_COLUMNS; j += 4) {
    packColumns(kc, columns - j, from + <usize>j * stride, stride, to + ((<usize>j) << 2), TILE_COLUMNS << 2);
  }
}

/**
 * Four rows (of kc) side by side as columns, by 4x4 transposes.
 *
 * @param count Rows that are there, the others become 0: any number, also below 0. @param toStride Bytes between the rows of `to`.
 */
function packColumns(kc: i32, count: i32, from: usize, stride: usize, to: usize, toStride: usize): void {
  if (count >= 4) {
    let left = kc;
    for (; left >= 4; left -= 4) {
      const r0 = v128.load(from);
      const r1 = v128.load(from + stride);
      const r2 = v128.load(from + stride * 2);
      const r3 = v128.load(from + stride * 3);
      const s0 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
      const s1 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
      const s2 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
      const s3 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
      v128.store(to, v128.shuffle<f64>(s0, s2, 0, 2));
      v128.store(to + toStride, v128.shuffle<f64>(s0, s2, 1, 3));
      v128.store(to + toStride * 2, v128.shuffle<f64>(s1, s3, 0, 2));
      v128.store(to + toStride * 3, v128.shuffle<f64>(s1, s3, 1, 3));
      from += 16;
      to += toStride * 4;
    }
    for (; left > 0; left--) {
      store<f32>(to, load<f32>(from));
      store<f32>(to, load<f32>(from + stride), 4);
      store<f32>(to, load<f32>(from + stride * 2), 8);
      store<f32>(to, load<f32>(from + stride * 3), 12);
      from += 4;
      to += toStride;
    }
  } else {
    for (let k: i32 = 0; k < kc; k++) {
      for (let r: i32 = 0; r < 4; r++) {
        store<f32>(to + ((<usize>r) << 2), r < count ? load<f32>(from + <usize>r * stride) : 0);
      }
      from += 4;
      to += toStride;
    }
  }
}

/**
 * Columns j0.. of a transposed matrix whose stored form (N,K) is in panels of K, rows k0.. of op(B), to a
 * panel (kc,16). k0 is a multiple of 16.
 */
export function packTransposedPanels(
  k0: i32,
  kc: i32,
  j0: i32,
  columns: i32,
  N: i32,
  K: i32,
  B: usize,
  to: usize,
): void {
  for (let k: i32 = k0; k < k0 + kc; k += TILE_COLUMNS) {
    const width = min(TILE_COLUMNS, K - k);
    const from = B + ((<usize>k * N + j0 * width) << 2);
    packTransposedB(width, columns, from, (<usize>width) << 2, to);
    to += (TILE_COLUMNS * TILE_COLUMNS) << 2;
  }
}
