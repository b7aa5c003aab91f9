// Losses and gradients of every objective in float64, beside float64-gan.ts, whose networks it uses. A penalty
// on the discriminator's gradient by its input needs the gradient of a gradient. Here that is exact, by a way that
// shares nothing with the product's: the derivative of D in a fixed direction is carried forward with the values,
// and then differentiated backwards by the parameters.
//
// Shape suffixes as in float64-gan.ts. tX is the change of X when the input moves in the direction, in X's shape.

import { backward, forward, sigmoid, softplus } from "./float64-gan.ts";
import type { Activations, GanNetworks, GeneratorGradient, Network } from "./float64-gan.ts";
import type { DiscriminatorGradient } from "./float64-gan.ts";

/** A function of a logit, and its derivative. */
interface Loss {
  readonly value: (logit: number) => number;
  readonly derivative: (logit: number) => number;
}

/** A function of s = |grad D|^2 at an image, and its derivative by s. */
interface Penalty {
  readonly at: "real" | "between";
  readonly value: (s: number) => number;
  readonly derivative: (s: number) => number;
}

export interface Objective {
  readonly real: Loss;
  readonly fake: Loss;
  readonly generator: Loss;
  readonly penalty: Penalty | null;
}

/** weight softplus(sign logit). */
function soft(weight: number, sign: number): Loss {
  return {
    value: (logit) => weight * softplus(sign * logit),
    derivative: (logit) => weight * sign * sigmoid(sign * logit),
  };
}

/** (logit - target)^2 / 2. */
function square(target: number): Loss {
  return { value: (logit) => (logit - target) ** 2 / 2, derivative: (logit) => logit - target };
}

/** max(0, 1 + sign logit). */
function ramp(sign: number): Loss {
  return {
    value: (logit) => Math.max(0, 1 + sign * logit),
    derivative: (logit) => (1 + sign * logit > 0 ? sign : 0),
  };
}

function linear(sign: number): Loss {
  return { value: (logit) => sign * logit, derivative: () => sign };
}

export const OBJECTIVES: Readonly<Record<string, Objective>> = {
  "non-saturating": { real: soft(0.5, -1), fake: soft(0.5, 1), generator: soft(1, -1), penalty: null },
  "non-saturating-r1": {
    real: soft(1, -1),
    fake: soft(1, 1),
    generator: soft(1, -1),
    penalty: { at: "real", value: (s) => 5 * s, derivative: () => 5 },
  },
  "least-squares": { real: square(1), fake: square(0), generator: square(1), penalty: null },
  hinge: { real: ramp(-1), fake: ramp(1), generator: linear(-1), penalty: null },
  "wgan-gp": {
    real: linear(-1),
    fake: linear(1),
    generator: linear(-1),
    // 10 (|grad D| - 1)^2, whose derivative by s = |grad D|^2 is 10 (1 - 1 / |grad D|).
    penalty: {
      at: "between",
      value: (s) => 10 * (Math.sqrt(s + 1e-12) - 1) ** 2,
      derivative: (s) => 10 * (1 - 1 / Math.sqrt(s + 1e-12)),
    },
  },
};

/**
 * The discriminator's loss, mean over the batch, and its gradient.
 * @param discriminator Up to its logit, as is every discriminator here.
 * @param real_BD (B, D). @param noise_BL (B, L). @param uniforms_B Where between fake (0) and real (1), (B,).
 */
export function discriminatorGradient(
  objective: Objective,
  { generator, discriminator, gParams, dParams }: GanNetworks,
  real_BD: Float64Array,
  noise_BL: Float64Array,
  uniforms_B: Float64Array,
): DiscriminatorGradient {
  const fake_BD = forward(generator, gParams, noise_BL).at(-1)!;
  const sides = [
    { x: real_BD, loss: objective.real },
    { x: fake_BD, loss: objective.fake },
  ].map(({ x, loss }) => {
    const activations = forward(discriminator, dParams, x);
    const logit_B = activations.at(-1)!;
    const dLogit_B = logit_B.map((logit) => loss.derivative(logit) / logit_B.length);
    const { dParams: gradient } = backward(discriminator, dParams, activations, dLogit_B);
    return { loss: mean(logit_B.map(loss.value)), gradient, probability: mean(logit_B.map(sigmoid)) };
  });
  const [real, fake] = sides;
  const { penalty } = objective;
  const numPixels = real_BD.length / uniforms_B.length;
  const at_BD =
    penalty?.at === "between"
      ? real_BD.map((x, i) => fake_BD[i] + uniforms_B[Math.floor(i / numPixels)] * (x - fake_BD[i]))
      : real_BD;
  const extra = penalty && penaltyGradient(penalty, discriminator, dParams, at_BD, uniforms_B.length);
  return {
    loss: real.loss + fake.loss + (extra?.loss ?? 0),
    gradient: real.gradient.map((value, i) => value + fake.gradient[i] + (extra?.gradient[i] ?? 0)),
    meanRealProbability: real.probability,
    meanFakeProbability: fake.probability,
  };
}

