/**
 * Tasks of the coordinator's thread pool: assembling batches, and encoding
 * checkpoints and pictures, so that the event loop stays free for messages.
 *
 * @module
 */
import { workerData } from "node:worker_threads";
import { move } from "piscina";
import type { CheckpointMeta, TrainingState } from "../shared/checkpoint.ts";
import { encodeCheckpoint } from "../shared/checkpoint.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import { MODELS } from "../shared/nn/models.ts";
import { permutation, streamKey } from "../shared/random.ts";
import { saveCheckpoint } from "./checkpoint-store.ts";

export interface PoolData {
  /** (numImages, imagePixels) uint8, shared between threads. */
  readonly pixels: Uint8Array;
  readonly numImages: number;
  readonly imagePixels: number;
  readonly seed: number;
}

export interface BatchTask {
  /** Ranges of the run's stream of images, one per discriminator update. */
  readonly ranges: readonly { readonly start: number; readonly end: number }[];
}

export interface CheckpointTask {
  readonly directory: string;
  readonly keep: number;
  readonly state: TrainingState;
  readonly meta: CheckpointMeta;
}

/** The run's stream of images: epoch after epoch, each in its own order. */
export class ImageStream {
  readonly #data: PoolData;
  readonly #orders = new Map<number, Uint32Array>();

  constructor(data: PoolData) {
    this.#data = data;
  }

  /** Images of ranges of the stream, one after the other. */
  gather({ ranges }: BatchTask): Uint8Array {
    const { pixels, numImages, imagePixels } = this.#data;
    const count = ranges.reduce((sum, { start, end }) => sum + end - start, 0);
    const batch = new Uint8Array(count * imagePixels);
    let row = 0;
    for (const { start, end } of ranges) {
      for (let sample = start; sample < end; sample++) {
        const image = this.#order(Math.floor(sample / numImages))[sample % numImages];
        batch.set(pixels.subarray(image * imagePixels, (image + 1) * imagePixels), row * imagePixels);
        row += 1;
      }
    }
    return batch;
  }

  /** Order of an epoch's images; the last two are kept, since batches cross from one epoch to the next. */
  #order(epoch: number): Uint32Array {
    let order = this.#orders.get(epoch);
    if (order === undefined) {
      order = permutation(this.#data.numImages, streamKey(this.#data.seed, "shuffle", epoch));
      this.#orders.delete(epoch - 2);
      this.#orders.set(epoch, order);
    }
    return order;
  }
}

let stream: ImageStream | null = null;

export function assembleBatch(task: BatchTask): Uint8Array {
  stream ??= new ImageStream(workerData as PoolData);
  return move(stream.gather(task)) as Uint8Array;
}

/** Encodes and writes a checkpoint. @returns Its folder. */
export async function writeCheckpoint({ directory, keep, state, meta }: CheckpointTask): Promise<string> {
  const model = MODELS[meta.config.model]({ latentDim: meta.config.latentDim, imagePixels: IMAGE_PIXELS });
  return saveCheckpoint(directory, meta.globalStep, encodeCheckpoint(model, state, meta, new Date()), keep);
}
