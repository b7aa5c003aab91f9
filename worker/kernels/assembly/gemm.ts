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
 * How: op(A) is packed into groups of as many rows as a tile has
 * (gemm-layout.ts), op(B) into panels of 16 columns, and a tile of C stays in
 * registers while k runs. K is cut into blocks so that a panel fits the L1
 * cache; the accumulators are carried from block to block through C, unrounded,
 * as they are float32 anyway.
 *
 * Source: Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication".
 */
import { biasActivation } from "./activations";
import {
  copyRows,
  MODE_CONTINUE,
  MODE_STORE,
  MODE_TREE,
  ROW_BYTES,
  TILE_BYTES,
  TILE_COLUMNS,
  TILE_ROWS,
} from "./gemm-layout";
import { packA, packB, packTransposedA, packTransposedB, packTransposedPanels } from "./gemm-pack";
import { tile as narrowTile, treeTile as narrowTreeTile } from "./gemm-tiles";
import { wideTile, wideTreeTile, wideTreeTileBf16 } from "./gemm-wide-tiles";

/** Inner block: a panel of 256 x 16 floats is 16 KiB, half of a small L1 cache. */
const BLOCK_K: i32 = 256;
/** Floats in a packed block of op(A): 256 KiB, half of a small L2 cache. */
const BLOCK_A: i32 = 65536;

/**
 * Layouts besides row-major: a matrix (rows, columns) in panels is cut into panels of 16 columns (the last
 * may have fewer), each stored row by row behind the one before. B in panels needs no packing unless transposed.
 */
const B_IN_PANELS: i32 = 1;
const C_IN_PANELS: i32 = 2;

/** Tiles of sums that a tree over up to 2^20 leaves holds at once: its partial sums, and a leaf. */
const TREE_TILES: i32 = 21;

/** Trees cannot carry partial sums through C, so they take K in one block. */
function blockK(K: i32, mode: i32): i32 {
  return mode >= MODE_TREE ? K : min(K, BLOCK_K);
}

function blockRows(kb: i32): i32 {
  return max(TILE_ROWS, (BLOCK_A / max(kb, 1)) & ~(TILE_ROWS - 1));
}

/** Bytes of workspace that gemm() needs for this shape; enough for any smaller one too. */
export function gemmScratchBytes(M: i32, K: i32, mode: i32): i32 {
  const kb = blockK(K, mode);
  const block = min(((M + TILE_ROWS - 1) & ~(TILE_ROWS - 1)) * kb, max(BLOCK_A, TILE_ROWS * kb));
  return ROW_BYTES + TILE_BYTES * (1 + TREE_TILES) + ((kb * TILE_COLUMNS + block) << 2);
}

/**
 * @param transA 1 if A is stored as (K,M), else 0 for (M,K).
 * @param transB 1 if B is stored as (N,K), else 0 for (K,N).
 * @param C Must not overlap A, B or scratch.
 * @param scratch gemmScratchBytes(M, K, mode) bytes.
 * @param mode MODE_STORE, MODE_CONTINUE, MODE_TREE or MODE_TREE_BF16.
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
  const zeros = scratch;
  memory.fill(zeros, 0, ROW_BYTES);
  const edge = zeros + ROW_BYTES;
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
            if (mode >= MODE_TREE) treeTile(leaves, numLeaves, a, panel, c, strideC, stack, mode, zeros);
            else tile(kc, a, panel, c, strideC, tileMode, zeros);
          } else {
            const height = min(left, TILE_ROWS);
            if (mode >= MODE_TREE) {
              treeTile(leaves, numLeaves, a, panel, edge, ROW_BYTES, stack, mode, zeros);
            } else {
              if (tileMode !== MODE_STORE) copyRows(height, columns, c, strideC, edge, ROW_BYTES);
              tile(kc, a, panel, edge, ROW_BYTES, tileMode, zeros);
            }
            copyRows(height, columns, edge, ROW_BYTES, c, strideC);
          }
          a += (<usize>kc * TILE_ROWS) << 2;
          c += strideC * TILE_ROWS;
        }
      }
    }
  }
  if (bias !== 0 || activation !== 0) biasActivation(M, N, C, bias, activation, alpha);
}

/** @param zeros A row of them. */
function tile(kc: i32, a: usize, b: usize, c: usize, stride: usize, mode: i32, zeros: usize): void {
  if (!WIDE) narrowTile(kc, a, b, c, stride, mode);
  else if (mode === MODE_CONTINUE) wideTile(kc, a, b, c, stride, c, stride);
  else wideTile(kc, a, b, c, stride, zeros, 0);
}

function treeTile(
  leaves: usize,
  numLeaves: i32,
  a: usize,
  b: usize,
  c: usize,
  stride: usize,
  stack: usize,
  mode: i32,
  zeros: usize,
): void {
  if (!WIDE) narrowTreeTile(leaves, numLeaves, a, b, c, stride, stack, mode);
  else if (mode === MODE_TREE) wideTreeTile(leaves, numLeaves, a, b, c, stride, stack);
  else wideTreeTileBf16(leaves, numLeaves, a, b, c, stride, stack, zeros);
}
