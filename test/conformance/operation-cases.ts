/**
 * Operations of tfjs that our layers and objectives use, or that a new layer
 * may use and whose gradients worker/engine/tfjs-gradients.ts repairs.
 *
 * @module
 */
import * as tfModule from "@tensorflow/tfjs";
import type { Tensor } from "@tensorflow/tfjs";
import type { EngineName } from "../../shared/config.ts";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import type { Operation } from "../reference/float64-operations.ts";
import * as reference from "../reference/float64-operations.ts";
import { sigmoid, softplus } from "../reference/float64-gan.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import type { Case } from "./case.ts";
import { maxError } from "./case.ts";

// As in tfjs-engine.ts: names or only the default, depending on the runtime.
const tf: TensorFlow = "default" in tfModule ? tfModule.default : tfModule;

interface OperationCase {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly compute: (tf: TensorFlow, ...inputs: readonly never[]) => Tensor;
  readonly reference: Operation;
  /** Range of input values, which keep a tenth away from 0; default -1 to 1. */
  readonly range?: number;
}

const MATRIX = [[3, 7]];
const PAIR = [
  [3, 7],
  [3, 7],
];
const { elementwise, rowwise } = reference;

/** A function of one matrix, element by element. */
function unary(
  name: string,
  compute: (tf: TensorFlow, x: Tensor) => Tensor,
  f: (x: number) => number,
  range = 3,
): OperationCase {
  return { name, shapes: MATRIX, compute, reference: elementwise(f), range };
}

const SELU = { alpha: 1.6732632423543772, scale: 1.0507009873554805 };

function logSumExp(row: Float64Array): number {
  const max = Math.max(...row);
  return max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
}

/** Mean and variance over rows of a column, then (x - mean) / sqrt(variance + 0.1). */
const normalize: Operation = ({ shape: [rows, columns], values }) => {
  const column = (c: number): readonly number[] =>
    Array.from({ length: rows }, (_, r) => values[r * columns + c]);
  const moments = Array.from({ length: columns }, (_, c) => {
    const mean = column(c).reduce((sum, x) => sum + x, 0) / rows;
    return { mean, variance: column(c).reduce((sum, x) => sum + (x - mean) ** 2, 0) / rows };
  });
  return values.map((x, i) => {
    const { mean, variance } = moments[i % columns];
    return (x - mean) / Math.sqrt(variance + 0.1);
  });
};

