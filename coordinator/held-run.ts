/**
 * A run's folder while this process holds it: made only once nothing can
 * prevent the run any more, made again as a whole where it is deleted, and not
 * written to once it is another's.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { mkdir, rename, rm, rmdir, stat, symlink } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { RunConfig } from "../shared/config.ts";
import { UsageError } from "../shared/errors.ts";
import { explainError } from "../shared/system-errors.ts";
import type { RunPaths, RunRecord } from "./run-directory.ts";
import {
  checkNoRun,
  defaultRunName,
  LATEST,
  readRecord,
  RUNS,
  runPaths,
  storeConfig,
  storeEndpoint,
  storeRecord,
} from "./run-directory.ts";
import type { RunLock } from "./run-lock.ts";
import { lockRun } from "./run-lock.ts";

/** How many starts may fall into one second. */
const MAX_STARTS = 1000;

/** Told what the user should know. */
type Say = (level: "info" | "warn", text: string) => void;

/**
 * Holds the folder of a new run, which is made; all else comes with {@linkcode HeldRun.begin}.
 *
 * @param root Null for a new folder under runs/.
 * @throws {UsageError} If there is a run in it, or a process works on it.
 */
export async function holdNewRun(root: string | null, say: Say): Promise<HeldRun> {
  const { path, made } = root === null ? await makeDefaultFolder(new Date()) : await makeFolder(root);
  try {
    const paths = runPaths(path);
    const lock = await lockRun(paths, { role: "coordinator", say: (text) => say("info", text) });
    try {
      await checkNoRun(path);
    } catch (error) {
      await lock.release();
      throw error;
    }
    return new HeldRun(paths, lock, null, made, say);
  } catch (error) {
    await removeEmpty(made);
    throw error;
  }
}

/**
 * Holds the folder of a run that is there.
 *
 * @throws {UsageError} If another process works on it.
 */
export async function holdRun(root: string, say: Say): Promise<HeldRun> {
  const paths = runPaths(root);
  const lock = await lockRun(paths, { role: "coordinator", say: (text) => say("info", text) });
  return new HeldRun(paths, lock, await readRecord(paths), null, say);
}

export class HeldRun {
  readonly paths: RunPaths;
  /** Of the run, made with it. */
  readonly identity: string;
  readonly #lock: RunLock;
  readonly #say: Say;
  /** Folders that were made for a new run that has not begun, deepest first; null if the run was there before. */
  #made: string[] | null;
  /** Null until the run has begun. */
  #config: RunConfig | null = null;
  #record: RunRecord;
  #endpoint: string | null = null;
  #lost: string | null = null;
  #onLost: (reason: string) => void = () => undefined;

  constructor(
    paths: RunPaths,
    lock: RunLock,
    record: RunRecord | null,
    made: readonly string[] | null,
    say: Say,
  ) {
    this.paths = paths;
    this.identity = record?.identity ?? randomUUID();
    this.#lock = lock;
    this.#say = say;
    this.#made = made === null ? null : [...made];
    const { identity, hold } = this;
    this.#record = { identity, hold, startedAt: now(), savedStep: record?.savedStep ?? null };
    lock.events = {
      mayMakeAgain: () => this.#isAsLeft(),
      onMadeAgain: () => this.#makeAgain(paths.config),
      onLost: (reason) => {
        this.#lost = reason;
        this.#onLost(reason);
      },
    };
  }

  /** Names this coordinator's hold of the run. */
  get hold(): string {
    return this.#lock.nonce;
  }

  /** Step of the newest checkpoint that was ever written, as far as the run records it; null if none was. */
  get savedStep(): number | null {
    return this.#record.savedStep;
  }

  /** Whether the run may be written to: as {@linkcode RunLock.isHeld}, with all that belongs to a run. */
  readonly isOurs = (): Promise<boolean> => this.#lock.isHeld();

