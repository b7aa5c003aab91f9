/**
 * The flags of a run, and how they become its configuration: flags over a
 * --config file over the stored configuration (when resuming) over defaults.
 *
 * @module
 */
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import type { Options } from "yargs";
import type { RunConfig } from "../../shared/config.ts";
import {
  DATASET_CHOICES,
  DEFAULT_EPOCHS,
  ENGINE_CHOICES,
  ENGINE_NAMES,
  GRADIENT_DTYPES,
  MAX_GLOBAL_BATCH,
  MAX_SHARDS,
  parseRunConfig,
  RUNTIME_CHOICES,
} from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";
import { DEFAULT_KEY_FILE, KEY_VARIABLE } from "../../shared/keys.ts";
import { MODEL_NAMES } from "../../shared/nn/models.ts";
import { OBJECTIVE_NAMES } from "../../shared/nn/objectives.ts";
import { CONFIG_FLAG } from "./config-file.ts";
import type { Flags } from "../plain-words.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";

const CLUSTER = "Cluster:";
const TRAINING = "Training (decides the bits; fixed for a run):";
const LENGTH = "Length and output:";
const DATA = "Data:";

/** Default where neither --workers nor a stored run says: one worker a core, at most this many. */
const MAX_DEFAULT_WORKERS = 4;

/** The longest time that a flag can say: a day. */
const MAX_SECONDS = 86_400;

