/**
 * What is said about measurements that were repeated: the median, and the
 * smallest and largest value beside it. Ratios are taken within a round, where
 * both sides met the same machine, and summarized afterwards.
 *
 * @module
 */

export interface Summary {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The middle value, or the mean of the two middle ones. @throws {RangeError} If there are no values. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("Cannot take the median of no values");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function mean(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("Cannot take the mean of no values");
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** @throws {RangeError} If there are no values. */
export function summarize(values: readonly number[]): Summary {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/**
 * numerators[i] / denominators[i], summarized: each pair is from one round.
 *
 * @throws {RangeError} If the lengths differ, or there are no values.
 */
export function ratioOfRounds(numerators: readonly number[], denominators: readonly number[]): Summary {
  if (numerators.length !== denominators.length) {
    throw new RangeError(
      `Cannot compare rounds as both sides must have as many: got ${numerators.length} and ${denominators.length}`,
    );
  }
  return summarize(numerators.map((value, round) => value / denominators[round]));
}

/**
 * The median time of a step over blocks of consecutive steps, in milliseconds.
 *
 * @param stampsMs When each step was complete; the first is where the first block begins.
 */
export function medianStepMs(stampsMs: readonly number[], stepsPerBlock: number): number {
  const blocks: number[] = [];
  for (let end = stepsPerBlock; end < stampsMs.length; end += stepsPerBlock) {
    blocks.push((stampsMs[end] - stampsMs[end - stepsPerBlock]) / stepsPerBlock);
  }
  return median(blocks);
}
