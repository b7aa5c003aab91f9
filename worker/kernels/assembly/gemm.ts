/**
 * Matrix product C (M,N) = op(A) (M,K) . op(B) (K,N), row-major float32.
 *
 * Invariant: every element of C is the sum over k = 0, 1, ..., K-1 in exactly
 * that order, one product after the other into one float32 accumulator
 * (MADD = 0: product rounded, then sum rounded; MADD = 1: one relaxed
 * multiply-add, fused where the processor has it). So an element's bits depend
 * on its row of op(A), its column of op(B) and its start value only: not on M,
 * N, the element's place, tile edges, blocking or packing. A batch cut into
 * slices gives the bits of the whole batch.
 *
 * How: op(A) is packed into pairs of rows, op(B) into panels of 16 columns, and
 * a 2x16 tile of C stays in eight registers (of fifteen that V8 can use on
 * x64) while k runs. K is cut into blocks so that a panel fits the L1 cache;
 * the accumulators are carried from block to block through C, unrounded, as
 * they are float32 anyway.
 *
 * Source: Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication".
 */
import { biasActivation } from "./activations";
import { roundLanesToBf16 } from "./half";

const TILE_ROWS: i32 = 2;
const TILE_COLUMNS: i32 = 16;
/** Inner block: a panel of 256 x 16 floats is 16 KiB, half of a small L1 cache. */
const BLOCK_K: i32 = 256;
/** Floats in a packed block of op(A): 256 KiB, half of a small L2 cache. */
const BLOCK_A: i32 = 65536;

/** C = product. */
const MODE_STORE: i32 = 0;
/** The sum starts from C: the product of a longer K, continued. */
const MODE_CONTINUE: i32 = 1;
/** C = C + product, where the product is summed from 0 first. */
const MODE_ADD: i32 = 2;
/** C = the products over the leaves of K (shards), added in the canonical tree of shared/sharding.ts. */
const MODE_TREE: i32 = 3;
/** The same, with every node of the tree rounded to bfloat16. */
const MODE_TREE_BF16: i32 = 4;

/**
 * Layouts besides row-major: a matrix (rows, columns) in panels is cut into panels of 16 columns (the last
 * may have fewer), each stored row by row behind the one before. B in panels needs no packing unless transposed.
 */
const B_IN_PANELS: i32 = 1;
const C_IN_PANELS: i32 = 2;

/** Tiles of partial sums that a tree over up to 2^20 leaves holds at once. */
const TREE_TILES: i32 = 20;
const TILE_BYTES: i32 = (TILE_ROWS * TILE_COLUMNS) << 2;

/** MODE_ADD and the trees cannot carry partial sums through C, so they take K in one block. */
function blockK(K: i32, mode: i32): i32 {
  return mode >= MODE_ADD ? K : min(K, BLOCK_K);
}

function blockRows(kb: i32): i32 {
  return max(TILE_ROWS, (BLOCK_A / max(kb, 1)) & ~(TILE_ROWS - 1));
}

/** Bytes of workspace that gemm() needs for this shape; enough for any smaller one too. */
export function gemmScratchBytes(M: i32, K: i32, mode: i32): i32 {
  const kb = blockK(K, mode);
  const block = min(((M + TILE_ROWS - 1) & ~(TILE_ROWS - 1)) * kb, max(BLOCK_A, TILE_ROWS * kb));
  return TILE_BYTES * (1 + TREE_TILES) + ((kb * TILE_COLUMNS + block) << 2);
}

/** One multiply-add per lane. MADD is set by the build. */
function madd(sum: v128, a: v128, b: v128): v128 {
  return MADD ? f32x4.relaxed_madd(a, b, sum) : f32x4.add(sum, f32x4.mul(a, b));
}

