/**
 * Streams each rank's part of the batches ahead of use. Credits from the
 * workers keep it at most `prefetchSteps` ahead of the slowest. A stream belongs to one generation.
 *
 * @module
 */
import type { TrainingConfig } from "../shared/config.ts";
import { samplesPerStep } from "../shared/config.ts";
import { ProtocolError } from "../shared/errors.ts";
import { rankSamples } from "../shared/sharding.ts";
import type { BatchTask } from "./pool-tasks.ts";

export interface BatchStreamOptions {
  readonly config: TrainingConfig;
  readonly worldSize: number;
  readonly startStep: number;
  readonly endStep: number;
  readonly prefetchSteps: number;
  readonly assemble: (task: BatchTask) => Promise<Uint8Array>;
  readonly send: (rank: number, globalStep: number, batch: Uint8Array) => void;
  readonly onError: (error: unknown) => void;
}

export class BatchStream {
  readonly #options: BatchStreamOptions;
  /** Steps that each rank has used up. */
  readonly #consumed: number[];
  #next: number;
  #stopped = false;
  #running = false;

  constructor(options: BatchStreamOptions) {
    this.#options = options;
    this.#consumed = Array.from({ length: options.worldSize }, () => options.startStep);
    this.#next = options.startStep;
  }

  /** Begins to stream, or goes on after a credit. */
  pump(): void {
    if (this.#running) return;
    this.#running = true;
    this.#run().catch(this.#options.onError);
  }

  /**
   * A rank has used the batches of all steps below globalStep.
   *
   * @throws {ProtocolError} If it cannot have, as it was not sent them.
   */
  credit(rank: number, globalStep: number): void {
    if (this.#stopped) return;
    if (globalStep > this.#next) {
      throw new ProtocolError(`Cannot take credit for step ${globalStep} as step ${this.#next} is the next`);
    }
    this.#consumed[rank] = Math.max(this.#consumed[rank], globalStep);
    this.pump();
  }

  /** Sends nothing more. */
  stop(): void {
    this.#stopped = true;
  }

  async #run(): Promise<void> {
    const { config, worldSize, endStep, prefetchSteps, assemble, send } = this.#options;
    const hasNext = (): boolean =>
      !this.#stopped && this.#next < Math.min(endStep, Math.min(...this.#consumed) + prefetchSteps);
    try {
      while (hasNext()) {
        const globalStep = this.#next;
        this.#next += 1;
        const parts = await Promise.all(
          Array.from({ length: worldSize }, (_, rank) =>
            assemble(taskOf(config, worldSize, rank, globalStep)),
          ),
        );
        if (this.#stopped) return;
        for (const [rank, batch] of parts.entries()) send(rank, globalStep, batch);
      }
    } finally {
      this.#running = false;
    }
  }
}

/** What a rank needs for a step: its samples of each discriminator phase, in the run's stream of images. */
export function taskOf(
  config: TrainingConfig,
  worldSize: number,
  rank: number,
  globalStep: number,
): BatchTask {
  const { globalBatchSize, shards, discriminatorSteps } = config;
  const own = rankSamples(globalBatchSize, shards, worldSize, rank);
  const first = globalStep * samplesPerStep(config);
  return {
    ranges: Array.from({ length: discriminatorSteps }, (_, phase) => {
      const begin = first + phase * globalBatchSize;
      return { start: begin + own.start, end: begin + own.end };
    }),
  };
}
