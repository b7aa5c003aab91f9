/**
 * Objectives: the losses of the discriminator and the generator, per sample
 * and from logits, and penalties on the discriminator's gradient. To add one,
 * add an entry to OBJECTIVES.
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

/** What an objective may need of an engine beyond gradients of losses. */
export type Capability = "gradient-of-gradient";

export interface Objective {
  /** @param realLogits (B, 1). @param fakeLogits (B, 1). @returns The loss of each pair, (B, 1). */
  discriminatorLoss(tf: TensorFlow, realLogits: Tensor, fakeLogits: Tensor): Tensor;
  /** @param fakeLogits (B, 1). @returns The loss of each sample, (B, 1). */
  generatorLoss(tf: TensorFlow, fakeLogits: Tensor): Tensor;
  /** Added to the discriminator's loss, or null. */
  readonly penalty: Penalty | null;
  /**
   * The same losses for engines that do without automatic differentiation (the discriminator's is the sum
   * of real and fake), or null if they have no such form.
   */
  readonly softplusForm: SoftplusForm | null;
  readonly needs: readonly Capability[];
}

export interface Penalty {
  /** Whether it takes a random number per sample. */
  readonly usesUniforms: boolean;
  /** @returns The penalty of each pair, (B, 1): a function of that pair alone, so that shards add up. */
  value(tf: TensorFlow, inputs: PenaltyInputs): Tensor;
}

export interface PenaltyInputs {
  /** (B, imagePixels) to logits (B, 1), with the present parameters. */
  readonly discriminator: (images: Tensor) => Tensor;
  /** (B, imagePixels). */
  readonly real: Tensor;
  /** (B, imagePixels). */
  readonly fake: Tensor;
  /** (B, 1) in [0, 1); zeros if the penalty does not use them. */
  readonly uniforms: Tensor;
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
    penalty: null,
    softplusForm: form,
    needs: [],
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

/** (D(x) - 1)^2 / 2 + D(G(z))^2 / 2 for D and (D(G(z)) - 1)^2 / 2 for G. Source: Mao et al. 2017, equation 9. */
const leastSquares: Objective = {
  discriminatorLoss: (tf, realLogits, fakeLogits) =>
    tf.mul(0.5, tf.add(tf.square(tf.sub(realLogits, 1)), tf.square(fakeLogits))),
  generatorLoss: (tf, fakeLogits) => tf.mul(0.5, tf.square(tf.sub(fakeLogits, 1))),
  penalty: null,
  softplusForm: null,
  needs: [],
};

/** max(0, 1 - D(x)) + max(0, 1 + D(G(z))) for D and -D(G(z)) for G. Source: Lim & Ye 2017; Miyato et al. 2018. */
const hinge: Objective = {
  discriminatorLoss: (tf, realLogits, fakeLogits) =>
    tf.add(tf.relu(tf.sub(1, realLogits)), tf.relu(tf.add(1, fakeLogits))),
  generatorLoss: (tf, fakeLogits) => tf.neg(fakeLogits),
  penalty: null,
  softplusForm: null,
  needs: [],
};

/** Squared length of the gradient of the discriminator by each image: (B, 1). */
function squaredGradientNorm(tf: TensorFlow, { discriminator }: PenaltyInputs, images: Tensor): Tensor {
  // A logit depends on its own image only, so the gradient of their sum has each image's gradient as a row.
  const gradient = tf.grad((x: Tensor) => tf.sum(discriminator(x)))(images);
  return tf.sum(tf.square(gradient), 1, true);
}

/** Keeps the derivative of a square root finite at zero. */
const TINY = 1e-12;

/**
 * D(G(z)) - D(x) + 10 (|grad D(y)| - 1)^2 for D, with y between x and G(z) at a random place, and -D(G(z)) for G.
 * Source: Gulrajani et al. 2017, algorithm 1.
 */
const wassersteinGradientPenalty: Objective = {
  discriminatorLoss: (tf, realLogits, fakeLogits) => tf.sub(fakeLogits, realLogits),
  generatorLoss: (tf, fakeLogits) => tf.neg(fakeLogits),
  penalty: {
    usesUniforms: true,
    value(tf, inputs) {
      const { real, fake, uniforms } = inputs;
      const between = tf.add(fake, tf.mul(uniforms, tf.sub(real, fake)));
      const norm = tf.sqrt(tf.add(squaredGradientNorm(tf, inputs, between), TINY));
      return tf.mul(10, tf.square(tf.sub(norm, 1)));
    },
  },
  softplusForm: null,
  needs: ["gradient-of-gradient"],
};

/**
 * The non-saturating losses, here as the sum of real and fake halves, and 10 / 2 |grad D(x)|^2 at real images.
 * Source: Mescheder et al. 2018, equation 9.
 */
const nonSaturatingR1: Objective = {
  ...fromSoftplus({
    real: { weight: 1, sign: -1 },
    fake: { weight: 1, sign: 1 },
    generator: { weight: 1, sign: -1 },
  }),
  penalty: {
    usesUniforms: false,
    value: (tf, inputs) => tf.mul(10 / 2, squaredGradientNorm(tf, inputs, inputs.real)),
  },
  softplusForm: null,
  needs: ["gradient-of-gradient"],
};

export const OBJECTIVES = {
  "non-saturating": nonSaturating,
  "non-saturating-r1": nonSaturatingR1,
  "least-squares": leastSquares,
  hinge,
  "wgan-gp": wassersteinGradientPenalty,
} as const satisfies Record<string, Objective>;

export type ObjectiveName = keyof typeof OBJECTIVES;

export const OBJECTIVE_NAMES = Object.keys(OBJECTIVES) as [ObjectiveName, ...ObjectiveName[]];
