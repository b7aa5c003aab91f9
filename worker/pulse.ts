/**
 * A thread that tells the coordinator that this worker is alive while one long
 * computation keeps its event loop from sending heartbeats: without it, a
 * large batch on a slow engine looks like a dead machine.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Worker as Thread } from "node:worker_threads";
import { describeError } from "../shared/errors.ts";
import type { RunKey } from "../shared/keys.ts";

/** How a worker reaches its coordinator. */
export interface CoordinatorAddress {
  /** Of the control plane. */
  readonly endpoint: string;
  readonly key: RunKey | null;
  /** Whether the endpoint needs IPv6. */
  readonly ipv6: boolean;
}

/** What the thread is given when it begins. */
export interface PulseData extends CoordinatorAddress {
  /** One number, which changes with every turn of the worker's event loop. */
  readonly turns: Int32Array<SharedArrayBuffer>;
}

/** No thread takes as long to end, in milliseconds. */
const END_MS = 2000;

export type PulseOrder =
  { readonly type: "speakFor"; readonly incarnation: string | null } | { readonly type: "end" };

export class Pulse {
  readonly #turns = new Int32Array(new SharedArrayBuffer(4));
  readonly #thread: Thread;
  readonly #ended: Promise<void>;

  /** @param log Told if the thread cannot go on; the worker can. */
  constructor(address: CoordinatorAddress, log: (text: string) => void) {
    const workerData: PulseData = { ...address, turns: this.#turns };
    this.#thread = new Thread(new URL("./pulse-thread.js", import.meta.url), { workerData });
    this.#thread.on("error", (error) =>
      log(
        `Computations longer than --failure-timeout may look like the end of this worker: ${describeError(error)}`,
      ),
    );
    this.#ended = new Promise((resolve) => this.#thread.once("exit", () => resolve()));
  }

  /** The event loop has turned: to be called every HEARTBEAT_MS. */
  turn(): void {
    Atomics.add(this.#turns, 0, 1);
  }

  /** @param incarnation As which the coordinator knows this worker from now on, or null. */
  speakFor(incarnation: string | null): void {
    this.#thread.postMessage({ type: "speakFor", incarnation } satisfies PulseOrder);
  }

  /** To be awaited before the process ends: a thread that is ended from outside takes the process down with it. */
  async close(): Promise<void> {
    this.#thread.postMessage({ type: "end" } satisfies PulseOrder);
    await Promise.race([this.#ended, sleep(END_MS, undefined, { ref: false })]);
  }
}
