/**
 * (g) What checkpoints cost: the same run with and without them.
 *
 * @module
 */
import { productRun } from "./product-run.ts";
import type { BenchOptions, Row, Section } from "./section.ts";
import { mean, median, summarize } from "./statistics.ts";

/** Steps between checkpoints: far more often than anybody would want. */
const EVERY = 5;

export const checkpointCost: Section = async (options) => ({
  title: `(g) Steps with a checkpoint every ${EVERY} steps [ms]`,
  notes: [
    "One worker. Steps are told apart by when their line of metrics was there. Ratios within a round, then median (min-max) over rounds.",
    "median: of all steps. mean: of all steps, so that the step after a checkpoint counts, which waits for the copy of the state.",
  ],
  columns: ["batch", "median without", "median with", "ratio of medians", "ratio of means"],
  rows: await rowsOf(options),
});

async function rowsOf(options: BenchOptions): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const batchSize of options.batchSizes) {
    const rounds: { readonly without: readonly number[]; readonly with: readonly number[] }[] = [];
    for (let round = 0; round < options.rounds; round++) {
      options.progress(`batch ${batchSize}, round ${round + 1} of ${options.rounds}`);
      rounds.push({
        without: await stepsOf(options, batchSize, 1_000_000),
        with: await stepsOf(options, batchSize, EVERY),
      });
    }
    const over = (value: (round: (typeof rounds)[number]) => number) => summarize(rounds.map(value));
    rows.push({
      name: String(batchSize),
      cells: [
        over((round) => median(round.without)),
        over((round) => median(round.with)),
        over((round) => median(round.with) / median(round.without)),
        over((round) => mean(round.with) / mean(round.without)),
      ],
    });
  }
  return rows;
}

/** Durations of the steps after the first ones. */
async function stepsOf(
  options: BenchOptions,
  batchSize: number,
  checkpointEvery: number,
): Promise<readonly number[]> {
  const { engine, stepsPerBlock, blocks, warmupSteps, dataDir, scratchDir } = options;
  const maxSteps = warmupSteps + blocks * stepsPerBlock;
  const flags = ["--checkpoint-every", `${checkpointEvery}`, "--keep-checkpoints", "2"];
  const run = { engine, workers: 1, globalBatchSize: batchSize, maxSteps, dataDir, scratchDir, flags };
  const { steps } = await productRun(run);
  return steps.slice(warmupSteps).map(({ atMs }, i) => atMs - steps[warmupSteps + i - 1].atMs);
}
