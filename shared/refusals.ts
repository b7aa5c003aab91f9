/**
 * What is refused again and again: every time is counted, few are said, so
 * that whoever knocks cannot fill a log.
 *
 * @module
 */

/** The first is said at once, and then one in this time at most, in milliseconds. */
const SAY_AGAIN_MS = 10_000;

export class Refusals {
  readonly #say: (text: string) => void;
  #count = 0;
  #numUnsaid = 0;
  #saidMs = -Infinity;

  constructor(say: (text: string) => void) {
    this.#say = say;
  }

  /** So far. */
  get count(): number {
    return this.#count;
  }

  /** @param nowMs Monotonic time, in milliseconds. */
  note(text: string, nowMs: number = performance.now()): void {
    this.#count += 1;
    if (nowMs - this.#saidMs < SAY_AGAIN_MS) {
      this.#numUnsaid += 1;
      return;
    }
    const more = this.#numUnsaid === 0 ? "" : ` (and ${this.#numUnsaid} before it that were not said)`;
    this.#saidMs = nowMs;
    this.#numUnsaid = 0;
    this.#say(`${text}${more}`);
  }
}
