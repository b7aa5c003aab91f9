import type { Network } from "../../shared/nn/network.ts";

/** What every engine must pass: values near those of a float64 reference. */
export interface Case {
  readonly name: string;
  readonly order: Order;
  /** @returns The largest error; see {@linkcode maxError}. @throws What the engine throws. */
  readonly run: () => Promise<number>;
}

export type Order = "forward" | "gradient" | "gradient-of-gradient" | "bits";

/**
 * Largest errors that pass. A few times what float32 costs in these cases; a formula that is wrong, a sum in bfloat16
 * or products in TF32 have a hundred times more.
 */
export const TOLERANCES: Readonly<Record<Order, number>> = {
  forward: 5e-6,
  gradient: 2e-5,
  "gradient-of-gradient": 1e-4,
  bits: 0,
};

/**
 * Largest difference, relative to the largest expected magnitude, or to `atLeast` if that is larger; Infinity where
 * lengths differ or values are not finite.
 */
export function maxError(actual: ArrayLike<number>, expected: ArrayLike<number>, atLeast = 0): number {
  if (actual.length !== expected.length) return Infinity;
  let error = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!Number.isFinite(difference)) return Infinity;
    error = Math.max(error, difference);
  }
  return error === 0 ? 0 : error / Math.max(atLeast, largest(expected));
}

function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]));
  return most;
}

/**
 * Tensors that are smaller than this part of a gradient's largest value are measured by that part: the bias of a last
 * layer is a sum over real and fake rows that cancel, to 0 for some objectives, and rounds as its terms do.
 */
const SMALLEST_PART = 1 / 8;

/** {@linkcode maxError} of the tensor of a network's gradient where it is largest, each by its own measure. */
export function gradientError(
  { parameters, numParameters }: Network,
  actual: Float32Array,
  expected: Float64Array,
): number {
  if (actual.length !== numParameters || expected.length !== numParameters) return Infinity;
  const atLeast = SMALLEST_PART * largest(expected);
  return Math.max(
    ...parameters.map(({ offset, size }) =>
      maxError(actual.subarray(offset, offset + size), expected.subarray(offset, offset + size), atLeast),
    ),
  );
}
