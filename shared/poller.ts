/**
 * Waiting for sockets where no event tells of them: in Deno, zeromq's own
 * waits end late or never (its watch on a file descriptor stops after one
 * event, denoland/deno#36317), so one poller per process asks all sockets.
 *
 * It asks often while messages are likely and seldom else. The pause between
 * two questions is a fixed part of the time since something last happened
 * here (a message came or went, or the process computed): a wait is prolonged
 * by that part at most, and a process that waits for long is idle.
 *
 * @module
 */
import { clearTimeout, setImmediate, setTimeout } from "node:timers";

/** Pause between two questions, as a part of the quiet time before it. */
const PAUSE_PART = 1 / 16;
/** Quiet time below which there is no pause, in milliseconds: as long as the shortest sleep takes. */
const SPIN_MS = 0.2;
/** Shorter pauses block the process, which is exact; longer ones are timers of the event loop, in milliseconds. */
const LONGEST_BLOCK_MS = 1;
/** The longest pause, in milliseconds: 200 questions a second take less than 1 % of a core. */
const LONGEST_PAUSE_MS = 5;
/** A turn of the event loop that takes this much longer than the pause did other work, in milliseconds. */
const BUSY_MS = 0.5;

/** How long to sleep after nothing has happened for so long. All in milliseconds. */
export function pauseAfter(quietMs: number): number {
  return quietMs < SPIN_MS ? 0 : Math.min(LONGEST_PAUSE_MS, quietMs * PAUSE_PART);
}

interface Wait {
  readonly isReady: () => boolean;
  readonly resolve: () => void;
}

export class Poller {
  readonly #waits = new Set<Wait>();
  /** Nobody wakes who sleeps on it. */
  readonly #bed = new Int32Array(new SharedArrayBuffer(4));
  /** When something last happened here. */
  #activeMs = 0;
  /** When the last turn ended, or infinity if a timer begins the next one. */
  #turnEndMs = Infinity;
  #timer: NodeJS.Timeout | null = null;
  #isRunning = false;
  #numTurns = 0;

  /** Times that all sockets were asked. */
  get numTurns(): number {
    return this.#numTurns;
  }

  /** Something happened after which messages are likely. */
  noteActivity(): void {
    this.#activeMs = performance.now();
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#askSoon();
  }

  /**
   * Resolves in a later turn of the event loop, once isReady() says so. Keeps the process alive until then.
   *
   * @param isReady Cheap; must not throw.
   */
  until(isReady: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#waits.add({ isReady, resolve });
      if (this.#isRunning) return;
      this.#isRunning = true;
      this.#activeMs = performance.now();
      this.#askSoon();
    });
  }

  #askSoon(): void {
    this.#timer = null;
    this.#turnEndMs = performance.now();
    setImmediate(this.#ask);
  }

  readonly #ask = (): void => {
    this.#numTurns += 1;
    const nowMs = performance.now();
    let found = nowMs - this.#turnEndMs > BUSY_MS;
    for (const wait of this.#waits) {
      if (!wait.isReady()) continue;
      this.#waits.delete(wait);
      wait.resolve();
      found = true;
    }
    if (found) this.#activeMs = nowMs;
    this.#isRunning = this.#waits.size > 0;
    if (!this.#isRunning) return;
    const pauseMs = pauseAfter(nowMs - this.#activeMs);
    if (pauseMs > LONGEST_BLOCK_MS) {
      this.#turnEndMs = Infinity;
      this.#timer = setTimeout(this.#ask, pauseMs);
      return;
    }
    if (pauseMs > 0) Atomics.wait(this.#bed, 0, 0, pauseMs);
    this.#askSoon();
  };
}
