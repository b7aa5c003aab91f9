/**
 * Objectives: the losses of the discriminator and the generator, per sample
 * and from logits. To add one, add an entry to OBJECTIVES.
 *
 * @module
 */
import type { Tensor } from "@tensorflow/tfjs";
import type { TensorFlow } from "./layers.ts";

/** weight softplus(sign logit). Its derivative by the logit is weight sign sigmoid(sign logit). */
export interface SoftplusLoss {
  readonly weight: number;
  readonly sign: 1 | -1;
}

export interface Objective {
  /** @param realLogits (B, 1). @param fakeLogits (B, 1). @returns The loss of each pair, (B, 1). */
  discriminatorLoss(tf: TensorFlow, realLogits: Tensor, fakeLogits: Tensor): Tensor;
  /** @param fakeLogits (B, 1). @returns The loss of each sample, (B, 1). */
  generatorLoss(tf: TensorFlow, fakeLogits: Tensor): Tensor;
  /**
   * The same losses for engines that do without automatic differentiation (the discriminator's is the sum
   * of real and fake), or null if they have no such form.
   */
  readonly softplusForm: SoftplusForm | null;
}

export interface SoftplusForm {
  readonly real: SoftplusLoss;
  readonly fake: SoftplusLoss;
  readonly generator: SoftplusLoss;
}

function fromSoftplus(form: SoftplusForm): Objective {
  const loss = (tf: TensorFlow, { weight, sign }: SoftplusLoss, logits: Tensor): Tensor =>
    tf.mul(weight, tf.softplus(sign < 0 ? tf.neg(logits) : logits));
  return {
    discriminatorLoss: (tf, realLogits, fakeLogits) =>
      tf.add(loss(tf, form.real, realLogits), loss(tf, form.fake, fakeLogits)),
    generatorLoss: (tf, fakeLogits) => loss(tf, form.generator, fakeLogits),
    softplusForm: form,
  };
}

/**
 * -[log D(x) + log(1 - D(G(z)))] / 2 for D and -log D(G(z)) for G, with
 * -log sigmoid(l) = softplus(-l) and -log(1 - sigmoid(l)) = softplus(l).
 * Source: Goodfellow et al. 2014, section 3, with the generator's loss that does not saturate.
 */
const nonSaturating: Objective = fromSoftplus({
  real: { weight: 0.5, sign: -1 },
  fake: { weight: 0.5, sign: 1 },
  generator: { weight: 1, sign: -1 },
});

export const OBJECTIVES = { "non-saturating": nonSaturating } as const satisfies Record<string, Objective>;

export type ObjectiveName = keyof typeof OBJECTIVES;

export const OBJECTIVE_NAMES = Object.keys(OBJECTIVES) as [ObjectiveName, ...ObjectiveName[]];
