import t from "tap";
import { batchMean, crossEntropy, oneHot, sub } from "../../../shared/nn/composed.ts";
import { declareNetwork, layer, Trace } from "../../../shared/nn/declare-network.ts";
import { gradient } from "../../../shared/nn/gradient.ts";
import * as graph from "../../../shared/nn/graph.ts";
import { initialValues } from "../../../shared/nn/initial-values.ts";
import { evaluate } from "../../../shared/nn/interpreter.ts";
import { leakyRelu } from "../../../shared/nn/layers/activations.ts";
import { batchNorm } from "../../../shared/nn/layers/normalization.ts";
import { conv2d, convTranspose2d, dense } from "../../../shared/nn/layers/products.ts";
import { maxPool, upsample } from "../../../shared/nn/layers/resampling.ts";
import { flatten, named, residual, sequential, unflatten } from "../../../shared/nn/layers/structure.ts";
import { weightNorm } from "../../../shared/nn/layers/weights.ts";
import { streamKey } from "../../../shared/random.ts";
import * as operations from "../../reference/float64-operations.ts";
import { mulberry32 } from "../../reference/mulberry32.ts";
import { relativeError } from "./finite-differences.ts";

const { add, constant, input, join, mul, parameter, part, select, sumBatch } = graph;
const x = input("x", [3]);
const image = input("image", [4, 6, 2]);

t.test("operations refuse shapes that do not fit, with what they expected and got", async (t) => {
  const refused = (make: () => unknown, message: RegExp): unknown =>
    t.throws(make, { name: "ShapeError", message });
  refused(
    () => add(x, input("y", [4])),
    /add as shapes must match: expected \[3\] per sample, got \[4\] per sample/,
  );
  refused(
    () => graph.matmul(x, parameter("d", "w", [784, 2])),
    /expected 784 for \[784, 2\], got 3 of \[3\] per sample/,
  );
  refused(
    () => graph.conv2d(image, parameter("d", "w", [3, 3, 1, 2])),
    /expected \[height, width, 1\], got \[4, 6, 2\] per sample/,
  );
  refused(
    () => graph.conv2d(image, parameter("d", "w", [5, 5, 2, 2])),
    /at least 5 x 5 with its padding, got \[4, 6, 2\]/,
  );
  refused(() => graph.reshape(x, [2]), /expected 3 for \[3\] per sample, got \[2\]/);
  refused(() => graph.transpose(x, [1]), /every axis must be named once/);
  refused(() => graph.concat([x, image], 0), /the others must match/);
  refused(() => graph.broadcast(x, { ...x, shape: [4] }), /expected \[4\] per sample, got \[3\] per sample/);
  refused(() => add(join([x, x]), x), /expected 2 batches in one pass, got \[3\] per sample/);
  refused(() => join([join([x, x]), join([x, x])]), /each must be one/);
  refused(() => graph.place(join([x, x]), 4), /must be those of one batch/);
  refused(() => graph.sumShard(parameter("d", "w", [3])), /must be there per sample: got \[3\]/);
  refused(() => constant([1, 2], [3]), /constant \[3\] of 2 numbers/);
});

t.test("a network's errors say network, layer, what was expected and what there is", async (t) => {
  const net = (inner: ReturnType<typeof dense>, shape: number[]): unknown =>
    declareNetwork("discriminator", [shape], named("model", sequential([leakyRelu(0.2), inner])));
  t.throws(() => net(conv2d(2, 3), [784]), {
    message:
      /^Cannot build discriminator: layer model\.1 \(conv2d 2, 3 x 3\): .*expected \[height, width, channels\], got \[784\] per sample$/,
  });
  t.throws(() => net(residual(dense(3)), [4]), {
    message: /layer model\.1 \(residual\): .*expected \[4\], got \[3\]/,
  });
  const twice = layer("twice", (scope, x) => scope.apply("a", dense(3), scope.apply("a", dense(3), x)));
  t.throws(() => declareNetwork("g", [[3]], twice), { message: /another layer of the same name/ });
  const d = declareNetwork("d", [[3]], dense(1));
  const trace = new Trace({ mode: "train", batchSize: 1 });
  t.throws(() => d.apply(trace, input("y", [4])), {
    message: /apply d as input 0 .*expected \[3\], got \[4\]/,
  });
  t.throws(() => d.apply(trace), { message: /expected \[3\], got none/ });
});