/**
 * @param transA 1 if A is stored as (K,M), else 0 for (M,K).
 * @param transB 1 if B is stored as (N,K), else 0 for (K,N).
 * @param C Must not overlap A, B or scratch.
 * @param scratch gemmScratchBytes(M, K, mode) bytes.
 * @param mode MODE_STORE, MODE_CONTINUE, MODE_ADD, MODE_TREE or MODE_TREE_BF16.
 * @param bias Pointer to (N,) values added to each row of the finished sums, or 0.
 * @param activation, alpha As in biasActivation(), applied last.
 * @param panels B_IN_PANELS (of the stored matrix, (K,N) or (N,K)), C_IN_PANELS, both (3) or neither (0).
 * @param leaves With the trees: pointer to (numLeaves + 1,) i32, 0 = leaves[0] < leaves[1] < ... = K.
 */
export function gemm(
  transA: i32,
  transB: i32,
  M: i32,
  N: i32,
  K: i32,
  A: usize,
  B: usize,
  C: usize,
  scratch: usize,
  mode: i32,
  bias: usize,
  activation: i32,
  alpha: f32,
  panels: i32,
  leaves: usize,
  numLeaves: i32,
): void {
  if (K === 0 && mode === MODE_STORE) memory.fill(C, 0, (<usize>M * <usize>N) << 2);
  const kb = blockK(K, mode);
  const mb = blockRows(kb);
  const edge = scratch;
  const stack = edge + TILE_BYTES;
  const packed = stack + TILE_BYTES * TREE_TILES;
  const block = packed + ((<usize>kb * TILE_COLUMNS) << 2);
  for (let k0: i32 = 0; k0 < K; k0 += kb) {
    const kc = min(kb, K - k0);
    const tileMode = k0 > 0 ? MODE_CONTINUE : mode;
    for (let i0: i32 = 0; i0 < M; i0 += mb) {
      const rows = min(mb, M - i0);
      if (transA) packTransposedA(rows, kc, A + ((<usize>k0 * M + i0) << 2), (<usize>M) << 2, block);
      else packA(rows, kc, A + ((<usize>i0 * K + k0) << 2), (<usize>K) << 2, block);
      for (let j0: i32 = 0; j0 < N; j0 += TILE_COLUMNS) {
        const columns = min(TILE_COLUMNS, N - j0);
        let panel = packed;
        if (panels & B_IN_PANELS) {
          if (transB) packTransposedPanels(k0, kc, j0, columns, N, K, B, packed);
          else if (columns === TILE_COLUMNS) panel = B + ((<usize>j0 * K + k0 * TILE_COLUMNS) << 2);
          else packB(kc, columns, B + ((<usize>j0 * K + k0 * columns) << 2), (<usize>columns) << 2, packed);
        } else if (transB) {
          packTransposedB(kc, columns, B + ((<usize>j0 * K + k0) << 2), (<usize>K) << 2, packed);
        } else {
          packB(kc, columns, B + ((<usize>k0 * N + j0) << 2), (<usize>N) << 2, packed);
        }
        const strideC = (<usize>(panels & C_IN_PANELS ? columns : N)) << 2;
        let c = C + (panels & C_IN_PANELS ? (<usize>j0 * M + i0 * columns) << 2 : (<usize>i0 * N + j0) << 2);
        let a = block;
        for (let left = rows; left > 0; left -= TILE_ROWS) {
          if (columns === TILE_COLUMNS && left >= TILE_ROWS) {
            if (mode >= MODE_TREE) treeTile(leaves, numLeaves, a, panel, c, strideC, stack, mode);
            else tile(kc, a, panel, c, strideC, tileMode);
          } else {
            const height = min(left, TILE_ROWS);
            if (mode >= MODE_TREE) {
              treeTile(leaves, numLeaves, a, panel, edge, TILE_COLUMNS << 2, stack, mode);
            } else {
              if (tileMode !== MODE_STORE) copyRows(height, columns, c, strideC, edge, TILE_COLUMNS << 2);
              tile(kc, a, panel, edge, TILE_COLUMNS << 2, tileMode);
            }
            copyRows(height, columns, edge, TILE_COLUMNS << 2, c, strideC);
          }
          a += (<usize>kc * TILE_ROWS) << 2;
          c += strideC * TILE_ROWS;
        }
      }
    }
  }
  if (bias !== 0 || activation !== 0) biasActivation(M, N, C, bias, activation, alpha);
}