/** Flags whose values are fields of RunConfig, except where `toConfig` says otherwise. */
export const RUN_OPTIONS = {
  workers: {
    group: CLUSTER,
    type: "number",
    defaultDescription: `cores of this machine, at most ${MAX_DEFAULT_WORKERS}`,
    describe: "Number of worker processes",
  },
  runtime: {
    group: CLUSTER,
    choices: RUNTIME_CHOICES,
    defaultDescription: "auto",
    describe:
      "What the workers run on; auto: as the coordinator, but engine wasm on the faster Node where npm ci has fetched one; node: the coordinator's own; mixed: Node and Deno by turns",
  },
  gpus: {
    group: CLUSTER,
    type: "string",
    defaultDescription: "all, if the engine uses GPUs",
    describe: "GPUs of the workers: all, or indices with commas as lockstep doctor shows them",
  },
  "workers-per-gpu": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "1",
    describe: "Workers that share a GPU",
  },
  "min-workers": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "1",
    describe: "Below this many the run waits for more",
  },
  "max-workers": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "--shards",
    describe: "The most workers that may join",
  },
  "max-restarts": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "3",
    describe: "How often a local worker process that has ended is started again",
  },
  "failure-timeout": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "2",
    describe: "Silence after which a worker or the coordinator counts as gone [seconds]",
  },
  "straggler-timeout": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "30",
    describe:
      "Waiting of others, or one computation, after which a worker counts as gone although it lives; 0: never [seconds]",
  },
  "orphan-timeout": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "60",
    describe: "Silence of the coordinator after which a worker saves its state and ends [seconds]",
  },
  "shared-memory": {
    group: CLUSTER,
    type: "boolean",
    defaultDescription: "true",
    describe: "Gradients between workers of one host through shared memory; --no-shared-memory: by tcp",
  },
  "prefetch-steps": {
    group: CLUSTER,
    type: "number",
    defaultDescription: "8",
    describe: "Steps whose batches are sent ahead of use",
  },
  "global-batch-size": {
    group: TRAINING,
    type: "number",
    defaultDescription: "64",
    conflicts: "local-batch-size",
    describe: "Images per update over all workers",
  },
  "local-batch-size": {
    group: TRAINING,
    type: "number",
    describe: "Images per update and worker: the global batch size divided by --workers",
  },
  shards: {
    group: TRAINING,
    type: "number",
    defaultDescription: "4, more if --workers is larger",
    describe: "Slices of the global batch; the most workers the run can ever use",
  },
  seed: { group: TRAINING, type: "number", defaultDescription: "0", describe: "Seed, 0 to 2^53-1" },
  "learning-rate": {
    group: TRAINING,
    type: "number",
    defaultDescription: "0.0002",
    describe: "Adam's learning rate for both networks",
  },
  beta1: { group: TRAINING, type: "number", defaultDescription: "0.5", describe: "Adam's decay of the mean" },
  beta2: {
    group: TRAINING,
    type: "number",
    defaultDescription: "0.999",
    describe: "Adam's decay of the squared mean",
  },
  epsilon: {
    group: TRAINING,
    type: "number",
    defaultDescription: "1e-8",
    describe: "Added to Adam's denominator",
  },
  "latent-dim": {
    group: TRAINING,
    type: "number",
    defaultDescription: "100",
    describe: "Values of noise per image",
  },
  "discriminator-steps": {
    group: TRAINING,
    type: "number",
    defaultDescription: "1",
    describe: "Discriminator updates per generator update",
  },
  model: {
    group: TRAINING,
    choices: MODEL_NAMES,
    defaultDescription: "mlp",
    describe: "Networks",
  },
  objective: {
    group: TRAINING,
    choices: OBJECTIVE_NAMES,
    defaultDescription: "non-saturating",
    describe: "Losses",
  },
  engine: {
    group: TRAINING,
    choices: ENGINE_CHOICES,
    defaultDescription: "auto",
    describe: "What computes gradients; auto: the fastest that works here",
  },
  "deterministic-kernels": {
    group: TRAINING,
    type: "boolean",
    defaultDescription: "false, where the processor can fuse",
    describe: "Engine wasm without fused multiply-adds: slower, for processors that have none",
  },
  "gradient-dtype": {
    group: TRAINING,
    choices: GRADIENT_DTYPES,
    defaultDescription: "fp32",
    describe: "bf16: gradients rounded to bfloat16 in every sum over shards, half the bytes between hosts",
  },
  dataset: {
    group: DATA,
    choices: DATASET_CHOICES,
    defaultDescription: "auto",
    describe: "auto: MNIST if it is here or can be downloaded, else synthetic digits",
  },
  "data-dir": {
    group: DATA,
    type: "string",
    normalize: true,
    defaultDescription: "the cache folder",
    describe: "Folder with IDX files, gzip or raw",
  },
  "verify-data": {
    group: DATA,
    type: "boolean",
    defaultDescription: "true",
    describe: "Insist on the published SHA-256 of files in --data-dir",
  },
  epochs: {
    group: LENGTH,
    type: "number",
    defaultDescription: `${DEFAULT_EPOCHS} if --max-steps is not given`,
    describe: "Passes over the data set",
  },
  "max-steps": {
    group: LENGTH,
    type: "number",
    describe: "Global steps (one discriminator and generator alternation each) after which to end",
  },
  "checkpoint-every": {
    group: LENGTH,
    type: "number",
    defaultDescription: "500",
    describe: "Steps between checkpoints; one is always written at the end",
  },
  "keep-checkpoints": {
    group: LENGTH,
    type: "number",
    defaultDescription: "3",
    describe: "Newest checkpoints to keep, at least 2",
  },
  "max-checkpoint-failures": {
    group: LENGTH,
    type: "number",
    defaultDescription: "3",
    describe: "Stop when this many checkpoints in a row could not be written",
  },
  "sample-every": {
    group: LENGTH,
    type: "number",
    defaultDescription: "once per epoch",
    describe: "Steps between pictures of samples; one is always written at the end",
  },
} as const satisfies Record<string, Options>;

const KEY_OPTION = {
  type: "string",
  normalize: true,
  defaultDescription: `the file that ${KEY_VARIABLE} names, else no key`,
  describe: "The run's key file, as lockstep keygen writes it: encrypts, and keeps all others out",
} as const satisfies Options;

const INSECURE_OPTION = {
  type: "boolean",
  default: false,
  describe: "Listen without a key also where others reach it: on networks that keep all others out",
} as const satisfies Options;

