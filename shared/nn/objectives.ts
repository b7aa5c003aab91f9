/**
 * Objectives: the losses of the discriminator and the generator, per sample
 * and from logits. To add one, add an entry to OBJECTIVES.
 *
 * @module
 */
import type { Tensor } from "@tensorflow/tfjs";
import type { TensorFlow } from "./layers.ts";

export interface Objective {
  /** @param realLogits (B, 1). @param fakeLogits (B, 1). @returns The loss of each pair, (B, 1). */
  discriminatorLoss(tf: TensorFlow, realLogits: Tensor, fakeLogits: Tensor): Tensor;
  /** @param fakeLogits (B, 1). @returns The loss of each sample, (B, 1). */
  generatorLoss(tf: TensorFlow, fakeLogits: Tensor): Tensor;
}

/**
 * -[log D(x) + log(1 - D(G(z)))] / 2 for D and -log D(G(z)) for G, with
 * -log sigmoid(l) = softplus(-l) and -log(1 - sigmoid(l)) = softplus(l).
 * Source: Goodfellow et al. 2014, section 3, with the generator's loss that does not saturate.
 */
const nonSaturating: Objective = {
  discriminatorLoss: (tf, realLogits, fakeLogits) =>
    tf.mul(0.5, tf.add(tf.softplus(tf.neg(realLogits)), tf.softplus(fakeLogits))),
  generatorLoss: (tf, fakeLogits) => tf.softplus(tf.neg(fakeLogits)),
};

export const OBJECTIVES = { "non-saturating": nonSaturating } as const satisfies Record<string, Objective>;

export type ObjectiveName = keyof typeof OBJECTIVES;

export const OBJECTIVE_NAMES = Object.keys(OBJECTIVES) as [ObjectiveName, ...ObjectiveName[]];
