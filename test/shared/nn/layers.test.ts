import t from "tap";
import type { Layer } from "../../../shared/nn/declare-network.ts";
import { declareNetwork, Trace } from "../../../shared/nn/declare-network.ts";
import type { Shape, Value } from "../../../shared/nn/graph.ts";
import { input, join, part, rowsAreIndependent, sizeOf } from "../../../shared/nn/graph.ts";
import { evaluate } from "../../../shared/nn/interpreter.ts";
import * as activations from "../../../shared/nn/layers/activations.ts";
import * as conditioning from "../../../shared/nn/layers/conditioning.ts";
import * as noise from "../../../shared/nn/layers/noise.ts";
import * as normalization from "../../../shared/nn/layers/normalization.ts";
import * as products from "../../../shared/nn/layers/products.ts";
import * as resampling from "../../../shared/nn/layers/resampling.ts";
import * as structure from "../../../shared/nn/layers/structure.ts";
import * as weights from "../../../shared/nn/layers/weights.ts";
import { assign, bind, gradientErrors, NUM_SAMPLES, SHARDS } from "./finite-differences.ts";

const FILES = { activations, conditioning, noise, normalization, products, resampling, structure, weights };

interface Case {
  readonly layer: Layer;
  readonly inputs: readonly Shape[];
  readonly output: Shape;
  /** Whether a sample's values depend on that sample only. Default true. */
  readonly independent?: boolean;
}

const { conv2d, convTranspose2d, dense } = products;
const image = [4, 6, 2];

const CASES: Readonly<Record<string, readonly Case[]>> = {
  relu: [{ layer: activations.relu, inputs: [[5]], output: [5] }],
  leakyRelu: [{ layer: activations.leakyRelu(0.2), inputs: [[5]], output: [5] }],
  elu: [{ layer: activations.elu, inputs: [[5]], output: [5] }],
  silu: [{ layer: activations.silu, inputs: [[5]], output: [5] }],
  tanh: [{ layer: activations.tanh, inputs: [[5]], output: [5] }],
  sigmoid: [{ layer: activations.sigmoid, inputs: [[5]], output: [5] }],
  softplus: [{ layer: activations.softplus, inputs: [[5]], output: [5] }],
  softmax: [{ layer: activations.softmax, inputs: [[5]], output: [5] }],
  embedding: [{ layer: conditioning.embedding(3, 4), inputs: [[]], output: [4] }],
  projection: [{ layer: conditioning.projection(3), inputs: [[4], []], output: [1] }],
  minibatchStddev: [
    { layer: conditioning.minibatchStddev(), inputs: [[5]], output: [6], independent: false },
    { layer: conditioning.minibatchStddev(), inputs: [image], output: [4, 6, 3], independent: false },
  ],
  selfAttention: [{ layer: conditioning.selfAttention({ reduction: 1 }), inputs: [[2, 3, 2]], output: [2, 3, 2] }],
  dropout: [{ layer: noise.dropout(0.4), inputs: [[5]], output: [5] }],
  dropoutChannels: [{ layer: noise.dropoutChannels(0.4), inputs: [image], output: image }],
  gaussianNoise: [{ layer: noise.gaussianNoise(0.3), inputs: [[5]], output: [5] }],
  batchNorm: [
    { layer: normalization.batchNorm(), inputs: [image], output: image, independent: false },
    { layer: normalization.batchNorm({ affine: false, epsilon: 0.1 }), inputs: [[5]], output: [5], independent: false },
  ],
  conditionalBatchNorm: [
    { layer: normalization.conditionalBatchNorm(3), inputs: [image, []], output: image, independent: false },
  ],
  layerNorm: [
    { layer: normalization.layerNorm(), inputs: [image], output: image },
    { layer: normalization.layerNorm({ affine: false }), inputs: [[5]], output: [5] },
  ],
  groupNorm: [{ layer: normalization.groupNorm(2), inputs: [[2, 2, 4]], output: [2, 2, 4] }],
  instanceNorm: [{ layer: normalization.instanceNorm(), inputs: [image], output: image }],
  pixelNorm: [{ layer: normalization.pixelNorm(), inputs: [image], output: image }],
  dense: [
    { layer: dense(3), inputs: [[5]], output: [3] },
    { layer: dense(3, { bias: false }), inputs: [[4, 5]], output: [4, 3] },
    { layer: dense(3), inputs: [image], output: [4, 6, 3] },
  ],
  conv2d: [
    { layer: conv2d(3, 3, { stride: 2, padding: 1 }), inputs: [image], output: [2, 3, 3] },
    { layer: conv2d(4, 2, { groups: 2, bias: false }), inputs: [image], output: [3, 5, 4] },
  ],
  convTranspose2d: [
    { layer: convTranspose2d(3, 4, { stride: 2, padding: 1 }), inputs: [[2, 3, 2]], output: [4, 6, 3] },
    { layer: convTranspose2d(2, 3, { stride: 2, padding: 1, outputPadding: 1, groups: 2 }), inputs: [[2, 2, 2]], output: [4, 4, 2] },
  ],
  upsample: [
    { layer: resampling.upsample(2), inputs: [[2, 3, 2]], output: [4, 6, 2] },
    { layer: resampling.upsample(2, "bilinear"), inputs: [[2, 3, 2]], output: [4, 6, 2] },
  ],
  averagePool: [
    { layer: resampling.averagePool(2), inputs: [image], output: [2, 3, 2] },
    { layer: resampling.averagePool(3, { stride: 1 }), inputs: [image], output: [2, 4, 2] },
  ],
  maxPool: [
    { layer: resampling.maxPool(2), inputs: [image], output: [2, 3, 2] },
    { layer: resampling.maxPool(3, { stride: 2 }), inputs: [image], output: [1, 2, 2] },
  ],
  sequential: [{ layer: structure.sequential([dense(3), activations.tanh, dense(2)]), inputs: [[5]], output: [2] }],
  named: [{ layer: structure.named("model", dense(3)), inputs: [[5]], output: [3] }],
  identity: [{ layer: structure.identity, inputs: [[5]], output: [5] }],
  residual: [
    { layer: structure.residual(dense(5)), inputs: [[5]], output: [5] },
    { layer: structure.residual(dense(3), dense(3, { bias: false })), inputs: [[5]], output: [3] },
  ],
  concatenate: [
    { layer: structure.concatenate({ label: conditioning.embedding(3, 4), z: structure.identity }), inputs: [[], [5]], output: [9] },
  ],
  flatten: [{ layer: structure.flatten, inputs: [image], output: [48] }],
  unflatten: [{ layer: structure.unflatten([4, 6, 2]), inputs: [[48]], output: image }],
  reshape: [{ layer: structure.reshape([6, 8]), inputs: [image], output: [6, 8] }],
  spectralNorm: [
    { layer: weights.spectralNorm(dense(3)), inputs: [[5]], output: [3] },
    { layer: weights.spectralNorm(convTranspose2d(3, 2)), inputs: [[2, 3, 2]], output: [3, 4, 3] },
  ],
  weightNorm: [
    { layer: weights.weightNorm(dense(3)), inputs: [[5]], output: [3] },
    { layer: weights.weightNorm(conv2d(3, 3, { padding: 1 })), inputs: [image], output: [4, 6, 3] },
  ],
}; // prettier-ignore

