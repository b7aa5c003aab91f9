/**
 * `lockstep worker`: one worker process.
 *
 * @module
 */
import { randomBytes, randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { wasmMemory } from "../../shared/address-space.ts";
import { UsageError } from "../../shared/errors.ts";
import { keyOf } from "../../shared/keys.ts";
import { MAX_ID_LENGTH } from "../../shared/protocol.ts";
import { isPrintable, plainLine, printable } from "../../shared/text.ts";
import { RUNTIME } from "../../shared/runtime.ts";
import { parseEndpoint } from "../../shared/endpoint.ts";
import { runWorker, WorkerStopped } from "../../worker/worker.ts";
import type { Signal } from "./signals.ts";
import { EXIT_AGAIN, exitCodeOf, signals } from "./signals.ts";

export interface WorkerCommandOptions {
  readonly coordinator: string;
  readonly workerId: string | null;
  readonly dataHost: string | null;
  /** Key file, or null for that of the environment, if there is one. */
  readonly key: string | null;
  readonly insecure: boolean;
  readonly device: number | null;
  readonly connectTimeoutSeconds: number;
  /** Id of this process for the coordinator that has started it and keeps its end of standard input open, or null. */
  readonly managed: string | null;
}

/** @returns The exit code of the process. */
export async function worker(options: WorkerCommandOptions): Promise<number> {
  try {
    parseEndpoint(options.coordinator);
  } catch (error) {
    throw new UsageError(`Cannot use --coordinator: ${(error as Error).message}`);
  }
  if (options.workerId !== null && !isWorkerId(options.workerId)) {
    throw new UsageError(
      `Cannot use --worker-id as it must have 1 to ${MAX_ID_LENGTH} characters, none of them a control character: got ${JSON.stringify(options.workerId)}`,
    );
  }
  // Before it has joined.
  if (RUNTIME === "node") wasmMemory({ initial: 1 });
  const key = keyOf(options.key)?.key ?? null;
  // It may hold what the coordinator has said.
  const log = (text: string): void => console.log(plainLine(text));
  const isManaged = options.managed !== null;
  if (isManaged) {
    // Whoever ends a job tells its whole process group; what that means for this worker, its coordinator decides.
    signals.ignore();
    // Nobody may be left to read what is said.
    for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
  }
  let signal: Signal = "SIGTERM";
  const told = new Promise<Signal>((resolve) => {
    signals.listen({
      onTold: (first) => {
        signal = first;
        resolve(first);
      },
      onAtOnce: () => undefined,
      onHangUp: () => log("SIGHUP: the terminal has closed. Going on, as nothing here uses it"),
    });
  });
  try {
    const how = await runWorker({
      coordinator: options.coordinator,
      workerId: options.workerId ?? ownName(),
      process: options.managed ?? randomUUID(),
      dataHost: options.dataHost,
      key,
      insecure: options.insecure,
      device: options.device,
      connectTimeoutMs: options.connectTimeoutSeconds * 1000,
      orphaned: isManaged ? endOfInput() : null,
      told,
      log,
    });
    if (how === "told") return exitCodeOf(signal);
    log(how === "again" ? "Nothing is lost: start this worker again to train on" : "Done");
    return how === "again" ? EXIT_AGAIN : 0;
  } catch (error) {
    if (!(error instanceof WorkerStopped)) throw error;
    console.error(plainLine(error.message));
    return 1;
  }
}

/** A name that no other worker has: two containers of one host's name may both be its process 1. */
function ownName(): string {
  const host = printable(hostname(), MAX_ID_LENGTH / 2);
  return `${host}-${process.pid}-${randomBytes(3).toString("hex")}`;
}

function isWorkerId(text: string): boolean {
  return text.length > 0 && text.length <= MAX_ID_LENGTH && isPrintable(text);
}

/** Resolves when the process at the other end of standard input is gone. */
function endOfInput(): Promise<void> {
  return new Promise((resolve) => {
    process.stdin
      .on("end", () => resolve())
      .on("error", () => resolve())
      .resume();
  });
}
