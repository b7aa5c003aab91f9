/**
 * Training from a generation's first step to its last, as one rank runs it:
 * batches in, steps, and what the coordinator wants to know out.
 *
 * @module
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { isSampleStep } from "../shared/config.ts";
import { ProtocolError } from "../shared/errors.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import type { Model } from "../shared/nn/models.ts";
import type { StartMessage, StepMetrics, Timing } from "../shared/protocol.ts";
import { SAMPLE_COUNT, sampleNoise, toPixels } from "../shared/samples.ts";
import { rankSamples } from "../shared/sharding.ts";
import type { BatchQueue } from "./batch-queue.ts";
import type { DataPlane } from "./data-plane.ts";
import type { Engine } from "./engine/engine.ts";
import type { HostMemory } from "./host-memory.ts";
import type { Replica } from "./replica.ts";
import type { Progress, StepBuffers, StepContext } from "./train-step.ts";
import { trainStep } from "./train-step.ts";

export interface TrainLoopParts {
  readonly start: StartMessage;
  readonly model: Model;
  readonly engine: Engine;
  readonly memory: HostMemory;
  readonly replica: Replica;
  readonly buffers: StepBuffers;
  readonly batches: BatchQueue;
  readonly dataPlane: DataPlane;
  readonly progress: Progress;
}

/** Where the loop reports to. Steps are counted as complete ones. */
export interface TrainLoopReports {
  /** What the worker does now. */
  onPosition(globalStep: number, phase: string): void;
  /** Awaits something that may take long. */
  waiting<T>(what: () => string, promise: Promise<T>): Promise<T>;
  /** The batches of all steps below this one are used. */
  onCredit(globalStep: number): void;
  onStep(globalStep: number, metrics: StepMetrics, timing: Timing): void;
  /** The replica's state is due for a checkpoint. Called on rank 0 only. */
  onState(globalStep: number): void;
  /** @param pixels (64, 784). Called on rank 0 only. */
  onSamples(globalStep: number, pixels: Uint8Array): void;
}

/**
 * Trains until the batches end.
 *
 * @throws {Interrupted} If the members change.
 * @throws {NonFiniteError} If a reduced gradient or loss is not finite, or what follows from it.
 */
export async function trainLoop(parts: TrainLoopParts, reports: TrainLoopReports): Promise<void> {
  const { start, model, engine, memory, replica, buffers, batches, dataPlane, progress } = parts;
  const { config, rank, worldSize, numImages } = start;
  const own = rankSamples(config.globalBatchSize, config.shards, worldSize, rank);
  const batchBytes = config.discriminatorSteps * (own.end - own.start) * IMAGE_PIXELS;
  const fixedNoise = sampleNoise(config.seed, SAMPLE_COUNT, config.latentDim);

  // Steps whose state, and whose picture, this rank has handed over in this generation.
  const handedOver: { state: number | null; picture: number | null } = { state: null, picture: null };
  const save = (): void => {
    const { globalStep } = progress;
    if (rank !== 0 || handedOver.state === globalStep) return;
    handedOver.state = globalStep;
    reports.onState(globalStep);
  };
  const picture = async (): Promise<void> => {
    const { globalStep } = progress;
    if (rank !== 0 || handedOver.picture === globalStep) return;
    handedOver.picture = globalStep;
    reports.onSamples(globalStep, toPixels(await engine.generate(fixedNoise, SAMPLE_COUNT)));
  };
  const context: StepContext = {
    config,
    model,
    engine,
    replica,
    rank,
    worldSize,
    memory,
    allReduce: (step, phase, partials, result) =>
      reports.waiting(
        () => dataPlane.describeWaiting() ?? "the all-reduce",
        dataPlane.reduce(
          step,
          phase.index,
          partials,
          result,
          config.gradientDtype === "bf16" ? model[phase.network].numParameters : 0,
        ),
      ),
    breathe: () => nextTurn(),
    onPhase: (phase) => reports.onPosition(progress.globalStep, phase.name),
  };

  for (;;) {
    const { globalStep } = progress;
    reports.onCredit(globalStep);
    reports.onPosition(globalStep, "batch");
    const waitStart = performance.now();
    const batch = await reports.waiting(
      () => `the batch of step ${globalStep} from the coordinator`,
      batches.take(globalStep),
    );
    const waitMs = performance.now() - waitStart;
    if (batch === null) break;
    if (batch.byteLength !== batchBytes) {
      throw new ProtocolError(
        `Cannot use batch as it must have ${batchBytes} bytes: got ${batch.byteLength}`,
      );
    }
    const { metrics, timing } = await trainStep(context, buffers, progress, batch);
    reports.onStep(progress.globalStep, metrics, { ...timing, waitMs });
    if (progress.globalStep % config.checkpointEvery === 0) save();
    if (isSampleStep(config, numImages, progress.globalStep)) await picture();
  }
  save();
  await picture();
}
