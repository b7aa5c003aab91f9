/**
 * A network of dense layers and activations, forward and backward, on the
 * kernels: no automatic differentiation, no copies, nothing allocated.
 *
 * Every value of a row depends on that row only, and sums over rows are tree
 * sums over shards, so the bits of a gradient depend on the shards and not on
 * how many of them are computed in one pass. Weights and their gradients are in
 * panels (parameter-order.ts).
 *
 * Shapes: B rows, and per stage I inputs and O outputs.
 *
 * @module
 */
import type { Network } from "../../shared/nn/network.ts";
import type { HostMemory } from "../host-memory.ts";
import type { KernelActivation, Leaves, Pointer, ProductEnding } from "../kernels/kernels.ts";

/** y = activation(x W + b). */
export interface Stage {
  readonly numInputs: number;
  readonly numOutputs: number;
  /** Bytes from the first parameter to W (I, O). */
  readonly weight: number;
  /** Bytes from the first parameter to b (O,). */
  readonly bias: number;
  readonly activation: KernelActivation;
  readonly alpha: number;
}

/** Vectors that networks may share, as only one computes at a time. */
export interface Workspace {
  /** Room for gemmScratchBytes() of the largest product. */
  readonly scratch: Pointer;
  /** Two of (most rows, most values per row). */
  readonly gradients: readonly [Pointer, Pointer];
  /** (most rows,) of 1. */
  readonly ones: Pointer;
}

export interface BackwardPass {
  readonly parameters: Pointer;
  /** (B, inputs) as in the forward pass, whose activations are used. */
  readonly input: Pointer;
  readonly numRows: number;
  /** Gradient by the output, (B, outputs); overwritten. */
  readonly outputGradient: Pointer;
  /** Receives the gradient by the parameters, summed over the leaves in the canonical tree; null if not wanted. */
  readonly parameterGradient: {
    readonly pointer: Pointer;
    readonly leaves: Leaves;
    readonly mode: "tree" | "treeBf16";
  } | null;
  /** Whether the gradient by the input is wanted. */
  readonly inputGradient: boolean;
}

export class DenseNetwork {
  readonly #memory: HostMemory;
  readonly #workspace: Workspace;
  readonly #stages: readonly Stage[];
  /** Output of each stage, (B, O). */
  readonly #activations: readonly Float32Array[];

  /** Lengths of the vectors that a network allocates, or null if it has other layers than these kernels compute. */
  static lengths(net: Network, maxRows: number): readonly number[] | null {
    return stagesOf(net)?.map(({ numOutputs }) => maxRows * numOutputs) ?? null;
  }

  constructor(net: Network, maxRows: number, memory: HostMemory, workspace: Workspace) {
    const stages = stagesOf(net);
    if (stages === null) throw new Error(`Cannot compute ${net.name} as it has layers without kernels`);
    this.#stages = stages;
    this.#memory = memory;
    this.#workspace = workspace;
    this.#activations = stages.map(({ numOutputs }) => memory.allocate(maxRows * numOutputs));
  }

  /** @param input (B, inputs). @returns (B, outputs), until the next forward pass. */
  forward(parameters: Pointer, input: Pointer, numRows: number): Pointer {
    const { kernels } = this.#memory;
    let x = input;
    for (const [i, stage] of this.#stages.entries()) {
      const y = this.#activations[i].byteOffset;
      const { numInputs: K, numOutputs: N, activation, alpha } = stage;
      const ending: ProductEnding = { bias: parameters + stage.bias, activation, alpha };
      const { scratch } = this.#workspace;
      kernels.gemm({
        M: numRows,
        N,
        K,
        a: x,
        b: parameters + stage.weight,
        panelsB: true,
        c: y,
        scratch,
        ...ending,
      });
      x = y;
    }
    return x;
  }

  /** Back-propagation through the last forward pass. @returns The gradient by the input, (B, inputs), or null. */
  backward(pass: BackwardPass): Pointer | null {
    const { parameters, numRows, parameterGradient } = pass;
    const { kernels } = this.#memory;
    const { scratch, gradients } = this.#workspace;
    let dy = pass.outputGradient;
    for (let i = this.#stages.length - 1; i >= 0; i--) {
      const stage = this.#stages[i];
      const { numInputs, numOutputs } = stage;
      this.#activationBackward(stage, numRows, dy, this.#activations[i].byteOffset);
      if (parameterGradient !== null) {
        const { pointer, leaves, mode } = parameterGradient;
        const sum = {
          transA: true,
          N: numOutputs,
          K: numRows,
          b: dy,
          scratch,
          mode,
          leaves,
        } as const;
        const x = i === 0 ? pass.input : this.#activations[i - 1].byteOffset;
        kernels.gemm({ ...sum, M: numInputs, a: x, c: pointer + stage.weight, panelsC: true });
        kernels.gemm({ ...sum, M: 1, a: this.#workspace.ones, c: pointer + stage.bias });
      }
      if (i === 0 && !pass.inputGradient) return null;
      const dx = dy === gradients[0] ? gradients[1] : gradients[0];
      const weight = { b: parameters + stage.weight, transB: true, panelsB: true };
      kernels.gemm({ M: numRows, N: numInputs, K: numOutputs, a: dy, ...weight, c: dx, scratch });
      dy = dx;
    }
    return dy;
  }

  #activationBackward(
    { activation, alpha, numOutputs }: Stage,
    numRows: number,
    dy: Pointer,
    y: Pointer,
  ): void {
    const { kernels } = this.#memory;
    const n = numRows * numOutputs;
    if (activation === "leakyRelu") kernels.leakyReluBackward(n, dy, y, dy, alpha);
    else if (activation === "tanh") kernels.tanhBackward(n, dy, y, dy);
    else if (activation === "sigmoid") kernels.sigmoidBackward(n, dy, y, dy);
  }
}

/** The most values that a row has anywhere in the network, its input included. */
export function maxWidth(net: Network): number {
  return Math.max(net.numInputs, ...(stagesOf(net) ?? []).map(({ numOutputs }) => numOutputs));
}

/** @returns Dense layers, each with the activation behind it, or null if the network has any other form. */
export function stagesOf(net: Network): readonly Stage[] | null {
  const stages: Stage[] = [];
  for (const [index, { kernel }] of net.layers.entries()) {
    if (kernel === null) return null;
    if (kernel.type === "dense") {
      const [weight, bias] = net.parameters.filter(({ layer }) => layer === index);
      const { numInputs, numOutputs } = kernel;
      const offsets = { weight: weight.offset * 4, bias: bias.offset * 4 };
      stages.push({ numInputs, numOutputs, ...offsets, activation: "none", alpha: 0 });
      continue;
    }
    const dense = stages.pop();
    // The derivative of leakyRelu is taken from the sign of its output.
    if (dense?.activation !== "none" || (kernel.type === "leakyRelu" && kernel.alpha < 0)) return null;
    stages.push({ ...dense, activation: kernel.type, alpha: "alpha" in kernel ? kernel.alpha : 0 });
  }
  return stages;
}
