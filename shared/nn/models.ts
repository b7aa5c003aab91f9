/**
 * The models that can be trained: a generator and a discriminator each. To add
 * one, add an entry to MODELS: the flags, layouts, engines and checkpoints follow.
 *
 * @module
 */
import { dense, leakyRelu, sigmoid, tanh } from "./layers.ts";
import type { Network } from "./network.ts";
import { network } from "./network.ts";

export interface Model {
  /** latentDim values in, imagePixels values in [-1, 1] out. */
  readonly generator: Network;
  /** imagePixels values in, one logit out. */
  readonly discriminator: Network;
}

export interface ModelOptions {
  readonly latentDim: number;
  /** Pixels per image, 784 for MNIST. */
  readonly imagePixels: number;
}

/** The reference model: multilayer perceptrons, LeakyReLU 0.2. */
function mlp({ latentDim, imagePixels }: ModelOptions): Model {
  const slope = 0.2;
  return {
    generator: network("generator", latentDim, [
      dense(latentDim, 256),
      leakyRelu(slope),
      dense(256, 512),
      leakyRelu(slope),
      dense(512, 1024),
      leakyRelu(slope),
      dense(1024, imagePixels),
      tanh(),
    ]),
    discriminator: network(
      "discriminator",
      imagePixels,
      [dense(imagePixels, 512), leakyRelu(slope), dense(512, 256), leakyRelu(slope), dense(256, 1)],
      sigmoid(),
    ),
  };
}

export const MODELS = { mlp } as const satisfies Record<string, (options: ModelOptions) => Model>;

export type ModelName = keyof typeof MODELS;

export const MODEL_NAMES = Object.keys(MODELS) as [ModelName, ...ModelName[]];
