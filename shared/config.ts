/**
 * The configuration of a run, validated here and nowhere else. Two groups:
 * training values decide the bits and may not change when a run is resumed;
 * the others (how many workers, how long, how often to save) may.
 *
 * @module
 */
import { z } from "zod";
import { checked } from "./checked.ts";
import { UsageError } from "./errors.ts";
import { HEARTBEAT_MS } from "./heartbeat.ts";
import { IMAGE_PIXELS } from "./image.ts";
import { MODEL_NAMES } from "./nn/models.ts";
import { OBJECTIVE_NAMES } from "./nn/objectives.ts";
import { kebab } from "./text.ts";

/** What can compute gradients. */
export const ENGINE_NAMES = ["tensorflow", "webgpu", "wasm", "cpu"] as const;
export type EngineName = (typeof ENGINE_NAMES)[number];
/** auto becomes the fastest engine of this machine before the run begins. */
export const ENGINE_CHOICES = ["auto", ...ENGINE_NAMES] as const;

/** What local workers run on; mixed: by turns, beginning with node. */
export const RUNTIME_CHOICES = ["auto", "node", "deno", "mixed"] as const;

export const GRADIENT_DTYPES = ["fp32", "bf16"] as const;

export const DATASET_CHOICES = ["auto", "mnist", "fashion-mnist", "synthetic"] as const;
export type DatasetChoice = (typeof DATASET_CHOICES)[number];

export const MAX_GLOBAL_BATCH = 1 << 20;
export const MAX_SHARDS = 4096;

/** Largest message of a batch: a frame that is larger is refused by its receiver, in silence. */
const MAX_BATCH_BYTES = 2 ** 31 - 1;

const count = (max = 1e9) => z.int().min(1).max(max);
const unit = z.number().min(0).lt(1);

/** What decides the bits of a run, together with the data set. */
const trainingShape = {
  /** Seed of initial parameters, noise and order of the data; 0..2^53-1. */
  seed: z.int().min(0).default(0),
  model: z.enum(MODEL_NAMES).default("mlp"),
  objective: z.enum(OBJECTIVE_NAMES).default("non-saturating"),
  /** Values of noise per generated image. */
  latentDim: count(65536).default(100),
  /** Samples of one phase over all workers. */
  globalBatchSize: count(MAX_GLOBAL_BATCH).default(64),
  /** Slices of the global batch; the most workers the run can use. */
  shards: count(MAX_SHARDS).default(4),
  /** Discriminator updates per generator update. */
  discriminatorSteps: count(100).default(1),
  learningRate: z.number().positive().default(2e-4),
  beta1: unit.default(0.5),
  beta2: unit.default(0.999),
  epsilon: z.number().positive().default(1e-8),
  /** What computes gradients: bits are equal within one kind of engine. */
  engine: z.enum(ENGINE_NAMES).default("wasm"),
  /** Products of engine wasm round after the multiplication and after the addition; else once (fused, faster). */
  deterministicKernels: z.boolean().default(false),
  /** bf16: gradients are rounded to bfloat16 in every sum over shards, and take half the bytes between hosts. */
  gradientDtype: z.enum(GRADIENT_DTYPES).default("fp32"),
} as const;

export type TrainingConfig = z.infer<z.ZodObject<typeof trainingShape>>;

