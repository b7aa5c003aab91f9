/**
 * Worker processes on this machine. Each holds the end of a pipe as its
 * standard input: however the coordinator dies, the pipe closes and the worker
 * exits. Its output comes back line by line.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { WorkerId } from "../shared/protocol.ts";

export interface LaunchOptions {
  readonly numWorkers: number;
  /** Control endpoint. */
  readonly endpoint: string;
  readonly onLine: (workerId: WorkerId, line: string) => void;
  /** A worker has ended and all its output was passed on. */
  readonly onExit: (workerId: WorkerId, how: string) => void;
}

export interface LocalWorkers {
  /** Resolves once all have ended; those that have not after graceMs are killed. */
  stop(graceMs: number): Promise<void>;
  killNow(): void;
}

export function launchWorkers({ numWorkers, endpoint, onLine, onExit }: LaunchOptions): LocalWorkers {
  const command = fileURLToPath(new URL("../scripts/lockstep.js", import.meta.url));
  const width = String(numWorkers - 1).length;
  const running = new Map<ChildProcess, Promise<void>>();
  for (let i = 0; i < numWorkers; i++) {
    const workerId = `worker-${String(i).padStart(width, "0")}`;
    const child = spawn(
      process.execPath,
      [
        ...process.execArgv,
        command,
        "worker",
        "--coordinator",
        endpoint,
        "--worker-id",
        workerId,
        "--managed",
      ],
      { stdio: ["pipe", "pipe", "pipe"] },
    );
    // The pipe breaks when the worker ends first.
    child.stdin.on("error", () => undefined);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => onLine(workerId, line));
    }
    const ended = new Promise<void>((resolve) => {
      child.once("error", (error) => {
        onExit(workerId, `could not be started: ${error.message}`);
        resolve();
      });
      child.once("close", (code, signal) => {
        onExit(workerId, signal === null ? `exited with code ${code}` : `killed by ${signal}`);
        resolve();
      });
    });
    running.set(child, ended);
    void ended.then(() => running.delete(child));
  }
  const killNow = (): void => {
    for (const child of running.keys()) child.kill("SIGKILL");
  };
  return {
    killNow,
    async stop(graceMs) {
      // Members have been told to go. Those that never joined learn it from their pipe.
      const closePipes = setTimeout(() => {
        for (const child of running.keys()) child.stdin?.end();
      }, graceMs / 3);
      const kill = setTimeout(killNow, graceMs);
      await Promise.all(running.values());
      clearTimeout(closePipes);
      clearTimeout(kill);
    },
  };
}
