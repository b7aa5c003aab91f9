/**
 * How much the coordinator reads of peers that are no members. Without a key
 * anybody may write to it; with one, a member of another run may, by mistake.
 * Whoever writes too much is not read for the rest of the second.
 *
 * @module
 */

/** What a stranger may cost per second: some hundred messages, or some ten that are malformed. */
const BUDGET = 200;
const MALFORMED_COST = 20;
const WINDOW_MS = 1000;
/** Strangers beyond these share one budget, so that many names are of no use. */
const MAX_NAMES = 1000;

export class Gate {
  #costs = new Map<string, number>();
  #windowEndMs = -Infinity;

  /**
   * Whether to read a stranger's message.
   *
   * @param from Its routing id.
   * @param nowMs Monotonic time, in milliseconds.
   */
  admits(from: string, nowMs: number): boolean {
    if (nowMs >= this.#windowEndMs) {
      this.#costs = new Map();
      this.#windowEndMs = nowMs + WINDOW_MS;
    }
    return this.#charge(from, 1) <= BUDGET;
  }

  /** The message that was admitted last was malformed. */
  noteMalformed(from: string): void {
    this.#charge(from, MALFORMED_COST);
  }

  #charge(from: string, cost: number): number {
    const name = this.#costs.has(from) || this.#costs.size < MAX_NAMES ? from : "";
    const total = (this.#costs.get(name) ?? 0) + cost;
    this.#costs.set(name, total);
    return total;
  }
}
