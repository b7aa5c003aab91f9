/** Dense layers and convolutions, with PyTorch's initial values and names. @module */
import type { Layer, Scope } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import type { ConvGeometry, ConvOptions, Value } from "../graph.ts";
import {
  add,
  conv2d as conv2dOf,
  convolve,
  describe,
  matmul,
  reshape,
  ShapeError,
  sizeOf,
} from "../graph.ts";
import type { Initial } from "../initial-values.ts";

export interface ProductOptions {
  /** Default true. */
  readonly bias?: boolean;
  /** Of the weight. Default: uniform within 1 / sqrt(inputs of an output), as PyTorch's. */
  readonly initial?: Initial;
}

/** y = x W + b along the last axis. Initial values as torch.nn.Linear (He et al. 2015 with a = sqrt(5)). */
export function dense(units: number, options: ProductOptions = {}): Layer {
  return layer(`dense ${units}`, (scope, x) => {
    const inputs = x.shape.at(-1);
    if (inputs === undefined)
      throw new ShapeError(`Cannot multiply one number: expected [inputs], got ${describe(x)}`);
    const initial: Initial = { type: "uniform", bound: 1 / Math.sqrt(inputs) };
    const weight = scope.parameter({
      name: "weight",
      shape: [inputs, units],
      initial: options.initial ?? initial,
      torchAxes: [1, 0],
    });
    const matrix = x.shape.length > 2 ? reshape(x, [sizeOf(x.shape) / inputs, inputs]) : x;
    const y = reshape(matmul(matrix, weight), x.shape.with(-1, units));
    return withBias(scope, y, options, initial);
  });
}

function withBias(scope: Scope, y: Value, { bias = true }: ProductOptions, initial: Initial): Value {
  return bias ? add(y, scope.parameter({ name: "bias", shape: [y.shape.at(-1) as number], initial })) : y;
}

/** PyTorch's filters are (outputs, inputs, height, width), or with outputs and inputs exchanged for the transposed. */
const TORCH_AXES = [3, 2, 0, 1] as const;

/** As torch.nn.Conv2d. */
export function conv2d(channels: number, kernel: number, options: ConvOptions & ProductOptions = {}): Layer {
  return layer(`conv2d ${channels}, ${kernel} x ${kernel}`, (scope, x) => {
    const { groups = 1 } = options;
    const inputs = imageChannels(x) / groups;
    const initial: Initial = { type: "uniform", bound: 1 / Math.sqrt(inputs * kernel * kernel) };
    const shape = [kernel, kernel, inputs, channels];
    const weight = scope.parameter({
      name: "weight",
      shape,
      initial: options.initial ?? initial,
      torchAxes: TORCH_AXES,
    });
    return withBias(scope, conv2dOf(x, weight, options), options, initial);
  });
}

export interface ConvTransposeOptions extends ConvOptions, ProductOptions {
  /** Rows and columns that no pixel of the input reaches, below and to the right. Default 0. */
  readonly outputPadding?: number;
}

/** As torch.nn.ConvTranspose2d: the adjoint of a convolution of its result to its input. */
export function convTranspose2d(channels: number, kernel: number, options: ConvTransposeOptions = {}): Layer {
  return layer(`convTranspose2d ${channels}, ${kernel} x ${kernel}`, (scope, x) => {
    const { stride = 1, padding = 0, groups = 1, outputPadding = 0 } = options;
    const inputs = imageChannels(x);
    const outputs = channels / groups;
    const [height, width] = x.shape;
    const lengthOf = (n: number): number => (n - 1) * stride - 2 * padding + kernel + outputPadding;
    const geometry: ConvGeometry = {
      image: [lengthOf(height), lengthOf(width)],
      filter: [kernel, kernel],
      result: [height, width],
      stride: [stride, stride],
      padding: [padding, padding],
      groups,
    };
    const initial: Initial = { type: "uniform", bound: 1 / Math.sqrt(outputs * kernel * kernel) };
    const shape = [kernel, kernel, outputs, inputs];
    const weight = scope.parameter({
      name: "weight",
      shape,
      initial: options.initial ?? initial,
      torchAxes: TORCH_AXES,
      outputAxis: 2,
    });
    return withBias(scope, convolve("conv2dInput", x, weight, geometry), options, initial);
  });
}

function imageChannels(x: Value): number {
  if (x.shape.length !== 3) {
    throw new ShapeError(
      `Cannot convolve what is no image: expected [height, width, channels], got ${describe(x)}`,
    );
  }
  return x.shape[2];
}
