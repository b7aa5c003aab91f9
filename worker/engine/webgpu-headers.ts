/**
 * Headers of batches (struct Batch in webgpu-wgsl.ts): one for each group
 * of up to MAX_LEAVES shards, and for each group of their sums above.
 *
 * @module
 */
import type { Batch } from "./engine.ts";
import { storageBuffer } from "./webgpu-dispatch.ts";
import { BATCH_BYTES, MAX_LEAVES } from "./webgpu-wgsl.ts";

const WORDS = BATCH_BYTES / 4;
/** Where the leaves begin, in words. */
const LEAVES = 5;
/** Tokens count up to here, so that each is exact in float32. */
const LAST_TOKEN = 2 ** 24;

/** Numbers of vectors from the leaves to their sum, e.g. 100, 13, 2, 1. */
export function treeLevels(numLeaves: number): readonly number[] {
  const levels = [numLeaves];
  do levels.push(Math.ceil(levels[levels.length - 1] / MAX_LEAVES));
  while (levels[levels.length - 1] > 1);
  return levels;
}

export class BatchHeaders {
  readonly #device: GPUDevice;
  readonly #buffer: GPUBuffer;
  readonly #host: ArrayBuffer;
  #token = 0;

  constructor(device: GPUDevice, maxLeaves: number) {
    const numHeaders = treeLevels(maxLeaves)
      .slice(1)
      .reduce((sum, n) => sum + n, 0);
    this.#device = device;
    this.#host = new ArrayBuffer(numHeaders * BATCH_BYTES);
    this.#buffer = storageBuffer(device, "batch", numHeaders * WORDS);
  }

  /** The first group's header is also that of the whole batch. */
  binding(index: number): GPUBufferBinding {
    return { buffer: this.#buffer, offset: index * BATCH_BYTES, size: BATCH_BYTES };
  }

  /** For a pass of the generator alone. */
  writeSamples(numSamples: number): void {
    new Uint32Array(this.#host)[0] = numSamples;
    this.#device.queue.writeBuffer(this.#buffer, 0, this.#host, 0, 4);
  }

  /**
   * Headers level by level, those of a level in order.
   *
   * @param numRows Of the discriminator.
   * @returns The batch's token.
   */
  write(
    { shardSizes, globalBatchSize }: Pick<Batch, "shardSizes" | "globalBatchSize">,
    numRows: number,
  ): number {
    this.#token = (this.#token % LAST_TOKEN) + 1;
    const words = new Uint32Array(this.#host);
    const floats = new Float32Array(this.#host);
    const starts = [0];
    for (const n of shardSizes) starts.push(starts[starts.length - 1] + n);
    let at = 0;
    const levels = treeLevels(shardSizes.length);
    for (const [level, numVectors] of levels.slice(0, -1).entries()) {
      for (let first = 0; first < numVectors; first += MAX_LEAVES) {
        const n = Math.min(MAX_LEAVES, numVectors - first);
        words.set([starts[starts.length - 1], numRows, n], at);
        floats.set([this.#token, 1 / globalBatchSize], at + 3);
        if (level === 0) words.set(starts.slice(first, first + n + 1), at + LEAVES);
        at += WORDS;
      }
    }
    this.#device.queue.writeBuffer(this.#buffer, 0, this.#host, 0, at * 4);
    return this.#token;
  }
}
