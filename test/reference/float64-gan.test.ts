// Checks of the reference itself: values worked out by hand, and gradients against central finite differences.

import t from "tap";
import type { Test } from "tap";

import {
  adamStep,
  backward,
  discriminatorGradient,
  forward,
  generatorGradient,
  initAdam,
  initGan,
  numParams,
  pixelsToReal,
  sigmoid,
  softplus,
  trainStep,
} from "./float64-gan.ts";
import type { AdamHyper, GanNetworks, Layer, Network } from "./float64-gan.ts";
import { mulberry32 } from "./mulberry32.ts";

// With losses near 1, a step of 1e-5 leaves about 1e-10 of truncation and 1e-11 of rounding.
const DIFFERENCE_STEP = 1e-5;
const RELATIVE_TOLERANCE = 1e-6;
// Below this magnitude the rounding of the difference itself exceeds the relative tolerance.
const MAGNITUDE_FLOOR = 1e-4;

const ADAM: AdamHyper = { learningRate: 0.0002, beta1: 0.5, beta2: 0.999 };
const LATENT_DIM = 3;
const BATCH_SIZE = 4;

const GENERATOR: Network = [
  { type: "dense", in: LATENT_DIM, out: 6 },
  { type: "leakyRelu", alpha: 0.2 },
  { type: "dense", in: 6, out: 7 },
  { type: "leakyRelu", alpha: 0.2 },
  { type: "dense", in: 7, out: 5 },
  { type: "tanh" },
];
const DISCRIMINATOR: Network = [
  { type: "dense", in: 5, out: 6 },
  { type: "leakyRelu", alpha: 0.2 },
  { type: "dense", in: 6, out: 1 },
  { type: "sigmoid" },
];

/** Central differences of a scalar function, one coordinate at a time. */
function numericalGradient(loss: (at: Float64Array) => number, at: Float64Array): Float64Array {
  return at.map((value, index) => {
    const up = at.with(index, value + DIFFERENCE_STEP);
    const down = at.with(index, value - DIFFERENCE_STEP);
    return (loss(up) - loss(down)) / (2 * DIFFERENCE_STEP);
  });
}

/** Largest |actual - expected| over the coordinates, relative to the coordinate's magnitude. */
function relativeError(actual: Float64Array, expected: Float64Array): number {
  if (actual.length !== expected.length) return Infinity;
  return Math.max(
    ...actual.map((a, i) => {
      const e = expected[i];
      return Math.abs(a - e) / Math.max(Math.abs(a), Math.abs(e), MAGNITUDE_FLOOR);
    }),
  );
}

function checkGradient(
  t: Test,
  actual: Float64Array,
  loss: (at: Float64Array) => number,
  at: Float64Array,
  what: string,
): void {
  const error = relativeError(actual, numericalGradient(loss, at));
  t.ok(error < RELATIVE_TOLERANCE, `${what}: relative error ${error.toExponential(1)}`);
}

function smallGan(seed: number): GanNetworks & { real_BD: Float64Array; noise_BL: Float64Array } {
  const random = mulberry32(seed);
  return {
    generator: GENERATOR,
    discriminator: DISCRIMINATOR,
    gParams: random.uniforms(numParams(GENERATOR), 0.8),
    dParams: random.uniforms(numParams(DISCRIMINATOR), 0.8),
    real_BD: random.uniforms(BATCH_SIZE * 5, 1),
    noise_BL: random.normals(BATCH_SIZE * LATENT_DIM),
  };
}

t.test("mulberry32() repeats for a seed and differs between seeds", (t) => {
  t.same(mulberry32(7).normals(5), mulberry32(7).normals(5));
  t.notSame(mulberry32(7).normals(5), mulberry32(8).normals(5));
  const normals = mulberry32(3).normals(20_000);
  const mean = normals.reduce((sum, x) => sum + x, 0) / normals.length;
  const meanSquare = normals.reduce((sum, x) => sum + x * x, 0) / normals.length;
  t.ok(Math.abs(mean) < 0.03 && Math.abs(meanSquare - 1) < 0.05, "normals have mean 0 and variance 1");
  t.end();
});

t.test("pixelsToReal() maps 0..255 onto -1..1", (t) => {
  t.same(pixelsToReal(Uint8Array.of(0, 51, 255)), Float64Array.of(-1, 51 / 127.5 - 1, 1));
  t.end();
});

