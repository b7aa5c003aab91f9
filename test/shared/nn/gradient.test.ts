import t from "tap";
import * as composed from "../../../shared/nn/composed.ts";
import type { Operation, Value } from "../../../shared/nn/graph.ts";
import * as graph from "../../../shared/nn/graph.ts";
import { gradientErrors, NUM_SAMPLES, SHARDS } from "./finite-differences.ts";

const { input, parameter } = graph;

const sample = (name: string, ...shape: number[]): Value => input(name, shape);
const shard = (name: string, ...shape: number[]): Value => input(name, shape, "shard");
const weight = (name: string, ...shape: number[]): Value => parameter("net", name, shape);

const x = sample("x", 3);
const y = sample("y", 3);
const image = sample("image", 5, 4, 2);
/** Positive, and away from 0. */
const positive = (v: Value): Value => graph.add(0.3, composed.square(v));

/** Every operation, by itself or in the smallest company; some several times. */
const CASES: readonly { readonly name: string; readonly ops: readonly string[]; readonly of: readonly Value[] }[] = [
  { name: "add, of three extents", ops: ["add"], of: [graph.add(x, graph.add(shard("s", 3), weight("w", 3)))] },
  { name: "mul", ops: ["mul"], of: [graph.mul(x, graph.mul(shard("s", 1), weight("w", 3)))] },
  { name: "div", ops: ["div"], of: [graph.div(x, positive(y))] },
  { name: "exp", ops: ["exp"], of: [graph.exp(x)] },
  { name: "log", ops: ["log"], of: [graph.log(positive(x))] },
  { name: "sqrt", ops: ["sqrt"], of: [graph.sqrt(positive(x))] },
  { name: "tanh", ops: ["tanh"], of: [graph.tanh(x)] },
  { name: "sigmoid", ops: ["sigmoid"], of: [graph.sigmoid(x)] },
  { name: "softplus", ops: ["softplus"], of: [graph.softplus(x)] },
  { name: "leakyRelu", ops: ["leakyRelu"], of: [graph.leakyRelu(x, 0.2)] },
  { name: "select", ops: ["select"], of: [graph.select(x, y, graph.mul(x, y))] },
  { name: "stopGradient", ops: ["stopGradient"], of: [graph.mul(x, x), graph.stopGradient(graph.constant(2))] },
  { name: "reshape", ops: ["reshape"], of: [graph.mul(graph.reshape(image, [4, 10]), weight("w", 10))] },
  { name: "transpose", ops: ["transpose"], of: [graph.transpose(graph.mul(image, image), [2, 0, 1])] },
  { name: "pad", ops: ["pad"], of: [graph.pad(image, { shape: [7, 3, 2], start: [-1, 1, 0] })] },
  { name: "pad with strides", ops: ["pad"], of: [graph.pad(image, { shape: [2, 9, 2], start: [1, -1, 0], stride: [2, 1, 1], dilate: [1, 2, 1] })] },
  { name: "pad with both", ops: ["pad"], of: [graph.pad(image, { shape: [3, 4, 2], start: [0, 0, 0], stride: [3, 1, 1], dilate: [2, 1, 1] })] },
  { name: "slice", ops: ["pad"], of: [graph.slice(image, 1, 1, 2, 2)] },
  { name: "concat", ops: ["concat"], of: [graph.concat([x, weight("w", 2), shard("s", 1)], 0)] },
  { name: "broadcast", ops: ["broadcast"], of: [graph.mul(x, graph.broadcast(weight("w", 1), { ...x, shape: [2, 3] }))] },
  { name: "sum", ops: ["sum"], of: [graph.sum(image, [0, 2])] },
  { name: "max", ops: ["max"], of: [graph.max(image, [1])] },
  { name: "sumShard", ops: ["sumShard"], of: [graph.sumShard(graph.mul(x, y))] },
  { name: "sumShard for each batch", ops: ["sumShard", "join"], of: [graph.sumShard(graph.join([x, graph.mul(x, y)]), 2)] },
  { name: "sumShard over batches", ops: ["sumShard", "join"], of: [graph.sumShard(graph.join([x, graph.mul(x, y)]))] },
  { name: "sumBatch", ops: ["sumBatch"], of: [graph.mul(x, graph.sumBatch(graph.mul(x, y)))] },
  { name: "join and part", ops: ["join", "part"], of: [graph.part(graph.mul(graph.join([x, y]), weight("w", 3)), 1)] },
  { name: "parts of values per shard", ops: ["part"], of: [graph.part(graph.mul(graph.sumShard(graph.join([x, y]), 2), shard("s", 3)), 0)] },
  { name: "gather", ops: ["place"], of: [graph.tanh(graph.matmul(graph.gather(x, NUM_SAMPLES), graph.gather(y, NUM_SAMPLES), { transB: true }))] },
  { name: "rows of a shared value", ops: ["rows"], of: [graph.mul(x, graph.rows(weight("w", NUM_SAMPLES, 3)))] },
  { name: "rows of a value per shard", ops: ["rows"], of: [graph.mul(x, graph.rows(shard("s", NUM_SAMPLES, 3)))] },
  ...[false, true].flatMap((transA) =>
    [false, true].flatMap((transB) => {
      const a = transA ? [3, 2] : [2, 3];
      const b = transB ? [4, 3] : [3, 4];
      const options = { transA, transB };
      const name = `matmul ${transA ? "transposed" : ""} by ${transB ? "transposed" : ""}`;
      return [
        { name: `${name}, sample by shared`, ops: ["matmul"], of: [graph.matmul(sample("a", ...a), weight("b", ...b), options)] },
        { name: `${name}, shared by sample`, ops: ["matmul"], of: [graph.matmul(weight("a", ...a), sample("b", ...b), options)] },
        { name: `${name}, sample by sample`, ops: ["matmul"], of: [graph.matmul(sample("a", ...a), sample("b", ...b), options)] },
        { name: `${name}, shard by sample, summed`, ops: ["matmul"], of: [graph.sumShard(graph.matmul(shard("a", ...a), sample("b", ...b), options))] },
        { name: `${name}, sample by sample, summed`, ops: ["matmul"], of: [graph.sumShard(graph.matmul(sample("a", ...a), sample("b", ...b), options))] },
      ];
    }),
  ),
  { name: "matmul of a vector", ops: ["matmul"], of: [graph.matmul(graph.matmul(x, weight("w", 3, 2)), weight("v", 5, 2), { transB: true })] },
  { name: "matmul of two vectors, summed", ops: ["matmul"], of: [graph.sumShard(graph.matmul(x, sample("z", 2), { transA: true }))] },
  { name: "matmul of two batches", ops: ["matmul", "join"], of: [graph.sumBatch(graph.matmul(graph.join([x, y]), graph.join([y, graph.mul(x, y)]), { transA: true }))] },
  { name: "conv2d", ops: ["conv2d"], of: [graph.conv2d(image, weight("w", 3, 3, 2, 4), { stride: 2, padding: 1 })] },
  { name: "conv2d of two groups and batches", ops: ["conv2d"], of: [graph.conv2d(graph.join([image, graph.mul(image, image)]), weight("w", 2, 3, 1, 4), { groups: 2 })] },
  { name: "conv2dInput", ops: ["conv2dInput"], of: [graph.convolve("conv2dInput", sample("d", 3, 2, 4), weight("w", 3, 3, 2, 4), { image: [5, 4], filter: [3, 3], result: [3, 2], stride: [2, 2], padding: [1, 1], groups: 1 })] },
  { name: "conv2dFilter", ops: ["conv2dFilter"], of: [graph.convolve("conv2dFilter", image, sample("d", 3, 2, 4), { image: [5, 4], filter: [3, 3], result: [3, 2], stride: [2, 2], padding: [1, 1], groups: 1 })] },
  { name: "softmax", ops: ["max"], of: [composed.softmax(x)] },
  { name: "logSumExp", ops: ["max"], of: [composed.logSumExp(x)] },
  { name: "norm", ops: ["sqrt"], of: [composed.norm(x)] },
  { name: "maximum", ops: ["select"], of: [composed.maximum(graph.mul(x, x), y)] },
  { name: "batchMean", ops: ["sumBatch"], of: [graph.mul(y, composed.batchMean(x, NUM_SAMPLES))] },
]; // prettier-ignore

for (const { name, ops, of } of CASES) {
  t.test(`gradient() of ${name} is that of finite differences, and so is its own`, async (t) => {
    const used = new Set(graph.ancestors(of).map(({ op }) => op as string));
    for (const op of ops) t.ok(used.has(op), `uses ${op}`);
    const errors = gradientErrors(of);
    t.ok(errors.depends && errors.curved, "values and gradients depend on the leaves");
    t.ok(errors.gradient < 1e-7, `gradient: ${errors.gradient}`);
    t.ok(errors.second < 1e-6, `gradient of gradient: ${errors.second}`);
    t.ok(errors.program < 1e-12, `program: ${errors.program}`);
  });
}

t.test("the cases have every operation", async (t) => {
  const leaves: readonly Operation["op"][] = ["parameter", "input", "constant"];
  const cased = new Set<string>([...leaves, ...CASES.flatMap(({ ops }) => ops)]);
  for (const op of Object.keys(graph.ELEMENTWISE)) t.ok(cased.has(op), op);
  t.ok(SHARDS.sizes.length > 2, "sums over shards are a tree");
});
