/**
 * Finds the checkpoint that a command means: the newest whole one of a run, or
 * a checkpoint folder named itself.
 *
 * @module
 */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { LoadedCheckpoint } from "../../coordinator/checkpoint-store.ts";
import { loadCheckpoint, loadNewest } from "../../coordinator/checkpoint-store.ts";
import { runPaths } from "../../coordinator/run-directory.ts";
import { MANIFEST_FILE } from "../../shared/checkpoint.ts";
import { UsageError } from "../../shared/errors.ts";
import { isMissing } from "../../shared/system-errors.ts";

/** @param names Files to read and check. @throws {UsageError} If the path is neither a run nor a checkpoint. */
export async function checkpointOf(path: string, names?: readonly string[]): Promise<LoadedCheckpoint> {
  if (await exists(join(path, MANIFEST_FILE))) return loadCheckpoint(path, names);
  const paths = runPaths(path);
  if (!(await exists(paths.config))) {
    throw new UsageError(
      `Cannot find a run or a checkpoint in ${path}: give the folder that --run-dir named`,
    );
  }
  return loadNewest(
    paths.checkpoints,
    (reason) => console.error(`WARN: ${reason}. Trying the one before it`),
    names,
  );
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}
