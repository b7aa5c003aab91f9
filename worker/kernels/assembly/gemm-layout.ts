/**
 * Numbers that the parts of the matrix product agree on.
 *
 * Two builds differ in the tile of C that stays in registers while k runs. WIDE = 0: 2x16, in eight registers of 128
 * bits, of fifteen that V8 can use on x64. WIDE = 1: 4x16, in sixteen, which is too many, unless V8 joins pairs of
 * operations on neighbouring vectors into one on 256 bits (Node 24, --experimental-wasm-revectorize): then in eight of
 * 256. It joins whole trees that begin with stores side by side, if loads, sums and stores of a pair are in one basic
 * block each; so code for it has no branch between them. Bits are the same in both, as they do not depend on tiles.
 */

export const TILE_ROWS: i32 = WIDE ? 4 : 2;
export const TILE_COLUMNS: i32 = 16;
export const TILE_FLOATS: i32 = TILE_ROWS * TILE_COLUMNS;
export const TILE_BYTES: i32 = TILE_FLOATS << 2;
/** Between the rows of a tile that is stored by itself. */
export const ROW_BYTES: i32 = TILE_COLUMNS << 2;

/** C = product. */
export const MODE_STORE: i32 = 0;
/** The sum starts from C: the product of a longer K, continued. */
export const MODE_CONTINUE: i32 = 1;
/** C = the products over the leaves of K (shards), added in the canonical tree of shared/sharding.ts. */
export const MODE_TREE: i32 = 2;
/** The same, with every node of the tree rounded to bfloat16. */
export const MODE_TREE_BF16: i32 = 3;

/** One multiply-add per lane. MADD is set by the build. */
export function madd(sum: v128, a: v128, b: v128): v128 {
  return MADD ? f32x4.relaxed_madd(a, b, sum) : f32x4.add(sum, f32x4.mul(a, b));
}

/** Copies rows x columns floats between two strided places: the tiles at the edges of C. */
export function copyRows(
  rows: i32,
  columns: i32,
  from: usize,
  fromStride: usize,
  to: usize,
  toStride: usize,
): void {
  for (let r: i32 = 0; r < rows; r++) {
    for (let j: i32 = 0; j < columns; j++) {
      store<f32>(to + ((<usize>j) << 2), load<f32>(from + ((<usize>j) << 2)));
    }
    from += fromStride;
    to += toStride;
  }
}
