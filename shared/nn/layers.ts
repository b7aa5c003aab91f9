/**
 * Layers: what parameters each has and how it maps its input, written once
 * against the tfjs operations that every engine offers. To add a layer, add a
 * function here; nothing else needs to know of it.
 *
 * @module
 */
import type { Tensor } from "@tensorflow/tfjs";

/** The operations that layers and objectives may use. A type only: the coordinator never loads tfjs. */
export type TensorFlow = typeof import("@tensorflow/tfjs");

export interface ParameterDeclaration {
  /** Name within the layer, as PyTorch calls it: "weight", "bias". */
  readonly name: string;
  /** Shape as the engines use it. */
  readonly shape: readonly number[];
  /** Initial values are uniform in [-initBound, initBound). */
  readonly initBound: number;
  /** Whether PyTorch keeps this matrix transposed (out, in); checkpoints follow PyTorch. */
  readonly transposedInTorch: boolean;
}

/** What an engine with kernels of its own must know to compute a layer without tfjs. */
export type LayerKernel =
  | { readonly type: "dense"; readonly numInputs: number; readonly numOutputs: number }
  | { readonly type: "leakyRelu"; readonly alpha: number }
  | { readonly type: "tanh" | "sigmoid" };

export interface Layer {
  /** Text from which two layers can be told apart, as in an error or a manifest. */
  readonly description: string;
  readonly parameters: readonly ParameterDeclaration[];
  /**
   * Whether a row of the output depends on the same row of the input only, and gradients of parameters
   * come from products with a transposed left operand and sums over rows. An engine may then compute
   * several shards in one pass; otherwise (batch statistics) it takes them one by one.
   */
  readonly rowwise: boolean;
  /** The layer for engines with kernels of their own, or null if only tfjs can compute it. */
  readonly kernel: LayerKernel | null;
  /** @param x (B, in). @param parameters One tensor per declaration, in order. @returns (B, out). */
  forward(tf: TensorFlow, x: Tensor, parameters: readonly Tensor[]): Tensor;
}

/**
 * y = x W + b with W (in, out). Initial values as torch.nn.Linear: uniform within 1 / sqrt(in)
 * (Kaiming-uniform with a = sqrt(5), He et al. 2015).
 */
export function dense(numInputs: number, numOutputs: number): Layer {
  const initBound = 1 / Math.sqrt(numInputs);
  return {
    description: `dense(${numInputs}, ${numOutputs})`,
    parameters: [
      { name: "weight", shape: [numInputs, numOutputs], initBound, transposedInTorch: true },
      { name: "bias", shape: [numOutputs], initBound, transposedInTorch: false },
    ],
    rowwise: true,
    kernel: { type: "dense", numInputs, numOutputs },
    forward: (tf, x, [weight, bias]) => tf.add(tf.matMul(x, weight), bias),
  };
}

/** max(x, alpha x), for 0 < alpha < 1. Source: Maas et al. 2013. */
export function leakyRelu(alpha: number): Layer {
  return {
    description: `leakyRelu(${alpha})`,
    parameters: [],
    rowwise: true,
    kernel: { type: "leakyRelu", alpha },
    forward: (tf, x) => tf.leakyRelu(x, alpha),
  };
}

export function tanh(): Layer {
  return elementwise("tanh");
}

export function sigmoid(): Layer {
  return elementwise("sigmoid");
}

function elementwise(type: "tanh" | "sigmoid"): Layer {
  return {
    description: type,
    parameters: [],
    rowwise: true,
    kernel: { type },
    forward: (tf, x) => tf[type](x),
  };
}
