/**
 * (f) Resident memory of the workers over a long run: it must not grow.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { UsageError } from "../../shared/errors.ts";
import { productRun } from "./product-run.ts";
import type { Section } from "./section.ts";

const WORKERS = 2;

/** Small, so that steps are quick: what a worker might leak, it leaks per step. */
const GLOBAL_BATCH_SIZE = 8;

/** When everything has been allocated that a run needs. */
const FIRST_STEP = 500;

/** Samples between the first step and the last. */
const NUM_SAMPLES = 20;

export const memory: Section = async ({ engine, memorySteps: endStep, dataDir, scratchDir, progress }) => {
  if (endStep <= FIRST_STEP) {
    throw new UsageError(`Cannot use --memory-steps as it must be above ${FIRST_STEP}: got ${endStep}`);
  }
  const every = Math.ceil((endStep - FIRST_STEP) / NUM_SAMPLES);
  const samples: (readonly number[])[] = [];
  await productRun({
    engine,
    workers: WORKERS,
    globalBatchSize: GLOBAL_BATCH_SIZE,
    maxSteps: endStep,
    dataDir,
    scratchDir,
    onStep: ({ globalStep }, pids) => {
      if (globalStep < FIRST_STEP) return;
      // After the last step the workers still wait for the checkpoint to be written.
      if ((globalStep - FIRST_STEP) % every !== 0 && globalStep !== endStep) return;
      progress(`step ${globalStep} of ${endStep}`);
      samples.push(pids.map(residentMiB));
    },
  });
  const rows = Array.from({ length: WORKERS }, (_, worker) => {
    const mib = samples.map((sample) => sample[worker]);
    const [first, last] = [mib[0], mib[mib.length - 1]];
    return { name: `worker ${worker}`, cells: [first, last, last - first, Math.max(...mib)] };
  });
  return {
    title: `(f) Resident memory of the workers over ${endStep} steps [MiB]`,
    notes: [
      `Default model with --global-batch-size ${GLOBAL_BATCH_SIZE}, so that steps are quick; ${samples.length} samples, checkpoints every 500 steps as by default.`,
    ],
    columns: ["worker", `step ${FIRST_STEP}`, `step ${endStep}`, "growth", "largest"],
    rows,
  };
};

/** Resident set of a living process. */
function residentMiB(pid: number): number {
  const status = `/proc/${pid}/status`;
  const kib = existsSync(status)
    ? /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(status, "utf8"))?.[1]
    : execFileSync("ps", ["-o", "rss=", "-p", `${pid}`], { encoding: "utf8" });
  return Number(kib) / 1024;
}
