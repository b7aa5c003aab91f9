/**
 * A run of the real product, `lockstep train`, as a user would start it, in a
 * folder of its own. What it writes to metrics.jsonl is read as it comes: a
 * line says what a step took on each worker, and its arrival when the step was
 * complete.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import type { EngineName } from "../../shared/config.ts";
import { FollowedLines } from "./follow-lines.ts";

/** This version's. */
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

const WorkerTiming = z.object({
  computeMs: z.number(),
  allReduceMs: z.number(),
  waitMs: z.number(),
  applyMs: z.number(),
});
export type WorkerTiming = z.infer<typeof WorkerTiming>;

const MetricsLine = z.object({ globalStep: z.int(), workers: z.record(z.string(), WorkerTiming) });

export interface ProductRunOptions {
  readonly engine: EngineName;
  readonly workers: number;
  readonly globalBatchSize: number;
  readonly maxSteps: number;
  /** Folder with MNIST, or null for synthetic digits. */
  readonly dataDir: string | null;
  readonly scratchDir: string;
  /** Folder of another version, built, to run in the place of this one. */
  readonly root?: string | null;
  /** Flags of Node for the coordinator, which gives them to the workers. */
  readonly nodeFlags?: readonly string[];
  /** Further flags of `lockstep train`. */
  readonly flags?: readonly string[];
  /** Told of each complete step while the workers run. */
  readonly onStep?: (step: ProductStep, workerPids: readonly number[]) => void;
}

export interface ProductStep {
  /** Steps complete. */
  readonly globalStep: number;
  /** When its line was there, by performance.now(). */
  readonly atMs: number;
  readonly workers: readonly WorkerTiming[];
}

export interface ProductRun {
  readonly steps: readonly ProductStep[];
  readonly workerPids: readonly number[];
}

/** @throws {Error} If the run fails; the message has its output. */
export async function productRun(options: ProductRunOptions): Promise<ProductRun> {
  const {
    engine,
    workers,
    globalBatchSize,
    maxSteps,
    dataDir,
    scratchDir,
    nodeFlags = [],
    flags = [],
    onStep,
  } = options;
  const cli = join(options.root ?? ROOT, "dist", "scripts", "lockstep.js");
  const folder = mkdtempSync(join(scratchDir, "run-"));
  const runDir = join(folder, "run");
  const steps: ProductStep[] = [];
  const workerPids: number[] = [];
  let output = "";
  const data = dataDir === null ? ["--dataset", "synthetic"] : ["--dataset", "mnist", "--data-dir", dataDir];
  const child = spawn(
    process.execPath,
    [
      ...[...nodeFlags, cli, "train", "--engine", engine, "--workers", `${workers}`],
      ...["--global-batch-size", `${globalBatchSize}`, "--max-steps", `${maxSteps}`],
      // Engine wasm computes all shards in one pass; others one by one.
      ...(engine === "wasm" ? [] : ["--shards", `${workers}`]),
      ...[...data, ...flags, "--run-dir", runDir],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  const metrics = new FollowedLines(join(runDir, "metrics.jsonl"), (line, atMs) => {
    const { globalStep, workers: timings } = MetricsLine.parse(JSON.parse(line));
    const step = { globalStep, atMs, workers: Object.values(timings) };
    steps.push(step);
    onStep?.(step, workerPids);
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      const pids = [...output.matchAll(/^Worker ".*" joined \(pid (\d+) /gm)].map(([, pid]) => Number(pid));
      workerPids.splice(0, Infinity, ...pids);
    });
  }
  try {
    const ended = new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    const code = await ended.finally(() => metrics.close());
    if (code !== 0 || steps.length !== maxSteps) {
      throw new Error(`Cannot measure lockstep train as it ended with code ${String(code)}:\n${output}`);
    }
    return { steps, workerPids };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
