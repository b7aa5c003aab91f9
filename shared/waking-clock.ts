/**
 * Time as a process has lived it. A process that was stopped, or whose event
 * loop was kept by one long computation, could not hear anybody meanwhile, and
 * may not take that for their silence.
 *
 * @module
 */

/** A gap this long between two looks at the clock counts as no time, in milliseconds: whoever uses it looks more often. */
const LONGEST_GAP_MS = 1000;

export class WakingClock {
  readonly #now: () => number;
  #lastMs: number;
  #awayMs = 0;

  /** @param now Monotonic time, in milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#lastMs = now();
  }

  /** Monotonic, in milliseconds. */
  now(): number {
    const nowMs = this.#now();
    const gapMs = nowMs - this.#lastMs;
    if (gapMs > LONGEST_GAP_MS) this.#awayMs += gapMs;
    this.#lastMs = nowMs;
    return nowMs - this.#awayMs;
  }
}