t.test("softplus() and sigmoid() are exact in both tails", (t) => {
  t.equal(softplus(1000), 1000);
  t.equal(softplus(-1000), 0);
  t.equal(softplus(-50), Math.exp(-50), "log(1 + e^-50) is e^-50 to float64");
  t.ok(Math.abs(softplus(0) - Math.LN2) < 1e-16);
  t.equal(sigmoid(1000), 1);
  t.equal(sigmoid(-1000), 0);
  t.equal(sigmoid(0), 0.5);
  t.ok(Math.abs(sigmoid(-2) - 1 / (1 + Math.exp(2))) < 1e-16);
  t.end();
});

t.test("forward() computes x W + b with W (in, out) row-major, then the bias", (t) => {
  const network: Network = [
    { type: "dense", in: 2, out: 3 },
    { type: "leakyRelu", alpha: 0.5 },
  ];
  const params = Float64Array.of(1, 2, 3, 4, 5, 6, 10, 20, -30);
  const [x, y, z] = forward(network, params, Float64Array.of(1, 1, -2, 1));
  t.same(x, Float64Array.of(1, 1, -2, 1));
  t.same(y, Float64Array.of(15, 27, -21, 12, 21, -30));
  t.same(z, Float64Array.of(15, 27, -10.5, 12, 21, -15));
  t.end();
});

t.test("backward() matches finite differences, for every layer type alone and stacked", (t) => {
  const stacks: Record<string, Layer[]> = {
    dense: [{ type: "dense", in: 4, out: 3 }],
    leakyRelu: [{ type: "leakyRelu", alpha: 0.2 }],
    tanh: [{ type: "tanh" }],
    sigmoid: [{ type: "sigmoid" }],
    stacked: [
      { type: "dense", in: 4, out: 5 },
      { type: "leakyRelu", alpha: 0.1 },
      { type: "dense", in: 5, out: 6 },
      { type: "sigmoid" },
      { type: "dense", in: 6, out: 3 },
      { type: "tanh" },
    ],
  };
  for (const [name, network] of Object.entries(stacks)) {
    const random = mulberry32(11);
    const params = random.uniforms(numParams(network), 1);
    const x_BI = random.normals(BATCH_SIZE * 4);
    const activations = forward(network, params, x_BI);
    // A random linear function of the output: its derivative is the coefficients.
    const dOut = random.normals(activations.at(-1)!.length);
    const loss = (p: Float64Array, x: Float64Array): number =>
      forward(network, p, x)
        .at(-1)!
        .reduce((sum, y, i) => sum + y * dOut[i], 0);

    const { dParams, dInput } = backward(network, params, activations, dOut);
    checkGradient(t, dInput, (x) => loss(params, x), x_BI, `${name} dInput`);
    if (params.length > 0) {
      checkGradient(t, dParams, (p) => loss(p, x_BI), params, `${name} dParams`);
    }
  }
  t.end();
});

t.test("backward() gives leakyRelu the slope alpha at exactly 0", (t) => {
  const network: Network = [{ type: "leakyRelu", alpha: 0.25 }];
  const x = Float64Array.of(-1, 0, 1);
  const { dInput } = backward(network, new Float64Array(0), [x, x], Float64Array.of(1, 1, 1));
  t.same(dInput, Float64Array.of(0.25, 0.25, 1));
  t.end();
});

t.test("discriminatorGradient() and generatorGradient() match values worked out by hand", (t) => {
  // G(z) = 2z + 1 and the logit D(x) = 3x - 1: real 1 -> 2, fake -1 -> -4.
  const networks: GanNetworks = {
    generator: [{ type: "dense", in: 1, out: 1 }],
    discriminator: [{ type: "dense", in: 1, out: 1 }, { type: "sigmoid" }],
    gParams: Float64Array.of(2, 1),
    dParams: Float64Array.of(3, -1),
  };
  const noise_BL = Float64Array.of(-1);
  const p = (logit: number): number => 1 / (1 + Math.exp(-logit));
  const near = (actual: number, expected: number): void => {
    t.ok(Math.abs(actual - expected) < 1e-14, `${actual} is ${expected}`);
  };

  const d = discriminatorGradient({ ...networks, real_BD: Float64Array.of(1), noise_BL });
  near(d.loss, -(Math.log(p(2)) + Math.log(1 - p(-4))) / 2);
  near(d.gradient[0], (-(1 - p(2)) * 1 + p(-4) * -1) / 2);
  near(d.gradient[1], (-(1 - p(2)) + p(-4)) / 2);
  near(d.meanRealProbability, p(2));
  near(d.meanFakeProbability, p(-4));

  const g = generatorGradient({ ...networks, noise_BL });
  near(g.loss, -Math.log(p(-4)));
  near(g.gradient[0], -(1 - p(-4)) * 3 * -1);
  near(g.gradient[1], -(1 - p(-4)) * 3);
  near(g.meanFakeProbability, p(-4));
  t.end();
});

