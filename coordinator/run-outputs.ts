/**
 * What a run leaves in its folder while it trains: checkpoints, pictures and
 * metrics, written in order and behind the messages.
 *
 * @module
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Piscina } from "piscina";
import type { RunConfig } from "../shared/config.ts";
import { dataPosition, samplesPerStep, stepsOfEpochs } from "../shared/config.ts";
import { describeError, ProtocolError } from "../shared/errors.ts";
import { floatsOf } from "../shared/frames.ts";
import { IMAGE_SIDE } from "../shared/image.ts";
import type { Model } from "../shared/nn/models.ts";
import { areUpdates, updatesAt } from "../shared/phases.ts";
import type { WorkerBulkMessage } from "../shared/protocol.ts";
import { SAMPLE_COUNT } from "../shared/samples.ts";
import type { SavedCheckpoint } from "./checkpoint-store.ts";
import { freeBytes, listCheckpoints, megabytes } from "./checkpoint-store.ts";
import type { Dataset } from "./dataset/dataset.ts";
import { replaceFile } from "./durable-file.ts";
import type { HeldRun } from "./held-run.ts";
import { LineFile } from "./line-file.ts";
import { trimMetrics } from "./metrics-file.ts";
import { gridPng } from "./picture.ts";
import type { CheckpointTask } from "./pool-tasks.ts";
import type { Reporter } from "./reporter.ts";

export interface RunOutputsOptions {
  readonly config: RunConfig;
  readonly dataset: Dataset;
  readonly model: Model;
  readonly run: HeldRun;
  readonly pool: Piscina;
  readonly reporter: Reporter;
  /** Step of the checkpoint that the run was resumed from, or null. */
  readonly savedStep: number | null;
  /** Last step whose metrics are there from before. */
  readonly recordedStep: number;
  /** Whether training ends with the step, so that no later checkpoint makes up for this one. */
  readonly isLast: (globalStep: number) => boolean;
  /** Steps committed. */
  readonly committedStep: () => number;
  /** Called after every checkpoint and picture, written or not. */
  readonly onWritten: () => void;
  /** Called when as many checkpoints in a row have failed as the configuration allows. */
  readonly onGivenUp: (reason: string) => void;
}

/** Pauses before the last checkpoint is tried again, in milliseconds. */
const LAST_RETRIES_MS = [1000, 2000, 4000, 8000];
/** States that wait for a slow disk; beyond it the oldest is passed over, as memory is no place to store them. */
const MAX_WAITING = 4;
/** Below room for so many checkpoints the user is warned. */
const LOW_SPACE = 2;

export class RunOutputs {
  readonly #options: RunOutputsOptions;
  readonly #metrics: LineFile;
  #savedStep: number | null;
  #recordedStep: number;
  /** Step of the last state and picture that rank 0 has sent. */
  #receivedState: number | null;
  #receivedPicture: number | null;
  /** Checkpoints and pictures are written one after the other. */
  #writing: Promise<void> = Promise.resolve();
  #numPending = 0;
  /** States that are not being written yet, oldest first. */
  readonly #waiting: CheckpointTask[] = [];
  /** Whether a turn to write those is queued already. */
  #isTurnQueued = false;
  /** The newest state that could not be written, if that is worth another try. */
  #unsaved: CheckpointTask | null = null;
  /** Checkpoints in a row that could not be written. */
  #numFailures = 0;
  #hasGivenUp = false;
  #isSpaceLow = false;

  constructor(options: RunOutputsOptions) {
    const { run, reporter, savedStep, recordedStep } = options;
    this.#options = options;
    this.#recordedStep = recordedStep;
    this.#savedStep = savedStep;
    this.#receivedState = savedStep;
    this.#receivedPicture = savedStep;
    this.#metrics = new LineFile(run.paths.metrics, run.isOurs, (text) => reporter.log("warn", text));
  }

  /** Warns if the file system has no room for the checkpoints that this run will keep. */
  async checkSpace(): Promise<void> {
    const { config, model, reporter } = this.#options;
    const { paths } = this.#options.run;
    const free = await freeBytes(paths.checkpoints);
    const numStored = (await listCheckpoints(paths.checkpoints)).length;
    const each = 12 * (model.generator.numParameters + model.discriminator.numParameters);
    // One more, as an old one is removed only when a new one is whole.
    const needed = each * Math.max(1, config.keepCheckpoints + 1 - numStored);
    if (free === null || free >= needed) return;
    reporter.log(
      "warn",
      `Only ${megabytes(free)} are free for ${paths.checkpoints}, and its checkpoints will take ${megabytes(needed)} more (--keep-checkpoints ${config.keepCheckpoints}, and one while it is written). Make room before they do`,
    );
  }

  /** Newest step whose checkpoint is on disk, or null. */
  get savedStep(): number | null {
    return this.#savedStep;
  }

