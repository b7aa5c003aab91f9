/**
 * 2D convolutions as matrix products. Images are (batch, height, width,
 * channels), filters (filterHeight, filterWidth, inChannels, outChannels).
 *
 * A row of the patch matrix P (batch * outHeight * outWidth, filterHeight *
 * filterWidth * inChannels) holds the input under one output pixel, 0 where
 * that is outside. P is made in chunks of rows that stay in the cache:
 *
 *   y = P . W            dW = P^T . dy            dx = fold(dy . W^T)
 *
 * where fold adds each row back to where its patch came from. As gemm() sums in
 * one fixed order, and fold() adds in the order of rows, the bits do not depend
 * on the size of a chunk, and those of y and dx not on the batch.
 *
 * inHeight, inWidth, inChannels are those of x, outHeight, outWidth, outChannels
 * those of y. Padding below and to the right follows from the sizes; no dilation.
 */
import { biasActivation } from "./activations";
import { gemm, gemmScratchBytes } from "./gemm";

/** Floats in a chunk of P: 512 KiB. */
const CHUNK: i32 = 131072;

const MODE_STORE: i32 = 0;
const MODE_CONTINUE: i32 = 1;

function chunkRows(rows: i32, patch: i32): i32 {
  return min(rows, max(16, CHUNK / patch));
}

/** Bytes of workspace for any of the three. @param rows batch * outHeight * outWidth. @param patch Columns of P. */
export function convScratchBytes(rows: i32, patch: i32, outChannels: i32): i32 {
  const chunk = chunkRows(rows, patch);
  const product = max(gemmScratchBytes(chunk, patch, 0), gemmScratchBytes(chunk, outChannels, 0));
  return ((chunk * patch) << 2) + max(product, gemmScratchBytes(patch, chunk, 0));
}

/** y = P . W, then bias (outChannels,) or 0, and activation, as in gemm(). */
export function conv2d(
  batch: i32,
  inHeight: i32,
  inWidth: i32,
  inChannels: i32,
  filterHeight: i32,
  filterWidth: i32,
  outHeight: i32,
  outWidth: i32,
  outChannels: i32,
  strideY: i32,
  strideX: i32,
  padTop: i32,
  padLeft: i32,
  x: usize,
  w: usize,
  y: usize,
  scratch: usize,
  bias: usize,
  activation: i32,
  alpha: f32,
): void {
  const rows = batch * outHeight * outWidth;
  const patch = filterHeight * filterWidth * inChannels;
  const chunk = chunkRows(rows, patch);
  const work = scratch + ((<usize>chunk * patch) << 2);
  for (let row: i32 = 0; row < rows; row += chunk) {
    const M = min(chunk, rows - row);
    patches(
      false,
      row,
      M,
      inHeight,
      inWidth,
      inChannels,
      filterHeight,
      filterWidth,
      outHeight,
      outWidth,
      strideY,
      strideX,
      padTop,
      padLeft,
      x,
      scratch,
    );
    const out = y + ((<usize>row * outChannels) << 2);
    gemm(0, 0, M, outChannels, patch, scratch, w, out, work, MODE_STORE, bias, activation, alpha, 0, 0, 0);
  }
}

/** dW = P^T . dy, summed over rows in order. @param mode Store, or continue the sum that is in dw. */
export function conv2dBackpropFilter(
  batch: i32,
  inHeight: i32,
  inWidth: i32,
  inChannels: i32,
  filterHeight: i32,
  filterWidth: i32,
  outHeight: i32,
  outWidth: i32,
  outChannels: i32,
  strideY: i32,
  strideX: i32,
  padTop: i32,
  padLeft: i32,
  x: usize,
  dy: usize,
  dw: usize,
  scratch: usize,
  mode: i32,
): void {
  const rows = batch * outHeight * outWidth;
  const patch = filterHeight * filterWidth * inChannels;
  const chunk = chunkRows(rows, patch);
  const work = scratch + ((<usize>chunk * patch) << 2);
  for (let row: i32 = 0; row < rows; row += chunk) {
    const K = min(chunk, rows - row);
    patches(
      false,
      row,
      K,
      inHeight,
      inWidth,
      inChannels,
      filterHeight,
      filterWidth,
      outHeight,
      outWidth,
      strideY,
      strideX,
      padTop,
      padLeft,
      x,
      scratch,
    );
    const from = dy + ((<usize>row * outChannels) << 2);
    const chunkMode = row > 0 ? MODE_CONTINUE : mode;
    gemm(1, 0, patch, outChannels, K, scratch, from, dw, work, chunkMode, 0, 0, 0, 0, 0, 0);
  }
}

