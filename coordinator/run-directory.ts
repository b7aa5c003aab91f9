/**
 * The folder of a run: configuration, checkpoints, pictures, metrics and log.
 *
 * @module
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { MANIFEST_FILE, parseManifest } from "../shared/checkpoint.ts";
import { checked } from "../shared/checked.ts";
import { shellCommand } from "../shared/command-line.ts";
import type { RunConfig } from "../shared/config.ts";
import { parseRunConfig } from "../shared/config.ts";
import { describeError, UsageError } from "../shared/errors.ts";
import { isMissing } from "../shared/system-errors.ts";
import { listCheckpoints } from "./checkpoint-store.ts";
import { replaceFile } from "./durable-file.ts";
import { lastRecordedStep } from "./metrics-file.ts";

/** Where runs are made without --run-dir. */
export const RUNS = "runs";
/** A link to the newest of them. */
export const LATEST = "latest";

export interface RunPaths {
  readonly root: string;
  /** Folder of the last protocol events of processes whose run has died. */
  readonly events: string;
  readonly config: string;
  /** What the run says of itself. */
  readonly record: string;
  readonly checkpoints: string;
  readonly samples: string;
  readonly metrics: string;
  readonly log: string;
  readonly lock: string;
  /** The coordinator's control endpoint, while it runs. */
  readonly endpoint: string;
}

export function runPaths(root: string): RunPaths {
  return {
    root,
    config: join(root, "config.json"),
    record: join(root, "run.json"),
    checkpoints: join(root, "checkpoints"),
    events: join(root, "events"),
    samples: join(root, "samples"),
    metrics: join(root, "metrics.jsonl"),
    log: join(root, "run.log"),
    lock: join(root, "coordinator.lock"),
    endpoint: join(root, "coordinator.endpoint"),
  };
}

/** What a run says of itself, beside its configuration: a copy of that may begin another run. */
const RecordSchema = z.strictObject({
  /** Made with the run: tells it from another that has its folder or its configuration. */
  identity: z.string().min(1).max(64),
  /** Of who holds the run, or held it last: a lock that is missing does not tell. */
  hold: z.string().min(1).max(100),
  /** When a coordinator worked on it last, as ISO 8601: times of files change when they are copied. */
  startedAt: z.iso.datetime(),
  /** The newest checkpoint that a coordinator has written; null if none has. */
  savedStep: z.int().min(0).nullable(),
});
export type RunRecord = z.infer<typeof RecordSchema>;

/** What a run is told of when a worker saves the state of a coordinator that is gone: others of its workers may as well. */
export function rescueOf(hold: string): string {
  return `${hold}, saved by its workers`;
}

/** @returns Null if the folder has none, or none that can be read. */
export async function readRecord(paths: RunPaths): Promise<RunRecord | null> {
  try {
    const result = checked(RecordSchema, JSON.parse(await readFile(paths.record, "utf8")));
    return result.ok ? result.value : null;
  } catch {
    return null;
  }
}

export async function storeRecord(paths: RunPaths, record: RunRecord): Promise<void> {
  await replaceFile(paths.record, `${JSON.stringify(record, null, 2)}\n`);
}

/** A name for a new run under runs/, from the local time. */
export function defaultRunName(now: Date): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const day = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  return `${day}-${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
}

/**
 * The run under runs/ that was trained last, by what the runs themselves record, for --resume without --run-dir.
 *
 * @throws {UsageError} If none was trained yet.
 */
export async function lastTrainedRun(): Promise<string> {
  const names = await readdir(RUNS).catch(() => []);
  const runs: { readonly path: string; readonly trainedAt: string }[] = [];
  for (const name of names.filter((n) => n !== LATEST && !n.startsWith(".")).sort()) {
    const path = join(RUNS, name);
    const trainedAt = await lastTrained(runPaths(path));
    if (trainedAt !== null) runs.push({ path, trainedAt });
  }
  const newest = runs.reduce<(typeof runs)[number] | null>(
    (best, run) => (best === null || run.trainedAt > best.trainedAt ? run : best),
    null,
  );
  if (newest === null) {
    throw new UsageError(
      `Cannot resume as no run in ${resolve(RUNS)} has trained yet: give --run-dir, or begin a run without --resume`,
    );
  }
  return newest.path;
}

/** When training was under way last, as ISO 8601; null if it never was. */
async function lastTrained(paths: RunPaths): Promise<string | null> {
  if ((await stat(paths.config).catch(() => null)) === null) return null;
  const times: string[] = [];
  for (const { path } of await listCheckpoints(paths.checkpoints).catch(() => [])) {
    try {
      times.push(parseManifest(await readFile(join(path, MANIFEST_FILE), "utf8")).createdAt);
      break;
    } catch {
      // Damaged: the one before it tells.
    }
  }
  const hasSteps = times.length > 0 || (await lastRecordedStep(paths.metrics).catch(() => 0)) > 0;
  const record = await readRecord(paths);
  if (hasSteps && record !== null) times.push(record.startedAt);
  return times.sort().at(-1) ?? null;
}

/**
 * The configuration that a run was begun with.
 *
 * @throws {UsageError} If the folder holds no run.
 */
export async function storedConfig(root: string): Promise<RunConfig> {
  const path = runPaths(root).config;
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (!isMissing(error)) throw error;
    throw new UsageError(`Cannot find a run in ${root}: give the folder that --run-dir named`);
  }
  try {
    return parseRunConfig(JSON.parse(text));
  } catch (error) {
    throw new UsageError(`Cannot read ${path}: ${describeError(error)}`);
  }
}

/** @throws {UsageError} If there already is a run in the folder, or what is left of one. */
export async function checkNoRun(root: string): Promise<void> {
  const { config, record, metrics, checkpoints } = runPaths(root);
  for (const path of [config, record, metrics]) {
    if ((await stat(path).catch(() => null)) !== null) throw holdsRun(root);
  }
  if ((await listCheckpoints(checkpoints).catch(() => [])).length > 0) throw holdsRun(root);
}

function holdsRun(root: string): UsageError {
  return new UsageError(
    `Cannot begin a run in ${root} as it already holds one: add --resume to continue it, or give another --run-dir`,
  );
}

export async function storeConfig(paths: RunPaths, config: RunConfig): Promise<void> {
  await replaceFile(paths.config, `${JSON.stringify(config, null, 2)}\n`);
}

/** Lets commands of the user find the coordinator. */
export async function storeEndpoint(paths: RunPaths, endpoint: string): Promise<void> {
  await replaceFile(paths.endpoint, `${endpoint}\n`);
}

/** @throws {UsageError} If no coordinator works on the run. */
export async function endpointOf(paths: RunPaths): Promise<string> {
  const text = await readFile(paths.endpoint, "utf8").catch((error: unknown) => {
    if (isMissing(error)) return null;
    throw error;
  });
  if (text === null) {
    throw new UsageError(
      `Cannot find a coordinator that works on ${paths.root}: give the folder of a run that is under way, or its address as tcp://host:port. ${shellCommand(["lockstep", "inspect", paths.root])} shows what a run has saved`,
    );
  }
  return text.trim();
}
