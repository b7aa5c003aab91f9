/**
 * Gradients that tfjs 4.22 lacks or has wrong, and that make gradients of
 * gradients right on every backend. What tfjs saves of an operation's result
 * counts as a constant when a gradient is differentiated again: silently wrong
 * for tanh, sigmoid, exp, softmax and others. So here every gradient is written
 * in terms of inputs, and results are computed once more. Comparisons, which
 * masks are made of, get the gradient zero.
 *
 * Still to be avoided in layers under an objective that needs a gradient of a
 * gradient: `tf.logSoftmax` (take x - logSumExp(x)), a learned exponent of
 * `tf.pow`, and where tfjs says so `tf.prod`, `tf.stridedSlice`, `tf.einsum`,
 * dilated convolutions and maxPool with overlapping windows.
 *
 * @module
 */
import type { GradConfig, NamedAttrMap, NamedTensorMap, Tensor, Tensor4D } from "@tensorflow/tfjs";
import type { TensorFlow } from "../../shared/nn/layers.ts";

/** Derivatives by the inputs, given the derivative by the output and the inputs themselves. */
type InputGradients = (
  dy: Tensor,
  inputs: readonly Tensor[],
  attributes: NamedAttrMap,
) => Readonly<Record<string, () => Tensor>>;

/** An operation's inputs by name, and its gradient. */
type Repair = readonly [inputs: readonly string[], gradients: InputGradients];

/** Registers the gradients, for all backends of this process. */
export function repairGradients(tf: TensorFlow): void {
  const repairs = {
    ...comparisons(tf),
    ...activations(tf),
    ...reductions(tf),
    ...convolutions(tf),
    ...pools(tf),
    ...resizes(tf),
    ...rearrangements(tf),
  };
  for (const [kernelName, [inputsToSave, gradients]] of Object.entries(repairs)) {
    const gradFunc = gradients as unknown as GradConfig["gradFunc"];
    tf.registerGradient({ kernelName, inputsToSave: [...inputsToSave], gradFunc });
  }
}

/** Their results are steps: flat wherever they have a derivative. */
function comparisons(tf: TensorFlow): Readonly<Record<string, Repair>> {
  const flat = (...names: readonly string[]): Repair => [
    names,
    (_dy, inputs) => Object.fromEntries(inputs.map(({ shape }, i) => [names[i], () => tf.zeros(shape)])),
  ];
  const two = flat("a", "b");
  return {
    Greater: two,
    GreaterEqual: two,
    Less: two,
    LessEqual: two,
    Equal: two,
    NotEqual: two,
    LogicalAnd: two,
    LogicalOr: two,
    LogicalNot: flat("x"),
  };
}

function activations(tf: TensorFlow): Readonly<Record<string, Repair>> {
  const derivative = (of: (x: Tensor, attributes: NamedAttrMap) => Tensor): Repair => [
    ["x"],
    (dy, [x], attributes) => ({ x: () => tf.mul(dy, of(x, attributes)) }),
  ];
  return {
    Tanh: derivative((x) => tf.sub(1, tf.square(tf.tanh(x)))),
    Sigmoid: derivative((x) => {
      const y = tf.sigmoid(x);
      return tf.mul(y, tf.sub(1, y));
    }),
    Exp: derivative((x) => tf.exp(x)),
    LeakyRelu: derivative((x, { alpha }) => tf.step(x, alpha as number)),
    // 1 for x > 0, else exp(x); the minimum keeps exp from overflowing where it is not used.
    Elu: derivative((x) => {
      const positive = tf.step(x);
      return tf.add(positive, tf.mul(tf.sub(1, positive), tf.exp(tf.minimum(x, 0))));
    }),
    Softmax: [
      ["logits"],
      (dy, [logits], { dim }) => ({
        logits: () => {
          const y = tf.softmax(logits, dim as number);
          const weighted = tf.mul(dy, y);
          return tf.sub(weighted, tf.mul(tf.sum(weighted, dim as number, true), y));
        },
      }),
    ],
  };
}

function reductions(tf: TensorFlow): Readonly<Record<string, Repair>> {
  /** The derivative goes to every element that equals the extreme. */
  const extreme = (reduce: typeof tf.max, axisOf: (attributes: NamedAttrMap) => unknown): Repair => [
    ["x"],
    (dy, [x], attributes) => ({
      x: () => {
        const axes = tf.util.parseAxisParam(axisOf(attributes) as number[], x.shape);
        const y = reduce(x, axes, true);
        return tf.mul(tf.reshape(dy, y.shape), tf.cast(tf.equal(x, y), "float32"));
      },
    }),
  ];
  return {
    Max: extreme(tf.max, ({ reductionIndices }) => reductionIndices),
    Min: extreme(tf.min, ({ axis }) => axis),
  };
}

