/**
 * Where the values of a program lie: each from the step that writes it to the last that reads it, so that most of
 * them share their memory with others.
 *
 * @module
 */
import type { Form } from "./graph.ts";
import { sameForm, sizeOf } from "./graph.ts";
import type { MapCode, Program, Step } from "./program.ts";

/** The most that a program will be run on. */
export interface Extents {
  readonly samples: number;
  readonly shards: number;
}

export interface MemoryPlan {
  /** For each buffer its first number, or -1 if it lies elsewhere: parameters, constants, what is all-reduced. */
  readonly offsets: readonly number[];
  /** Numbers in all. */
  readonly length: number;
}

/** Numbers of a value. */
export function lengthOf({ shape, extent, batches }: Form, { samples, shards }: Extents): number {
  return sizeOf(shape) * batches * { shared: 1, shard: shards, sample: samples }[extent];
}

/** The buffers that a step reads. */
export function readsOf(step: Step): readonly number[] {
  const ofMap = ({ operands }: MapCode): readonly number[] =>
    operands.flatMap((operand) =>
      typeof operand === "object" && "buffer" in operand ? [operand.buffer] : [],
    );
  switch (step.kind) {
    case "map":
      return ofMap(step.map);
    case "move":
      return step.inputs.map(({ buffer }) => buffer);
    case "product":
      return [
        ...step.terms.flatMap(({ a, b }) => [a.buffer, b.buffer]),
        ...(step.ending === null ? [] : ofMap(step.ending)),
      ];
    case "reduce":
      return "buffer" in step.input ? [step.input.buffer] : ofMap(step.input.map);
  }
}

interface Life {
  readonly length: number;
  readonly first: number;
  last: number;
  readonly buffers: number[];
}

/**
 * The largest first, each at the lowest place that is free for its life. The result of a map takes the place of an
 * operand that nobody reads afterwards.
 *
 * @param alignment Every offset is a multiple of it.
 * Source: Pisarchyk & Lee 2020, "Efficient memory management for deep neural net inference", greedy by size.
 */
export function planMemory(program: Program, extents: Extents, alignment = 4): MemoryPlan {
  const { buffers, steps, outputs, stages } = program;
  const crossing = new Set(stages.flatMap(({ crossings }) => crossings));
  const elsewhere = (i: number): boolean => {
    const { op } = buffers[i].value;
    return op === "parameter" || op === "constant" || crossing.has(i);
  };
  const lives = new Map<number, Life>();
  for (const [i, { form, step }] of buffers.entries()) {
    if (elsewhere(i)) continue;
    const length = Math.ceil(lengthOf(form, extents) / alignment) * alignment;
    lives.set(i, { length, first: step, last: step, buffers: [i] });
  }
  const keep = (buffer: number, until: number): void => {
    const life = lives.get(buffer);
    if (life !== undefined) life.last = until;
  };
  for (const [i, step] of steps.entries()) {
    for (const buffer of readsOf(step)) keep(buffer, i);
  }
  for (const buffer of Object.values(outputs)) keep(buffer, steps.length);
  for (const [i, step] of steps.entries()) {
    if (step.kind === "map") shareInPlace(i, step.map, program, lives);
    if (step.kind === "reduce" && "map" in step.input) shareInPlace(i, step.input.map, program, lives);
  }
  const placed: { readonly life: Life; readonly offset: number }[] = [];
  for (const life of [...new Set(lives.values())].sort((a, b) => b.length - a.length)) {
    const others = placed
      .filter((other) => other.life.first <= life.last && life.first <= other.life.last)
      .sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const other of others) {
      if (offset + life.length <= other.offset) break;
      offset = Math.max(offset, other.offset + other.life.length);
    }
    placed.push({ life, offset });
  }
  const offsets = buffers.map(() => -1);
  for (const { life, offset } of placed) for (const buffer of life.buffers) offsets[buffer] = offset;
  return { offsets, length: Math.max(0, ...placed.map(({ life, offset }) => offset + life.length)) };
}

function shareInPlace(
  i: number,
  { operands, results, form }: MapCode,
  { buffers }: Program,
  lives: Map<number, Life>,
): void {
  for (const { buffer } of results) {
    const own = lives.get(buffer);
    if (own === undefined) continue;
    for (const operand of operands) {
      if (typeof operand !== "object" || !("buffer" in operand)) continue;
      const other = lives.get(operand.buffer);
      if (other?.last !== i || !sameForm({ ...buffers[operand.buffer].form, shape: operand.shape }, form))
        continue;
      other.last = own.last;
      other.buffers.push(...own.buffers);
      for (const each of own.buffers) lives.set(each, other);
      break;
    }
  }
}
