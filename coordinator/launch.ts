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
import type { WorkerId } from "../shared/protocol.ts";
import type { WorkerRuntime } from "./runtime-command.ts";
import { lockstepCommand } from "./runtime-command.ts";

/** How to start one worker. */
export interface LocalWorker {
  readonly runtime: WorkerRuntime;
  /** Index of its GPU, or null for the engine's choice. */
  readonly device: number | null;
  /** Variables beside those of this process. */
  readonly environment: Readonly<Record<string, string>>;
}

/** What TensorFlow prints while it loads, before it looks how much it may say. Warnings and errors are not meant. */
const LIBRARY_NOTE = /^(WARNING: All log messages before absl::InitializeLog|I0000 )/;

export interface LaunchOptions {
  /** Workers to start at once. */
  readonly workers: readonly WorkerId[];
  readonly planOf: (workerId: WorkerId) => LocalWorker;
  /** Control endpoint. */
  readonly endpoint: string;
  /** The run's key file, or null. Only its path is passed on, as others on this machine see command lines. */
  readonly keyFile: string | null;
  readonly insecure: boolean;
  readonly onLine: (workerId: WorkerId, line: string) => void;
  /** A worker has ended; its last lines may still come. */
  readonly onExit: (workerId: WorkerId, how: string) => void;
}

export interface LocalWorkers {
  /** Starts one more worker, or one that has ended again. */
  launch(workerId: WorkerId, delayMs: number): void;
  /** Ends a worker at once. */
  kill(workerId: WorkerId): void;
  /** Resolves once all have ended; those that have not after graceMs are killed. */
  stop(graceMs: number): Promise<void>;
  killNow(): void;
}

/** Names for workers of this machine. */
export function localWorkerIds(count: number): readonly WorkerId[] {
  return Array.from({ length: count }, (_, i) => `worker-${i}`);
}

export function launchWorkers(options: LaunchOptions): LocalWorkers {
  const { workers, planOf, endpoint, keyFile, insecure, onLine, onExit } = options;
  const running = new Map<ChildProcess, { readonly workerId: WorkerId; readonly ended: Promise<void> }>();
  const restarts = new Set<NodeJS.Timeout>();
  let isStopping = false;

  const launch = (workerId: WorkerId): void => {
    const { runtime, device, environment } = planOf(workerId);
    const { command, args, variables } = lockstepCommand(runtime);
    const flags = ["worker", "--coordinator", endpoint, "--worker-id", workerId, "--managed"];
    if (keyFile !== null) flags.push("--key", keyFile);
    if (insecure) flags.push("--insecure");
    if (device !== null) flags.push("--device", String(device));
    const child = spawn(command, [...args, ...flags], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...variables, ...environment },
    });
    // The pipe breaks when the worker ends first.
    child.stdin.on("error", () => undefined);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        if (!LIBRARY_NOTE.test(line)) onLine(workerId, line);
      });
    }
    const ended = new Promise<void>((resolve) => {
      // Told once: of the end, which comes before its last output, or of a start that failed.
      child.once("error", (error) => {
        onExit(workerId, `could not be started: ${error.message}`);
        resolve();
      });
      child.once("exit", (code, signal) =>
        onExit(workerId, signal === null ? `exited with code ${code}` : `killed by ${signal}`),
      );
      child.once("close", () => resolve());
    });
    running.set(child, { workerId, ended });
    void ended.then(() => running.delete(child));
  };
  const killNow = (): void => {
    isStopping = true;
    for (const timer of restarts) clearTimeout(timer);
    for (const child of running.keys()) child.kill("SIGKILL");
  };

  for (const workerId of workers) launch(workerId);
  return {
    killNow,
    launch(workerId, delayMs) {
      const timer = setTimeout(() => {
        restarts.delete(timer);
        if (!isStopping) launch(workerId);
      }, delayMs);
      restarts.add(timer);
    },
    kill(workerId) {
      for (const [child, { workerId: id }] of running) if (id === workerId) child.kill("SIGKILL");
    },
    async stop(graceMs) {
      isStopping = true;
      // Members have been told to go. Those that never joined learn it from their pipe.
      const closePipes = setTimeout(() => {
        for (const child of running.keys()) child.stdin?.end();
      }, graceMs / 3);
      const kill = setTimeout(killNow, graceMs);
      await Promise.all([...running.values()].map(({ ended }) => ended));
      clearTimeout(closePipes);
      clearTimeout(kill);
    },
  };
}
