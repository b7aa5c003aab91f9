/**
 * Checkpoints of networks of a few parameters.
 *
 * @module
 */
import type { NetworkVectors, TrainingState } from "../../shared/checkpoint.ts";
import { encodeCheckpoint } from "../../shared/checkpoint.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { dense } from "../../shared/nn/layers.ts";
import { network } from "../../shared/nn/network.ts";

export const model = {
  generator: network("generator", 2, [dense(2, 3)]),
  discriminator: network("discriminator", 3, [dense(3, 1)]),
};

/** A state whose every value depends on the step. */
export function stateAt(globalStep: number): TrainingState {
  const vectors = (n: number): NetworkVectors => {
    const filled = (x: number): Float32Array => new Float32Array(n).fill(x + globalStep);
    return { parameters: filled(0.5), m: filled(0.25), v: filled(0.125), step: globalStep };
  };
  return {
    generator: vectors(model.generator.numParameters),
    discriminator: vectors(model.discriminator.numParameters),
  };
}

/**
 * Files of a checkpoint of that state.
 *
 * @param moment A second moment of the discriminator, if not that.
 */
export function contents(
  globalStep: number,
  moment?: number,
  createdAt = new Date(0),
): ReadonlyMap<string, Uint8Array> {
  const state = stateAt(globalStep);
  if (moment !== undefined) state.discriminator.v[1] = moment;
  const meta = {
    globalStep,
    config: parseRunConfig({ workers: 1, maxSteps: 10 }),
    dataset: { name: "mnist", numImages: 10, sha256: "0".repeat(64) },
    dataPosition: { samples: 0, epoch: 0, positionInEpoch: 0 },
  };
  return encodeCheckpoint(model, state, meta, createdAt);
}
