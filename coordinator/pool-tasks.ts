/**
 * Tasks of the coordinator's thread pool: assembling batches, and encoding
 * checkpoints and pictures, so that the event loop stays free for messages.
 * Large values travel as plain buffers: Deno visits every value of a typed
 * array in a message between threads.
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
import type { SavedCheckpoint } from "./checkpoint-store.ts";
import { saveCheckpoint } from "./checkpoint-store.ts";
import { isHeldBy } from "./lease.ts";

export interface PoolData {
  /** (numImages, imagePixels) uint8. */
  readonly pixels: SharedArrayBuffer;
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
  /** The run's lock, and this coordinator's hold of it. */
  readonly lock: string;
  readonly hold: string;
  /** Parameters, m and v of the generator, then of the discriminator: float32. */
  readonly vectors: readonly SharedArrayBuffer[];
  readonly generatorSteps: number;
  readonly discriminatorSteps: number;
  readonly meta: CheckpointMeta;
}

/** The run's stream of images: epoch after epoch, each in its own order. */
export class ImageStream {
  readonly #data: PoolData;
  readonly #pixels: Uint8Array;
  readonly #orders = new Map<number, Uint32Array>();

  constructor(data: PoolData) {
    this.#data = data;
    this.#pixels = new Uint8Array(data.pixels);
  }

  /** Images of ranges of the stream, one after the other. */
  gather({ ranges }: BatchTask): Uint8Array<ArrayBuffer> {
    const { numImages, imagePixels } = this.#data;
    const count = ranges.reduce((sum, { start, end }) => sum + end - start, 0);
    const batch = new Uint8Array(count * imagePixels);
    let row = 0;
    for (const { start, end } of ranges) {
      for (let sample = start; sample < end; sample++) {
        const image = this.#order(Math.floor(sample / numImages))[sample % numImages];
        batch.set(this.#pixels.subarray(image * imagePixels, (image + 1) * imagePixels), row * imagePixels);
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

/** @returns The images of the ranges, (count, imagePixels) uint8. */
export function assembleBatch(task: BatchTask): ArrayBuffer {
  stream ??= new ImageStream(workerData as PoolData);
  return move(stream.gather(task).buffer) as ArrayBuffer;
}

/** Encodes, writes and checks a checkpoint. */
export async function writeCheckpoint(task: CheckpointTask): Promise<SavedCheckpoint> {
  const { directory, keep, lock, hold, vectors, generatorSteps, discriminatorSteps, meta } = task;
  const [gp, gm, gv, dp, dm, dv] = vectors.map((vector) => new Float32Array(vector));
  const state: TrainingState = {
    generator: { parameters: gp, m: gm, v: gv, step: generatorSteps },
    discriminator: { parameters: dp, m: dm, v: dv, step: discriminatorSteps },
  };
  const model = MODELS[meta.config.model]({ latentDim: meta.config.latentDim, imagePixels: IMAGE_PIXELS });
  const files = encodeCheckpoint(model, state, meta, new Date());
  return saveCheckpoint(directory, meta.globalStep, files, keep, () => isHeldBy(lock, hold));
}
