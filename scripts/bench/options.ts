/**
 * The flags of the benchmark, and what they say about measuring.
 *
 * @module
 */
import { resolve } from "node:path";
import type { InferredOptionTypes, Options } from "yargs";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";
import type { BenchOptions } from "./section.ts";

/** Values of a full and of a quick run. */
const EFFORT = {
  rounds: { full: 5, quick: 2 },
  steps: { full: 20, quick: 10 },
  blocks: { full: 5, quick: 3 },
  warmup: { full: 20, quick: 10 },
  repetitions: { full: 30, quick: 6 },
} as const;
type EffortFlag = keyof typeof EFFORT;

function effort(flag: EffortFlag, describe: string) {
  const { full, quick } = EFFORT[flag];
  return {
    type: "number",
    defaultDescription: `${full}, with --quick ${quick}`,
    describe,
    group: "Effort:",
  } as const;
}

export const BENCH_OPTIONS = {
  only: { type: "string", defaultDescription: "a,b,c,d,e", describe: "Sections to measure, a to i" },
  all: {
    type: "boolean",
    conflicts: "only",
    describe: "All sections, also those that take long",
  },
  profile: {
    type: "boolean",
    conflicts: ["only", "all"],
    describe: "Keep a CPU profile of a worker and print its functions, in place of measuring",
  },
  quick: { type: "boolean", default: false, group: "Effort:", describe: "Less of everything: a first look" },
  rounds: effort("rounds", "Rounds, in each of which both sides are measured in turn"),
  steps: effort("steps", "Steps of a block, whose duration is measured"),
  blocks: effort("blocks", "Blocks of a run, of which the median counts"),
  warmup: effort("warmup", "Steps before the first block"),
  repetitions: effort(
    "repetitions",
    "Sums of an all-reduce, and repetitions of a matrix product, in a round",
  ),
  "memory-steps": {
    type: "number",
    default: 10_000,
    group: "Effort:",
    describe: "Steps of the run whose memory is watched (section f)",
  },
  batch: {
    type: "string",
    default: "64,256",
    describe: "Batch sizes of sections a, b and e [images per step and worker]",
  },
  engine: { choices: ENGINE_NAMES, default: "wasm", describe: "What computes Lockstep's gradients" },
  "data-dir": {
    type: "string",
    normalize: true,
    defaultDescription: "none: synthetic digits, random pixels for PyTorch",
    describe: "Folder with MNIST's IDX files, for both sides",
  },
  versus: {
    type: "string",
    normalize: true,
    describe: "Folder of another version of Lockstep, built, for section h",
  },
  peer: { type: "boolean", default: true, describe: "Measure PyTorch too" },
  python: {
    type: "string",
    defaultDescription: "the first of python3, /usr/bin/python3, python that has torch",
    describe: "Python interpreter with PyTorch",
  },
  out: {
    type: "string",
    normalize: true,
    defaultDescription: "runs/bench/<date>.json",
    describe: "JSON file with the results; the profile is put into its folder",
  },
} as const satisfies Record<string, Options>;

type MeasuringFlags = Pick<
  InferredOptionTypes<typeof BENCH_OPTIONS>,
  EffortFlag | "quick" | "batch" | "engine"
> & {
  readonly memorySteps: number;
  readonly dataDir?: string | undefined;
  readonly versus?: string | undefined;
};

/** @throws {UsageError} If a number is not a whole number above 0. */
export function measuring(flags: MeasuringFlags): Omit<BenchOptions, "peer" | "scratchDir" | "progress"> {
  const effortOf = (flag: EffortFlag): number =>
    positiveInteger(flag, flags[flag] ?? EFFORT[flag][flags.quick ? "quick" : "full"]);
  return {
    engine: flags.engine,
    rounds: effortOf("rounds"),
    stepsPerBlock: effortOf("steps"),
    blocks: effortOf("blocks"),
    warmupSteps: effortOf("warmup"),
    repetitions: effortOf("repetitions"),
    batchSizes: flags.batch.split(",").map((size) => positiveInteger("batch", Number(size))),
    memorySteps: positiveInteger("memory-steps", flags.memorySteps),
    dataDir: flags.dataDir ?? null,
    versus: flags.versus === undefined ? null : resolve(flags.versus),
  };
}

function positiveInteger(flag: string, value: number): number {
  if (Number.isInteger(value) && value >= 1) return value;
  throw new UsageError(`Cannot use --${flag} as it must be a whole number above 0: got ${value}`);
}
