/**
 * The folder of a run: configuration, checkpoints, pictures, metrics and log.
 *
 * @module
 */
import { mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { RunConfig } from "../shared/config.ts";
import { parseRunConfig } from "../shared/config.ts";
import { describeError, UsageError } from "../shared/errors.ts";

export interface RunPaths {
  readonly root: string;
  /** Folder of the last protocol events of processes whose run has died. */
  readonly events: string;
  readonly config: string;
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
    checkpoints: join(root, "checkpoints"),
    events: join(root, "events"),
    samples: join(root, "samples"),
    metrics: join(root, "metrics.jsonl"),
    log: join(root, "run.log"),
    lock: join(root, "coordinator.lock"),
    endpoint: join(root, "coordinator.endpoint"),
  };
}

/** A fresh name under runs/, from the local time. */
export function defaultRunDirectory(now: Date): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const day = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  const time = `${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
  return join("runs", `${day}-${time}`);
}

/** The run that was begun last under runs/, for --resume without --run-dir. */
export async function newestRun(): Promise<string> {
  const names = await readdir("runs").catch(() => []);
  const runs: { readonly path: string; readonly beganMs: number }[] = [];
  for (const name of names.filter((n) => n !== "latest")) {
    const path = join("runs", name);
    const info = await stat(runPaths(path).config).catch(() => null);
    if (info !== null) runs.push({ path, beganMs: info.mtimeMs });
  }
  runs.sort((a, b) => b.beganMs - a.beganMs);
  if (runs.length === 0) throw new UsageError("Cannot resume as there is no run in ./runs: give --run-dir");
  return runs[0].path;
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
    throw new UsageError(`Cannot find a run in ${root}: ${describeError(error)}`);
  }
  try {
    return parseRunConfig(JSON.parse(text));
  } catch (error) {
    throw new UsageError(`Cannot read ${path}: ${describeError(error)}`);
  }
}

/** Writes a file so that a crash leaves the old or the new one, never a part. */
export async function replaceFile(path: string, contents: string | Uint8Array): Promise<void> {
  const temporary = `${path}.tmp-${process.pid}`;
  try {
    await writeFile(temporary, contents, { flush: true });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** Makes the folder of a new run. @throws {UsageError} If there already is a run in it. */
export async function createRun(root: string, config: RunConfig): Promise<RunPaths> {
  const paths = runPaths(root);
  if ((await stat(paths.config).catch(() => null)) !== null) {
    throw new UsageError(
      `Cannot begin a run in ${root} as it already holds one: add --resume to continue it, or give another --run-dir`,
    );
  }
  await mkdir(paths.samples, { recursive: true });
  await mkdir(paths.checkpoints, { recursive: true });
  await storeConfig(paths, config);
  if (dirname(root) === "runs") {
    // Convenience only: a file system without links does without.
    await rm("runs/latest", { force: true }).catch(() => undefined);
    await symlink(basename(root), "runs/latest", "dir").catch(() => undefined);
  }
  return paths;
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
  const text = await readFile(paths.endpoint, "utf8").catch(() => null);
  if (text === null) {
    throw new UsageError(
      `Cannot find a coordinator that works on ${paths.root}: give the folder of a run that is under way, or its address as tcp://host:port. lockstep inspect shows what a run has saved`,
    );
  }
  return text.trim();
}

/** Steps of the lines of metrics that are whole, in order, with the lines. */
async function readMetrics(
  paths: RunPaths,
): Promise<readonly { readonly globalStep: number; readonly line: string }[]> {
  const text = await readFile(paths.metrics, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  return text.split("\n").flatMap((line) => {
    try {
      const { globalStep } = JSON.parse(line) as { readonly globalStep?: unknown };
      return typeof globalStep === "number" ? [{ globalStep, line }] : [];
    } catch {
      return [];
    }
  });
}

/**
 * Drops a torn last line, and lines of steps after `globalStep`: the run writes them again.
 *
 * @returns The last step that is left, 0 if none is.
 */
export async function trimMetrics(paths: RunPaths, globalStep = Infinity): Promise<number> {
  const kept = (await readMetrics(paths)).filter((entry) => entry.globalStep <= globalStep);
  await replaceFile(paths.metrics, kept.map(({ line }) => `${line}\n`).join(""));
  return kept.at(-1)?.globalStep ?? 0;
}

/** Adds lines of steps after the last one that is there, and drops a torn last line. */
export async function addMetrics(
  paths: RunPaths,
  lines: readonly { readonly globalStep: number }[],
): Promise<void> {
  const kept = await readMetrics(paths);
  const last = kept.at(-1)?.globalStep ?? 0;
  const added = lines.filter(({ globalStep }) => globalStep > last).map((line) => JSON.stringify(line));
  if (added.length === 0) return;
  await replaceFile(paths.metrics, [...kept.map(({ line }) => line), ...added, ""].join("\n"));
}
