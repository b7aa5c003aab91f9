/**
 * Pictures of samples: a grid of grey images as a PNG.
 *
 * @module
 */
import { encode } from "fast-png";

/**
 * @param pixels (count, side, side) uint8.
 * @returns The PNG: as square as it gets, images two pixels apart.
 */
export function gridPng(pixels: Uint8Array, side: number): Uint8Array {
  const count = pixels.length / (side * side);
  const columns = Math.ceil(Math.sqrt(count));
  const rows = Math.ceil(count / columns);
  const gap = 2;
  const width = columns * (side + gap) + gap;
  const height = rows * (side + gap) + gap;
  const data = new Uint8Array(width * height).fill(64);
  for (let image = 0; image < count; image++) {
    const left = gap + (image % columns) * (side + gap);
    const top = gap + Math.floor(image / columns) * (side + gap);
    for (let y = 0; y < side; y++) {
      const row = (image * side + y) * side;
      data.set(pixels.subarray(row, row + side), (top + y) * width + left);
    }
  }
  return encode({ width, height, data, channels: 1, depth: 8 });
}