const LABELS = [0, 2, 1, 1, 0, 2];

const isLabel = (leaf: Value): boolean => leaf.op === "input" && leaf.shape.length === 0;
const isState = (leaf: Value): boolean => leaf.op === "parameter" && leaf.vector === "net.state";

/** Labels are numbers of classes, variances are positive. */
function given(leaf: Value): readonly number[] | undefined {
  if (isLabel(leaf)) return LABELS;
  const isVariance = leaf.op === "parameter" && leaf.name === "running_var";
  return isVariance ? Array.from({ length: sizeOf(leaf.shape) }, (_, i) => 0.5 + i) : undefined;
}

for (const [name, cases] of Object.entries(CASES)) {
  for (const [i, { layer, inputs, output, independent = true }] of cases.entries()) {
    t.test(`layer ${name}, case ${i}: shape and gradients in training are right`, async (t) => {
      const net = declareNetwork("net", inputs, layer);
      const trace = new Trace({ mode: "train", batchSize: NUM_SAMPLES });
      const y = net.apply(trace, ...inputs.map((shape, i) => input(`x${i}`, shape)));
      t.same(y.shape, output);
      t.equal(rowsAreIndependent(y), independent);
      // Power iteration is no part of the gradient, so differences of weights are other than it is.
      const wanted = (leaf: Value): boolean => leaf.op === "input" || name !== "spectralNorm";
      const errors = gradientErrors([y], given, (leaf) => !isLabel(leaf) && !isState(leaf) && wanted(leaf));
      t.ok(errors.depends && errors.curved, "values and gradients depend on the leaves");
      t.ok(errors.gradient < 1e-7, `gradient: ${errors.gradient}`);
      t.ok(errors.second < 1e-6, `gradient of gradient: ${errors.second}`);
      t.ok(errors.program < 1e-12, `program: ${errors.program}`);
    });

    t.test(`layer ${name}, case ${i}: two batches in one pass are two passes`, async (t) => {
      const net = declareNetwork("net", inputs, layer);
      const options = { mode: "train", batchSize: NUM_SAMPLES } as const;
      const xs = ["a", "b"].map((batch) => inputs.map((shape, i) => input(`${batch}${i}`, shape)));
      const apart = new Trace(options);
      const single = xs.map((x) => net.apply(apart, ...x));
      const at = new Trace(options);
      const both = net.apply(at, ...inputs.map((_, i) => join([xs[0][i], xs[1][i]])));
      const outputs = [...single, part(both, 0), part(both, 1)];
      const states = [apart, at].map(({ updates }) => [...updates.values()]);
      const all = [...outputs, ...states.flat()];
      const numbers = evaluate(all, bind(assign(all, given)), SHARDS);
      t.same(numbers[2], numbers[0]);
      t.same(numbers[3], numbers[1]);
      const [left, right] = [numbers.slice(4, 4 + states[0].length), numbers.slice(4 + states[0].length)];
      t.same(right, left, "the same state afterwards");
    });

    t.test(
      `layer ${name}, case ${i}: evaluation depends on the sample alone, and draws nothing`,
      async (t) => {
        const net = declareNetwork("net", inputs, layer);
        const trace = new Trace({ mode: "evaluate", batchSize: NUM_SAMPLES });
        const y = net.apply(trace, ...inputs.map((shape, i) => input(`x${i}`, shape)));
        t.ok(rowsAreIndependent(y) || name === "minibatchStddev");
        t.equal(trace.updates.size, 0);
        const errors = gradientErrors([y], given, (leaf) => !isLabel(leaf));
        t.ok(errors.gradient < 1e-7, `gradient: ${errors.gradient}`);
        t.ok(errors.second < 1e-6, `gradient of gradient: ${errors.second}`);
        t.ok(errors.program < 1e-12, `program: ${errors.program}`);
      },
    );
  }
}