/** The generator's loss, mean over the batch, and its gradient. @param noise_BL (B, L). */
export function generatorGradient(
  { generator: loss }: Objective,
  { generator, discriminator, gParams, dParams }: GanNetworks,
  noise_BL: Float64Array,
): GeneratorGradient {
  const gActivations = forward(generator, gParams, noise_BL);
  const dActivations = forward(discriminator, dParams, gActivations.at(-1)!);
  const logit_B = dActivations.at(-1)!;
  const dLogit_B = logit_B.map((logit) => loss.derivative(logit) / logit_B.length);
  const { dInput } = backward(discriminator, dParams, dActivations, dLogit_B);
  return {
    loss: mean(logit_B.map(loss.value)),
    gradient: backward(generator, gParams, gActivations, dInput).dParams,
    meanFakeProbability: mean(logit_B.map(sigmoid)),
  };
}

/** Mean over the batch of the penalty at the images x_BD, and its gradient by the discriminator's parameters. */
export function penaltyGradient(
  penalty: Penalty,
  discriminator: Network,
  dParams: Float64Array,
  x_BD: Float64Array,
  batchSize: number,
): { readonly loss: number; readonly gradient: Float64Array } {
  const activations = forward(discriminator, dParams, x_BD);
  // A logit depends on its own row only, so this has each row's gradient.
  const { dInput: u_BD } = backward(discriminator, dParams, activations, new Float64Array(batchSize).fill(1));
  const numPixels = x_BD.length / batchSize;
  const s_B = new Float64Array(batchSize);
  u_BD.forEach((u, i) => (s_B[Math.floor(i / numPixels)] += u * u));
  // The gradient of f(u u) is that of v u, with v = 2 f'(u u) u held fixed; and v u is D's change in direction v.
  const v_BD = u_BD.map((u, i) => (2 * penalty.derivative(s_B[Math.floor(i / numPixels)]) * u) / batchSize);
  return {
    loss: mean(s_B.map(penalty.value)),
    gradient: directionalGradient(discriminator, dParams, activations, v_BD),
  };
}

/** Gradient, by the parameters, of the sum over the batch of D's change when the input moves in direction v_BD. */
function directionalGradient(
  network: Network,
  params: Float64Array,
  activations: Activations,
  v_BD: Float64Array,
): Float64Array {
  const tangents = [v_BD];
  const offsets: number[] = [];
  let offset = 0;
  for (const [index, layer] of network.entries()) {
    offsets.push(offset);
    const x = activations[index];
    const tX = tangents[index];
    if (layer.type === "dense") {
      tangents.push(product(tX, params.subarray(offset), layer.in, layer.out));
      offset += layer.in * layer.out + layer.out;
    } else {
      tangents.push(tX.map((t, i) => t * slopes(layer, x[i]).first));
    }
  }
  const gradient = new Float64Array(params.length);
  // Derivatives of the sum of the last tangent by each layer's values and tangents.
  let dY = new Float64Array(tangents.at(-1)!.length);
  let dT = new Float64Array(dY.length).fill(1);
  for (let index = network.length - 1; index >= 0; index--) {
    const layer = network[index];
    const x = activations[index];
    const tX = tangents[index];
    if (layer.type === "dense") {
      const { in: I, out: O } = layer;
      const start = offsets[index];
      const w_IO = params.subarray(start, start + I * O);
      for (let row = 0; row < x.length / I; row++) {
        for (let o = 0; o < O; o++) {
          const d = dY[row * O + o];
          const t = dT[row * O + o];
          for (let i = 0; i < I; i++) {
            gradient[start + i * O + o] += x[row * I + i] * d + tX[row * I + i] * t;
          }
          gradient[start + I * O + o] += d;
        }
      }
      const transposed = Float64Array.from(w_IO, (_, k) => w_IO[(k % I) * O + Math.floor(k / I)]);
      dY = product(dY, transposed, O, I);
      dT = product(dT, transposed, O, I);
    } else {
      // t = f'(x) tX depends on x by f'' and on tX by f'.
      const [dYOut, dTOut] = [dY, dT];
      dY = dYOut.map((d, i) => d * slopes(layer, x[i]).first + dTOut[i] * slopes(layer, x[i]).second * tX[i]);
      dT = dTOut.map((t, i) => t * slopes(layer, x[i]).first);
    }
  }
  return gradient;
}

/** First and second derivative of an activation. */
function slopes(
  layer: Exclude<Network[number], { type: "dense" }>,
  x: number,
): { readonly first: number; readonly second: number } {
  switch (layer.type) {
    case "leakyRelu":
      return { first: x > 0 ? 1 : layer.alpha, second: 0 };
    case "tanh": {
      const y = Math.tanh(x);
      return { first: 1 - y * y, second: -2 * y * (1 - y * y) };
    }
    case "sigmoid": {
      const y = sigmoid(x);
      return { first: y * (1 - y), second: y * (1 - y) * (1 - 2 * y) };
    }
  }
}

/** a_BI w_IO, (B, O). */
function product(a_BI: Float64Array, w_IO: Float64Array, I: number, O: number): Float64Array<ArrayBuffer> {
  const B = a_BI.length / I;
  const c_BO = new Float64Array(B * O);
  for (let row = 0; row < B; row++) {
    for (let i = 0; i < I; i++) {
      const a = a_BI[row * I + i];
      for (let o = 0; o < O; o++) c_BO[row * O + o] += a * w_IO[i * O + o];
    }
  }
  return c_BO;
}

function mean(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
