/**
 * Checkpoints on disk. A checkpoint is written to a temporary folder, synced
 * and renamed, so a folder with a final name is whole unless the disk changed
 * it; every read checks every hash.
 *
 * @module
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Manifest, TrainingState } from "../shared/checkpoint.ts";
import {
  checkFile,
  checkNetworks,
  decodeState,
  MANIFEST_FILE,
  parseManifest,
  STATE_FILES,
} from "../shared/checkpoint.ts";
import { CheckpointError, describeError } from "../shared/errors.ts";
import type { Model } from "../shared/nn/models.ts";

const NAME = /^step-(\d{8,})$/;
const TEMPORARY = /^\.tmp-/;

export function checkpointName(globalStep: number): string {
  return `step-${String(globalStep).padStart(8, "0")}`;
}

export interface StoredCheckpoint {
  readonly globalStep: number;
  readonly path: string;
}

/** Checkpoint folders by step, newest first. They may be damaged. */
export async function listCheckpoints(directory: string): Promise<readonly StoredCheckpoint[]> {
  const names = await readdir(directory).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  });
  return names
    .flatMap((name) => {
      const match = NAME.exec(name);
      return match === null ? [] : [{ globalStep: Number(match[1]), path: join(directory, name) }];
    })
    .sort((a, b) => b.globalStep - a.globalStep);
}

/**
 * Writes a checkpoint, then removes all but the newest `keep`.
 *
 * @param files Contents by name, the manifest last.
 * @returns Its folder.
 */
export async function saveCheckpoint(
  directory: string,
  globalStep: number,
  files: ReadonlyMap<string, Uint8Array>,
  keep: number,
): Promise<string> {
  await mkdir(directory, { recursive: true });
  const final = join(directory, checkpointName(globalStep));
  const temporary = join(directory, `.tmp-${checkpointName(globalStep)}-${process.pid}`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary);
  try {
    for (const [name, bytes] of files) {
      const file = await open(join(temporary, name), "wx");
      try {
        await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
    }
    await syncDirectory(temporary);
    // A folder of that name can only be one that was found damaged and trained past again.
    await rm(final, { recursive: true, force: true });
    await rename(temporary, final);
    await syncDirectory(directory);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw error;
  }
  await prune(directory, keep);
  return final;
}

async function prune(directory: string, keep: number): Promise<void> {
  for (const { path } of (await listCheckpoints(directory)).slice(keep)) {
    await rm(path, { recursive: true, force: true });
  }
}

/** Removes what a killed coordinator left half-written. The caller holds the run's lock. */
export async function removeTemporaries(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => []);
  for (const name of names.filter((n) => TEMPORARY.test(n))) {
    await rm(join(directory, name), { recursive: true, force: true });
  }
}

/** Windows cannot open a folder; its file system orders renames itself. */
async function syncDirectory(directory: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export interface LoadedCheckpoint {
  readonly manifest: Manifest;
  readonly path: string;
  /** Contents of the files that were asked for, checked. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/**
 * Reads and checks one checkpoint.
 *
 * @param names Files to read; every one is checked against the manifest.
 * @throws {CheckpointError} If anything is missing or damaged; names folder and file.
 */
export async function loadCheckpoint(
  path: string,
  names: readonly string[] = STATE_FILES,
): Promise<LoadedCheckpoint> {
  try {
    const manifest = parseManifest(await readFile(join(path, MANIFEST_FILE), "utf8"));
    const files = new Map<string, Uint8Array>();
    for (const name of names) {
      const bytes = await readFile(join(path, name));
      checkFile(manifest, name, bytes);
      files.set(name, bytes);
    }
    return { manifest, path, files };
  } catch (error) {
    const incompatible = error instanceof CheckpointError && error.incompatible;
    const what = incompatible ? "cannot be used" : "is damaged";
    throw new CheckpointError(`Checkpoint ${path} ${what}: ${describeError(error)}`, { incompatible });
  }
}

/**
 * Loads the newest whole checkpoint; names every damaged one that is passed over.
 *
 * @throws {CheckpointError} If there is none.
 */
export async function loadNewest(
  directory: string,
  onDamaged: (reason: string) => void,
  names: readonly string[] = STATE_FILES,
): Promise<LoadedCheckpoint> {
  const stored = await listCheckpoints(directory);
  for (const { path } of stored) {
    try {
      return await loadCheckpoint(path, names);
    } catch (error) {
      if (error instanceof CheckpointError && error.incompatible) throw error;
      onDamaged(describeError(error));
    }
  }
  throw new CheckpointError(
    stored.length === 0
      ? `Cannot find a checkpoint in ${directory}`
      : `Cannot find a whole checkpoint in ${directory}: all ${stored.length} are damaged`,
  );
}

/** The training state of a checkpoint. @throws {CheckpointError} If it is of other networks. */
export function stateOf(checkpoint: LoadedCheckpoint, model: Model): TrainingState {
  checkNetworks(checkpoint.manifest, model);
  return decodeState(model, checkpoint.files);
}