t.test("spectralNorm() comes to a weight of largest singular value 1", async (t) => {
  const net = declareNetwork("net", [[2]], weights.spectralNorm(dense(2, { bias: false })));
  t.same(
    net.state.map(({ path }) => path),
    ["weight_u", "weight_v"],
  );
  const x = input("x", [2]);
  // Singular values 3 and 1, the first for the input (1, 0).
  const weight_orig = [3 * 0.6, -3 * 0.8, 0.8, 0.6];
  let state: Record<string, ArrayLike<number>> = { weight_u: [1, 0.5], weight_v: [1, 0] };
  let y: ArrayLike<number> = [];
  for (let step = 0; step < 30; step++) {
    const trace = new Trace({ mode: "train", batchSize: 1 });
    const outputs = [net.apply(trace, x), ...net.stateLeaves.map((leaf) => trace.stateOf(leaf))];
    const bindings = { parameters: { net: { weight_orig }, "net.state": state }, inputs: { x: [1, 0] } };
    const [out, weight_u, weight_v] = evaluate(outputs, bindings, { sizes: [1] });
    state = { weight_u, weight_v };
    y = out;
  }
  t.ok(Math.abs(y[0] - 0.6) < 1e-9 && Math.abs(y[1] + 0.8) < 1e-9, `${y[0]}, ${y[1]}`);
});

t.test("heads() gives every output by name", async (t) => {
  const both = structure.heads({ logit: dense(1), classes: dense(3) });
  const net = declareNetwork("net", [[5]], structure.sequential([dense(4), both]));
  const outputs = net.apply(new Trace({ mode: "train", batchSize: 1 }), input("x", [5]));
  t.same([outputs.logit.shape, outputs.classes.shape], [[1], [3]]);
  t.same(
    net.parameters.map(({ path }) => path),
    ["0.weight", "0.bias", "1.logit.weight", "1.logit.bias", "1.classes.weight", "1.classes.bias"],
  );
});

t.test("every layer has a case", async (t) => {
  for (const [file, exports] of Object.entries(FILES)) {
    for (const name of Object.keys(exports)) t.ok(name in CASES || name === "heads", `${file}: ${name}`);
  }
});
