// Checks of this reference itself: gradients against central finite differences, and the objective that
// float64-gan.ts has too.

import t from "tap";
import * as gan from "./float64-gan.ts";
import type { GanNetworks, Layer, Network } from "./float64-gan.ts";
import {
  discriminatorGradient,
  generatorGradient,
  OBJECTIVES,
  penaltyGradient,
} from "./float64-objectives.ts";
import { mulberry32 } from "./mulberry32.ts";

const BATCH_SIZE = 4;
const PIXELS = 5;

function inputs(activation: Layer) {
  const random = mulberry32(3);
  const generator: Network = [{ type: "dense", in: 3, out: PIXELS }, { type: "tanh" }];
  const discriminator: Network = [
    { type: "dense", in: PIXELS, out: 6 },
    activation,
    { type: "dense", in: 6, out: 7 },
    activation,
    { type: "dense", in: 7, out: 1 },
  ];
  const networks: GanNetworks = {
    generator,
    discriminator,
    gParams: random.uniforms(gan.numParams(generator), 1),
    dParams: random.uniforms(gan.numParams(discriminator), 1),
  };
  return {
    networks,
    real_BD: random.uniforms(BATCH_SIZE * PIXELS, 1),
    noise_BL: random.normals(BATCH_SIZE * 3),
    uniforms_B: random.uniforms(BATCH_SIZE, 0.5).map((x) => x + 0.5),
  };
}

function differences(loss: (at: Float64Array) => number, at: Float64Array): Float64Array {
  const h = 1e-5;
  return at.map((value, i) => (loss(at.with(i, value + h)) - loss(at.with(i, value - h))) / (2 * h));
}

function error(actual: Float64Array, expected: Float64Array): number {
  const scale = Math.max(...expected.map(Math.abs));
  return Math.max(...expected.map((value, i) => Math.abs(value - actual[i]))) / scale;
}

for (const activation of [
  { type: "leakyRelu", alpha: 0.2 },
  { type: "tanh" },
  { type: "sigmoid" },
] as const) {
  const { networks, real_BD, noise_BL, uniforms_B } = inputs(activation);
  for (const [name, objective] of Object.entries(OBJECTIVES)) {
    t.test(`${name} with ${activation.type}: gradients are those of the losses`, async (t) => {
      const d = (dParams: Float64Array) =>
        discriminatorGradient(objective, { ...networks, dParams }, real_BD, noise_BL, uniforms_B);
      const dDifferences = differences((at) => d(at).loss, networks.dParams);
      t.ok(error(d(networks.dParams).gradient, dDifferences) < 1e-7, "discriminator");
      const g = (gParams: Float64Array) => generatorGradient(objective, { ...networks, gParams }, noise_BL);
      const gDifferences = differences((at) => g(at).loss, networks.gParams);
      t.ok(error(g(networks.gParams).gradient, gDifferences) < 1e-7, "generator");
      if (objective.penalty !== null) {
        const { discriminator, dParams } = networks;
        const { gradient } = penaltyGradient(objective.penalty, discriminator, dParams, real_BD, BATCH_SIZE);
        t.ok(
          gradient.some((value) => Math.abs(value) > 1e-3),
          "the penalty has a gradient",
        );
      }
    });
  }

  t.test(`non-saturating with ${activation.type} is that of float64-gan.ts`, async (t) => {
    const args = { ...networks, real_BD, noise_BL };
    const objective = OBJECTIVES["non-saturating"];
    t.ok(
      error(
        discriminatorGradient(objective, networks, real_BD, noise_BL, uniforms_B).gradient,
        gan.discriminatorGradient(args).gradient,
      ) < 1e-14,
    );
    t.ok(
      error(generatorGradient(objective, networks, noise_BL).gradient, gan.generatorGradient(args).gradient) <
        1e-14,
    );
  });
}
