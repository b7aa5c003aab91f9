/**
 * (e) Where the time of a step goes, as the workers themselves measure it.
 *
 * @module
 */
import type { WorkerTiming } from "./product-run.ts";
import { productRun } from "./product-run.ts";
import type { BenchOptions, Row, Section } from "./section.ts";
import { mean, summarize } from "./statistics.ts";

/** Milliseconds of a step: parts of the workers' mean, and the whole by wall clock. */
interface Split extends WorkerTiming {
  readonly stepMs: number;
  /** Hashes, messages, turns of the event loop. */
  readonly restMs: number;
}

const PARTS = ["stepMs", "computeMs", "allReduceMs", "waitMs", "applyMs", "restMs"] as const;

export const stepTime: Section = async (options) => {
  const rows: Row[] = [];
  for (const batchSize of options.batchSizes) {
    for (const workers of [1, 2]) rows.push(await rowOf(options, workers, batchSize));
  }
  return {
    title: "(e) Where the time of a step goes [ms]",
    notes: [
      "Means over the timed steps of a run, so that the parts add up, and over its workers; then median (min-max) over rounds.",
      "step: wall clock. compute: gradients, also what is computed while a gradient travels. all-reduce: waiting for the rest of it. wait: for the coordinator's batch. apply: norm, Adam, parameters to the engine. rest: hashes, messages, event loop.",
    ],
    columns: ["workers x batch", "step", "compute", "all-reduce", "wait", "apply", "rest"],
    rows,
  };
};

async function rowOf(options: BenchOptions, workers: number, batchSize: number): Promise<Row> {
  const { engine, rounds, stepsPerBlock, blocks, warmupSteps, dataDir, scratchDir, progress } = options;
  const name = `${workers} x ${batchSize}`;
  const splits: Split[] = [];
  for (let round = 0; round < rounds; round++) {
    progress(`${name}, round ${round + 1} of ${rounds}`);
    const maxSteps = warmupSteps + blocks * stepsPerBlock;
    const run = { engine, workers, globalBatchSize: workers * batchSize, maxSteps, dataDir, scratchDir };
    const { steps } = await productRun(run);
    const timed = steps.slice(warmupSteps);
    const timings = timed.flatMap((step) => step.workers);
    const meanOf = (part: keyof WorkerTiming): number => mean(timings.map((timing) => timing[part]));
    const stepMs = (timed[timed.length - 1].atMs - steps[warmupSteps - 1].atMs) / timed.length;
    const parts: WorkerTiming = {
      computeMs: meanOf("computeMs"),
      allReduceMs: meanOf("allReduceMs"),
      waitMs: meanOf("waitMs"),
      applyMs: meanOf("applyMs"),
    };
    const restMs = stepMs - Object.values(parts).reduce((sum, ms: number) => sum + ms, 0);
    splits.push({ ...parts, stepMs, restMs });
  }
  return { name, cells: PARTS.map((part) => summarize(splits.map((split) => split[part]))) };
}