/**
 * dx = fold(dy . W^T): also the forward pass of a transposed convolution, so it
 * ends with bias (inChannels,) or 0, and activation.
 */
export function conv2dBackpropInput(
  batch: i32,
  inHeight: i32,
  inWidth: i32,
  inChannels: i32,
  filterHeight: i32,
  filterWidth: i32,
  outHeight: i32,
  outWidth: i32,
  outChannels: i32,
  strideY: i32,
  strideX: i32,
  padTop: i32,
  padLeft: i32,
  dy: usize,
  w: usize,
  dx: usize,
  scratch: usize,
  bias: usize,
  activation: i32,
  alpha: f32,
): void {
  const rows = batch * outHeight * outWidth;
  const patch = filterHeight * filterWidth * inChannels;
  const chunk = chunkRows(rows, patch);
  const work = scratch + ((<usize>chunk * patch) << 2);
  const pixels = batch * inHeight * inWidth;
  memory.fill(dx, 0, (<usize>pixels * inChannels) << 2);
  for (let row: i32 = 0; row < rows; row += chunk) {
    const M = min(chunk, rows - row);
    const from = dy + ((<usize>row * outChannels) << 2);
    gemm(0, 1, M, patch, outChannels, from, w, scratch, work, MODE_STORE, 0, 0, 0, 0, 0, 0);
    patches(
      true,
      row,
      M,
      inHeight,
      inWidth,
      inChannels,
      filterHeight,
      filterWidth,
      outHeight,
      outWidth,
      strideY,
      strideX,
      padTop,
      padLeft,
      dx,
      scratch,
    );
  }
  if (bias !== 0 || activation !== 0) biasActivation(pixels, inChannels, dx, bias, activation, alpha);
}

/**
 * Rows row0..row0+rows-1 of P: read from the image (fold false), or added back
 * to it (fold true). A patch's pixels of one image row are neighbours in memory.
 */
function patches(
  fold: bool,
  row0: i32,
  rows: i32,
  inHeight: i32,
  inWidth: i32,
  inChannels: i32,
  filterHeight: i32,
  filterWidth: i32,
  outHeight: i32,
  outWidth: i32,
  strideY: i32,
  strideX: i32,
  padTop: i32,
  padLeft: i32,
  image: usize,
  p: usize,
): void {
  let ox = row0 % outWidth;
  let oy = (row0 / outWidth) % outHeight;
  let plane = image + ((<usize>(row0 / (outWidth * outHeight)) * (inHeight * inWidth * inChannels)) << 2);
  for (let r: i32 = 0; r < rows; r++) {
    const left = ox * strideX - padLeft;
    // The filter's columns that lie inside the image: kx0 <= kx < kx1.
    const kx0 = min(max(0, -left), filterWidth);
    const kx1 = max(kx0, min(filterWidth, inWidth - left));
    const before = kx0 * inChannels;
    const inside = (kx1 - kx0) * inChannels;
    const after = (filterWidth - kx1) * inChannels;
    for (let ky: i32 = 0; ky < filterHeight; ky++) {
      const iy = oy * strideY - padTop + ky;
      if (iy < 0 || iy >= inHeight) {
        if (!fold) clear(before + inside + after, p);
        p += (<usize>(before + inside + after)) << 2;
        continue;
      }
      const at = plane + ((<usize>(iy * inWidth + left + kx0) * inChannels) << 2);
      if (fold) {
        p += (<usize>before) << 2;
        addTo(inside, p, at);
        p += (<usize>(inside + after)) << 2;
      } else {
        clear(before, p);
        p += (<usize>before) << 2;
        copy(inside, at, p);
        p += (<usize>inside) << 2;
        clear(after, p);
        p += (<usize>after) << 2;
      }
    }
    if (++ox === outWidth) {
      ox = 0;
      if (++oy === outHeight) {
        oy = 0;
        plane += (<usize>(inHeight * inWidth * inChannels)) << 2;
      }
    }
  }
}

function clear(n: i32, to: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(to, i32x4.splat(0));
    to += 16;
  }
  for (; n > 0; n--) {
    store<u32>(to, 0);
    to += 4;
  }
}

function copy(n: i32, from: usize, to: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(to, v128.load(from));
    from += 16;
    to += 16;
  }
  for (; n > 0; n--) {
    store<u32>(to, load<u32>(from));
    from += 4;
    to += 4;
  }
}

function addTo(n: i32, from: usize, to: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(to, f32x4.add(v128.load(to), v128.load(from)));
    from += 16;
    to += 16;
  }
  for (; n > 0; n--) {
    store<f32>(to, load<f32>(to) + load<f32>(from));
    from += 4;
    to += 4;
  }
}