t.test("discriminatorGradient() matches finite differences", (t) => {
  const gan = smallGan(21);
  const { gradient } = discriminatorGradient(gan);
  checkGradient(t, gradient, (dParams) => discriminatorGradient({ ...gan, dParams }).loss, gan.dParams, "D");
  t.end();
});

t.test("generatorGradient() matches finite differences, through the discriminator", (t) => {
  const gan = smallGan(22);
  const { gradient } = generatorGradient(gan);
  checkGradient(t, gradient, (gParams) => generatorGradient({ ...gan, gParams }).loss, gan.gParams, "G");
  t.end();
});

t.test("both gradients are the same with and without a trailing sigmoid", (t) => {
  const gan = smallGan(23);
  const bare = { ...gan, discriminator: DISCRIMINATOR.slice(0, -1) };
  t.same(discriminatorGradient(bare), discriminatorGradient(gan));
  t.same(generatorGradient(bare), generatorGradient(gan));
  t.end();
});

t.test("both objectives are means: a batch's gradient is the mean of its halves' gradients", (t) => {
  const gan = smallGan(24);
  const half = (index: number): typeof gan => ({
    ...gan,
    real_BD: gan.real_BD.slice((index * BATCH_SIZE * 5) / 2, ((index + 1) * BATCH_SIZE * 5) / 2),
    noise_BL: gan.noise_BL.slice(
      (index * BATCH_SIZE * LATENT_DIM) / 2,
      ((index + 1) * BATCH_SIZE * LATENT_DIM) / 2,
    ),
  });
  for (const gradientOf of [discriminatorGradient, generatorGradient]) {
    const second = gradientOf(half(1));
    const first = gradientOf(half(0));
    const whole = gradientOf(gan);
    const halves = first.gradient.map((value, i) => (value + second.gradient[i]) / 2);
    t.ok(relativeError(halves, whole.gradient) < 1e-12, gradientOf.name);
    t.ok(Math.abs((first.loss + second.loss) / 2 - whole.loss) < 1e-14, `${gradientOf.name} loss`);
  }
  t.end();
});

t.test("gradients stay finite when the discriminator is certain", (t) => {
  const networks: GanNetworks = {
    generator: [{ type: "dense", in: 1, out: 1 }],
    discriminator: [{ type: "dense", in: 1, out: 1 }, { type: "sigmoid" }],
    gParams: Float64Array.of(1, 0),
    dParams: Float64Array.of(1000, 0),
  };
  const noise_BL = Float64Array.of(-1);
  const g = generatorGradient({ ...networks, noise_BL });
  t.equal(g.loss, 1000);
  t.same(g.gradient, Float64Array.of(1000, -1000), "the non-saturating loss keeps its slope");
  const d = discriminatorGradient({
    ...networks,
    real_BD: Float64Array.of(-1),
    noise_BL: Float64Array.of(1),
  });
  t.equal(d.loss, 1000);
  t.same(d.gradient, Float64Array.of(1, 0));
  t.end();
});

t.test("adamStep() matches two steps worked out by hand", (t) => {
  // Step 1, g = 5: m = 3.75, v = 12.5, corrected 5 and 25; p = 1 - 0.6 * 5 / (5 + 1) = 0.5.
  // Step 2, g = -1: m = 0.1875, v = 6.75, corrected 0.2 and 9; p = 0.5 - 0.6 * 0.2 / (3 + 1) = 0.47.
  // An epsilon of 1 shows where it is added.
  const hyper = { learningRate: 0.6, beta1: 0.25, beta2: 0.5, epsilon: 1 };
  const first = adamStep(Float64Array.of(1), Float64Array.of(5), initAdam(1), hyper);
  t.same(first.state, { m_P: Float64Array.of(3.75), v_P: Float64Array.of(12.5), t: 1 });
  t.ok(Math.abs(first.params[0] - 0.5) < 1e-15);
  const second = adamStep(first.params, Float64Array.of(-1), first.state, hyper);
  t.same(second.state, { m_P: Float64Array.of(0.1875), v_P: Float64Array.of(6.75), t: 2 });
  t.ok(Math.abs(second.params[0] - 0.47) < 1e-15);
  t.same(first.state.t, 1, "the earlier state is not mutated");

  const tiny = adamStep(Float64Array.of(0), Float64Array.of(1e-8), initAdam(1), {
    learningRate: 1,
    beta1: 0.5,
    beta2: 0.999,
  });
  t.ok(Math.abs(tiny.params[0] + 0.5) < 1e-12, "epsilon is 1e-8 unless given");
  t.end();
});

