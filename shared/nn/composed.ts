/**
 * What losses and layers often need, made of the graph's operations.
 *
 * @module
 */
import type { Shape, Value } from "./graph.ts";
import {
  add,
  constant,
  div,
  elementwise,
  exp,
  log,
  max,
  mul,
  select,
  sizeOf,
  sqrt,
  stopGradient,
} from "./graph.ts";
import { sum, sumBatch } from "./graph.ts";

export const neg = (a: Value): Value => mul(-1, a);
export const sub = (a: Value | number, b: Value | number): Value => add(a, elementwise("mul", -1, b));
export const square = (a: Value): Value => mul(a, a);
export const abs = (a: Value): Value => select(a, a, neg(a));
export const relu = (a: Value): Value => elementwise("leakyRelu", a, 0);

/** Where they are equal, the first: so is its gradient. */
export const maximum = (a: Value, b: Value | number): Value => select(sub(b, a), b, a);
export const minimum = (a: Value, b: Value | number): Value => select(sub(a, b), b, a);

/** Over axes of a shape, which stay with length 1. */
export function mean(a: Value, axes: readonly number[] = [...a.shape.keys()]): Value {
  return mul(1 / sizeOf(axes.map((axis) => a.shape[axis])), sum(a, axes));
}

/** The mean over the batch of values per sample: what a loss is. Divided before it is summed, so that shards add up. */
export function batchMean(a: Value, batchSize: number): Value {
  return sumBatch(mul(1 / batchSize, a));
}

/** Of each sample, over all axes, which stay with length 1. @param tiny Keeps the derivative finite at 0. */
export function norm(a: Value, tiny = 1e-12): Value {
  return sqrt(add(sum(square(a)), tiny));
}

/** Along the last axis; with the largest value taken out, so that nothing overflows. */
export function logSumExp(a: Value): Value {
  const axis = [a.shape.length - 1];
  const largest = stopGradient(max(a, axis));
  return add(largest, log(sum(exp(sub(a, largest)), axis)));
}

/** Along the last axis. */
export function softmax(a: Value): Value {
  const axis = [a.shape.length - 1];
  const e = exp(sub(a, stopGradient(max(a, axis))));
  return div(e, sum(e, axis));
}

/** -log softmax(logits) at the class. @param logits [classes]. @param label [] with the number of a class. @returns [1]. */
export function crossEntropy(logits: Value, label: Value): Value {
  return sub(logSumExp(logits), sum(mul(oneHot(label, logits.shape[0]), logits)));
}

/** @param label [] with a number in 0..classes-1. @returns [classes]. */
export function oneHot(label: Value, classes: number): Value {
  const number = constant(
    Array.from({ length: classes }, (_, i) => i),
    [classes],
  );
  return select(sub(0.5, abs(sub(label, number))), 1, 0);
}

/** "28 x 28 x 1", for errors. */
export function sides(shape: Shape): string {
  return shape.length === 0 ? "one number" : shape.join(" x ");
}
