/**
 * How values are written for users.
 *
 * @module
 */

/** A duration in milliseconds, as "1.5 s". */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