/** Flags of `train` and `coordinator` that are no part of the configuration. */
export const SHELL_OPTIONS = {
  "run-dir": {
    group: LENGTH,
    type: "string",
    normalize: true,
    defaultDescription: "runs/<date>-<time>",
    describe: "Folder of the run: configuration, checkpoints, pictures, metrics, log",
  },
  resume: {
    group: LENGTH,
    type: "boolean",
    describe:
      "Continue the run in --run-dir (else the one in ./runs that was trained last) from its newest whole checkpoint",
  },
  restart: {
    group: LENGTH,
    type: "boolean",
    implies: "resume",
    describe: "With --resume, where the run's checkpoints are gone: train again from step 0",
  },
  "log-format": {
    group: LENGTH,
    choices: ["text", "json"] as const,
    default: "text" as const,
    describe: "Output for people or for machines",
  },
  bind: {
    group: CLUSTER,
    type: "string",
    defaultDescription: "tcp://127.0.0.1:*; coordinator: port 29555",
    describe: "Where the coordinator listens, tcp://host:port; port * takes any",
  },
  key: { ...KEY_OPTION, group: CLUSTER },
  insecure: { ...INSECURE_OPTION, group: CLUSTER },
  [CONFIG_FLAG]: {
    group: LENGTH,
    type: "string",
    normalize: true,
    describe: "YAML or JSON file with any of these flags, beneath those of the command line",
  },
} as const satisfies Record<string, Options>;

/** Where `lockstep train` listens unless told: its workers are on this machine. */
export const TRAIN_BIND = "tcp://127.0.0.1:*";

export const WORKER_OPTIONS = {
  coordinator: {
    type: "string",
    demandOption: true,
    describe: "The coordinator's address, tcp://host:port",
  },
  "worker-id": {
    type: "string",
    defaultDescription: "<host>-<pid>-<random>",
    describe: "Name of this worker, unique in the run",
  },
  "data-host": {
    type: "string",
    defaultDescription: "the address that faces the coordinator",
    describe: "Address at which other workers reach this one",
  },
  key: KEY_OPTION,
  insecure: INSECURE_OPTION,
  device: {
    type: "number",
    defaultDescription: "the engine's choice",
    describe: "Index of the GPU to compute on",
  },
  "connect-timeout": {
    type: "number",
    default: 60,
    describe: "How long to try to reach the coordinator [seconds]",
  },
  managed: { type: "string", hidden: true },
} as const satisfies Record<string, Options>;

export const GENERATE_OPTIONS = {
  count: { type: "number", default: 64, describe: "Images" },
  seed: { type: "number", default: 0, describe: "Seed of the noise" },
  out: {
    type: "string",
    default: "samples.png",
    describe: "PNG grid (.png) or raw IDX file (.idx, idx3-ubyte)",
  },
  engine: {
    choices: ENGINE_NAMES,
    defaultDescription: "that of the run, wasm where it is missing",
    describe: "What draws",
  },
} as const satisfies Record<string, Options>;

export const KEYGEN_OPTIONS = {
  out: { type: "string", normalize: true, default: DEFAULT_KEY_FILE, describe: "The file to write" },
} as const satisfies Record<string, Options>;

export const STOP_OPTIONS = { key: KEY_OPTION } as const satisfies Record<string, Options>;

export const STATUS_OPTIONS = {
  key: KEY_OPTION,
  json: { type: "boolean", default: false, describe: "Print JSON" },
} as const satisfies Record<string, Options>;

export const SCALE_OPTIONS = {
  key: KEY_OPTION,
  workers: { type: "number", demandOption: true, describe: "Workers from now on" },
} as const satisfies Record<string, Options>;

export const DOCTOR_OPTIONS = {
  json: { type: "boolean", default: false, describe: "Print JSON" },
} as const satisfies Record<string, Options>;

/** Of a command for our own processes. */
export const PROBE_OPTIONS = {
  engine: { choices: ENGINE_NAMES, demandOption: true },
  device: { type: "number" },
  "batch-size": { type: "number", default: 64 },
  shards: { type: "number", default: 1 },
  "speed-ms": { type: "number", default: 0 },
} as const satisfies Record<string, Options>;

export const INSPECT_OPTIONS = {
  json: { type: "boolean", default: false, describe: "Print JSON" },
} as const satisfies Record<string, Options>;

export const DOWNLOAD_OPTIONS = {
  dataset: { choices: ["mnist", "fashion-mnist"], default: "mnist", describe: "What to fetch" },
  "data-dir": {
    type: "string",
    normalize: true,
    defaultDescription: "the cache folder",
    describe: "Folder for the files",
  },
  mirror: {
    type: "string",
    array: true,
    defaultDescription: "the public mirrors",
    describe: "Base URL to fetch from; may be repeated",
  },
} as const satisfies Record<string, Options>;

