/**
 * The order of values in an engine's vectors. Checkpoints and everything that
 * is sent to the coordinator have the canonical order of shared/nn/network.ts;
 * within a worker, parameters, gradients and moments have the order that its
 * engine computes with. All workers of a run have the same engine, and what
 * happens to the vectors there (sums, Adam, hashes) does not ask for the order.
 *
 * @module
 */
import type { Network } from "../../shared/nn/network.ts";

export interface ParameterOrder {
  /** @param canonical (numParameters,). @param own Receives them: (numParameters,) or longer. */
  toEngine(net: Network, canonical: Float32Array, own: Float32Array): void;
  /** The reverse. @param own (numParameters,) or longer; the rest is ignored. */
  fromEngine(net: Network, own: Float32Array, canonical: Float32Array): void;
}

export const canonicalOrder: ParameterOrder = {
  toEngine: (_net, canonical, own) => own.set(canonical),
  fromEngine: (_net, own, canonical) => canonical.set(own.subarray(0, canonical.length)),
};

/** Columns of a panel, as in kernels/assembly/gemm.ts. */
const PANEL = 16;

/**
 * Every matrix in panels of 16 columns (the last may have fewer), each stored row by row: what a matrix
 * product reads and writes in its inner loop.
 */
export const panelOrder: ParameterOrder = {
  toEngine: (net, canonical, own) => eachRow(net, (at, to, n) => own.set(canonical.subarray(at, at + n), to)),
  fromEngine: (net, own, canonical) =>
    eachRow(net, (at, to, n) => canonical.set(own.subarray(to, to + n), at)),
};

/** Visits pieces of n values that lie together in both orders: at `canonical` and at `own`. */
function eachRow(net: Network, visit: (canonical: number, own: number, n: number) => void): void {
  for (const { shape, offset, size } of net.parameters) {
    if (shape.length !== 2) {
      visit(offset, offset, size);
      continue;
    }
    const [rows, columns] = shape;
    for (let start = 0; start < columns; start += PANEL) {
      const width = Math.min(PANEL, columns - start);
      for (let row = 0; row < rows; row++) {
        visit(offset + row * columns + start, offset + start * rows + row * width, width);
      }
    }
  }
}
