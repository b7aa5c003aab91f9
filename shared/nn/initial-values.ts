/**
 * Initial values of parameters and other state: functions of a random stream a tensor, so that one more tensor
 * changes no other.
 *
 * @module
 */
import type { StreamKey } from "../random.ts";
import { fillNormal, fillUniform } from "../random.ts";
import type { Shape } from "./graph.ts";
import { sizeOf } from "./graph.ts";

export type Initial =
  | { readonly type: "uniform"; readonly bound: number }
  | { readonly type: "normal"; readonly mean?: number; readonly deviation: number }
  | { readonly type: "constant"; readonly value: number }
  /** Columns (outputs) or rows, whichever are fewer, are orthogonal and have length `gain`. Source: Saxe et al. 2014. */
  | { readonly type: "orthogonal"; readonly gain: number }
  /** Lengths of another tensor of the same layer, along all axes but those on which this one is longer than 1. */
  | { readonly type: "lengthsOf"; readonly name: string };

/** A tensor of a network that lives on between steps. */
export interface Declaration {
  /** Within its layer, as PyTorch calls it: "weight". */
  readonly name: string;
  readonly shape: Shape;
  readonly initial: Initial;
  /** Axis i of PyTorch's tensor is axis torchAxes[i] here. Default: the same axes. */
  readonly torchAxes?: readonly number[];
  /** The axis of outputs, of which spectral norm makes columns. Default: the last. */
  readonly outputAxis?: number;
}

export interface Entry extends Declaration {
  /** In the network, as in a PyTorch state dict: "model.0.weight". */
  readonly path: string;
  /** Position of its first number in the flat vector. */
  readonly offset: number;
  readonly size: number;
}

/** @param keyOf The stream of the i-th tensor. @returns The flat vector. */
export function initialValues(entries: readonly Entry[], keyOf: (index: number) => StreamKey): Float32Array {
  const flat = new Float32Array(entries.reduce((sum, { size }) => sum + size, 0));
  const deferred: (() => void)[] = [];
  for (const [index, entry] of entries.entries()) {
    const { initial, offset, size } = entry;
    const own = flat.subarray(offset, offset + size);
    switch (initial.type) {
      case "uniform":
        fillUniform(own, keyOf(index), initial.bound);
        break;
      case "normal": {
        const { mean = 0, deviation } = initial;
        fillNormal(own, keyOf(index));
        for (let i = 0; i < size; i++) own[i] = mean + deviation * own[i];
        break;
      }
      case "constant":
        own.fill(initial.value);
        break;
      case "orthogonal":
        fillNormal(own, keyOf(index));
        orthogonalize(own, entry.shape[entry.outputAxis ?? entry.shape.length - 1], entry, initial.gain);
        break;
      case "lengthsOf": {
        const path = entry.path.slice(0, -entry.name.length) + initial.name;
        const of = entries.find((other) => other.path === path) as Entry;
        deferred.push(() =>
          lengths(flat.subarray(of.offset, of.offset + of.size), of.shape, own, entry.shape),
        );
      }
    }
  }
  for (const fill of deferred) fill();
  return flat;
}

/** Where the outputs' axis is not the last, its position is that of the last in a transposed matrix. */
function orthogonalize(
  own: Float32Array,
  numOutputs: number,
  { shape, outputAxis }: Entry,
  gain: number,
): void {
  const inner = sizeOf(shape.slice((outputAxis ?? shape.length - 1) + 1));
  const numInputs = own.length / numOutputs;
  const at = (output: number, input: number): number =>
    (Math.floor(input / inner) * numOutputs + output) * inner + (input % inner);
  const byOutput = numOutputs <= numInputs;
  const [count, length] = byOutput ? [numOutputs, numInputs] : [numInputs, numOutputs];
  const vectors = Array.from({ length: count }, (_, i) =>
    Float64Array.from({ length }, (_, j) => own[byOutput ? at(i, j) : at(j, i)]),
  );
  for (const [i, v] of vectors.entries()) {
    // Twice, as rounding leaves something of the others after once.
    for (const u of [...vectors.slice(0, i), ...vectors.slice(0, i)]) {
      const along = u.reduce((sum, x, j) => sum + x * v[j], 0);
      for (let j = 0; j < length; j++) v[j] -= along * u[j];
    }
    const scale = 1 / Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
    for (let j = 0; j < length; j++) v[j] *= scale;
  }
  for (const [i, v] of vectors.entries()) {
    for (const [j, x] of v.entries()) own[byOutput ? at(i, j) : at(j, i)] = gain * x;
  }
}

/** @param shape That of `of`, or 1 on each axis. */
function lengths(of: Float32Array, ofShape: Shape, own: Float32Array, shape: Shape): void {
  const squares = new Float64Array(own.length);
  for (const [i, x] of of.entries()) {
    let at = 0;
    for (const [axis, n] of ofShape.entries()) {
      const index = Math.floor(i / sizeOf(ofShape.slice(axis + 1))) % n;
      if (shape[axis] !== 1) at += index * sizeOf(shape.slice(axis + 1));
    }
    squares[at] += x * x;
  }
  for (const [i, square] of squares.entries()) own[i] = Math.sqrt(square);
}
