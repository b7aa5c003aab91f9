/**
 * What a run leaves in its folder while it trains: checkpoints, pictures and
 * metrics, written in order and behind the messages.
 *
 * @module
 */
import type { WriteStream } from "node:fs";
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import type { Piscina } from "piscina";
import type { RunConfig } from "../shared/config.ts";
import { dataPosition, samplesPerStep, stepsOfEpochs } from "../shared/config.ts";
import { describeError, ProtocolError } from "../shared/errors.ts";
import { floatsOf } from "../shared/frames.ts";
import { IMAGE_SIDE } from "../shared/image.ts";
import type { Model } from "../shared/nn/models.ts";
import type { WorkerBulkMessage } from "../shared/protocol.ts";
import { SAMPLE_COUNT } from "../shared/samples.ts";
import type { Dataset } from "./dataset/dataset.ts";
import { gridPng } from "./picture.ts";
import type { CheckpointTask } from "./pool-tasks.ts";
import type { Reporter } from "./reporter.ts";
import type { RunPaths } from "./run-directory.ts";
import { replaceFile } from "./run-directory.ts";

export interface RunOutputsOptions {
  readonly config: RunConfig;
  readonly dataset: Dataset;
  readonly model: Model;
  readonly paths: RunPaths;
  readonly pool: Piscina;
  readonly reporter: Reporter;
  /** Step of the checkpoint that the run was resumed from, or null. */
  readonly savedStep: number | null;
  /** Called after every checkpoint and picture, written or not. */
  readonly onWritten: () => void;
}

export class RunOutputs {
  readonly #options: RunOutputsOptions;
  readonly #metrics: WriteStream;
  #savedStep: number | null;
  /** Step of the last state and picture that rank 0 has sent. */
  #receivedState: number | null;
  #receivedPicture: number | null;
  /** Checkpoints and pictures are written one after the other. */
  #writing: Promise<void> = Promise.resolve();
  #numPending = 0;

  constructor(options: RunOutputsOptions) {
    this.#options = options;
    this.#savedStep = options.savedStep;
    this.#receivedState = options.savedStep;
    this.#receivedPicture = options.savedStep;
    this.#metrics = createWriteStream(options.paths.metrics, { flags: "a" });
    this.#metrics.on("error", (error) => {
      options.reporter.log("error", `Cannot write metrics: ${error.message}`);
    });
  }

  /** Newest step whose checkpoint is on disk, or null. */
  get savedStep(): number | null {
    return this.#savedStep;
  }

  /** Whether state and picture of the last step have arrived and nothing is left to write. */
  isComplete(globalStep: number): boolean {
    return (
      this.#numPending === 0 && this.#receivedState === globalStep && this.#receivedPicture === globalStep
    );
  }

  writeMetrics(line: object): void {
    this.#metrics.write(`${JSON.stringify(line)}\n`);
  }

  /** @param payload STATE_FRAMES. @throws {ProtocolError} If a frame is missing or of the wrong size. */
  saveState(message: Extract<WorkerBulkMessage, { type: "state" }>, payload: readonly Buffer[]): void {
    const { config, dataset, model, paths, pool, reporter } = this.#options;
    const lengths = [model.generator, model.discriminator].flatMap((n) =>
      Array<number>(3).fill(n.numParameters),
    );
    if (payload.length !== lengths.length)
      throw new ProtocolError(`Cannot save state of ${payload.length} frames`);
    const [gp, gm, gv, dp, dm, dv] = payload.map((frame, i) => floatsOf(frame, lengths[i]));
    const { globalStep } = message;
    this.#receivedState = globalStep;
    const task: CheckpointTask = {
      directory: paths.checkpoints,
      keep: config.keepCheckpoints,
      state: {
        generator: { parameters: gp, m: gm, v: gv, step: message.generatorSteps },
        discriminator: { parameters: dp, m: dm, v: dv, step: message.discriminatorSteps },
      },
      meta: {
        globalStep,
        config,
        dataset: { name: dataset.name, numImages: dataset.numImages, sha256: dataset.sha256 },
        dataPosition: dataPosition(config, dataset.numImages, globalStep),
      },
    };
    this.#enqueue(`the checkpoint of step ${globalStep}`, async () => {
      const path = (await pool.run(task, { name: "writeCheckpoint" })) as string;
      this.#savedStep = globalStep;
      reporter.log("info", `Checkpoint of step ${globalStep}: ${path}`);
    });
  }

  /** @param payload One frame, (64, 784) uint8. @throws {ProtocolError} If its size is wrong. */
  savePicture(globalStep: number, payload: readonly Buffer[]): void {
    const { config, dataset, paths, reporter } = this.#options;
    if (payload.length !== 1 || payload[0].byteLength !== SAMPLE_COUNT * dataset.imagePixels) {
      throw new ProtocolError("Cannot use samples as their size is wrong");
    }
    this.#receivedPicture = globalStep;
    const epochs = Math.floor((globalStep * samplesPerStep(config)) / dataset.numImages);
    const isEpoch = epochs > 0 && stepsOfEpochs(config, dataset.numImages, epochs) === globalStep;
    const suffix = isEpoch ? `-epoch-${String(epochs).padStart(3, "0")}` : "";
    const path = join(paths.samples, `step-${String(globalStep).padStart(8, "0")}${suffix}.png`);
    this.#enqueue(path, async () => {
      await replaceFile(path, gridPng(payload[0], IMAGE_SIDE));
      reporter.log("info", `Samples of step ${globalStep}: ${path}`);
    });
  }

  /** Resolves when all that has arrived is written, and the metrics are closed. */
  async close(): Promise<void> {
    await this.#writing;
    await new Promise<void>((resolve) => this.#metrics.end(() => resolve()));
  }

  /** A file that cannot be written is said aloud and does not end the run. */
  #enqueue(what: string, write: () => Promise<void>): void {
    const { reporter, onWritten } = this.#options;
    this.#numPending += 1;
    this.#writing = this.#writing.then(async () => {
      try {
        await write();
      } catch (error) {
        reporter.log("error", `Cannot write ${what}: ${describeError(error)}`);
      }
      this.#numPending -= 1;
      onWritten();
    });
  }
}
