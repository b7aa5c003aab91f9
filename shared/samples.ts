/**
 * Pictures of samples: the fixed noise they come from and their pixels.
 *
 * @module
 */
import { fillNormal, streamKey } from "./random.ts";

/** Samples in a picture of a run, 8 x 8. */
export const SAMPLE_COUNT = 64;

/** Noise of samples 0..count-1, a function of (seed, sample index). @returns (count, latentDim). */
export function sampleNoise(seed: number, count: number, latentDim: number): Float32Array {
  const key = streamKey(seed, "sampleNoise");
  const noise = new Float32Array(count * latentDim);
  for (let sample = 0; sample < count; sample++) {
    fillNormal(noise, key, sample, 0, 0, sample * latentDim, (sample + 1) * latentDim);
  }
  return noise;
}

/** Values in [-1, 1] to pixels 0..255. */
export function toPixels(values: Float32Array): Uint8Array {
  return Uint8Array.from(values, (value) => Math.max(0, Math.min(255, Math.round((value + 1) * 127.5))));
}
