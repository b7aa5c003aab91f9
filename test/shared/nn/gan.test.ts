import t from "tap";
import { batchMean, norm, relu, square, sub } from "../../../shared/nn/composed.ts";
import type { Network } from "../../../shared/nn/declare-network.ts";
import { declareNetwork, Trace } from "../../../shared/nn/declare-network.ts";
import { gradient } from "../../../shared/nn/gradient.ts";
import type { Value } from "../../../shared/nn/graph.ts";
import { add, input, join, mul, part, reshape, sigmoid, softplus, sum } from "../../../shared/nn/graph.ts";
import { initialValues } from "../../../shared/nn/initial-values.ts";
import { evaluate } from "../../../shared/nn/interpreter.ts";
import { leakyRelu, sigmoid as sigmoidLayer, tanh } from "../../../shared/nn/layers/activations.ts";
import { dense } from "../../../shared/nn/layers/products.ts";
import { named, sequential } from "../../../shared/nn/layers/structure.ts";
import { MODELS } from "../../../shared/nn/models.ts";
import { initialParameters } from "../../../shared/nn/network.ts";
import { streamKey } from "../../../shared/random.ts";
import type * as reference from "../../reference/float64-gan.ts";
import * as objectives from "../../reference/float64-objectives.ts";
import { mulberry32 } from "../../reference/mulberry32.ts";
import { relativeError } from "./finite-differences.ts";

const B = 7;
const SHARDS = { sizes: [2, 3, 2] };
const [LATENT, PIXELS] = [5, 6];

const generator = declareNetwork(
  "generator",
  [[LATENT]],
  sequential([dense(8), leakyRelu(0.2), dense(PIXELS), tanh]),
);
const discriminator = declareNetwork(
  "discriminator",
  [[PIXELS]],
  sequential([dense(9), leakyRelu(0.2), dense(4), tanh, dense(3), sigmoidLayer, dense(1)]),
);

const random = mulberry32(4);
const real_BD = random.uniforms(B * PIXELS, 1);
const noise_BL = random.normals(B * LATENT);
const uniforms_B = random.uniforms(B, 0.5).map((x) => x + 0.5);
const networks: reference.GanNetworks = {
  generator: [
    { type: "dense", in: LATENT, out: 8 },
    { type: "leakyRelu", alpha: 0.2 },
    { type: "dense", in: 8, out: PIXELS },
    { type: "tanh" },
  ],
  discriminator: [
    { type: "dense", in: PIXELS, out: 9 },
    { type: "leakyRelu", alpha: 0.2 },
    { type: "dense", in: 9, out: 4 },
    { type: "tanh" },
    { type: "dense", in: 4, out: 3 },
    { type: "sigmoid" },
    { type: "dense", in: 3, out: 1 },
  ],
  gParams: random.uniforms(generator.numParameters, 1),
  dParams: random.uniforms(discriminator.numParameters, 1),
};

interface Losses {
  discriminator(real: Value, fake: Value): Value;
  generator(fake: Value): Value;
  readonly penalty?: (gradientOf: (images: Value) => Value, real: Value, fake: Value) => Value;
}

const fromSoftplus = (half: number): Losses => ({
  discriminator: (real, fake) => mul(half, add(softplus(mul(-1, real)), softplus(fake))),
  generator: (fake) => softplus(mul(-1, fake)),
});

const LOSSES: Readonly<Record<string, Losses>> = {
  "non-saturating": fromSoftplus(0.5),
  "non-saturating-r1": {
    ...fromSoftplus(1),
    penalty: (gradientOf, real) => mul(5, sum(square(gradientOf(real)))),
  },
  "least-squares": {
    discriminator: (real, fake) => mul(0.5, add(square(sub(real, 1)), square(fake))),
    generator: (fake) => mul(0.5, square(sub(fake, 1))),
  },
  hinge: {
    discriminator: (real, fake) => add(relu(sub(1, real)), relu(add(1, fake))),
    generator: (fake) => mul(-1, fake),
  },
  "wgan-gp": {
    discriminator: (real, fake) => sub(fake, real),
    generator: (fake) => mul(-1, fake),
    penalty: (gradientOf, real, fake) =>
      mul(10, square(sub(norm(gradientOf(add(fake, mul(input("uniforms", [1]), sub(real, fake))))), 1))),
  },
};

const split = (net: Network, flat: Float64Array): Record<string, Float64Array> =>
  Object.fromEntries(
    net.parameters.map(({ path, offset, size }) => [path, flat.subarray(offset, offset + size)]),
  );

