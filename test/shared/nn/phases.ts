// Phases of GANs as graphs, as recipes will write them: what tests of programs compile.

import { batchMean, neg, norm, square, sub } from "../../../shared/nn/composed.ts";
import type { Layer, Network } from "../../../shared/nn/declare-network.ts";
import { declareNetwork, Trace } from "../../../shared/nn/declare-network.ts";
import { gradient } from "../../../shared/nn/gradient.ts";
import type { Shape, Value } from "../../../shared/nn/graph.ts";
import {
  add,
  input,
  join,
  mul,
  part,
  reshape,
  sigmoid,
  softplus,
  stopGradient,
} from "../../../shared/nn/graph.ts";
import { leakyRelu, relu, tanh } from "../../../shared/nn/layers/activations.ts";
import { minibatchStddev, selfAttention } from "../../../shared/nn/layers/conditioning.ts";
import { dropout, gaussianNoise } from "../../../shared/nn/layers/noise.ts";
import { batchNorm, layerNorm } from "../../../shared/nn/layers/normalization.ts";
import { conv2d, convTranspose2d, dense } from "../../../shared/nn/layers/products.ts";
import { upsample } from "../../../shared/nn/layers/resampling.ts";
import { flatten, named, residual, sequential, unflatten } from "../../../shared/nn/layers/structure.ts";
import { spectralNorm, weightNorm } from "../../../shared/nn/layers/weights.ts";

export interface Pair {
  readonly generator: Network;
  readonly discriminator: Network;
  readonly latent: Shape;
  readonly images: Shape;
}

function pair(latentDim: number, images: Shape, generator: Layer, discriminator: Layer): Pair {
  return {
    generator: declareNetwork("generator", [[latentDim]], named("model", generator)),
    discriminator: declareNetwork("discriminator", [images], named("model", discriminator)),
    latent: [latentDim],
    images,
  };
}

const slope = leakyRelu(0.2);

/** The reference model, or one like it of other widths. */
export function mlp(
  widths = { latent: 100, generator: [256, 512, 1024], pixels: 784, discriminator: [512, 256] },
): Pair {
  const hidden = (sizes: readonly number[]): Layer[] => sizes.flatMap((n) => [dense(n), slope]);
  return pair(
    widths.latent,
    [widths.pixels],
    sequential([...hidden(widths.generator), dense(widths.pixels), tanh]),
    sequential([...hidden(widths.discriminator), dense(1)]),
  );
}

export const SMALL_MLP = { latent: 3, generator: [4, 5], pixels: 6, discriminator: [5, 4] };

/** In small, whatever makes programs hard: batch norm, dropout, attention, normalized weights, residuals. */
export const PAIRS: Readonly<Record<string, () => Pair>> = {
  mlp: () => mlp(SMALL_MLP),
  dcgan: () =>
    pair(
      3,
      [4, 4, 1],
      sequential([dense(12), unflatten([2, 2, 3]), batchNorm(), relu, convTranspose2d(2, 4, { stride: 2, padding: 1 }), batchNorm(), relu, conv2d(1, 3, { padding: 1 }), tanh]),
      sequential([conv2d(2, 4, { stride: 2, padding: 1 }), slope, dropout(0.3), conv2d(3, 2, {}), batchNorm(), slope, flatten, dense(1)]),
    ),
  rich: () =>
    pair(
      3,
      [4, 4, 2],
      sequential([dense(8), layerNorm(), unflatten([2, 2, 2]), upsample(2, "bilinear"), weightNorm(conv2d(2, 3, { padding: 1 })), tanh]),
      sequential([spectralNorm(conv2d(4, 3, { padding: 1 })), slope, residual(selfAttention({ reduction: 2 })), gaussianNoise(0.1), minibatchStddev(), flatten, spectralNorm(dense(1))]),
    ),
}; // prettier-ignore

export interface Phase {
  readonly outputs: Readonly<Record<string, Value>>;
  /** What the phase before has changed. */
  readonly late: readonly string[];
}

/** @param penalty Whether the objective is Wasserstein's with a gradient penalty; else the non-saturating one. */
export function phases(
  { generator, discriminator, latent, images }: Pair,
  batchSize: number,
  penalty: boolean,
): { readonly D: Phase; readonly G: Phase } {
  const fakesOf = (trace: Trace): Value => generator.apply(trace, input("noise", latent));
  const record = (
    net: Network,
    loss: Value,
    metrics: Readonly<Record<string, Value>>,
    trace: Trace,
  ): Readonly<Record<string, Value>> => ({
    ...Object.fromEntries(
      gradient(loss, net.leaves).map((g, i) => [`gradient ${net.parameters[i].path}`, g]),
    ),
    loss,
    ...metrics,
    ...Object.fromEntries(
      [...trace.updates].map(([leaf, value]) => [
        leaf.op === "parameter" ? `${leaf.vector} ${leaf.name}` : "",
        value,
      ]),
    ),
  });
  const trace = (): Trace => new Trace({ mode: "train", batchSize });

  const traceD = trace();
  const real = input("real", images);
  const fake = stopGradient(fakesOf(traceD));
  const logits = discriminator.apply(traceD, join([real, fake]));
  const [realLogit, fakeLogit] = [part(logits, 0), part(logits, 1)];
  const lossesD = (): Value => {
    if (!penalty) return mul(0.5, add(softplus(neg(realLogit)), softplus(fakeLogit)));
    const between = add(fake, mul(input("uniforms", [], "sample", "uniform"), sub(real, fake)));
    const [slopes] = gradient(discriminator.apply(traceD, between), [between]);
    return add(sub(fakeLogit, realLogit), mul(10, square(sub(reshape(norm(slopes), [1]), 1))));
  };
  const probability = (logit: Value): Value => batchMean(sigmoid(logit), batchSize);
  const lossD = batchMean(lossesD(), batchSize);
  const D = record(
    discriminator,
    lossD,
    { real: probability(realLogit), fake: probability(fakeLogit) },
    traceD,
  );

  const traceG = trace();
  const logit = discriminator.apply(traceG, fakesOf(traceG));
  const lossG = batchMean(penalty ? neg(logit) : softplus(neg(logit)), batchSize);
  const G = record(generator, lossG, { fake: probability(logit) }, traceG);
  return { D: { outputs: D, late: ["generator"] }, G: { outputs: G, late: ["discriminator"] } };
}
