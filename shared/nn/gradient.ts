/**
 * Gradients by reverse accumulation. There is one rule an operation, written in operations, so a gradient is a
 * graph like any other and can be differentiated again: y = tanh(x) in a rule is that value, not a number saved.
 *
 * @module
 */
import type { Operation, Value } from "./graph.ts";
import {
  add,
  ancestors,
  broadcast,
  conform,
  convolve,
  div,
  filled,
  join,
  matmul,
  mul,
  pad,
  part,
  place,
  reshape,
  rows,
  select,
  sigmoid,
  slice,
  sum,
  transpose,
} from "./graph.ts";

type Node<Op> = Extract<Operation, { op: Op }> & Value;

/**
 * For each input, its part of the gradient from that of the result, `d`; null where a small change of the input
 * does not change the result.
 */
type Rule<Op> = (y: Node<Op>, d: Value) => readonly ((() => Value) | null)[];

const RULES: { readonly [Op in Operation["op"]]: Rule<Op> } = {
  parameter: () => [],
  input: () => [],
  constant: () => [],
  stopGradient: () => [null],

  add: (_, d) => [() => d, () => d],
  mul: ({ inputs: [a, b] }, d) => [() => mul(d, b), () => mul(d, a)],
  div: (y, d) => [() => div(d, y.inputs[1]), () => mul(-1, div(mul(d, y), y.inputs[1]))],
  exp: (y, d) => [() => mul(d, y)],
  log: ({ inputs: [a] }, d) => [() => div(d, a)],
  sqrt: (y, d) => [() => div(mul(0.5, d), y)],
  tanh: (y, d) => [() => mul(d, add(1, mul(-1, mul(y, y))))],
  sigmoid: (y, d) => [() => mul(d, mul(y, add(1, mul(-1, y))))],
  softplus: ({ inputs: [a] }, d) => [() => mul(d, sigmoid(a))],
  // From the sign of the result, so that the input need not be kept.
  leakyRelu: (y, d) => [() => select(y, d, mul(y.inputs[1], d)), null],
  select: ({ inputs: [a] }, d) => [null, () => select(a, d, 0), () => select(a, 0, d)],

  matmul: ({ inputs: [a, b], transA, transB }, d) => [
    () => conform(transA ? matmul(b, d, { transA: transB, transB: true }) : matmul(d, b, { transB: !transB }), a),
    () => conform(transB ? matmul(d, a, { transA: true, transB: transA }) : matmul(a, d, { transA: !transA }), b),
  ], // prettier-ignore
  conv2d: ({ inputs: [x, w], geometry }, d) => [
    () => conform(convolve("conv2dInput", d, w, geometry), x),
    () => conform(convolve("conv2dFilter", x, d, geometry), w),
  ],
  conv2dInput: ({ inputs: [y, w], geometry }, d) => [
    () => conform(convolve("conv2d", d, w, geometry), y),
    () => conform(convolve("conv2dFilter", d, y, geometry), w),
  ],
  conv2dFilter: ({ inputs: [x, y], geometry }, d) => [
    () => conform(convolve("conv2dInput", y, d, geometry), x),
    () => conform(convolve("conv2d", x, d, geometry), y),
  ],

  reshape: ({ inputs: [x] }, d) => [() => reshape(d, x.shape)],
  transpose: ({ axes }, d) => [
    () =>
      transpose(
        d,
        axes.map((_, axis) => axes.indexOf(axis)),
      ),
  ],
  pad: ({ inputs: [x], start, stride, dilate }, d) => [
    () => pad(d, { shape: x.shape, start: start.map((n) => -n), stride: dilate, dilate: stride }),
  ],
  concat({ inputs, axis }, d) {
    let end = 0;
    return inputs.map(({ shape }) => {
      const start = end;
      end += shape[axis];
      return () => slice(d, axis, start, shape[axis]);
    });
  },
  broadcast: ({ inputs: [x] }, d) => [() => conform(d, x)],
  sum: ({ inputs: [x] }, d) => [() => broadcast(d, x)],
  max: (y, d) => {
    const [x] = y.inputs;
    const isMax = select(add(broadcast(y, x), mul(-1, x)), 0, 1);
    return [() => mul(isMax, div(d, sum(isMax, y.axes)))];
  },
  sumShard: ({ inputs: [x] }, d) => [() => broadcast(d, x)],
  sumBatch: ({ inputs: [x] }, d) => [() => broadcast(d, x)],
  join: ({ inputs }, d) => inputs.map((_, i) => () => part(d, i)),
  part: ({ inputs: [x], index }, d) => [
    () => join(Array.from({ length: x.batches }, (_, i) => (i === index ? d : filled(0, d)))),
  ],
  place: (_, d) => [() => rows(d)],
  rows: ({ inputs: [x] }, d) => [() => conform(place(d, x.shape[0]), x)],
};

/**
 * The gradient of a value by others, or of the sum of its numbers if it has several.
 *
 * @param of May be anything that `y` is made of, parameters or inputs or what lies between.
 * @param d The gradient by y itself. Default: ones.
 * @returns A value of the same form for each of `of`: zeros where y does not depend on it.
 */
export function gradient(y: Value, of: readonly Value[], d: Value = filled(1, y)): readonly Value[] {
  const order = ancestors([y]);
  const wanted = new Set<Value>(of);
  for (const value of order) if (value.inputs.some((x) => wanted.has(x))) wanted.add(value);
  const gradients = new Map<Value, Value>([[y, d]]);
  for (const value of order.toReversed()) {
    const own = gradients.get(value);
    if (own === undefined || !wanted.has(value)) continue;
    const rule = RULES[value.op] as Rule<Operation["op"]>;
    for (const [i, part] of rule(value, own).entries()) {
      const x = value.inputs[i];
      if (part === null || !wanted.has(x)) continue;
      const before = gradients.get(x);
      gradients.set(x, before === undefined ? part() : add(before, part()));
    }
  }
  return of.map((x) => gradients.get(x) ?? filled(0, x));
}
