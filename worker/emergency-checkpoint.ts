/**
 * A checkpoint that a worker writes itself, since no coordinator is left.
 *
 * @module
 */
import { stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { checkpointName, saveCheckpoint } from "../coordinator/checkpoint-store.ts";
import { addMetrics, runPaths } from "../coordinator/run-directory.ts";
import { lockRun } from "../coordinator/run-lock.ts";
import type { TrainingState } from "../shared/checkpoint.ts";
import { encodeCheckpoint } from "../shared/checkpoint.ts";
import { dataPosition, samplesPerStep } from "../shared/config.ts";
import { describeError, UsageError } from "../shared/errors.ts";
import type { Model } from "../shared/nn/models.ts";
import type { StartMessage, StepReport } from "../shared/protocol.ts";

/** Each rank gives those before it this long to do the same, in milliseconds. */
const RANK_DELAY_MS = 500;

/**
 * Saves into the run's folder, or, on another host or where that cannot be written, into a folder of its own.
 *
 * @returns What was done, for the user.
 */
export async function saveEmergencyCheckpoint(
  { rank, config, dataset, numImages, runId, checkpoints }: StartMessage,
  model: Model,
  state: TrainingState,
  globalStep: number,
): Promise<string> {
  await sleep(rank * RANK_DELAY_MS);
  const meta = {
    globalStep,
    config,
    dataset: { ...dataset, numImages },
    dataPosition: dataPosition(config, numImages, globalStep),
  };
  const files = encodeCheckpoint(model, state, meta, new Date());
  const own = resolve(`lockstep-emergency-${runId.slice(0, 8)}`, "checkpoints");
  const toOwn = async (why: string): Promise<string> =>
    `${why}${await saveIn(own, globalStep, files, config.keepCheckpoints)}; copy it into the run's checkpoints, then use --resume`;
  if (!(await isFolder(checkpoints))) return toOwn("");
  try {
    return `${await saveIn(checkpoints, globalStep, files, config.keepCheckpoints)}; continue with --resume`;
  } catch (error) {
    return toOwn(`${describeError(error)}. `);
  }
}

/** Adds what the coordinator may not have recorded to the run's metrics, if its folder is on this host. */
export async function saveReports(
  { rank, config, numImages, checkpoints }: StartMessage,
  reports: readonly StepReport[],
): Promise<void> {
  await sleep(rank * RANK_DELAY_MS);
  if (!(await isFolder(checkpoints))) return;
  const lines = reports.map(({ globalStep, metrics }) => {
    const epoch = (globalStep * samplesPerStep(config)) / numImages;
    // How fast it was, the coordinator knew.
    return { globalStep, epoch, ...metrics, imagesPerSecond: null, workers: {} };
  });
  const paths = runPaths(dirname(checkpoints));
  let unlock: () => Promise<void>;
  try {
    unlock = await lockRun(paths);
  } catch (error) {
    // Another coordinator is at work already, and trains these steps again or has them from others.
    if (error instanceof UsageError) return;
    throw error;
  }
  try {
    await addMetrics(paths, lines);
  } finally {
    await unlock();
  }
}

function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** @returns What was done. */
async function saveIn(
  directory: string,
  globalStep: number,
  files: ReadonlyMap<string, Uint8Array>,
  keep: number,
): Promise<string> {
  const path = join(directory, checkpointName(globalStep));
  const exists = await stat(path).then(
    () => true,
    () => false,
  );
  if (exists) return `Step ${globalStep} is saved in ${path}`;
  await saveCheckpoint(directory, globalStep, files, keep);
  return `Wrote an emergency checkpoint of step ${globalStep}: ${path}`;
}