t.test("what is free is simplified", async (t) => {
  t.equal(add(x, 0), x);
  t.equal(mul(1, x), x);
  t.equal(graph.div(x, 1), x);
  t.equal(select(x, x, x), x);
  t.equal(graph.scalarOf(mul(x, 0)), 0);
  t.equal(graph.scalarOf(graph.reshape(graph.filled(2, image), [48])), 2);
  t.same(mul(0.5, mul(x, 4)), mul(2, x), "constants are multiplied");
  t.same(add(x, x), mul(2, x));
  t.same(add(select(x, x, 0), mul(3, select(x, 0, x))), select(x, x, mul(3, x)));
  t.equal(add(sumBatch(x), sumBatch(mul(x, x))).op, "sumBatch", "one sum over shards, not two");
  t.equal(part(join([x, image, x].slice(1, 2)), 0), image);
  t.equal(graph.transpose(input("grey", [28, 28, 1]), [2, 0, 1]).op, "reshape", "no number moves");
  const w = parameter("d", "w", [3, 2]);
  const dw = gradient(batchMean(graph.sum(graph.matmul(x, w)), 8), [w])[0];
  t.same(
    dw.inputs.map(({ op }) => op),
    ["matmul"],
    "a gradient is a product summed over shard and batch",
  );
});

t.test("gradients stop where they are told to, and are zeros where nothing depends", async (t) => {
  const [byX, byW] = gradient(sumBatch(mul(x, graph.stopGradient(x))), [x, parameter("d", "w", [2])]);
  t.same(
    evaluate([byX, byW], { inputs: { x: [1, 2, 3] } }, { sizes: [1] }).map((n) => [...n]),
    [
      [1, 2, 3],
      [0, 0],
    ],
  );
});

t.test("whether rows are independent is seen", async (t) => {
  const y = mul(x, graph.exp(x));
  t.ok(graph.rowsAreIndependent(y));
  t.ok(graph.rowsAreIndependent(mul(y, parameter("d", "w", [3]))));
  t.notOk(graph.rowsAreIndependent(sub(y, batchMean(y, 2))));
  t.ok(graph.rowsAreIndependent(add(y, graph.shardSize())));
});

t.test("selected numbers are right", async (t) => {
  const of = (value: graph.Value, numbers: readonly number[]): number[] => [
    ...evaluate([value], { inputs: { x: numbers } }, { sizes: [1] })[0],
  ];
  t.same(of(oneHot(input("x", []), 4), [2]), [0, 0, 1, 0]);
  const logits = [1, 2, 5];
  const expected = Math.log(logits.reduce((sum, l) => sum + Math.exp(l), 0)) - 2;
  t.ok(Math.abs(of(crossEntropy(x, constant(1)), logits)[0] - expected) < 1e-14);
  t.same(of(graph.pad(x, { shape: [5], start: [-1], dilate: [2] }), [7, 8, 9]), [0, 7, 0, 8, 0]);
});

t.test("joined batches lie shard by shard, within it batch by batch", async (t) => {
  const y = input("x", []);
  const both = join([y, mul(10, y)]);
  const [rows] = evaluate([both], { inputs: { x: [1, 2, 3] } }, { sizes: [2, 1] });
  t.same([...rows], [1, 2, 10, 20, 3, 30]);
  const [gathered] = evaluate(
    [graph.gather(y, 5)],
    { inputs: { x: [1, 2, 3] } },
    { sizes: [2, 1], first: 1 },
  );
  t.same([...gathered], [0, 1, 2, 3, 0]);
});