const OPERATIONS: readonly OperationCase[] = [
  unary("tanh", (tf, x) => tf.tanh(x), Math.tanh),
  unary("sigmoid", (tf, x) => tf.sigmoid(x), sigmoid),
  unary("exp", (tf, x) => tf.exp(x), Math.exp, 1),
  unary("softplus", (tf, x) => tf.softplus(x), softplus),
  unary(
    "relu",
    (tf, x) => tf.relu(x),
    (x) => Math.max(0, x),
  ),
  unary(
    "relu6",
    (tf, x) => tf.relu6(tf.mul(x, 3)),
    (x) => Math.min(6, Math.max(0, 3 * x)),
  ),
  unary(
    "leakyRelu",
    (tf, x) => tf.leakyRelu(x, 0.2),
    (x) => Math.max(x, 0.2 * x),
  ),
  unary(
    "elu",
    (tf, x) => tf.elu(x),
    (x) => (x > 0 ? x : Math.expm1(x)),
  ),
  unary(
    "selu",
    (tf, x) => tf.selu(x),
    (x) => SELU.scale * (x > 0 ? x : SELU.alpha * Math.expm1(x)),
  ),
  unary(
    "swish",
    (tf, x) => tf.mul(x, tf.sigmoid(x)),
    (x) => x * sigmoid(x),
  ),
  unary(
    "clipByValue",
    (tf, x) => tf.clipByValue(x, -1.3, 2.1),
    (x) => Math.min(2.1, Math.max(-1.3, x)),
  ),
  // Without sin, which WGSL lets a driver compute with errors up to 2^-11.
  unary(
    "where",
    (tf, x) => tf.where(tf.greater(x, 0), tf.square(x), tf.mul(x, tf.square(x))),
    (x) => (x > 0 ? x * x : x * x * x),
  ),
  unary("abs", (tf, x) => tf.abs(x), Math.abs),
  unary(
    "sqrt",
    (tf, x) => tf.sqrt(tf.add(tf.square(x), 0.5)),
    (x) => Math.sqrt(x * x + 0.5),
  ),
  {
    name: "prelu",
    shapes: PAIR,
    compute: (tf, x, alpha) => tf.prelu(x, alpha),
    reference: elementwise((x, alpha) => (x > 0 ? x : alpha * x)),
  },
  {
    name: "maximum",
    shapes: PAIR,
    compute: (tf, a, b) => tf.maximum(a, b),
    reference: elementwise((a, b) => Math.max(a, b)),
  },
  {
    name: "minimum",
    shapes: PAIR,
    compute: (tf, a, b) => tf.minimum(a, b),
    reference: elementwise((a, b) => Math.min(a, b)),
  },
  {
    name: "logical operations",
    shapes: PAIR,
    compute: (tf, a: Tensor, b: Tensor) => {
      const either = tf.logicalOr(tf.lessEqual(a, b), tf.logicalNot(tf.less(a, tf.mul(b, 2))));
      const mask = tf.logicalAnd(tf.greaterEqual(a, -0.5), tf.logicalAnd(tf.notEqual(a, b), either));
      return tf.add(b, tf.mul(tf.square(a), tf.cast(mask, "float32")));
    },
    reference: elementwise((a, b) => {
      const mask = a >= -0.5 && a !== b && (a <= b || !(a < 2 * b));
      return b + (mask ? a * a : 0);
    }),
  },
  {
    name: "max over an axis",
    shapes: MATRIX,
    compute: (tf, x) => tf.max(x, 1),
    reference: rowwise((row) => [Math.max(...row)]),
  },
  {
    name: "min over an axis",
    shapes: MATRIX,
    compute: (tf, x) => tf.min(x, -1, true),
    reference: rowwise((row) => [Math.min(...row)]),
  },
  {
    name: "softmax",
    shapes: MATRIX,
    compute: (tf, x) => tf.softmax(x),
    reference: rowwise((row) => row.map((x) => Math.exp(x - logSumExp(row)))),
  },
  {
    name: "logSumExp",
    shapes: MATRIX,
    compute: (tf, x) => tf.logSumExp(x, 1),
    reference: rowwise((row) => [logSumExp(row)]),
  },
  {
    name: "logSoftmax by logSumExp",
    shapes: MATRIX,
    compute: (tf, x) => tf.sub(x, tf.logSumExp(x, 1, true)),
    reference: rowwise((row) => row.map((x) => x - logSumExp(row))),
  },
  {
    name: "moments",
    shapes: [[5, 3]],
    compute(tf, x: Tensor) {
      const { mean, variance } = tf.moments(x, 0);
      return tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 0.1)));
    },
    reference: normalize,
  },
  {
    name: "matMul",
    shapes: [
      [3, 7],
      [7, 5],
    ],
    compute: (tf, a, b) => tf.matMul(a, b),
    reference: reference.matMul,
  },
  ...[1, 2].map((stride) => ({
    name: `conv2d, stride ${stride}`,
    shapes: [
      [2, 5, 4, 2],
      [3, 3, 2, 3],
    ],
    compute: (tf: TensorFlow, x: never, filter: never) => tf.conv2d(x, filter, stride, "same"),
    reference: reference.conv2d(stride),
  })),
  {
    name: "conv2dTranspose, stride 2",
    shapes: [
      [2, 3, 2, 3],
      [4, 4, 2, 3],
    ],
    compute: (tf, dy, filter) => tf.conv2dTranspose(dy, filter, [2, 6, 4, 2], 2, "same"),
    reference: reference.conv2dTranspose(2, 6, 4),
  },
  ...[1, 2].map((stride) => ({
    name: `depthwiseConv2d, stride ${stride}`,
    shapes: [
      [2, 5, 4, 2],
      [3, 3, 2, 2],
    ],
    compute: (tf: TensorFlow, x: never, filter: never) => tf.depthwiseConv2d(x, filter, stride, "same"),
    reference: reference.depthwiseConv2d(stride),
  })),
  {
    name: "avgPool",
    shapes: [[2, 4, 6, 3]],
    compute: (tf, x) => tf.avgPool(x, 2, 2, "valid"),
    reference: reference.pool2x2((window) => window.reduce((sum, x) => sum + x, 0) / 4),
  },
  {
    name: "maxPool",
    shapes: [[2, 4, 6, 3]],
    compute: (tf, x) => tf.maxPool(x, 2, 2, "same"),
    reference: reference.pool2x2((window) => Math.max(...window)),
  },
  ...[false, true].flatMap((half): readonly OperationCase[] => {
    const shapes = [[2, 3, 4, 2]];
    const centers = half ? ", half-pixel centers" : "";
    return [
      {
        name: `resizeNearestNeighbor${centers}`,
        shapes,
        compute: (tf, x) => tf.image.resizeNearestNeighbor(x, [6, 8], false, half),
        reference: reference.resizeTwice("nearest", half),
      },
      {
        name: `resizeBilinear${centers}`,
        shapes,
        compute: (tf, x) => tf.image.resizeBilinear(x, [6, 8], false, half),
        reference: reference.resizeTwice("bilinear", half),
      },
    ];
  }),
  {
    name: "depthToSpace",
    shapes: [[2, 3, 2, 8]],
    compute: (tf, x) => tf.depthToSpace(x, 2),
    reference: reference.depthToSpace(2),
  },
  ...([1, 0] as const).map((offset): OperationCase => {
    const paddings: [number, number][] = [
      [2, 1],
      [0, 3],
    ];
    const mode = offset === 1 ? "reflect" : "symmetric";
    return {
      name: `mirrorPad, ${mode}`,
      shapes: [[4, 5]],
      compute: (tf, x) => tf.mirrorPad(x, paddings, mode),
      reference: reference.mirrorPad(paddings, offset),
    };
  }),
  {
    name: "gather",
    shapes: [[4, 3]],
    compute: (tf, x) => tf.gather(x, tf.tensor1d([2, 0, 2, 3, 2], "int32")),
    reference: reference.gather([2, 0, 2, 3, 2]),
  },
];

