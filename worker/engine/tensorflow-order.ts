/**
 * The order of parameters on TensorFlow: in rows as in the canonical order,
 * but some matrices transposed.
 *
 * @module
 */
import type { Network } from "../../shared/nn/network.ts";
import type { ParameterOrder } from "./parameter-order.ts";

/**
 * Whether the weight of a dense layer is kept as (outputs, inputs). A product reads its right operand row by
 * row if that is not transposed, and rows a multiple of 2 KiB apart meet in the same sets of the cache: half
 * the speed. Transposed, the forward pass, which runs most often, reads along the rows.
 */
export function isStoredTransposed(numOutputs: number): boolean {
  return numOutputs % 512 === 0;
}

export const tensorflowOrder: ParameterOrder = {
  toEngine: (net, canonical, own) => eachMatrix(net, canonical, own, "toEngine"),
  fromEngine: (net, own, canonical) => eachMatrix(net, own, canonical, "fromEngine"),
};

function eachMatrix(
  net: Network,
  source: Float32Array,
  target: Float32Array,
  way: "toEngine" | "fromEngine",
): void {
  for (const { shape, offset, size } of net.parameters) {
    const from = source.subarray(offset, offset + size);
    const to = target.subarray(offset, offset + size);
    if (shape.length !== 2 || !isStoredTransposed(shape[1])) {
      to.set(from);
      continue;
    }
    const [rows, columns] = way === "toEngine" ? shape : [shape[1], shape[0]];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        to[column * rows + row] = from[row * columns + column];
      }
    }
  }
}
