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
import { describeError } from "../shared/errors.ts";
import type { ProcessId, WorkerId } from "../shared/protocol.ts";
import type { LocalProcess } from "./membership/state.ts";
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

/** Time that a process has to end which has been let go, before another one may have its name, in milliseconds. */
const LEAVE_MS = 5000;

export interface LaunchOptions {
  readonly planOf: (workerId: WorkerId) => LocalWorker;
  /** Control endpoint. */
  readonly endpoint: string;
  /** The run's key file, or null. Only its path is passed on, as others on this machine see command lines. */
  readonly keyFile: string | null;
  readonly insecure: boolean;
  readonly onLine: (workerId: WorkerId, line: string) => void;
  /** A worker has ended; its last lines may still come. */
  readonly onExit: (ended: LocalProcess, how: string) => void;
}

export interface LocalWorkers {
  /** Starts a process of a worker, once no other process of that worker is left. */
  launch(started: LocalProcess, delayMs: number): void;
  /** Ends a process at once, or starts it no more. */
  kill(process: ProcessId): void;
  /** Resolves once all have ended; those that have not after graceMs are killed. */
  stop(graceMs: number): Promise<void>;
  killNow(): void;
}

interface RunningProcess {
  readonly started: LocalProcess;
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
}

/** Names for workers of this machine. */
export function localWorkerIds(count: number): readonly WorkerId[] {
  return Array.from({ length: count }, (_, i) => `worker-${i}`);
}

export function launchWorkers(options: LaunchOptions): LocalWorkers {
  const { planOf, endpoint, keyFile, insecure, onLine, onExit } = options;
  const running = new Set<RunningProcess>();
  /** Those that wait for their time. */
  const pending = new Map<ProcessId, NodeJS.Timeout>();
  let isStopping = false;

  const start = (started: LocalProcess): void => {
    const { workerId, process: id } = started;
    const { runtime, device, environment } = planOf(workerId);
    const { command, args, variables } = lockstepCommand(runtime);
    const flags = ["worker", "--coordinator", endpoint, "--worker-id", workerId, "--managed", id];
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
        onExit(started, `could not be started: ${error.message}`);
        resolve();
      });
      child.once("exit", (code, signal) =>
        onExit(started, signal === null ? `exited with code ${code}` : `killed by ${signal}`),
      );
      child.once("close", () => resolve());
    });
    const entry = { started, child, ended };
    running.add(entry);
    void ended.then(() => running.delete(entry));
  };

  /** Starts a process now, or when the one before it of its worker has ended. */
  const startNext = async (started: LocalProcess): Promise<void> => {
    const before = [...running].filter((one) => one.started.workerId === started.workerId);
    const kill = setTimeout(() => before.forEach(({ child }) => child.kill("SIGKILL")), LEAVE_MS);
    pending.set(started.process, kill);
    await Promise.all(before.map(({ ended }) => ended));
    clearTimeout(kill);
    // It may not be wanted any more.
    if (!pending.delete(started.process)) return;
    try {
      start(started);
    } catch (error) {
      onExit(started, `could not be started: ${describeError(error)}`);
    }
  };
  const killNow = (): void => {
    isStopping = true;
    for (const timer of pending.values()) clearTimeout(timer);
    pending.clear();
    for (const { child } of running) child.kill("SIGKILL");
  };

  return {
    killNow,
    launch(started, delayMs) {
      if (isStopping) return;
      pending.set(
        started.process,
        setTimeout(() => void startNext(started), delayMs),
      );
    },
    kill(id) {
      clearTimeout(pending.get(id));
      pending.delete(id);
      for (const { started, child } of running) if (started.process === id) child.kill("SIGKILL");
    },
    async stop(graceMs) {
      isStopping = true;
      for (const timer of pending.values()) clearTimeout(timer);
      pending.clear();
      // Members have been told to go. Those that never joined learn it from their pipe.
      const closePipes = setTimeout(() => {
        for (const { child } of running) child.stdin?.end();
      }, graceMs / 3);
      const kill = setTimeout(killNow, graceMs);
      await Promise.all([...running].map(({ ended }) => ended));
      clearTimeout(closePipes);
      clearTimeout(kill);
    },
  };
}
