/**
 * Images per second of the whole product against PyTorch: (a) one worker and
 * one thread, (b) two workers and DistributedDataParallel over gloo.
 *
 * @module
 */
import { NO_PEER_CELL } from "./peer.ts";
import type { ProductRunOptions } from "./product-run.ts";
import { productRun } from "./product-run.ts";
import type { BenchOptions, Cell, Row, Section } from "./section.ts";
import { medianStepMs, ratioOfRounds, summarize } from "./statistics.ts";

const how = ({ engine }: BenchOptions): readonly string[] => [
  `Lockstep: \`lockstep train --engine ${engine}\`, coordinator and all; a step's time is wall clock between the arrivals of its lines in metrics.jsonl.`,
  "Both sides: the median over blocks of consecutive steps after a warm-up, as images/s; then median (min-max) over rounds. A ratio above 1 means that Lockstep is faster.",
];

interface Contest {
  readonly name: string;
  readonly workers: number;
  readonly batchSize: number;
  /** The peer's variants by name. */
  readonly peers: readonly { readonly lean: boolean }[];
}

export const oneWorker: Section = async (options) => ({
  title: "(a) One worker and PyTorch on one thread [images/s]",
  notes: [
    ...how(options),
    "PyTorch as textbooks write it, and lean: the fake images detached in the discriminator's step.",
  ],
  columns: ["batch", "Lockstep", "PyTorch textbook", "PyTorch lean", "ratio to textbook", "ratio to lean"],
  rows: await rowsOf(
    options,
    options.batchSizes.map((batchSize) => ({
      name: `${batchSize}`,
      workers: 1,
      batchSize,
      peers: [{ lean: false }, { lean: true }],
    })),
  ),
});

export const twoWorkers: Section = async (options) => ({
  title: "(b) Two workers and PyTorch DistributedDataParallel with two processes over gloo [images/s]",
  notes: how(options),
  columns: ["batch per worker", "Lockstep", "PyTorch DDP", "ratio"],
  rows: await rowsOf(
    options,
    options.batchSizes.map((batchSize) => ({
      name: `${batchSize}`,
      workers: 2,
      batchSize,
      peers: [{ lean: true }],
    })),
  ),
});

async function rowsOf(options: BenchOptions, contests: readonly Contest[]): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const contest of contests) rows.push(await rowOf(options, contest));
  return rows;
}

async function rowOf(options: BenchOptions, { name, workers, batchSize, peers }: Contest): Promise<Row> {
  const { rounds, peer, progress } = options;
  const images = workers * batchSize;
  const ours: number[] = [];
  const theirs = peers.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    progress(`${workers} x ${batchSize}, round ${round + 1} of ${rounds}`);
    ours.push((images * 1000) / (await ourStepMs(options, workers, images)));
    if (peer === null) continue;
    for (const [i, { lean }] of peers.entries()) {
      const ms = await peer.stepMs({ batchSize, processes: workers, lean }, options);
      theirs[i].push((images * 1000) / ms);
    }
  }
  const cells: Cell[] = [
    ...theirs.map((values) => (peer === null ? NO_PEER_CELL : summarize(values))),
    ...theirs.map((values) => (peer === null ? null : ratioOfRounds(ours, values))),
  ];
  return { name, cells: [summarize(ours), ...cells] };
}

/**
 * Median milliseconds of a step of the whole product.
 *
 * @param variant Folder of another version, or further flags of `lockstep train`.
 */
export async function ourStepMs(
  {
    engine,
    stepsPerBlock,
    blocks,
    warmupSteps,
    dataDir,
    scratchDir,
  }: Pick<BenchOptions, "engine" | "stepsPerBlock" | "blocks" | "warmupSteps" | "dataDir" | "scratchDir">,
  workers: number,
  globalBatchSize: number,
  variant: Pick<ProductRunOptions, "root" | "flags"> = {},
): Promise<number> {
  const maxSteps = warmupSteps + blocks * stepsPerBlock;
  const { steps } = await productRun({
    ...{ engine, workers, globalBatchSize, maxSteps, dataDir, scratchDir, ...variant },
  });
  return medianStepMs(
    steps.slice(warmupSteps - 1).map(({ atMs }) => atMs),
    stepsPerBlock,
  );
}