function computed(
  net: Network,
  loss: Value,
  metrics: readonly Value[],
): readonly [Float64Array, ...number[]] {
  const bindings = {
    parameters: {
      generator: split(generator, networks.gParams),
      discriminator: split(discriminator, networks.dParams),
    },
    inputs: { real: real_BD, noise: noise_BL, uniforms: uniforms_B },
  };
  const [value, ...rest] = evaluate([loss, ...metrics, ...gradient(loss, net.leaves)], bindings, SHARDS);
  const gradients = rest.slice(metrics.length).flatMap((numbers) => [...numbers]);
  return [Float64Array.from(gradients), value[0], ...rest.slice(0, metrics.length).map(([x]) => x)];
}

for (const [name, losses] of Object.entries(LOSSES)) {
  const expected = objectives.OBJECTIVES[name];
  const trace = (): Trace => new Trace({ mode: "train", batchSize: B });

  t.test(
    `objective ${name}: the discriminator's loss, gradient and metrics are those of the reference`,
    async (t) => {
      const [real, fake] = [input("real", [PIXELS]), generator.apply(trace(), input("noise", [LATENT]))];
      const D = (x: Value): Value => discriminator.apply(trace(), x);
      const logits = D(join([real, fake]));
      const penalty = losses.penalty?.((x) => gradient(D(x), [x])[0], real, fake) ?? mul(0, real);
      const each = add(losses.discriminator(part(logits, 0), part(logits, 1)), sum(penalty));
      const loss = reshape(batchMean(each, B), []);
      const metrics = [0, 1].map((i) => batchMean(sigmoid(part(logits, i)), B));
      const [gradients, ...numbers] = computed(discriminator, loss, metrics);
      const own = objectives.discriminatorGradient(expected, networks, real_BD, noise_BL, uniforms_B);
      t.ok(
        relativeError(gradients, own.gradient) < 1e-12,
        `gradient: ${relativeError(gradients, own.gradient)}`,
      );
      const wanted = [own.loss, own.meanRealProbability, own.meanFakeProbability];
      t.ok(relativeError(numbers, wanted) < 1e-12, `metrics: ${numbers.join()} and ${wanted.join()}`);
      t.ok(gradients.some((x) => Math.abs(x) > 0.01));
    },
  );

  t.test(
    `objective ${name}: the generator's loss, gradient and metric are those of the reference`,
    async (t) => {
      const fake = generator.apply(trace(), input("noise", [LATENT]));
      const logits = discriminator.apply(trace(), fake);
      const loss = reshape(batchMean(losses.generator(logits), B), []);
      const [gradients, ...numbers] = computed(generator, loss, [batchMean(sigmoid(logits), B)]);
      const own = objectives.generatorGradient(expected, networks, noise_BL);
      t.ok(
        relativeError(gradients, own.gradient) < 1e-12,
        `gradient: ${relativeError(gradients, own.gradient)}`,
      );
      t.ok(relativeError(numbers, [own.loss, own.meanFakeProbability]) < 1e-12, "metrics");
      t.ok(gradients.some((x) => Math.abs(x) > 0.01));
    },
  );
}

t.test("the reference model, declared anew, has the same names, places and initial bits", async (t) => {
  const old = MODELS.mlp({ latentDim: 100, imagePixels: 784 });
  const slope = leakyRelu(0.2);
  const anew = {
    generator: declareNetwork(
      "generator",
      [[100]],
      named("model", sequential([dense(256), slope, dense(512), slope, dense(1024), slope, dense(784), tanh])),
    ),
    discriminator: declareNetwork(
      "discriminator",
      [[784]],
      named("model", sequential([dense(512), slope, dense(256), slope, dense(1)])),
    ),
  };
  for (const [name, stream] of [["generator", "generatorInit"], ["discriminator", "discriminatorInit"]] as const) {
    const net = anew[name];
    const pick = ({ offset, shape }: { offset: number; shape: readonly number[] }): unknown => ({ offset, shape });
    t.same(net.parameters.map(pick), old[name].parameters.map(pick));
    t.same(
      net.parameters.map(({ path }) => path),
      old[name].parameters.map(({ torchName }) => torchName),
    );
    const values = initialValues(net.parameters, (index) => streamKey(7, stream, index));
    t.equal(Buffer.compare(Buffer.from(values.buffer), Buffer.from(initialParameters(old[name], 7).buffer)), 0);
  }
}); // prettier-ignore