/** Products of x, a filter and dy are linear in each, so each one's gradient is made of the other two. */
function convolutions(tf: TensorFlow): Readonly<Record<string, Repair>> {
  const conv2d = (x: Tensor, filter: Tensor, attributes: NamedAttrMap): Tensor => {
    const { strides, pad, dataFormat, dimRoundingMode } = attributes as never;
    return tf.conv2d(x as never, filter as never, strides, pad, dataFormat, 1, dimRoundingMode);
  };
  const depthwise = (x: Tensor, filter: Tensor, attributes: NamedAttrMap): Tensor => {
    const { strides, pad, dilations, dimRoundingMode } = attributes as never;
    return tf.depthwiseConv2d(x as never, filter as never, strides, pad, "NHWC", dilations, dimRoundingMode);
  };
  return {
    Conv2DBackpropFilter: [
      ["x", "dy"],
      (ddFilter, [x, dy], attributes) => ({
        x: () =>
          runKernel(
            tf,
            "Conv2DBackpropInput",
            { dy, filter: ddFilter },
            { ...attributes, inputShape: x.shape },
          ),
        dy: () => conv2d(x, ddFilter, attributes),
      }),
    ],
    DepthwiseConv2dNativeBackpropInput: [
      ["dy", "filter"],
      (ddx, [dy, filter], attributes) => ({
        dy: () => depthwise(ddx, filter, attributes),
        filter: () =>
          runKernel(
            tf,
            "DepthwiseConv2dNativeBackpropFilter",
            { x: ddx, dy },
            { ...attributes, filterShape: filter.shape },
          ),
      }),
    ],
    DepthwiseConv2dNativeBackpropFilter: [
      ["x", "dy"],
      (ddFilter, [x, dy], attributes) => ({
        x: () =>
          runKernel(
            tf,
            "DepthwiseConv2dNativeBackpropInput",
            { dy, filter: ddFilter },
            { ...attributes, inputShape: x.shape },
          ),
        dy: () => depthwise(x, ddFilter, attributes),
      }),
    ],
  };
}

function runKernel(
  tf: TensorFlow,
  kernelName: string,
  inputs: NamedTensorMap,
  attributes: NamedAttrMap,
): Tensor {
  return tf.engine().runKernel(kernelName, inputs, attributes);
}

/** Gradients that are linear in dy: their own gradient is the forward operation again. */
function pools(tf: TensorFlow): Readonly<Record<string, Repair>> {
  return {
    AvgPoolGrad: [
      ["dy", "input"],
      (ddx, [dy, input], { filterSize, strides, pad }) => ({
        dy: () =>
          tf.reshape(tf.avgPool(ddx as never, filterSize as never, strides as never, pad as never), dy.shape),
        input: () => tf.zeros(input.shape),
      }),
    ],
    MaxPoolGrad: [
      ["dy", "input", "output"],
      (ddx, [dy, input, output], attributes) => {
        const { filterSize, strides, pad } = attributes as never;
        const [height, width] = windowOf(input, filterSize, strides, pad);
        return {
          dy: () => {
            // One 1 per window, at its maximum. So the average over a window is ddx there, divided by its size.
            const ones = tf.ones(dy.shape);
            const inputs = { dy: ones, input, output };
            const atMaximum = runKernel(tf, "MaxPoolGrad", inputs, attributes);
            const average = tf.avgPool(tf.mul<Tensor4D>(ddx, atMaximum), filterSize, strides, pad);
            return tf.mul(average, height * width);
          },
          input: () => tf.zeros(input.shape),
          output: () => tf.zeros(output.shape),
        };
      },
    ],
  };
}

/**
 * tfjs's own are wrong for half-pixel centers, and on its cpu backend for several images or images that are not square.
 */
