/**
 * A network is declared once, as a list of layers; the flat parameter vector
 * (name, shape, offset of each tensor) follows from the declaration.
 *
 * @module
 */
import { fillUniform, streamKey } from "../random.ts";
import type { StreamName } from "../random.ts";
import type { Layer, ParameterDeclaration } from "./layers.ts";

export type NetworkName = "generator" | "discriminator";

export interface ParameterEntry extends ParameterDeclaration {
  /** Index of the layer in the network. */
  readonly layer: number;
  /** Name in a PyTorch state dict whose nn.Sequential is called `model`: "model.0.weight". */
  readonly torchName: string;
  /** Position of the first value in the flat vector. */
  readonly offset: number;
  /** Number of values. */
  readonly size: number;
}

export interface Network {
  readonly name: NetworkName;
  /** Values per sample at the input. */
  readonly numInputs: number;
  readonly layers: readonly Layer[];
  /**
   * Activation behind the last layer that losses leave out because they work on logits
   * (numerically safer); it counts as a layer of the nn.Sequential.
   */
  readonly probability: Layer | null;
  readonly parameters: readonly ParameterEntry[];
  /** Length of the flat parameter vector. */
  readonly numParameters: number;
}

export function network(
  name: NetworkName,
  numInputs: number,
  layers: readonly Layer[],
  probability: Layer | null = null,
): Network {
  const parameters: ParameterEntry[] = [];
  let offset = 0;
  for (const [index, layer] of layers.entries()) {
    for (const declaration of layer.parameters) {
      const size = declaration.shape.reduce((product, n) => product * n, 1);
      const torchName = `model.${index}.${declaration.name}`;
      parameters.push({ ...declaration, layer: index, torchName, offset, size });
      offset += size;
    }
  }
  return { name, numInputs, layers, probability, parameters, numParameters: offset };
}

/** One line that tells two networks apart. */
export function describeNetwork(net: Network): string {
  const layers = net.probability === null ? net.layers : [...net.layers, net.probability];
  return layers.map((layer) => layer.description).join(" > ");
}

/** Initial parameters: a function of (seed, network, tensor index) only. @returns Float32Array (numParameters,). */
export function initialParameters(net: Network, seed: number): Float32Array {
  const stream: StreamName = net.name === "generator" ? "generatorInit" : "discriminatorInit";
  const flat = new Float32Array(net.numParameters);
  for (const [index, { offset, size, initBound }] of net.parameters.entries()) {
    fillUniform(flat, streamKey(seed, stream, index), initBound, offset, offset + size);
  }
  return flat;
}
