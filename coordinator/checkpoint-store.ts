/**
 * Checkpoints on disk. A checkpoint is written to a temporary folder, synced,
 * read back and renamed, so a folder with a final name is whole unless the disk
 * changed it; every read checks every hash. Old ones go only after that, and
 * lose their final name before their files.
 *
 * @module
 */
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Manifest, TrainingState } from "../shared/checkpoint.ts";
import {
  checkFile,
  checkFinite,
  checkNetworks,
  decodeState,
  MANIFEST_FILE,
  parseManifest,
  STATE_FILES,
} from "../shared/checkpoint.ts";
import { CheckpointError, describeError } from "../shared/errors.ts";
import type { Model } from "../shared/nn/models.ts";
import { syncDirectory } from "./durable-file.ts";

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

export interface SavedCheckpoint {
  readonly path: string;
  /** What is left on the file system, or null where it does not say. */
  readonly freeBytes: number | null;
  /** Why older checkpoints could not be removed, or null. */
  readonly warning: string | null;
}

/**
 * Writes a checkpoint and reads it back, then removes those before it but for the newest `keep`.
 *
 * @param files Contents by name, the manifest last.
 * @param keep Infinity to remove none.
 * @param isOurs Whether the run is this process's to write to; asked again when its files are written.
 * @throws {Error} If it could not be written whole; the message says what to do. Older ones are as they were.
 */
export async function saveCheckpoint(
  directory: string,
  globalStep: number,
  files: ReadonlyMap<string, Uint8Array>,
  keep: number,
  isOurs: () => Promise<boolean> = async () => true,
): Promise<SavedCheckpoint> {
  const numBytes = [...files.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const final = join(directory, checkpointName(globalStep));
  const temporary = join(directory, `.tmp-${checkpointName(globalStep)}-${process.pid}`);
  const replaced = `${temporary}-replaced`;
  const checkOurs = async (): Promise<void> => {
    if (!(await isOurs())) throw new Error("its folder was deleted, or another process works on it");
  };
  try {
    // A folder that was deleted must not come back without the lock that keeps others out.
    await checkOurs();
    await mkdir(directory, { recursive: true });
    await checkSpace(directory, numBytes);
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    for (const [name, bytes] of files) await writeSynced(join(temporary, name), bytes);
    await syncDirectory(temporary);
    await loadCheckpoint(temporary);
    // This process may have been stopped for any time meanwhile.
    await checkOurs();
    // A folder of that name can only be one that was found damaged and trained past again.
    await rename(final, replaced).catch(unlessMissing);
    await rename(temporary, final);
    await syncDirectory(directory);
  } catch (error) {
    for (const path of [temporary, replaced]) {
      await rm(path, { recursive: true, force: true }).catch(() => undefined);
    }
    throw new Error(`Cannot write ${final}${adviceFor(error, numBytes)}`, { cause: error });
  }
  let warning: string | null = null;
  try {
    await rm(replaced, { recursive: true, force: true });
    if (await isOurs()) await prune(directory, globalStep, keep);
  } catch (error) {
    warning = `Cannot remove old checkpoints in ${directory}: ${describeError(error)}`;
  }
  return { path: final, freeBytes: await freeBytes(directory), warning };
}

/** Bytes that this process may still write in the folder or the nearest one above it; null if nobody knows. */
export async function freeBytes(directory: string): Promise<number | null> {
  try {
    const { bavail, bsize, blocks } = await statfs(directory);
    // Some file systems over a network say nothing.
    return blocks === 0 ? null : bavail * bsize;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || dirname(directory) === directory) return null;
    return freeBytes(dirname(directory));
  }
}

async function checkSpace(directory: string, numBytes: number): Promise<void> {
  const free = await freeBytes(directory);
  if (free !== null && free < numBytes) {
    const text = `a checkpoint takes ${megabytes(numBytes)}: got ${megabytes(free)} free`;
    throw Object.assign(new Error(text), { code: "ENOSPC" });
  }
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

function unlessMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
}

/** What the user can do, for the end of a message; empty where only the cause tells. */
function adviceFor(error: unknown, numBytes: number): string {
  switch (String((error as NodeJS.ErrnoException).code)) {
    case "ENOSPC":
    case "EDQUOT":
      return ` as its file system is full: free ${megabytes(numBytes)} there`;
    case "EROFS":
    case "EACCES":
    case "EPERM":
      return " as its folder must be writable: check its mount and permissions";
    case "EIO":
      return " as the disk fails: see the system's log, or copy the run to another";
    default:
      return "";
  }
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * Those of later steps stay: they were found damaged, and are replaced when training comes to them again.
 * If they counted, one that was just written could be removed for their sake.
 */
async function prune(directory: string, globalStep: number, keep: number): Promise<void> {
  const upTo = (await listCheckpoints(directory)).filter((stored) => stored.globalStep <= globalStep);
  for (const stored of upTo.slice(keep)) {
    const aside = join(directory, `.tmp-${checkpointName(stored.globalStep)}-${process.pid}-removed`);
    // A worker that saves what its coordinator could not removes old ones too.
    await rename(stored.path, aside).catch(unlessMissing);
    await rm(aside, { recursive: true, force: true });
  }
}

/** Removes what a killed coordinator left half-written. The caller holds the run's lock. */
export async function removeTemporaries(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => []);
  for (const name of names.filter((n) => TEMPORARY.test(n))) {
    await rm(join(directory, name), { recursive: true, force: true });
  }
}

export interface LoadedCheckpoint {
  readonly manifest: Manifest;
  readonly path: string;
  /** Contents of the files that were asked for, checked. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** Errors of this process or its rights, which say nothing about what the disk holds. */
const NOT_DAMAGE: readonly unknown[] = ["EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM"];

/**
 * Reads and checks one checkpoint.
 *
 * @param names Files to read; every one is checked against the manifest.
 * @throws {CheckpointError} If there is none, or anything of it is missing or damaged; names folder and file.
 * @throws {Error} The system's, if it may not be read.
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
      checkFinite(name, bytes);
      files.set(name, bytes);
    }
    return { manifest, path, files };
  } catch (error) {
    if (NOT_DAMAGE.includes((error as NodeJS.ErrnoException).code)) throw error;
    if (!(await isFolder(path))) {
      throw new CheckpointError(`Cannot find a checkpoint in ${path}: there is no such folder`, {
        reason: "none",
      });
    }
    const reason = error instanceof CheckpointError ? error.reason : "damaged";
    const what = reason === "incompatible" ? "cannot be used" : "is damaged";
    throw new CheckpointError(`Checkpoint ${path} ${what}: ${describeError(error)}`, { reason });
  }
}

async function isFolder(path: string): Promise<boolean> {
  return await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/**
 * Loads the newest whole checkpoint; names every damaged one that is passed over.
 *
 * @throws {CheckpointError} If there is none, or none that is whole.
 * @throws {Error} The system's, if one may not be read: an older one would silently take its place.
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
      if (!(error instanceof CheckpointError) || error.reason === "incompatible") throw error;
      onDamaged(describeError(error));
    }
  }
  if (stored.length === 0) {
    throw new CheckpointError(`Cannot find a checkpoint in ${directory}`, { reason: "none" });
  }
  throw new CheckpointError(
    `Cannot find a whole checkpoint in ${directory}: all ${stored.length} are damaged`,
  );
}

/** The training state of a checkpoint. @throws {CheckpointError} If it is of other networks. */
export function stateOf(checkpoint: LoadedCheckpoint, model: Model): TrainingState {
  checkNetworks(checkpoint.manifest, model);
  return decodeState(model, checkpoint.files);
}