const OF_RUN: Flags = { ...RUN_OPTIONS, ...SHELL_OPTIONS };

/** The flags of each command. */
export const COMMAND_FLAGS: Readonly<Record<string, Flags>> = {
  train: OF_RUN,
  coordinator: OF_RUN,
  worker: WORKER_OPTIONS,
  generate: GENERATE_OPTIONS,
  inspect: INSPECT_OPTIONS,
  doctor: DOCTOR_OPTIONS,
  status: STATUS_OPTIONS,
  scale: SCALE_OPTIONS,
  stop: STOP_OPTIONS,
  keygen: KEYGEN_OPTIONS,
  download: DOWNLOAD_OPTIONS,
  probe: PROBE_OPTIONS,
};

const camel = (flag: string): string =>
  flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** The run flags that were given, by camelCase name. */
export function givenFlags(argv: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const names = Object.keys(RUN_OPTIONS).map(camel);
  const given = Object.fromEntries(
    names.filter((name) => argv[name] !== undefined).map((name) => [name, argv[name]]),
  );
  // It is stored, and the run may be resumed from another folder.
  return typeof given.dataDir === "string" ? { ...given, dataDir: resolve(given.dataDir) } : given;
}

/**
 * The configuration of a run.
 *
 * @param given Flags by camelCase name, as {@linkcode givenFlags} returns them.
 * @param stored What the run was begun with, if it is resumed.
 * @throws {UsageError} If a value is not allowed.
 */
export function resolveConfig(given: Readonly<Record<string, unknown>>, stored: RunConfig | null): RunConfig {
  const { localBatchSize, failureTimeout, orphanTimeout, stragglerTimeout, ...fields } = given;
  const base: Record<string, unknown> = { ...stored };
  // A new length replaces the old one whole: --epochs 20 must not stay under an old --max-steps.
  if (fields.epochs !== undefined || fields.maxSteps !== undefined) {
    base.epochs = null;
    base.maxSteps = null;
  }
  const wanted: Record<string, unknown> = { ...base, ...fields };
  wanted.workers ??= Math.min(
    availableParallelism(),
    MAX_DEFAULT_WORKERS,
    typeof wanted.shards === "number" ? Math.max(1, wanted.shards) : MAX_DEFAULT_WORKERS,
  );
  const workers = Number(wanted.workers);
  if (localBatchSize !== undefined) {
    checkWhole("local-batch-size", localBatchSize, 1, Math.max(1, Math.floor(MAX_GLOBAL_BATCH / workers)));
    wanted.globalBatchSize = Number(localBatchSize) * workers;
  }
  // More than four workers need more shards: the next power of two, whose tree has the fewest nodes per worker.
  if (wanted.shards === undefined && workers > 4 && workers <= MAX_SHARDS) {
    wanted.shards = 2 ** Math.ceil(Math.log2(workers));
  }
  wanted.deterministicKernels ??= !fusesMultiplyAdd();
  if (failureTimeout !== undefined) wanted.failureTimeoutMs = Math.round(Number(failureTimeout) * 1000);
  if (stragglerTimeout !== undefined) wanted.stragglerTimeoutMs = Math.round(Number(stragglerTimeout) * 1000);
  if (orphanTimeout !== undefined) wanted.orphanTimeoutMs = Math.round(Number(orphanTimeout) * 1000);
  return parseRunConfig(wanted);
}

/** @throws {UsageError} If the value of a flag is not a whole number within the bounds. */
export function checkWhole(flag: string, value: unknown, min: number, max: number): void {
  if (Number.isInteger(value) && Number(value) >= min && Number(value) <= max) return;
  throw new UsageError(
    `Cannot use --${flag} as it must be a whole number from ${min} to ${max}: got ${String(value)}`,
  );
}

/** @throws {UsageError} If the value of a flag is not a time that can be waited. */
export function checkSeconds(flag: string, value: number): void {
  if (value >= 0 && value <= MAX_SECONDS) return;
  throw new UsageError(`Cannot use --${flag} as it must be from 0 to ${MAX_SECONDS} s: got ${value} s`);
}

/** The configuration as aligned lines, for the start of a run. */
export function describeConfig(config: RunConfig): string {
  const rows = Object.entries(config).filter(([, value]) => value !== null);
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join("\n");
}
