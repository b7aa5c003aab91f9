/**
 * What a worker saves itself, since no coordinator is left: its state as a
 * checkpoint, and the metrics that the coordinator may not have recorded. Into
 * the run's folder only while that is the same run's and no other coordinator
 * works on it; nothing is removed there.
 *
 * @module
 */
import { stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { checkpointName, loadCheckpoint, saveCheckpoint } from "../coordinator/checkpoint-store.ts";
import { holderOf, isHeldBy } from "../coordinator/lease.ts";
import { addMetrics } from "../coordinator/metrics-file.ts";
import type { RunPaths, RunRecord } from "../coordinator/run-directory.ts";
import { readRecord, rescueOf, runPaths, storeRecord } from "../coordinator/run-directory.ts";
import { lockRun } from "../coordinator/run-lock.ts";
import type { TrainingState } from "../shared/checkpoint.ts";
import { encodeCheckpoint, MANIFEST_FILE, parseManifest, STATE_FILES } from "../shared/checkpoint.ts";
import { dataPosition, samplesPerStep } from "../shared/config.ts";
import { describeError, UsageError } from "../shared/errors.ts";
import type { Model } from "../shared/nn/models.ts";
import type { RunFolder, StartMessage, StepReport } from "../shared/protocol.ts";

/** Each rank gives those before it this long to do the same, in milliseconds. */
const RANK_DELAY_MS = 500;

export interface Orphan {
  readonly reports: readonly StepReport[];
  readonly model: Model;
  readonly globalStep: number;
  /** Null if it is in the middle of a step. */
  readonly state: TrainingState | null;
  readonly say: (text: string) => void;
}

/** Contents of a checkpoint by name. */
type Files = ReadonlyMap<string, Uint8Array>;

/** What became of a state, for the user. */
interface Saved {
  readonly isSaved: boolean;
  readonly text: string;
}

/** Saves into the run's folder, or, where that is not here, is another's or cannot be written, into one of its own. Never throws. */
export async function saveInEmergency(start: StartMessage, orphan: Orphan): Promise<Saved> {
  await sleep(start.rank * RANK_DELAY_MS);
  const files = encode(start, orphan);
  let why: string;
  try {
    return await saveInRun(start, orphan, files);
  } catch (error) {
    why = describeError(error);
  }
  if (typeof files === "string") return { isSaved: false, text: `${why}. ${files}` };
  const own = resolve(`lockstep-emergency-${start.folder.identity.slice(0, 8)}`, "checkpoints");
  try {
    const done = await saveIn(own, orphan.globalStep, files, async () => true);
    return { isSaved: true, text: `${why}. ${done}; copy it into the run's checkpoints, then use --resume` };
  } catch (error) {
    return { isSaved: false, text: `${why}. Its state could not be saved: ${describeError(error)}` };
  }
}

/** @returns The files of a checkpoint, or why the state makes none. */
function encode(
  { config, dataset, numImages }: StartMessage,
  { globalStep, model, state }: Orphan,
): Files | string {
  if (state === null) return "Its state is in the middle of a step and cannot be saved";
  const meta = {
    globalStep,
    config,
    dataset: { ...dataset, numImages },
    dataPosition: dataPosition(config, numImages, globalStep),
  };
  try {
    return encodeCheckpoint(model, state, meta, new Date());
  } catch (error) {
    return `Its state could not be saved: ${describeError(error)}`;
  }
}

/** @throws {Error} If nothing can be saved there; the message says why. */
async function saveInRun(
  start: StartMessage,
  { reports, globalStep, say }: Orphan,
  files: Files | string,
): Promise<Saved> {
  const { folder } = start;
  const paths = runPaths(dirname(folder.checkpoints));
  const hold = await holdOf(paths, folder, say);
  try {
    let text = "";
    if (hold.isOwn) {
      try {
        await addMetrics(paths.metrics, linesOfReports(start, reports));
      } catch (error) {
        text = `Its last metrics could not be saved: ${describeError(error)}. `;
      }
    }
    if (typeof files === "string") return { isSaved: false, text: text + files };
    const done = await saveIn(folder.checkpoints, globalStep, files, () => isHeldBy(paths.lock, hold.nonce));
    if (hold.isOwn) await noteSaved(paths, globalStep);
    return { isSaved: true, text: `${text}${done}; continue with --resume` };
  } finally {
    await hold.release();
  }
}

interface Hold {
  readonly nonce: string;
  /** Whether this process has the lock: else its coordinator, which has failed and waits for this one, still has it. */
  readonly isOwn: boolean;
  release(): Promise<void>;
}

/** @throws {Error} If the run's folder is not to be written to. */
async function holdOf(paths: RunPaths, { identity, hold }: RunFolder, say: Orphan["say"]): Promise<Hold> {
  await checkIdentity(paths, identity);
  try {
    const lock = await lockRun(paths, { role: "rescue", say });
    try {
      // It may have been deleted, and another begun, while this one waited.
      const record = await checkIdentity(paths, identity);
      // A coordinator that was only stopped must not go on where this one has written.
      await storeRecord(paths, { ...record, hold: rescueOf(hold) });
    } catch (error) {
      await lock.release();
      throw error;
    }
    return { nonce: lock.nonce, isOwn: true, release: () => lock.release() };
  } catch (error) {
    if (!(error instanceof UsageError) || !(await isHeldBy(paths.lock, hold))) throw error;
    return { nonce: hold, isOwn: false, release: async () => undefined };
  }
}

async function checkIdentity(paths: RunPaths, identity: string): Promise<RunRecord> {
  const record = await readRecord(paths);
  if (record === null) throw new Error(`The run is not in ${paths.root} on this machine`);
  if (record.identity !== identity) throw new Error(`${paths.root} holds another run by now`);
  return record;
}

/** The run's folder, if it is here and no other coordinator works on it; else null. */
export async function runOf({ checkpoints, identity, hold }: RunFolder): Promise<string | null> {
  const paths = runPaths(dirname(checkpoints));
  try {
    const record = await checkIdentity(paths, identity);
    const holder = await holderOf(paths.lock);
    const isTaken =
      holder === null || (holder !== "nobody" && holder.role !== "rescue" && holder.nonce !== hold);
    return !isTaken && [hold, rescueOf(hold)].includes(record.hold) ? paths.root : null;
  } catch {
    return null;
  }
}

function linesOfReports({ config, numImages }: StartMessage, reports: readonly StepReport[]) {
  return reports.map(({ globalStep, metrics }) => {
    const epoch = (globalStep * samplesPerStep(config)) / numImages;
    // How fast it was, the coordinator knew.
    return { globalStep, epoch, ...metrics, imagesPerSecond: null, workers: {} };
  });
}

/** As a coordinator records it. It matters only if the checkpoint is lost. */
async function noteSaved(paths: RunPaths, savedStep: number): Promise<void> {
  const record = await readRecord(paths);
  if (record !== null) await storeRecord(paths, { ...record, savedStep }).catch(() => undefined);
}

/**
 * Writes a checkpoint, unless the same is there already, and removes none.
 *
 * @returns What was done.
 * @throws {Error} If it cannot be written.
 */
async function saveIn(
  directory: string,
  globalStep: number,
  files: Files,
  isOurs: () => Promise<boolean>,
): Promise<string> {
  const path = join(directory, checkpointName(globalStep));
  const found = (await isThere(path)) ? await loadCheckpoint(path).catch(() => null) : null;
  if (found !== null) {
    const { files: expected } = parseManifest(new TextDecoder().decode(files.get(MANIFEST_FILE)));
    const isSame = STATE_FILES.every((name) => found.manifest.files[name]?.sha256 === expected[name].sha256);
    if (isSame) return `Step ${globalStep} is saved in ${path}`;
    throw new Error(`${path} holds another state`);
  }
  await saveCheckpoint(directory, globalStep, files, Infinity, isOurs);
  return `Wrote an emergency checkpoint of step ${globalStep}: ${path}`;
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
