/**
 * A network of dense layers and activations on TensorFlow, forward and
 * backward: few and large operations, no tape, and only the gradients that are
 * wanted.
 *
 * Shapes: B rows, and per stage I inputs and O outputs.
 *
 * @module
 */
import type { Network } from "../../shared/nn/network.ts";
import type { Stage } from "./dense-network.ts";
import { stagesOf } from "./dense-network.ts";
import type { TensorId } from "./tensorflow-binding.ts";
import type { Reading, TensorflowOps } from "./tensorflow-ops.ts";
import { isStoredTransposed } from "./tensorflow-order.ts";

/** What a backward pass takes from a forward pass. */
export interface ForwardPass {
  /** (B, inputs). */
  readonly input: TensorId;
  /** Output of each stage, (B, O). */
  readonly activations: readonly TensorId[];
}

export class TensorflowNetwork {
  readonly #ops: TensorflowOps;
  readonly #stages: readonly Stage[];
  /** Weights, (I, O) or stored transposed, and biases (O,) of each stage. */
  #parameters: readonly { readonly weight: TensorId; readonly bias: TensorId }[] = [];

  /** Whether the network is of the form that this class computes. */
  static supports(net: Network): boolean {
    return stagesOf(net) !== null;
  }

  constructor(net: Network, ops: TensorflowOps) {
    const stages = stagesOf(net);
    if (stages === null) throw new Error(`Cannot compute ${net.name} as it must be of dense layers`);
    this.#ops = ops;
    this.#stages = stages;
  }

  /** @param flat (numParameters,), in the order of tensorflowOrder; must not change until they are set again. */
  setParameters(flat: Float32Array): void {
    this.dispose();
    const tensor = (offset: number, shape: readonly number[]): TensorId => {
      const size = shape.reduce((product, n) => product * n, 1);
      return this.#ops.tensor(flat.subarray(offset / 4, offset / 4 + size), shape);
    };
    this.#parameters = this.#stages.map(({ weight, bias, numInputs, numOutputs }) => ({
      weight: tensor(
        weight,
        isStoredTransposed(numOutputs) ? [numOutputs, numInputs] : [numInputs, numOutputs],
      ),
      bias: tensor(bias, [numOutputs]),
    }));
    for (const { weight, bias } of this.#parameters) this.#ops.keep([weight, bias]);
  }

  dispose(): void {
    for (const { weight, bias } of this.#parameters) this.#ops.free([weight, bias]);
    this.#parameters = [];
  }

  forward(input: TensorId): ForwardPass {
    const ops = this.#ops;
    let x = input;
    const activations = this.#stages.map(({ activation, alpha, numOutputs }, i) => {
      const { weight, bias } = this.#parameters[i];
      const product = ops.matMul(x, weight, { transB: isStoredTransposed(numOutputs) });
      x = ops.addBias(product, bias);
      ops.free([product]);
      if (activation !== "none") {
        const sum = x;
        x = ops.activate(activation, sum, alpha);
        ops.free([sum]);
      }
      return x;
    });
    return { input, activations };
  }

  /**
   * Back-propagation.
   *
   * @param outputGradient Gradient by the network's output, (B, outputs).
   * @param out Receives the gradient by the parameters in the same order, once the readings are read; null
   * if it is not wanted.
   * @param wantsInputGradient Whether the gradient by the input is wanted.
   */
  backward(
    { input, activations }: ForwardPass,
    outputGradient: TensorId,
    out: Float32Array | null,
    wantsInputGradient: boolean,
  ): { readonly readings: readonly Reading[]; readonly inputGradient: TensorId | null } {
    const ops = this.#ops;
    const readings: Reading[] = [];
    let dy = outputGradient;
    for (let i = this.#stages.length - 1; i >= 0; i--) {
      const { activation, alpha, weight, bias, numInputs, numOutputs } = this.#stages[i];
      const isTransposed = isStoredTransposed(numOutputs);
      if (activation !== "none") {
        const gradient = ops.activationGradient(activation, dy, activations[i], alpha);
        ops.free([dy]);
        dy = gradient;
      }
      if (out !== null) {
        const x = i === 0 ? input : activations[i - 1];
        const part = (offset: number, size: number) => out.subarray(offset / 4, offset / 4 + size);
        const [left, right] = isTransposed ? [dy, x] : [x, dy];
        const dW = ops.matMul(left, right, { transA: true });
        readings.push(
          { tensor: dW, out: part(weight, numInputs * numOutputs) },
          { tensor: ops.sumRows(dy), out: part(bias, numOutputs) },
        );
      }
      if (i === 0 && !wantsInputGradient) return { readings, inputGradient: null };
      const dx = ops.matMul(dy, this.#parameters[i].weight, { transB: !isTransposed });
      ops.free([dy]);
      dy = dx;
    }
    return { readings, inputGradient: dy };
  }
}