const RunConfigSchema = z
  .strictObject({
    ...trainingShape,
    /** Worker processes that a run begins with. */
    workers: count(4096),
    /** Below this many the run waits for more. */
    minWorkers: count(4096).default(1),
    /** The most that may join, or null for as many as there are shards. */
    maxWorkers: count(4096).nullable().default(null),
    /** How often a worker process on this machine that has ended is started again. */
    maxRestarts: z.int().min(0).max(1e6).default(3),
    /** What worker processes on this machine run on; auto: the coordinator's runtime, for engine wasm the fastest Node. */
    runtime: z.enum(RUNTIME_CHOICES).default("auto"),
    /** GPUs of local workers: "all" or indices with commas; null for all that the engine can use. */
    gpus: z
      .string()
      .regex(/^(all|\d+(,\d+)*)$/, { error: 'must be "all" or indices with commas, as "0,1"' })
      .nullable()
      .default(null),
    /** Local workers that share a GPU, or null for as few as --workers allows. */
    workersPerGpu: count(64).nullable().default(null),
    /** Passes over the data set, or null for no such limit. */
    epochs: z.number().positive().max(1e6).nullable().default(null),
    /** Global steps after which the run ends, or null for no such limit. */
    maxSteps: count().nullable().default(null),
    dataset: z.enum(DATASET_CHOICES).default("auto"),
    /** Folder with IDX files, or null for the cache folder. */
    dataDir: z.string().min(1).nullable().default(null),
    /** Whether the data must have the published SHA-256. */
    verifyData: z.boolean().default(true),
    /** Steps between checkpoints; one is always written at the end. */
    checkpointEvery: count().default(500),
    keepCheckpoints: z.int().min(2).max(1e6).default(3),
    /** Checkpoints in a row that could not be written, after which the run stops. */
    maxCheckpointFailures: count(1e6).default(3),
    /** Steps between pictures, or null for one per epoch. */
    sampleEvery: count().nullable().default(null),
    /** Silence after which a worker or the coordinator counts as gone, in milliseconds. */
    failureTimeoutMs: z
      .int()
      .min(4 * HEARTBEAT_MS)
      .max(3_600_000)
      .default(2000),
    /** Waiting of others, or one computation, after which a worker counts as gone although it lives, in milliseconds; 0 for never. */
    stragglerTimeoutMs: z.int().min(0).max(86_400_000).default(30_000),
    /** Silence of the coordinator after which a worker saves its state and ends, in milliseconds. */
    orphanTimeoutMs: z.int().min(0).max(86_400_000).default(60_000),
    /** Whether workers of one host exchange gradients through shared memory instead of tcp. */
    sharedMemory: z.boolean().default(true),
    /** Steps whose batches are sent ahead of use. */
    prefetchSteps: count(1024).default(8),
  })
  .refine((c) => c.shards <= c.globalBatchSize, {
    path: ["shards"],
    error: "must be at most --global-batch-size, as every shard needs a sample, and every worker a shard",
  })
  .refine((c) => c.discriminatorSteps * c.globalBatchSize * IMAGE_PIXELS <= MAX_BATCH_BYTES, {
    path: ["globalBatchSize"],
    error: `must leave the images of a step, ${IMAGE_PIXELS} bytes for each of --global-batch-size x --discriminator-steps, below ${MAX_BATCH_BYTES} bytes, as one worker may have to take them all: lower either`,
  })
  .refine((c) => c.minWorkers <= c.workers, {
    path: ["minWorkers"],
    error: "must be at most --workers, with which the run begins",
  })
  .refine((c) => c.maxWorkers === null || (c.workers <= c.maxWorkers && c.maxWorkers <= c.shards), {
    path: ["maxWorkers"],
    error: "must be between --workers and --shards",
  })
  .refine((c) => c.workers <= c.shards, {
    path: ["workers"],
    error:
      "must be at most the number of shards, as every worker needs one: raise --shards (a new run) or lower --workers",
  });

export type RunConfig = z.infer<typeof RunConfigSchema>;

/** The most workers that a run can have. */
export function maxWorkersOf({ maxWorkers, shards }: RunConfig): number {
  return maxWorkers ?? shards;
}

/** Passes over the data set where neither --epochs nor --max-steps says otherwise. */
export const DEFAULT_EPOCHS = 2;

/** Fields in milliseconds have flags in seconds. */
const MILLISECONDS = /Ms$/;

/** The flag of a configuration field: globalBatchSize becomes --global-batch-size. */
export function flagOf(field: string): string {
  return `--${kebab(field.replace(MILLISECONDS, ""))}`;
}

/** A value of a field in the unit of its flag. */
function inUnit(field: string, value: unknown): string {
  return MILLISECONDS.test(field) && typeof value === "number" ? `${value / 1000} s` : shown(value);
}

/** The value of a field, which may be its default. */
function valueOf(config: unknown, field: string): unknown {
  const given = (config as Readonly<Record<string, unknown>>)[field];
  const { shape } = RunConfigSchema;
  if (given !== undefined || !Object.hasOwn(shape, field)) return given;
  return shape[field as keyof typeof shape].safeParse(undefined).data;
}

