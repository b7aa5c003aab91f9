/**
 * A thread that tells the coordinator that this worker is alive while one long
 * computation keeps its event loop from sending heartbeats: without it, a
 * large batch on a slow engine looks like a dead machine.
 *
 * @module
 */
import { Worker as Thread } from "node:worker_threads";
import { describeError } from "../shared/errors.ts";
import type { RunKey } from "../shared/keys.ts";

/** What the thread is given when it begins. */
export interface PulseData {
  /** The coordinator's control endpoint. */
  readonly endpoint: string;
  readonly key: RunKey | null;
  /** One number, which changes with every turn of the worker's event loop. */
  readonly turns: Int32Array<SharedArrayBuffer>;
}

export class Pulse {
  readonly #turns = new Int32Array(new SharedArrayBuffer(4));
  readonly #thread: Thread;

  /** @param log Told if the thread cannot go on; the worker can. */
  constructor(endpoint: string, key: RunKey | null, log: (text: string) => void) {
    const workerData: PulseData = { endpoint, key, turns: this.#turns };
    this.#thread = new Thread(new URL("./pulse-thread.js", import.meta.url), { workerData });
    this.#thread.on("error", (error) =>
      log(
        `Computations longer than --failure-timeout may look like the end of this worker: ${describeError(error)}`,
      ),
    );
    this.#thread.unref();
  }

  /** The event loop has turned: to be called every HEARTBEAT_MS. */
  turn(): void {
    Atomics.add(this.#turns, 0, 1);
  }

  /** @param incarnation As which the coordinator knows this worker from now on, or null. */
  speakFor(incarnation: string | null): void {
    this.#thread.postMessage(incarnation);
  }

  close(): void {
    void this.#thread.terminate();
  }
}
