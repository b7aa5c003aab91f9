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

/** Largest difference, relative to the largest expected magnitude; Infinity where lengths differ or values are not finite. */
export function maxError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let scale = 0;
  let error = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!Number.isFinite(difference)) return Infinity;
    scale = Math.max(scale, Math.abs(expected[i]));
    error = Math.max(error, difference);
  }
  return error === 0 ? 0 : error / scale;
}
