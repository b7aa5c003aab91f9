// Gradients of graphs against differences of their values, in float64.

import type { Shape, Value } from "../../../shared/nn/graph.ts";
import { add, ancestors, constant, mul, reshape, sizeOf, sum, sumBatch } from "../../../shared/nn/graph.ts";
import { gradient } from "../../../shared/nn/gradient.ts";
import type { Bindings, Shards } from "../../../shared/nn/interpreter.ts";
import { evaluate } from "../../../shared/nn/interpreter.ts";
import { compile } from "../../../shared/nn/program.ts";
import { runProgram } from "../../../shared/nn/run-program.ts";
import { mulberry32 } from "../../reference/mulberry32.ts";

/** Of different sizes. */
export const SHARDS: Shards = { sizes: [2, 1, 3] };
export const NUM_SAMPLES = 6;

/** The numbers of each leaf. */
export type Assigned = ReadonlyMap<Value, Float64Array>;

function isGiven(value: Value): boolean {
  return value.op === "parameter" || (value.op === "input" && value.fill !== "shardSize");
}

/** Random numbers for all leaves that take some, or what `given` says. */
export function assign(
  outputs: readonly Value[],
  given: (leaf: Value) => ArrayLike<number> | undefined = () => undefined,
  shards = SHARDS,
): Assigned {
  const random = mulberry32(1);
  const numRows = { shared: 1, shard: shards.sizes.length, sample: shards.sizes.reduce((a, b) => a + b) };
  return new Map(
    ancestors(outputs)
      .filter(isGiven)
      .map((leaf) => {
        const length = numRows[leaf.extent] * sizeOf(leaf.shape);
        const uniform = leaf.op === "input" && leaf.fill === "uniform";
        const drawn = uniform ? random.uniforms(length, 0.5).map((x) => x + 0.5) : random.normals(length);
        return [leaf, Float64Array.from(given(leaf) ?? drawn)];
      }),
  );
}

export function bind(values: Assigned): Bindings {
  const parameters: Record<string, Record<string, Float64Array>> = {};
  const inputs: Record<string, Float64Array> = {};
  for (const [leaf, numbers] of values) {
    if (leaf.op === "parameter") (parameters[leaf.vector] ??= {})[leaf.name] = numbers;
    else if (leaf.op === "input") inputs[leaf.name] = numbers;
  }
  return { parameters, inputs };
}

/** A number that depends on all numbers of the outputs in a curved way. */
export function scalarFrom(outputs: readonly Value[]): Value {
  const random = mulberry32(9);
  const weights = (shape: Shape): Value => constant([...random.normals(sizeOf(shape))], shape);
  return outputs
    .map((y) => {
      const curved = add(mul(weights(y.shape), y), mul(weights(y.shape), mul(y, y)));
      const total = sum(curved);
      return reshape(total.extent === "shared" ? total : sumBatch(total), []);
    })
    .reduce((a, b) => add(a, b));
}

/** Largest difference, relative to the largest expected magnitude (or the floor, if all are smaller). */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>, floor = 0): number {
  if (actual.length !== expected.length) return Infinity;
  let scale = floor;
  let error = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!Number.isFinite(difference)) return Infinity;
    scale = Math.max(scale, Math.abs(expected[i]));
    error = Math.max(error, difference);
  }
  return error === 0 ? 0 : error / scale;
}

/** All indices, or of many some that are spread over every axis; the second gradient is compared at all. */
function coordinates(length: number): readonly number[] {
  const step = Math.max(1, Math.floor(length / 40) | 1);
  return Array.from({ length: Math.ceil(length / step) }, (_, i) => i * step);
}

export interface Errors {
  readonly gradient: number;
  /** Of the gradient of the gradient's product with a direction. */
  readonly second: number;
  /** Of the values and both gradients as a program, against the graph. */
  readonly program: number;
  /** Whether some number depends on the leaves, and its gradient too: else nothing was checked. */
  readonly depends: boolean;
  readonly curved: boolean;
}

/**
 * @param outputs Anything of which {@linkcode scalarFrom} makes a number.
 * @param of Leaves. Default: all that take numbers.
 */
export function gradientErrors(
  outputs: readonly Value[],
  given?: (leaf: Value) => ArrayLike<number> | undefined,
  isWanted: (leaf: Value) => boolean = () => true,
): Errors {
  const y = scalarFrom(outputs);
  const values = assign([y], given);
  const of = [...values.keys()].filter(isWanted);
  const first = gradient(y, of);
  const random = mulberry32(3);
  const directions = of.map((leaf) => random.normals((values.get(leaf) as Float64Array).length));
  // The same direction for every sample of a shard would hide mistakes, so directions are inputs.
  const along = first
    .map((g, i) => {
      const direction: Value = { ...of[i], op: "input", name: `direction ${i}`, fill: "data", inputs: [] };
      const total = sum(mul(g, direction));
      return reshape(total.extent === "shared" ? total : sumBatch(total), []);
    })
    .reduce((a, b) => add(a, b));
  const second = gradient(along, of);
  const bindings = (moved: Assigned): Bindings => {
    const { parameters, inputs } = bind(moved);
    const own = Object.fromEntries(directions.map((numbers, i) => [`direction ${i}`, numbers]));
    return { parameters: parameters ?? {}, inputs: { ...inputs, ...own } };
  };
  const at = (outputs: readonly Value[], moved: Assigned = values): readonly number[][] =>
    evaluate(outputs, bindings(moved), SHARDS).map((numbers) => [...numbers]);

  const h = 1e-5;
  const expected = of.map((leaf) => {
    const numbers = values.get(leaf) as Float64Array;
    return coordinates(numbers.length).map((i) => {
      const x = numbers[i];
      const value = (moved: number): number =>
        at([y], new Map(values).set(leaf, numbers.with(i, moved)))[0][0];
      return (value(x + h) - value(x - h)) / (2 * h);
    });
  });
  const moved = (step: number): readonly number[][] =>
    at(
      first,
      new Map([
        ...values,
        ...of.map((leaf, i): [Value, Float64Array] => [
          leaf,
          (values.get(leaf) as Float64Array).map((x, j) => x + step * directions[i][j]),
        ]),
      ]),
    );
  const [up, down] = [moved(h), moved(-h)];
  const expectedSecond = up.map((numbers, i) => numbers.map((x, j) => (x - down[i][j]) / (2 * h)));
  const worst = (actual: readonly number[][], wanted: readonly number[][]): number =>
    Math.max(...wanted.map((numbers, i) => relativeError(actual[i], numbers, 0.02)));
  const all = [y, ...first, ...second];
  const program = compile(Object.fromEntries(all.map((value, i) => [String(i), value])));
  const ran = runProgram(program, bindings(values), SHARDS);
  return {
    program: worst(
      all.map((_, i) => [...ran[i]]),
      at(all),
    ),
    gradient: worst(
      at(first).map((numbers) => coordinates(numbers.length).map((i) => numbers[i])),
      expected,
    ),
    second: worst(at(second), expectedSecond),
    depends: at(first)
      .flat()
      .some((x) => Math.abs(x) > 1e-3),
    curved: expectedSecond.flat().some((x) => Math.abs(x) > 1e-3),
  };
}