/**
 * A 2x16 tile of C. One k per turn: unrolled, V8 hoists the loads and spills.
 *
 * @param a (kc,2) packed. @param b (kc,16) packed. @param stride Bytes between the tile's rows.
 */
function tile(kc: i32, a: usize, b: usize, c: usize, stride: usize, mode: i32): void {
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
  if (mode === MODE_ADD) {
    c00 = f32x4.add(v128.load(c), c00);
    c01 = f32x4.add(v128.load(c, 16), c01);
    c02 = f32x4.add(v128.load(c, 32), c02);
    c03 = f32x4.add(v128.load(c, 48), c03);
    c10 = f32x4.add(v128.load(second), c10);
    c11 = f32x4.add(v128.load(second, 16), c11);
    c12 = f32x4.add(v128.load(second, 32), c12);
    c13 = f32x4.add(v128.load(second, 48), c13);
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
function treeTile(
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

/** Copies rows x columns floats between two strided places: the tiles at the edges of C. */
function copyRows(rows: i32, columns: i32, from: usize, fromStride: usize, to: usize, toStride: usize): void {
  for (let r: i32 = 0; r < rows; r++) {
    for (let j: i32 = 0; j < columns; j++) {
      store<f32>(to + ((<usize>j) << 2), load<f32>(from + ((<usize>j) << 2)));
    }
    from += fromStride;
    to += toStride;
  }
}

/** Rows of A (stored row by row) to pairs (k,2); a missing second row becomes 0. */
function packA(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
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

/** Columns of A (stored as (K,M)) to pairs (k,2), eight columns (half a cache line) at a time. */
function packTransposedA(rows: i32, kc: i32, from: usize, stride: usize, to: usize): void {
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

/** Up to 16 columns of B (stored row by row) to a panel (k,16); missing columns become 0. */
function packB(kc: i32, columns: i32, from: usize, stride: usize, to: usize): void {
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

/** Up to 16 rows of B (stored as (N,K)) to a panel (k,16), by 4x4 transposes; missing columns become 0. */
function packTransposedB(kc: i32, columns: i32, from: usize, stride: usize, to: usize): void {
  for (let j: i32 = 0; j < TILE_COLUMNS; j += 4) {
    let p = from + <usize>j * stride;
    let q = to + ((<usize>j) << 2);
    if (j + 4 <= columns) {
      let left = kc;
      for (; left >= 4; left -= 4) {
        const r0 = v128.load(p);
        const r1 = v128.load(p + stride);
        const r2 = v128.load(p + stride * 2);
        const r3 = v128.load(p + stride * 3);
        const s0 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
        const s1 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
        const s2 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
        const s3 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
        v128.store(q, v128.shuffle<f64>(s0, s2, 0, 2));
        v128.store(q, v128.shuffle<f64>(s0, s2, 1, 3), 64);
        v128.store(q, v128.shuffle<f64>(s1, s3, 0, 2), 128);
        v128.store(q, v128.shuffle<f64>(s1, s3, 1, 3), 192);
        p += 16;
        q += 256;
      }
      for (; left > 0; left--) {
        store<f32>(q, load<f32>(p));
        store<f32>(q, load<f32>(p + stride), 4);
        store<f32>(q, load<f32>(p + stride * 2), 8);
        store<f32>(q, load<f32>(p + stride * 3), 12);
        p += 4;
        q += TILE_COLUMNS << 2;
      }
    } else {
      for (let k: i32 = 0; k < kc; k++) {
        for (let c: i32 = 0; c < 4; c++) {
          store<f32>(q + ((<usize>c) << 2), j + c < columns ? load<f32>(p + <usize>c * stride) : 0);
        }
        p += 4;
        q += TILE_COLUMNS << 2;
      }
    }
  }
}

/**
 * Columns j0.. of a transposed matrix whose stored form (N,K) is in panels of K, rows k0.. of op(B), to a
 * panel (kc,16). k0 is a multiple of 16.
 */
function packTransposedPanels(
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
