/**
 * Signals by which a process is told to end: by Ctrl-C, a terminal that closes, `kill`, a container's engine or a batch
 * system. There is a handler from the first line of the program on: the kernel keeps a signal without one from process 1
 * of a container, and Node answers SIGUSR1 with a debugger.
 *
 * A process that nobody has said otherwise for ends at once, with 128 and the signal's number as its code.
 *
 * @module
 */
import { closeSync, openSync } from "node:fs";
import { constants } from "node:os";
import { isatty } from "node:tty";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"] as const;
export type Signal = (typeof SIGNALS)[number];

/** All is saved and the run is not complete: it goes on when the process is started again (EX_TEMPFAIL of sysexits.h). */
export const EXIT_AGAIN = 75;

/** Signals of one kind that come within this time of the first are one, in milliseconds: batch systems send it twice. */
const SAME_MS = 5000;
/** The same for Ctrl-C: npm and npx pass on the one that the terminal has sent already. */
const SAME_INTERRUPT_MS = 500;

/** A stopped process's exit code, by the shell's convention. */
export function exitCodeOf(signal: Signal): number {
  return 128 + constants.signals[signal];
}

/** A signal, and when it came in milliseconds. */
export interface Received {
  readonly signal: Signal;
  readonly atMs: number;
}

/** end: finish, save, end. same: the request that is known already. atOnce: who sends it does not want to wait. */
export type Meaning = "end" | "same" | "atOnce";

/** What a signal means after those before it, oldest first. */
export function meaningOf({ signal, atMs }: Received, before: readonly Received[]): Meaning {
  if (before.length === 0) return "end";
  // Ctrl-C is a person's; of the others only one that is repeated is impatience: another one may follow by plan.
  if (signal === "SIGINT") return atMs - before[0].atMs <= SAME_INTERRUPT_MS ? "same" : "atOnce";
  const first = before.find((one) => one.signal === signal);
  return first !== undefined && atMs - first.atMs > SAME_MS ? "atOnce" : "same";
}

export interface SignalListener {
  /** The process is to end, and has the time to do so well. */
  readonly onTold: (signal: Signal) => void;
  /** The process ends when this returns. */
  readonly onAtOnce: () => void;
  /** The terminal has closed that a process in the background was started from. */
  readonly onHangUp: () => void;
}

class Signals {
  #received: readonly Received[] = [];
  #deferred: Signal | null = null;
  #isDeferring = false;
  #listener: SignalListener | null = null;
  #isDetached = false;
  #isIgnoring = false;

  /** To be called once, before anything that takes time. */
  install(): void {
    this.#isDetached = isDetached();
    for (const signal of SIGNALS) {
      // Not every system has all of them.
      if (signal in constants.signals) process.on(signal, () => this.#receive(signal));
    }
  }

  /** From now on a signal waits for the next listener, as the process holds what it must give back. */
  defer(): void {
    this.#isDeferring = true;
  }

  /** From now on signals mean nothing: who has started this process ends it. */
  ignore(): void {
    this.#isIgnoring = true;
  }

  /** @returns Ends listening; signals are deferred from then on. */
  listen(listener: SignalListener): () => void {
    this.#listener = listener;
    if (this.#deferred !== null) listener.onTold(this.#deferred);
    return () => {
      this.#listener = null;
      this.#isDeferring = true;
    };
  }

  #receive(signal: Signal): void {
    if (this.#isIgnoring) return;
    if (signal === "SIGHUP" && this.#isDetached) return this.#listener?.onHangUp();
    const received = { signal, atMs: performance.now() };
    const meaning = meaningOf(received, this.#received);
    this.#received = [...this.#received, received];
    if (meaning === "same") return;
    if (meaning === "end" && this.#listener !== null) return this.#listener.onTold(signal);
    if (meaning === "end" && this.#isDeferring) {
      this.#deferred = signal;
      return;
    }
    this.#listener?.onAtOnce();
    process.exit(exitCodeOf(signal));
  }
}

/** Of this process. */
export const signals = new Signals();

/**
 * Whether the process was put in the background of a terminal for good, as by nohup: it has a terminal, which
 * nothing of it reads or writes. That SIGHUP was to be ignored cannot be asked, as Node resets that when it starts.
 */
function isDetached(): boolean {
  return ![0, 1, 2].some((fd) => isatty(fd)) && hasTerminal();
}

function hasTerminal(): boolean {
  try {
    closeSync(openSync("/dev/tty", "r"));
    return true;
  } catch {
    return false;
  }
}