  /** Whether state and picture of the last step have arrived and nothing is left to write. */
  isComplete(globalStep: number): boolean {
    return this.#numPending === 0 && this.hasReceived(globalStep);
  }

  /** Whether state and picture of a step have arrived. */
  hasReceived(globalStep: number): boolean {
    return this.#receivedState === globalStep && this.#receivedPicture === globalStep;
  }

  /** Step up to which all metrics are on disk. */
  get recordedStep(): number {
    return this.#recordedStep;
  }

  writeMetrics(globalStep: number, line: object): void {
    this.#metrics.append(JSON.stringify(line), () => (this.#recordedStep = globalStep));
  }

  /** Forgets the metrics of later steps: training goes on from this one. */
  rewind(globalStep: number): void {
    this.#recordedStep = Math.min(this.#recordedStep, globalStep);
    this.#metrics.change(async () => {
      await trimMetrics(this.#options.run.paths.metrics, globalStep);
      this.#recordedStep = Math.min(this.#recordedStep, globalStep);
    });
  }

  /**
   * Saves a state once its step is committed, so that no checkpoint is ahead of the metrics.
   *
   * @param payload STATE_FRAMES.
   * @throws {ProtocolError} If a frame is missing or of the wrong size, or the numbers of updates are not those of the step.
   */
  saveState(message: Extract<WorkerBulkMessage, { type: "state" }>, payload: readonly Buffer[]): void {
    const { config, dataset, model, run, reporter } = this.#options;
    const lengths = [model.generator, model.discriminator].flatMap((n) =>
      Array<number>(3).fill(n.numParameters),
    );
    if (payload.length !== lengths.length)
      throw new ProtocolError(`Cannot save state of ${payload.length} frames`);
    const vectors = payload.map((frame, i) => sharedCopy(floatsOf(frame, lengths[i])));
    const { globalStep } = message;
    const updates = updatesAt({ globalStep, phase: 0 }, config.discriminatorSteps);
    if (!areUpdates(message, updates)) {
      throw new ProtocolError(
        `Cannot save state of step ${globalStep} as its updates must be ${updates.generatorSteps} and ${updates.discriminatorSteps}: got ${message.generatorSteps} and ${message.discriminatorSteps}`,
      );
    }
    // The first worker of another generation sends what the one before it may have sent.
    if (this.#hasGivenUp || (this.#receivedState === globalStep && this.#savedStep === globalStep)) return;
    this.#receivedState = globalStep;
    const task: CheckpointTask = {
      directory: run.paths.checkpoints,
      keep: config.keepCheckpoints,
      lock: run.paths.lock,
      hold: run.hold,
      vectors,
      generatorSteps: message.generatorSteps,
      discriminatorSteps: message.discriminatorSteps,
      meta: {
        globalStep,
        config,
        dataset: { name: dataset.name, numImages: dataset.numImages, sha256: dataset.sha256 },
        dataPosition: dataPosition(config, dataset.numImages, globalStep),
      },
    };
    this.#waiting.push(task);
    if (this.#waiting.length > MAX_WAITING) {
      const passed = this.#waiting.shift()?.meta.globalStep;
      reporter.log(
        "warn",
        `No checkpoint of step ${passed}: the disk is slower than --checkpoint-every ${config.checkpointEvery} asks for`,
      );
    }
    this.committed();
  }

  /** A step was committed: a state that waited for that can be written. */
  committed(): void {
    if (this.#isTurnQueued || !this.#isNextCommitted()) return;
    this.#isTurnQueued = true;
    this.#enqueue(async () => {
      this.#isTurnQueued = false;
      while (this.#isNextCommitted()) {
        const next = this.#waiting.shift();
        if (next !== undefined) await this.#writeCheckpoint(next);
      }
    });
  }

  #isNextCommitted(): boolean {
    const next = this.#waiting.at(0);
    return next !== undefined && next.meta.globalStep <= this.#options.committedStep();
  }

  /**
   * Tries the last state once more, if it could not be written before it was known to be the last.
   *
   * @returns Whether there is something to try; then onWritten() is called again.
   */
  retryLast(globalStep: number): boolean {
    const task = this.#unsaved;
    if (task?.meta.globalStep !== globalStep) return false;
    this.#unsaved = null;
    this.#enqueue(() => this.#writeCheckpoint(task));
    return true;
  }

  /** The last one of a run is tried several times: the workers keep their state meanwhile. */
  async #writeCheckpoint(task: CheckpointTask): Promise<void> {
    const { config, isLast, onGivenUp, run, pool, reporter } = this.#options;
    const { paths } = run;
    const { globalStep } = task.meta;
    // After a power cut there must be no checkpoint whose steps the metrics lack.
    await this.#metrics.sync();
    for (let numTries = 1; ; numTries++) {
      try {
        if (!(await run.restore())) return;
        const saved = (await pool.run(task, { name: "writeCheckpoint" })) as SavedCheckpoint;
        await run.setSaved(globalStep);
        this.#savedStep = globalStep;
        this.#numFailures = 0;
        this.#unsaved = null;
        reporter.log("info", `Checkpoint of step ${globalStep}: ${saved.path}`);
        if (saved.warning !== null) reporter.log("warn", saved.warning);
        this.#watchSpace(saved.freeBytes, task);
        return;
      } catch (error) {
        if (!(await run.isOurs().catch(() => true))) return;
        const newest =
          this.#savedStep === null
            ? "No checkpoint has been written yet"
            : `The newest whole checkpoint is that of step ${this.#savedStep}`;
        const why = `${describeError(error)}. ${newest}`;
        const delayMs = isLast(globalStep) ? LAST_RETRIES_MS[numTries - 1] : undefined;
        if (delayMs !== undefined) {
          const next = `trying again in ${delayMs / 1000} s (try ${numTries} of ${LAST_RETRIES_MS.length + 1})`;
          reporter.log("error", `The last checkpoint could not be written, ${next}: ${why}`);
          await sleep(delayMs);
          continue;
        }
        this.#numFailures += 1;
        const limit = config.maxCheckpointFailures;
        reporter.log("error", `Checkpoint failure ${this.#numFailures} of ${limit} in a row: ${why}`);
        if (isLast(globalStep)) return;
        this.#unsaved = task;
        if (this.#numFailures < limit) return;
        this.#hasGivenUp = true;
        this.#waiting.length = 0;
        return onGivenUp(
          `Stopped at step ${globalStep} as ${limit} checkpoints in a row could not be written (--max-checkpoint-failures): ${describeError(error)}. Make ${paths.checkpoints} writable and make room there, then resume`,
        );
      }
    }
  }

  #watchSpace(free: number | null, { vectors }: CheckpointTask): void {
    const { run, reporter } = this.#options;
    const { paths } = run;
    const each = vectors.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const isLow = free !== null && free < LOW_SPACE * each;
    if (isLow && !this.#isSpaceLow) {
      const room = `room for ${Math.floor(free / each)} more checkpoints of ${megabytes(each)}`;
      reporter.log("warn", `Only ${megabytes(free)} are left for ${paths.checkpoints}: ${room}`);
    }
    this.#isSpaceLow = isLow;
  }

  /** @param payload One frame, (64, 784) uint8. @throws {ProtocolError} If its size is wrong. */
  savePicture(globalStep: number, payload: readonly Buffer[]): void {
    const { config, dataset, run, reporter } = this.#options;
    const { paths } = run;
    if (payload.length !== 1 || payload[0].byteLength !== SAMPLE_COUNT * dataset.imagePixels) {
      throw new ProtocolError("Cannot use samples as their size is wrong");
    }
    this.#receivedPicture = globalStep;
    const epochs = Math.floor((globalStep * samplesPerStep(config)) / dataset.numImages);
    const isEpoch = epochs > 0 && stepsOfEpochs(config, dataset.numImages, epochs) === globalStep;
    const suffix = isEpoch ? `-epoch-${String(epochs).padStart(3, "0")}` : "";
    const path = join(paths.samples, `step-${String(globalStep).padStart(8, "0")}${suffix}.png`);
    this.#enqueue(async () => {
      try {
        if (!(await run.isOurs())) return;
        await mkdir(paths.samples, { recursive: true });
        await replaceFile(path, gridPng(payload[0], IMAGE_SIDE));
        reporter.log("info", `Samples of step ${globalStep}: ${path}`);
      } catch (error) {
        reporter.log("error", `Cannot write ${path}: ${describeError(error)}`);
      }
    });
  }

  /** Resolves when all that has arrived is written. */
  settled(): Promise<void> {
    return this.#writing;
  }

  /** The folder was searched, and no member holds a state. @param savedStep Of the newest whole checkpoint, or null. */
  found(savedStep: number | null): void {
    this.#savedStep = savedStep;
    this.#receivedState = savedStep;
    this.#receivedPicture = null;
    this.#waiting.length = 0;
  }

  /** Resolves when all that has arrived is written, and the metrics are closed. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#metrics.close();
  }

  /** @param write Must not throw. */
  #enqueue(write: () => Promise<void>): void {
    this.#numPending += 1;
    this.#writing = this.#writing.then(async () => {
      await write();
      this.#numPending -= 1;
      this.#options.onWritten();
    });
  }
}

/** A copy that another thread reads without a copy of its own. */
function sharedCopy(values: Float32Array): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(values.byteLength);
  new Float32Array(buffer).set(values);
  return buffer;
}
