/**
 * What is refused again and again: every time is counted, few are said, so
 * that whoever knocks cannot fill a log.
 *
 * @module
 */
import type { RunStatus } from "./protocol.ts";
import { printable } from "./text.ts";

const MAX_LENGTH = 1000;
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

  /**
   * @param text May hold what a stranger has sent.
   * @param nowMs Monotonic time, in milliseconds.
   */
  note(text: string, nowMs: number = performance.now()): void {
    this.#count += 1;
    if (nowMs - this.#saidMs < SAY_AGAIN_MS) {
      this.#numUnsaid += 1;
      return;
    }
    const more = this.#numUnsaid === 0 ? "" : ` (and ${this.#numUnsaid} before it that were not said)`;
    this.#saidMs = nowMs;
    this.#numUnsaid = 0;
    this.#say(`${printable(text, MAX_LENGTH)}${more}`);
  }
}

/** What a coordinator has turned away, for a log; null if nothing. */
export function describeRefused({
  connections,
  joins,
  messages,
  unread,
}: RunStatus["refused"]): string | null {
  if (connections + joins + messages === 0) return null;
  const notRead = unread === 0 ? "" : ` (${unread} of them unread, as who had not joined sent too much)`;
  return `${connections} connections, ${joins} joins, ${messages} malformed or unexpected messages${notRead}`;
}
