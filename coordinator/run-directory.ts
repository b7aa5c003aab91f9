/**
 * The folder of a run: configuration, checkpoints, pictures, metrics, log, and
 * a lock that keeps a second coordinator out.
 *
 * @module
 */
import { mkdir, open, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import type { RunConfig } from "../shared/config.ts";
import { parseRunConfig } from "../shared/config.ts";
import { describeError, UsageError } from "../shared/errors.ts";

export interface RunPaths {
  readonly root: string;
  readonly config: string;
  readonly checkpoints: string;
  readonly samples: string;
  readonly metrics: string;
  readonly log: string;
  readonly lock: string;
}

export function runPaths(root: string): RunPaths {
  return {
    root,
    config: join(root, "config.json"),
    checkpoints: join(root, "checkpoints"),
    samples: join(root, "samples"),
    metrics: join(root, "metrics.jsonl"),
    log: join(root, "run.log"),
    lock: join(root, "coordinator.lock"),
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
  await writeFile(temporary, contents, { flush: true });
  await rename(temporary, path);
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

/**
 * Keeps other coordinators out of the run until released.
 *
 * @throws {UsageError} If a living process holds the lock; names it.
 */
export async function lockRun(paths: RunPaths): Promise<() => Promise<void>> {
  const mine = JSON.stringify({ pid: process.pid, host: hostname() });
  for (let attempt = 0; ; attempt++) {
    try {
      const file = await open(paths.lock, "wx");
      await file.writeFile(mine);
      await file.close();
      return () => rm(paths.lock, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 0) throw error;
    }
    const holder = await readFile(paths.lock, "utf8").catch(() => "");
    if (isAlive(holder)) {
      throw new UsageError(
        `Cannot use ${paths.root} as another coordinator does (${holder}): stop it, or if it is gone remove ${paths.lock}`,
      );
    }
    await rm(paths.lock, { force: true });
  }
}

/** A lock of another host cannot be checked, so it counts as held; a torn or empty one is nobody's. */
function isAlive(holder: string): boolean {
  let lock: { readonly pid?: unknown; readonly host?: unknown };
  try {
    lock = JSON.parse(holder) as typeof lock;
  } catch {
    return false;
  }
  if (lock.host !== hostname()) return true;
  if (typeof lock.pid !== "number" || lock.pid === process.pid) return false;
  try {
    process.kill(lock.pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Drops lines of steps after `globalStep` and a torn last line: the resumed run writes them again. */
export async function trimMetrics(paths: RunPaths, globalStep: number): Promise<void> {
  const text = await readFile(paths.metrics, "utf8").catch(() => "");
  const kept = text.split("\n").filter((line) => {
    try {
      const { globalStep: step } = JSON.parse(line) as { readonly globalStep?: unknown };
      return typeof step === "number" && step <= globalStep;
    } catch {
      return false;
    }
  });
  await replaceFile(paths.metrics, kept.map((line) => `${line}\n`).join(""));
}