function resizes(tf: TensorFlow): Readonly<Record<string, Repair>> {
  /** What `resize` did along an axis, transposed. */
  const back = (dy: Tensor, axis: number, size: number, resize: (image: Tensor4D) => Tensor): Tensor => {
    // Each column of the identity, resized, says where an input pixel went: (out, in).
    const weights = tf.reshape(resize(tf.reshape(tf.eye(size), [1, size, 1, size])), [-1, size]);
    const order = [axis, ...[0, 1, 2, 3].filter((other) => other !== axis)];
    const first = tf.transpose(dy, order);
    const product = tf.matMul(weights, tf.reshape(first, [first.shape[0], -1]), true);
    const shape = [size, ...first.shape.slice(1)];
    return tf.transpose(
      tf.reshape(product, shape),
      [0, 1, 2, 3].map((i) => order.indexOf(i)),
    );
  };
  const resized = (forward: typeof tf.image.resizeBilinear): Repair => [
    ["images"],
    (dy, [images], { alignCorners, halfPixelCenters }) => ({
      images: () =>
        [1, 2].reduce((at, axis) => {
          const out = dy.shape[axis];
          return back(at, axis, images.shape[axis], (image) =>
            forward(image, [out, 1], alignCorners as boolean, halfPixelCenters as boolean),
          );
        }, dy),
    }),
  ];
  return {
    ResizeNearestNeighbor: resized(tf.image.resizeNearestNeighbor),
    ResizeBilinear: resized(tf.image.resizeBilinear),
  };
}

/** Height and width of a pool's windows. @throws {Error} If windows overlap or reach beyond the image. */
function windowOf(
  { shape }: Tensor,
  filterSize: number | readonly [number, number],
  strides: number | readonly [number, number],
  pad: unknown,
): readonly [number, number] {
  const size = typeof filterSize === "number" ? ([filterSize, filterSize] as const) : filterSize;
  const step = typeof strides === "number" ? ([strides, strides] as const) : strides;
  const fits = [0, 1].every((axis) => {
    const isPlain = pad === "valid" || pad === 0 || shape[1 + axis] % size[axis] === 0;
    return step[axis] === size[axis] && isPlain;
  });
  if (!fits) {
    throw new Error(
      `Cannot differentiate the gradient of maxPool as windows must not overlap or be padded: got size ${size.join("x")}, stride ${step.join("x")}, pad ${String(pad)}`,
    );
  }
  return size;
}

function rearrangements(tf: TensorFlow): Readonly<Record<string, Repair>> {
  return {
    DepthToSpace: [
      ["x"],
      (dy, [x], { blockSize, dataFormat }) => ({
        x: () => {
          if (dataFormat !== "NHWC")
            throw new Error(
              `Cannot differentiate depthToSpace as it must be NHWC: got ${dataFormat as string}`,
            );
          const b = blockSize as number;
          const [n, h, w, c] = x.shape as [number, number, number, number];
          const blocks = tf.reshape(dy, [n, h, b, w, b, c / (b * b)]);
          return tf.reshape(tf.transpose(blocks, [0, 1, 3, 2, 4, 5]), x.shape);
        },
      }),
    ],
    MirrorPad: [
      ["x"],
      (dy, [x], { mode, paddings }) => ({
        x: () => {
          const offset = mode === "reflect" ? 1 : 0;
          let dx = dy;
          for (const [axis, [before, after]] of (paddings as readonly [number, number][]).entries()) {
            dx = foldMirrors(tf, dx, axis, x.shape[axis], before, after, offset);
          }
          return dx;
        },
      }),
    ],
  };
}

/** Adds what stands in the mirrored margins of one axis to where it was copied from. */
function foldMirrors(
  tf: TensorFlow,
  dy: Tensor,
  axis: number,
  size: number,
  before: number,
  after: number,
  offset: number,
): Tensor {
  const cut = (start: number, length: number): Tensor => {
    const starts = dy.shape.map((_, i) => (i === axis ? start : 0));
    const sizes = dy.shape.map((n, i) => (i === axis ? length : n));
    return tf.slice(dy, starts, sizes);
  };
  /** The margin, mirrored and then placed at `start` of the axis. */
  const folded = (margin: Tensor, start: number): Tensor => {
    const length = margin.shape[axis];
    const room = dy.shape.map((_, i): [number, number] =>
      i === axis ? [start, size - start - length] : [0, 0],
    );
    return tf.pad(tf.reverse(margin, axis), room);
  };
  let sum = cut(before, size);
  if (before > 0) sum = tf.add(sum, folded(cut(0, before), offset));
  if (after > 0) sum = tf.add(sum, folded(cut(before + size, after), size - offset - after));
  return sum;
}