t.test("trainStep() updates D against the old G, then G through the new D, and mutates nothing", (t) => {
  const gan = smallGan(31);
  const noiseG_BL = mulberry32(32).normals(BATCH_SIZE * LATENT_DIM);
  const batch = { real_BD: gan.real_BD, noiseD_BL: gan.noise_BL, noiseG_BL };
  const hyper = {
    discriminator: { learningRate: 0.01, beta1: 0.5, beta2: 0.999 },
    generator: { learningRate: 0.02, beta1: 0.4, beta2: 0.99 },
  };
  const state = initGan(gan);
  const before = structuredClone({ state, batch });
  const result = trainStep(state, batch, hyper);
  t.same({ state, batch }, before, "inputs are not mutated");

  const d = discriminatorGradient(gan);
  const dParams = adamStep(gan.dParams, d.gradient, state.dAdam, hyper.discriminator).params;
  const g = generatorGradient({ ...gan, dParams, noise_BL: noiseG_BL });
  const gParams = adamStep(gan.gParams, g.gradient, state.gAdam, hyper.generator).params;
  t.same(result.state.dParams, dParams);
  t.same(result.state.gParams, gParams);
  t.equal(result.discriminatorLoss, d.loss);
  t.equal(result.generatorLoss, g.loss);
  t.equal(result.meanRealProbability, d.meanRealProbability);
  t.equal(result.meanFakeProbability, d.meanFakeProbability);
  t.same([result.state.dAdam.t, result.state.gAdam.t], [1, 1]);
  t.end();
});

t.test("trainStep() lowers the D loss when repeated on one batch, G held still", (t) => {
  const gan = smallGan(41);
  const batch = { real_BD: gan.real_BD, noiseD_BL: gan.noise_BL, noiseG_BL: gan.noise_BL };
  const hyper = {
    discriminator: { learningRate: 0.002, beta1: 0.5, beta2: 0.999 },
    generator: { learningRate: 0, beta1: 0.5, beta2: 0.999 },
  };
  let state = initGan(gan);
  const losses: number[] = [];
  for (let step = 0; step < 100; step++) {
    const result = trainStep(state, batch, hyper);
    losses.push(result.discriminatorLoss);
    state = result.state;
  }
  t.same(state.gParams, gan.gParams);
  t.ok(
    losses.every((loss, i) => i === 0 || loss < losses[i - 1]),
    `falls at each step, from ${losses[0].toFixed(4)} to ${losses.at(-1)!.toFixed(4)}`,
  );
  t.end();
});

t.test("arrays that do not fit the network are refused", (t) => {
  const gan = smallGan(51);
  t.throws(() => forward(GENERATOR, gan.gParams.slice(1), gan.noise_BL), RangeError);
  t.throws(() => forward(GENERATOR, gan.gParams, gan.noise_BL.slice(1)), RangeError);
  const activations = forward(GENERATOR, gan.gParams, gan.noise_BL);
  t.throws(() => backward(GENERATOR, gan.gParams, activations, new Float64Array(3)), RangeError);
  t.throws(() => discriminatorGradient({ ...gan, noise_BL: gan.noise_BL.slice(LATENT_DIM) }), RangeError);
  t.throws(() => adamStep(gan.gParams, gan.dParams, initAdam(gan.gParams.length), ADAM), RangeError);
  t.end();
});

t.test("trainStep() takes the reference model at batch 64", (t) => {
  const widths = (sizes: number[], last: Layer): Network =>
    sizes
      .slice(1)
      .flatMap((out, i): Layer[] => [
        { type: "dense", in: sizes[i], out },
        i === sizes.length - 2 ? last : { type: "leakyRelu", alpha: 0.2 },
      ]);
  const generator = widths([100, 256, 512, 1024, 784], { type: "tanh" });
  const discriminator = widths([784, 512, 256, 1], { type: "sigmoid" });
  t.equal(numParams(generator), 1_486_352);
  t.equal(numParams(discriminator), 533_505);

  const random = mulberry32(61);
  const state = initGan({
    generator,
    discriminator,
    gParams: random.uniforms(numParams(generator), 0.05),
    dParams: random.uniforms(numParams(discriminator), 0.05),
  });
  const batch = {
    real_BD: random.uniforms(64 * 784, 1),
    noiseD_BL: random.normals(64 * 100),
    noiseG_BL: random.normals(64 * 100),
  };
  const startMs = performance.now();
  const { state: next, ...metrics } = trainStep(state, batch, { generator: ADAM, discriminator: ADAM });
  // Reported, not asserted: a shared machine's clock would make the test flaky.
  t.comment(`one step took ${((performance.now() - startMs) / 1000).toFixed(2)} s`);
  t.ok(Object.values(metrics).every(Number.isFinite));
  t.ok(next.gParams.every(Number.isFinite) && next.dParams.every(Number.isFinite));
  t.end();
});
