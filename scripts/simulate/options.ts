/**
 * The flags of `npm run simulate`, and what they mean together.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Options } from "yargs";
import { UsageError } from "../../shared/errors.ts";
import { MODEL_NAMES } from "../../shared/nn/models.ts";
import { SCHEDULE_NAMES } from "../../worker/schedule.ts";
import type { Machines } from "./all-reduce.ts";
import { median, readSteps } from "./run-metrics.ts";
import type { WorkerSpeed } from "./step.ts";

const WORKLOAD = "Workload:";
const MACHINES = "Machines:";
const OUTPUT = "Output:";

const number = (group: string, value: number, describe: string) =>
  ({ group, type: "number", default: value, requiresArg: true, describe }) as const;

/** A flag without a default for yargs, which would take it for given and refuse --run. */
const speed = (value: number, describe: string) =>
  ({
    group: MACHINES,
    type: "number",
    requiresArg: true,
    describe,
    defaultDescription: String(value),
  }) as const;

/** One core of the machine that docs/scaling.md was made on, wasm engine, reference model. */
const DEFAULT_SPEED: WorkerSpeed = { computeMs: 0.55, fixedMs: 4, applyMs: 4 };

export const SIMULATE_OPTIONS = {
  workers: {
    group: WORKLOAD,
    type: "string",
    default: "1,2,4,8,16,32,64,128,256,512,1024",
    requiresArg: true,
    describe: "Numbers of workers, with commas",
  },
  model: { group: WORKLOAD, choices: MODEL_NAMES, default: "mlp", describe: "Networks" },
  "local-batch-size": number(WORKLOAD, 64, "Images per update and worker, for weak scaling"),
  "global-batch-size": number(WORKLOAD, 4096, "Images per update over all workers, for strong scaling"),
  "shards-per-worker": number(WORKLOAD, 1, "Slices of the global batch per worker"),
  schedule: {
    group: WORKLOAD,
    choices: ["both", "auto", ...SCHEDULE_NAMES],
    default: "both",
    describe: "Schedule of the all-reduce; auto is what a run takes, marked with * in the table",
  },
  "compute-ms": speed(DEFAULT_SPEED.computeMs, "Gradients of a step per image, D and G [ms]"),
  "fixed-ms": speed(DEFAULT_SPEED.fixedMs, "Gradients of a step, whatever the batch [ms]"),
  "apply-ms": speed(DEFAULT_SPEED.applyMs, "Optimizer of a step [ms]"),
  run: {
    group: MACHINES,
    type: "string",
    requiresArg: true,
    conflicts: ["compute-ms", "fixed-ms", "apply-ms"],
    describe: "Folder of a run whose metrics.jsonl gives compute-ms and apply-ms",
  },
  "link-gbit": number(MACHINES, 10, "Bandwidth of a host's interface, each way [Gbit/s]"),
  "latency-us": number(MACHINES, 50, "From host to host, one way [microseconds]"),
  "message-us": number(MACHINES, 18, "Thread's time to send, and to take, a message [microseconds]"),
  "sum-gbyte": number(MACHINES, 6, "Sums that a thread writes per second [GB/s]"),
  "workers-per-host": number(MACHINES, 1, "Workers that share a host's interface and cores"),
  cores: number(MACHINES, 2, "Cores per host; more workers than cores take turns"),
  "local-gbit": number(MACHINES, 5, "Bandwidth between workers of one host, each way and worker [Gbit/s]"),
  "local-latency-us": number(MACHINES, 100, "Between workers of one host, one way [microseconds]"),
  out: {
    group: OUTPUT,
    type: "string",
    default: "runs/simulate",
    requiresArg: true,
    describe: "Folder for scaling.json and scaling.svg",
  },
  check: {
    group: OUTPUT,
    type: "boolean",
    default: false,
    describe: "Compare with real runs on this machine instead; network part as root only",
  },
  "check-steps": number(OUTPUT, 30, "Steps of each real run of --check"),
} as const satisfies Record<string, Options>;

/** @throws {UsageError} If the list is not one of positive integers. */
export function parseWorkers(list: string): readonly number[] {
  const workers = list.split(",").map(Number);
  const wrong = workers.find((n) => !Number.isInteger(n) || n < 1 || n > 4096);
  if (wrong === undefined) return [...new Set(workers)].sort((a, b) => a - b);
  throw new UsageError(`--workers: must be integers from 1 to 4096 with commas: got "${list}"`);
}

/** @throws {UsageError} If a number cannot be used. */
export function parseMachines(argv: {
  readonly linkGbit: number;
  readonly latencyUs: number;
  readonly messageUs: number;
  readonly sumGbyte: number;
  readonly workersPerHost: number;
  readonly cores: number;
  readonly localGbit: number;
  readonly localLatencyUs: number;
}): Machines {
  const { linkGbit, latencyUs, messageUs, sumGbyte, workersPerHost, cores, localGbit, localLatencyUs } = argv;
  return {
    linkGbit: positive("link-gbit", linkGbit),
    latencyUs: notNegative("latency-us", latencyUs),
    messageUs: notNegative("message-us", messageUs),
    sumGbytes: positive("sum-gbyte", sumGbyte),
    workersPerHost: positiveInteger("workers-per-host", workersPerHost),
    workersSharingCores: workersPerHost,
    cores: positiveInteger("cores", cores),
    localGbit: positive("local-gbit", localGbit),
    localLatencyUs: notNegative("local-latency-us", localLatencyUs),
  };
}

/** @throws {UsageError} If a number cannot be used, or the run has no steps. */
export function parseSpeed(argv: {
  readonly run?: string | undefined;
  readonly computeMs?: number | undefined;
  readonly fixedMs?: number | undefined;
  readonly applyMs?: number | undefined;
}): WorkerSpeed {
  if (argv.run === undefined) {
    return {
      computeMs: notNegative("compute-ms", argv.computeMs ?? DEFAULT_SPEED.computeMs),
      fixedMs: notNegative("fixed-ms", argv.fixedMs ?? DEFAULT_SPEED.fixedMs),
      applyMs: notNegative("apply-ms", argv.applyMs ?? DEFAULT_SPEED.applyMs),
    };
  }
  const steps = readSteps(argv.run);
  const config = JSON.parse(readFileSync(join(argv.run, "config.json"), "utf8")) as {
    readonly globalBatchSize: number;
  };
  const numWorkers = steps[0].workers.length;
  return {
    computeMs:
      median(steps.flatMap((step) => step.workers.map((worker) => worker.computeMs))) /
      (config.globalBatchSize / numWorkers),
    fixedMs: 0,
    applyMs: median(steps.flatMap((step) => step.workers.map((worker) => worker.applyMs))),
  };
}

export function positiveInteger(flag: string, value: number): number {
  if (Number.isInteger(value) && value >= 1) return value;
  throw new UsageError(`--${flag}: must be an integer >= 1: got ${value}`);
}

function positive(flag: string, value: number): number {
  if (value > 0 && Number.isFinite(value)) return value;
  throw new UsageError(`--${flag}: must be a number > 0: got ${value}`);
}

function notNegative(flag: string, value: number): number {
  if (value >= 0 && Number.isFinite(value)) return value;
  throw new UsageError(`--${flag}: must be a number >= 0: got ${value}`);
}
