/**
 * Compares the simulation with real runs on this machine: workers over
 * loopback, and workers on emulated hosts with a limited network. The
 * simulation knows only runs of one worker, and messages between two processes.
 *
 * @module
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Model } from "../../shared/nn/models.ts";
import { chooseSchedule } from "../../worker/schedule.ts";
import type { Machines } from "./all-reduce.ts";
import { calibrate } from "./calibrate.ts";
import { whyNoNamespaces } from "./emulated-network.ts";
import type { RunTimes } from "./real-run.ts";
import { runLocally, runOverNetwork } from "./real-run.ts";
import { median } from "./run-metrics.ts";
import type { StepTimes, WorkerSpeed } from "./step.ts";
import { StepSimulator } from "./step.ts";
import { formatTable } from "./table.ts";

/** Of all multi-worker runs. */
const LOCAL_BATCH_SIZE = 32;

const LOCAL_WORKERS = [1, 2, 3, 4];
const NETWORKS = [
  { workers: 2, linkMbit: 400, latencyMs: 2 },
  { workers: 2, linkMbit: 100, latencyMs: 20 },
  { workers: 4, linkMbit: 100, latencyMs: 2 },
];

/** Share of a link's rate that carries data: 1448 bytes of each 1514 that the token bucket counts. */
const PAYLOAD_SHARE = 1448 / 1514;

interface Comparison {
  readonly name: string;
  readonly predicted: StepTimes;
  /** Median over steps, where every worker computes as long as it did in that step of the real run. */
  readonly tracedStepMs: number;
  readonly measured: RunTimes;
}

export interface CheckOptions {
  readonly model: Model;
  /** Steps of each real run. */
  readonly numSteps: number;
  readonly out: string;
}

export async function check({ model, numSteps, out }: CheckOptions): Promise<void> {
  mkdirSync(out, { recursive: true });
  const cores = availableParallelism();
  const run = { numSteps, out, localBatchSize: LOCAL_BATCH_SIZE };
  const calibration = await calibrate();
  console.log(`Messages and sums of this machine: ${describe(calibration)}`);
  const single = await runLocally({ ...run, name: "check-one", workers: 1 });
  const double = await runLocally({
    ...{ ...run, name: "check-one-double", workers: 1 },
    localBatchSize: 2 * LOCAL_BATCH_SIZE,
  });
  const speed: WorkerSpeed = {
    computeMs: (double.computeMs - single.computeMs) / LOCAL_BATCH_SIZE,
    fixedMs: Math.max(0, 2 * single.computeMs - double.computeMs),
    applyMs: single.applyMs,
  };
  console.log(`One worker: ${describe({ ...speed })}`);

  const comparisons: Comparison[] = [];
  const compare = (name: string, workers: number, machines: Machines, measured: RunTimes): void => {
    const simulator = new StepSimulator(machines, speed);
    const stepCase = {
      ...{ model, discriminatorSteps: 1, worldSize: workers, numShards: workers },
      ...{ globalBatchSize: workers * LOCAL_BATCH_SIZE, schedule: chooseSchedule(workers, workers) },
    };
    const traced = measured.steps.map(
      (step) =>
        simulator.step(
          stepCase,
          step.workers.map((worker) => worker.computeMs),
        ).stepMs,
    );
    comparisons.push({
      ...{ name, measured, predicted: simulator.step(stepCase) },
      tracedStepMs: median(traced),
    });
    console.error(`Compared ${name}`);
  };
  const machinesFor = (workers: number, workersPerHost: number): Machines => ({
    ...{ ...calibration, linkGbit: 1, latencyUs: 0, workersPerHost },
    workersSharingCores: workers,
    cores,
  });
  for (const workers of LOCAL_WORKERS) {
    const measured = await runLocally({ ...run, name: `check-local-${workers}`, workers });
    compare(`${workers} over loopback`, workers, machinesFor(workers, workers), measured);
  }
  const reason = whyNoNamespaces();
  if (reason !== null) console.log(`Without runs over a limited network: ${reason}`);
  else {
    for (const { workers, linkMbit, latencyMs } of NETWORKS) {
      const name = `${workers} at ${linkMbit} Mbit/s, ${latencyMs} ms`;
      const folder = `check-network-${workers}-${linkMbit}-${latencyMs}`;
      const measured = await runOverNetwork({ ...run, name: folder, workers }, linkMbit, latencyMs);
      const link = { linkGbit: (linkMbit / 1e3) * PAYLOAD_SHARE, latencyUs: latencyMs * 1e3 };
      compare(name, workers, { ...machinesFor(workers, 1), ...link }, measured);
    }
  }
  console.log(
    `\nPredicted / measured, medians of ${numSteps} steps; ${LOCAL_BATCH_SIZE} images per worker, ${cores} cores`,
  );
  console.log(`Traced: every worker computes as long as it did in each real step\n`);
  console.log(comparisonTable(comparisons));
  const json = { calibration, speed, cores, comparisons };
  writeFileSync(join(out, "check.json"), `${JSON.stringify(json, null, 2)}\n`);
}

function comparisonTable(comparisons: readonly Comparison[]): string {
  const rows = comparisons.map(({ name, predicted, tracedStepMs, measured }) => [
    name,
    ...compared(predicted.computeMs, measured.computeMs),
    ...compared(predicted.leastAllReduceMs, measured.leastAllReduceMs),
    ...compared(predicted.stepMs, measured.stepMs),
    ...compared(tracedStepMs, measured.stepMs),
  ]);
  const header = ["compute ms", "all-reduce ms", "step ms", "step ms, traced"].flatMap((what) => [
    what,
    "ratio",
  ]);
  return formatTable([["workers", ...header], ...rows]);
}

/** "predicted / measured" and their ratio; none where nothing happens. */
function compared(predicted: number, measured: number): readonly [string, string] {
  return [
    `${predicted.toFixed(1)} / ${measured.toFixed(1)}`,
    predicted === 0 ? "" : (predicted / measured).toFixed(2),
  ];
}

function describe(values: Readonly<Record<string, number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name} ${value.toPrecision(3)}`)
    .join(", ");
}
