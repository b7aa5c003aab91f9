/**
 * `lockstep worker`: one worker process.
 *
 * @module
 */
import { hostname } from "node:os";
import { UsageError } from "../../shared/errors.ts";
import { parseEndpoint } from "../../shared/sockets.ts";
import { runWorker, WorkerStopped } from "../../worker/worker.ts";

export interface WorkerCommandOptions {
  readonly coordinator: string;
  readonly workerId: string | null;
  readonly dataHost: string | null;
  readonly connectTimeoutSeconds: number;
  /** Started by a coordinator on this machine, whose end of standard input must stay open. */
  readonly managed: boolean;
}

/** @returns The exit code of the process. */
export async function worker(options: WorkerCommandOptions): Promise<number> {
  try {
    parseEndpoint(options.coordinator);
  } catch (error) {
    throw new UsageError(`Cannot use --coordinator: ${(error as Error).message}`);
  }
  const log = (text: string): void => console.log(text);
  if (options.managed) {
    // Ctrl-C reaches the whole process group; the coordinator decides what it means.
    process.on("SIGINT", () => undefined);
    process.on("SIGHUP", () => undefined);
    const orphaned = (): void => {
      process.stderr.write("The coordinator is gone: exiting\n", () => process.exit(1));
      // Nobody may be left to read that.
      setTimeout(() => process.exit(1), 100);
    };
    process.stdin.on("end", orphaned).on("error", orphaned).resume();
    for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
  }
  try {
    await runWorker({
      coordinator: options.coordinator,
      workerId: options.workerId ?? `${hostname()}-${process.pid}`,
      dataHost: options.dataHost,
      connectTimeoutMs: options.connectTimeoutSeconds * 1000,
      log,
    });
    log("Done");
    return 0;
  } catch (error) {
    if (!(error instanceof WorkerStopped)) throw error;
    console.error(error.message);
    return 1;
  }
}