  /** @param onLost Told once when the run is another's; at once if it is so already. */
  watch(onLost: (reason: string) => void): void {
    this.#onLost = onLost;
    if (this.#lost !== null) onLost(this.#lost);
  }

  /**
   * Makes the run, or says that training goes on.
   *
   * @throws {UsageError} If it cannot be written; then nothing is left by {@linkcode HeldRun.release}.
   */
  async begin(config: RunConfig): Promise<void> {
    const { root } = this.paths;
    try {
      await this.#makeFolders();
      await storeRecord(this.paths, this.#record);
      await storeConfig(this.paths, config);
    } catch (error) {
      throw new UsageError(`Cannot write the run in ${root}: ${explainError(error)}`);
    }
    const isNew = this.#made !== null;
    this.#config = config;
    this.#made = null;
    if (isNew && resolve(dirname(root)) === resolve(RUNS)) await linkLatest(basename(root));
  }

  /** Lets commands of the user find the coordinator. */
  async setEndpoint(endpoint: string): Promise<void> {
    this.#endpoint = endpoint;
    await storeEndpoint(this.paths, endpoint);
  }

  /** A checkpoint is there: without this, a folder whose checkpoints are gone looks like a run that had none yet. */
  async setSaved(globalStep: number): Promise<void> {
    this.#record = { ...this.#record, savedStep: globalStep };
    // The next checkpoint says it again.
    await storeRecord(this.paths, this.#record).catch(() => undefined);
  }

  /** Writes again what a checkpoint is of no use without. @returns False if the run is another's. */
  async restore(): Promise<boolean> {
    if (!(await this.isOurs())) return false;
    const { config, record, endpoint } = this.paths;
    for (const path of [config, record, ...(this.#endpoint === null ? [] : [endpoint])]) {
      if (await isMissing(path)) {
        await this.#makeAgain(path);
        break;
      }
    }
    return true;
  }

  /** Lets others have the run; what was made for one that has not begun goes. */
  async release(): Promise<void> {
    const made = this.#made;
    if (made !== null) {
      for (const path of [this.paths.config, this.paths.record]) {
        await rm(path, { force: true }).catch(() => undefined);
      }
    }
    await this.#lock.release();
    if (made !== null) await removeEmpty(made);
  }

  /** Whether nobody has worked on the run since this process began to. */
  async #isAsLeft(): Promise<boolean> {
    const record = await readRecord(this.paths);
    return record === null || record.hold === this.hold;
  }

  /** @param missing What was found to be gone. */
  async #makeAgain(missing: string): Promise<void> {
    if (this.#config === null) return;
    // The coordinator is found before there is a run to resume beside it.
    if (this.#endpoint !== null) await storeEndpoint(this.paths, this.#endpoint);
    await this.#makeFolders();
    await storeRecord(this.paths, this.#record);
    await storeConfig(this.paths, this.#config);
    this.#say("warn", `${missing} was gone and is written again`);
  }

  async #makeFolders(): Promise<void> {
    for (const path of [this.paths.samples, this.paths.checkpoints]) {
      if ((await mkdir(path, { recursive: true })) !== undefined) this.#made?.unshift(path);
    }
  }
}

function now(): string {
  return new Date().toISOString();
}

/** @returns Folders that did not exist before, deepest first. */
async function makeFolder(
  path: string,
): Promise<{ readonly path: string; readonly made: readonly string[] }> {
  let first: string | undefined;
  try {
    first = await mkdir(path, { recursive: true });
  } catch (error) {
    throw new UsageError(`Cannot make a run in ${path}: ${explainError(error)}`);
  }
  const made: string[] = [];
  if (first !== undefined) {
    for (let folder = resolve(path); ; folder = dirname(folder)) {
      made.push(folder);
      if (folder === resolve(first) || folder === dirname(folder)) break;
    }
  }
  return { path, made };
}

/** Two starts of one second get two folders. */
async function makeDefaultFolder(date: Date): ReturnType<typeof makeFolder> {
  const { made } = await makeFolder(RUNS);
  const name = defaultRunName(date);
  for (let i = 1; i <= MAX_STARTS; i++) {
    const path = join(RUNS, i === 1 ? name : `${name}-${i}`);
    try {
      await mkdir(path);
      return { path, made: [path, ...made] };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") continue;
      await removeEmpty(made);
      throw new UsageError(`Cannot make a run in ${resolve(RUNS)}: ${explainError(error)}; give --run-dir`);
    }
  }
  throw new UsageError(
    `Cannot make a run as ${join(RUNS, name)} and ${MAX_STARTS - 1} more are there: give --run-dir`,
  );
}

/** Leaves folders in which there is something. */
async function removeEmpty(folders: readonly string[]): Promise<void> {
  for (const folder of folders) await rmdir(folder).catch(() => undefined);
}

/** Convenience only: a file system without links does without. */
async function linkLatest(name: string): Promise<void> {
  const temporary = join(RUNS, `.${LATEST}-${process.pid}`);
  try {
    await symlink(name, temporary, "dir");
    await rename(temporary, join(RUNS, LATEST));
  } catch {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}

async function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === "ENOENT",
  );
}