/** What a field must be, where the schema has no words of its own. */
function ruleOf(issue: z.core.$ZodRawIssue): string | undefined {
  const field = String(issue.path?.at(-1) ?? "");
  const bound = (inclusive: string, exclusive: string, limit: unknown): string =>
    `must be ${"inclusive" in issue && issue.inclusive === true ? inclusive : exclusive} ${inUnit(field, limit)}`;
  if (issue.code === "too_small") return bound("at least", "above", issue.minimum);
  if (issue.code === "too_big") return bound("at most", "below", issue.maximum);
  if (issue.code === "invalid_value") return `must be one of ${issue.values.join(", ")}`;
  if (issue.code === "invalid_type") return `must be ${TYPE_NAMES[issue.expected] ?? `a ${issue.expected}`}`;
  return undefined;
}

const TYPE_NAMES: Readonly<Record<string, string>> = { int: "a whole number", boolean: "true or false" };

/**
 * The only way to a RunConfig.
 *
 * @throws {UsageError} If a field is unknown, missing or out of range; names flag, rule and value.
 */
export function parseRunConfig(value: unknown): RunConfig {
  const result = checked(RunConfigSchema, value, ruleOf);
  if (result.ok) {
    const config = result.value;
    return config.epochs === null && config.maxSteps === null
      ? { ...config, epochs: DEFAULT_EPOCHS }
      : config;
  }
  const own = result.issues.filter(({ isBetween }) => !isBetween);
  const problems = (own.length > 0 ? own : result.issues).map(({ path, message }) => {
    const [field] = path.split(".");
    return field === ""
      ? message
      : `${flagOf(field)} ${message}: got ${inUnit(field, valueOf(value, field))}`;
  });
  throw new UsageError(`Cannot use this configuration: ${problems.join("; ")}`);
}

/** A value for a message. YAML and msgpack bring some that JSON has not, as numbers of 64 bits and cycles. */
function shown(value: unknown): string {
  // JSON has neither NaN nor infinity.
  if (typeof value === "number") return String(value);
  try {
    return JSON.stringify(value) ?? "nothing";
  } catch {
    return typeof value === "bigint" ? String(value) : `a value of type ${typeof value}`;
  }
}

/** The part of a configuration that decides bits. */
export function trainingConfig(config: RunConfig): TrainingConfig {
  const fields = Object.keys(trainingShape) as (keyof TrainingConfig)[];
  return Object.fromEntries(fields.map((field) => [field, config[field]])) as TrainingConfig;
}

/** The training values in which two configurations differ, as "--shards: 4 and 8"; empty if none. */
export function trainingDifferences(stored: TrainingConfig, wanted: TrainingConfig): readonly string[] {
  return (Object.keys(trainingShape) as (keyof TrainingConfig)[])
    .filter((field) => stored[field] !== wanted[field])
    .map((field) => `${flagOf(field)}: ${stored[field]} and ${wanted[field]}`);
}

/** Where the data stream stands before a step. One step uses globalBatchSize images per discriminator update. */
export interface DataPosition {
  /** Images used so far. */
  readonly samples: number;
  /** Epoch of the next image, from 0. */
  readonly epoch: number;
  /** Position of the next image in that epoch's order. */
  readonly positionInEpoch: number;
}

export function samplesPerStep(config: TrainingConfig): number {
  return config.globalBatchSize * config.discriminatorSteps;
}

export function dataPosition(config: TrainingConfig, numImages: number, globalStep: number): DataPosition {
  const samples = globalStep * samplesPerStep(config);
  return { samples, epoch: Math.floor(samples / numImages), positionInEpoch: samples % numImages };
}

/** Steps after which `epochs` passes over the data are complete. The stream of images does not pause between epochs. */
export function stepsOfEpochs(config: TrainingConfig, numImages: number, epochs: number): number {
  return Math.ceil((epochs * numImages) / samplesPerStep(config));
}

/** Global step at which the run ends: the nearer of epochs and maxSteps. */
export function totalSteps(config: RunConfig, numImages: number): number {
  const byEpochs = config.epochs === null ? Infinity : stepsOfEpochs(config, numImages, config.epochs);
  return Math.min(byEpochs, config.maxSteps ?? Infinity);
}

/** Whether a picture of samples is due after this many steps. */
export function isSampleStep(config: RunConfig, numImages: number, globalStep: number): boolean {
  if (config.sampleEvery !== null) return globalStep % config.sampleEvery === 0;
  const epochs = Math.floor((globalStep * samplesPerStep(config)) / numImages);
  return epochs >= 1 && stepsOfEpochs(config, numImages, epochs) === globalStep;
}