/** Cases for the tfjs backend of an engine, which must have been started. */
export function operationCases(engine: EngineName): readonly Case[] {
  // Else tfjs computes with small tensors on the processor.
  if (engine === "webgpu") tf.env().set("WEBGPU_CPU_FORWARD", false);
  return OPERATIONS.flatMap(casesOf);
}

function casesOf(operation: OperationCase, index: number): readonly Case[] {
  const name = `operation ${operation.name}`;
  return [
    { name, order: "forward", run: () => errorOf(operation, index, forward, (f, inputs) => f(...inputs)) },
    { name, order: "gradient", run: () => errorOf(operation, index, gradient, reference.gradient) },
    {
      name,
      order: "gradient-of-gradient",
      run: () => errorOf(operation, index, gradientOfGradient, reference.gradientOfGradient),
    },
  ];
}

type Compute = (...inputs: readonly Tensor[]) => Tensor;

function forward(compute: Compute, inputs: readonly Tensor[]): readonly Tensor[] {
  return [compute(...inputs)];
}

/** Of the sum of w f^2: so the gradient of an operation that is linear has a gradient too. */
function gradient(compute: Compute, inputs: readonly Tensor[], w: Tensor): readonly Tensor[] {
  const loss = (...at: Tensor[]): Tensor => tf.sum(tf.mul(w, tf.square(compute(...at))));
  return tf.grads(loss)([...inputs]);
}

function gradientOfGradient(compute: Compute, inputs: readonly Tensor[], w: Tensor): readonly Tensor[] {
  const squaredNorm = (...at: Tensor[]): Tensor =>
    gradient(compute, at, w)
      .map((g) => tf.sum(tf.square(g)))
      .reduce((a, b) => tf.add(a, b));
  return tf.grads(squaredNorm)([...inputs]);
}

async function errorOf(
  { shapes, compute, reference: operation, range = 1 }: OperationCase,
  seed: number,
  evaluate: (compute: Compute, inputs: readonly Tensor[], w: Tensor) => readonly Tensor[],
  expect: (f: Operation, inputs: readonly reference.Array64[], w: Float64Array) => Float64Array,
): Promise<number> {
  const random = mulberry32(seed + 1);
  const draw = (length: number): Float64Array =>
    random.uniforms(length, range - 0.1).map((x) => Math.fround(x + 0.1 * Math.sign(x)));
  const inputs = shapes.map((shape) => ({
    shape,
    values: draw(shape.reduce((product, n) => product * n, 1)),
  }));
  const w = random.uniforms(operation(...inputs).length, 1).map(Math.fround);
  const tensors = tf.tidy(() => {
    const xs = inputs.map(({ shape, values }) => tf.tensor(Float32Array.from(values), [...shape]));
    const f = (...at: readonly Tensor[]): Tensor => compute(tf, ...(at as never[]));
    const outputShape = f(...xs).shape;
    return [...evaluate(f, xs, tf.tensor(Float32Array.from(w), outputShape))];
  });
  const parts = await Promise.all(tensors.map((tensor) => tensor.data<"float32">()));
  tf.dispose(tensors);
  return maxError(
    parts.flatMap((part) => [...part]),
    expect(operation, inputs, w),
  );
}