t.test("convolutions, pools and upsampling are those of the reference", async (t) => {
  const random = mulberry32(2);
  const N = 2;
  const run = (
    layer: ReturnType<typeof dense>,
    shape: readonly number[],
  ): Record<string, operations.Array64> & { y: operations.Array64 } => {
    const net = declareNetwork("net", [shape], layer);
    const numbers = random.normals(N * graph.sizeOf(shape));
    const weights = net.parameters.map(
      ({ path, shape }) => [path, random.normals(graph.sizeOf(shape))] as const,
    );
    const y = net.apply(new Trace({ mode: "train", batchSize: N }), input("x", shape));
    const bindings = { inputs: { x: numbers }, parameters: { net: Object.fromEntries(weights) } };
    const [values] = evaluate([y], bindings, { sizes: [N] });
    const arrays = weights.map(([path, values], i) => [path, { shape: net.parameters[i].shape, values }]);
    return {
      ...(Object.fromEntries(arrays) as Record<string, operations.Array64>),
      x: { shape: [N, ...shape], values: numbers },
      y: { shape: y.shape, values: Float64Array.from(values) },
    };
  };
  const close = (values: Float64Array, expected: Float64Array, what: string): unknown =>
    t.ok(relativeError(values, expected) < 1e-13, what);
  const bias = false;
  const c = run(conv2d(3, 3, { padding: 1, bias }), [4, 6, 2]);
  close(c.y.values, operations.conv2d(1)(c["x"], c["weight"]), "conv2d");
  const d = run(convTranspose2d(3, 4, { stride: 2, padding: 1, bias }), [2, 3, 2]);
  close(d.y.values, operations.conv2dTranspose(2, 4, 6)(d["x"], d["weight"]), "convTranspose2d");
  const nearest = run(upsample(2), [2, 3, 2]);
  close(nearest.y.values, operations.resizeTwice("nearest", true)(nearest["x"]), "nearest");
  const bilinear = run(upsample(2, "bilinear"), [2, 3, 2]);
  close(bilinear.y.values, operations.resizeTwice("bilinear", true)(bilinear["x"]), "bilinear");
  const pool = run(maxPool(2), [4, 6, 2]);
  close(pool.y.values, operations.pool2x2((window) => Math.max(...window))(pool["x"]), "maxPool");
  const chw = run(flatten, [2, 2, 3]);
  t.same(
    [...chw.y.values.slice(0, 4)],
    [0, 3, 6, 9].map((i) => chw["x"].values[i]),
    "channel by channel",
  );
  const back = run(sequential([flatten, unflatten([2, 2, 3])]), [2, 2, 3]);
  t.same(back.y.values, back["x"].values);
});

t.test(
  "batchNorm() keeps running statistics of the whole batch, with the unbiased variance of shards",
  async (t) => {
    const net = declareNetwork("net", [[1]], batchNorm({ momentum: 0.5 }));
    const trace = new Trace({ mode: "train", batchSize: 4 });
    const y = net.apply(trace, input("x", [1]));
    const outputs = [y, ...net.stateLeaves.map((leaf) => trace.stateOf(leaf))];
    const parameters = {
      net: { weight: [2], bias: [1] },
      "net.state": { running_mean: [10], running_var: [20] },
    };
    const [values, mean, variance] = evaluate(
      outputs,
      { inputs: { x: [1, 3, 10, 16] }, parameters },
      { sizes: [2, 2] },
    );
    // Shards have means 2 and 13, variances 1 and 9, unbiased 2 and 18.
    t.ok(relativeError(values, [-1, 3, -1, 3]) < 1e-5);
    t.ok(relativeError(mean, [0.5 * 10 + 0.5 * 7.5]) < 1e-14);
    t.ok(relativeError(variance, [0.5 * 20 + 0.5 * 10]) < 1e-14);
  },
);

t.test("initialValues() are orthogonal, or lengths of others, where that is asked for", async (t) => {
  const initial = { type: "orthogonal", gain: 2 } as const;
  const net = declareNetwork(
    "net",
    [[5]],
    sequential([dense(3, { initial, bias: false }), dense(4, { initial, bias: false })]),
  );
  const flat = initialValues(net.parameters, (i) => streamKey(1, "generatorInit", i));
  const columns = Array.from({ length: 3 }, (_, o) => Array.from({ length: 5 }, (_, i) => flat[i * 3 + o]));
  const rows = Array.from({ length: 3 }, (_, i) => [...flat.subarray(15 + i * 4, 15 + i * 4 + 4)]);
  for (const vectors of [columns, rows]) {
    for (const [i, u] of vectors.entries()) {
      for (const [j, v] of vectors.entries()) {
        const dot = u.reduce((sum, value, k) => sum + value * v[k], 0);
        t.ok(Math.abs(dot - (i === j ? 4 : 0)) < 1e-6, `${i}, ${j}: ${dot}`);
      }
    }
  }
  const normed = declareNetwork("net", [[3]], weightNorm(dense(2, { bias: false })));
  t.same(
    normed.parameters.map(({ path, shape }) => [path, shape]),
    [
      ["weight_v", [3, 2]],
      ["weight_g", [1, 2]],
    ],
  );
  const values = initialValues(normed.parameters, (i) => streamKey(1, "generatorInit", i));
  t.ok(Math.abs(values[6] - Math.hypot(values[0], values[2], values[4])) < 1e-6);
});
