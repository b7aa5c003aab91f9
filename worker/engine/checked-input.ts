/**
 * What an engine is handed, held against what it was made for before anything is written: kernels do not check
 * their pointers, and would overwrite what lies behind.
 *
 * @module
 */
import type { Network } from "../../shared/nn/network.ts";
import type { Batch, EngineOptions, RealBatch } from "./engine.ts";
import { numSamplesOf } from "./shard-sums.ts";

type Room = Pick<EngineOptions, "model" | "maxSamples">;

/** @throws {RangeError} If the batch has more samples than the engine has room for, or other lengths than its samples. */
export function checkBatch(room: Room, batch: Batch | RealBatch): void {
  const numSamples = numSamplesOf(batch);
  const { generator, discriminator } = room.model;
  checkRoom(room, numSamples);
  checkLength("noise", batch.noise, numSamples * generator.numInputs);
  if ("pixels" in batch) checkLength("pixels", batch.pixels, numSamples * discriminator.numInputs);
}

/** @param noise (samples, latentDim). @throws {RangeError} If it is of more samples than the engine has room for. */
export function checkNoise(room: Room, noise: Float32Array): void {
  checkRoom(room, noise.length / room.model.generator.numInputs);
}

function checkRoom({ maxSamples }: Room, numSamples: number): void {
  if (numSamples <= maxSamples) return;
  throw new RangeError(
    `Cannot compute a batch as the engine has room for ${maxSamples} samples: got ${numSamples}`,
  );
}

function checkLength(what: string, values: Float32Array | Uint8Array, length: number): void {
  if (values.length === length) return;
  throw new RangeError(
    `Cannot compute a batch as its ${what} must have ${length} values: got ${values.length}`,
  );
}

/** @throws {RangeError} If there are more or fewer parameters than the network has. */
export function checkParameters({ name, numParameters }: Network, flat: Float32Array): void {
  if (flat.length === numParameters) return;
  throw new RangeError(`Cannot set ${name} parameters as there must be ${numParameters}: got ${flat.length}`);
}
