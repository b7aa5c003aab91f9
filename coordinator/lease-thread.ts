/**
 * The thread of run-lock.ts that renews a lock: however long the process
 * computes something, its lock shows that it lives.
 *
 * @module
 */
import { parentPort, workerData } from "node:worker_threads";
import { renew } from "./lease.ts";

export interface LeaseData {
  readonly lock: string;
  readonly nonce: string;
  readonly renewMs: number;
}

/** That it has begun, or that somebody should look whose the lock is. */
export type LeaseNews = "renews" | "look";

function tell(news: LeaseNews): void {
  parentPort?.postMessage(news);
}

const { lock, nonce, renewMs } = workerData as LeaseData;

const timer = setInterval(() => {
  try {
    if (renew(lock, nonce) !== true) tell("look");
  } catch {
    // A disk that fails for a while is told of by who writes to it.
  }
}, renewMs);

tell("renews");
parentPort?.once("message", () => {
  clearInterval(timer);
  // Nothing is left to do, so the thread ends. (A port of Deno has no close().)
  parentPort?.unref();
});
