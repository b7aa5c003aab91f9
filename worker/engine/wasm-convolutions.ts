/**
 * tfjs's convolutions (NHWC, no dilation) as our kernels take them. The stock
 * wasm backend has none for the filter's gradient.
 *
 * @module
 */
import type { NamedAttrMap, NamedTensorInfoMap, TensorInfo } from "@tensorflow/tfjs";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import type { ConvShape, Kernels, Pointer } from "../kernels/kernels.ts";

export interface ConvolutionContext {
  readonly tf: TensorFlow;
  readonly kernels: Kernels;
  readonly output: (shape: readonly number[]) => TensorInfo;
  readonly at: (tensor: TensorInfo) => Pointer;
  /** Room for so many bytes, until the next call. */
  readonly scratch: (bytes: number) => Pointer;
}

export type OwnKernel = (inputs: NamedTensorInfoMap, attrs: NamedAttrMap) => TensorInfo | null;

/** By kernel name; each returns null for what it does not do. */
export function convolutionKernels(context: ConvolutionContext): Readonly<Record<string, OwnKernel>> {
  const { tf, kernels, output, at, scratch } = context;
  const shapeOf = (
    xShape: readonly number[],
    filterShape: readonly number[],
    attrs: NamedAttrMap,
  ): ConvShape | null => {
    const { strides, pad, dimRoundingMode, dilations = 1 } = attrs as unknown as ConvolutionAttributes;
    const isPlain = [dilations].flat().every((d) => d === 1) && (attrs["dataFormat"] ?? "NHWC") === "NHWC";
    if (!isPlain || xShape.length !== 4) return null;
    const { computeConv2DInfo } = tf.backend_util;
    const shapes = [xShape, filterShape] as unknown as [Shape4D, Shape4D];
    const info = computeConv2DInfo(...shapes, strides, 1, pad, dimRoundingMode);
    return {
      batch: info.batchSize,
      inHeight: info.inHeight,
      inWidth: info.inWidth,
      inChannels: info.inChannels,
      filterHeight: info.filterHeight,
      filterWidth: info.filterWidth,
      outHeight: info.outHeight,
      outWidth: info.outWidth,
      outChannels: info.outChannels,
      strideY: info.strideHeight,
      strideX: info.strideWidth,
      padTop: info.padInfo.top,
      padLeft: info.padInfo.left,
    };
  };
  const room = (shape: ConvShape): Pointer => scratch(kernels.convScratchBytes(shape));
  return {
    Conv2D({ x, filter }, attrs) {
      const shape = x && filter ? shapeOf(x.shape, filter.shape, attrs) : null;
      if (shape === null || x === undefined || filter === undefined) return null;
      const y = output([shape.batch, shape.outHeight, shape.outWidth, shape.outChannels]);
      kernels.conv2d({ shape, x: at(x), w: at(filter), y: at(y), scratch: room(shape) });
      return y;
    },
    Conv2DBackpropInput({ dy, filter }, attrs) {
      const inputShape = attrs["inputShape"] as readonly number[];
      const shape = filter ? shapeOf(inputShape, filter.shape, attrs) : null;
      if (shape === null || dy === undefined || filter === undefined) return null;
      const dx = output(inputShape);
      kernels.conv2dBackpropInput({ shape, dy: at(dy), w: at(filter), dx: at(dx), scratch: room(shape) });
      return dx;
    },
    Conv2DBackpropFilter({ x, dy }, attrs) {
      const filterShape = attrs["filterShape"] as readonly number[];
      const shape = x ? shapeOf(x.shape, filterShape, attrs) : null;
      if (shape === null || x === undefined || dy === undefined) return null;
      const dw = output(filterShape);
      kernels.conv2dBackpropFilter({ shape, x: at(x), dy: at(dy), dw: at(dw), scratch: room(shape) });
      return dw;
    },
  };
}

type Shape4D = [number, number, number, number];

/** What tfjs-core passes to its convolution kernels. */
interface ConvolutionAttributes {
  readonly strides: number | [number, number];
  readonly pad: "valid" | "same" | number;
  readonly dimRoundingMode?: "floor" | "round" | "ceil";
  readonly dilations?: number | [number, number];
}
