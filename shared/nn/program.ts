/**
 * From graphs to steps that an engine can run one after another: equal values once, nothing that no output needs,
 * elementwise operations as one pass over memory, and what follows a product or precedes a sum within it. An engine
 * is a table from these four kinds of steps to kernels; it knows no network and no loss.
 *
 * Where all shards must be summed, a program is cut into stages: what crosses is all-reduced between them.
 *
 * @module
 */
import type { Cluster, CompileOptions, Product } from "./clusters.ts";
import {
  Clusters,
  isElementwise,
  isLeaf,
  isProduct,
  isReduction,
  source,
  sourcesOf,
  view,
} from "./clusters.ts";
import type { ElementwiseOp, Form, Operation, Shape, Value } from "./graph.ts";
import { ancestors, scalarOf } from "./graph.ts";

export type { CompileOptions, Product } from "./clusters.ts";

/** What steps read and write. */
export interface Buffer {
  readonly form: Form;
  /** The value, whose operation says where a leaf comes from. */
  readonly value: Value;
  /** The step that writes it, or -1 for a leaf. */
  readonly step: number;
}

/** A buffer, and in which form a step sees its numbers. */
export interface Read {
  readonly buffer: number;
  readonly form: Form;
}

export type Operand =
  /** The shape is aligned with that of the map; axes of length 1 and lower extents are repeated. */
  | { readonly buffer: number; readonly shape: Shape }
  | { readonly constant: number }
  /** The result of the product that a map ends. */
  | "product";

/** Elementwise operations over all values of a form. Registers: the operands, then the results of `code`. */
export interface MapCode {
  readonly form: Form;
  readonly operands: readonly Operand[];
  readonly code: readonly { readonly op: ElementwiseOp; readonly registers: readonly number[] }[];
  readonly results: readonly { readonly register: number; readonly buffer: number }[];
}

export type Step =
  | { readonly kind: "map"; readonly map: MapCode }
  /** One product, or the sum of several that are sums over a shard; the sum over shards if `tree`. */
  | {
      readonly kind: "product";
      readonly form: Form;
      readonly terms: readonly { readonly operation: Product; readonly a: Read; readonly b: Read }[];
      readonly tree: boolean;
      /** What follows, and writes the results; or null, and the product is the result. */
      readonly ending: MapCode | null;
      readonly result: number | null;
    }
  /** A sum or maximum over axes, then over samples of a shard, then over shards: each may be missing. */
  | {
      readonly kind: "reduce";
      readonly op: "sum" | "max";
      readonly axes: readonly number[];
      /** The form after axes and samples. */
      readonly form: Form;
      readonly tree: boolean;
      /** A buffer, or a register of a map, which may write others. */
      readonly input: Read | { readonly map: MapCode; readonly register: number };
      readonly result: number;
    }
  /** Values at other places. */
  | {
      readonly kind: "move";
      readonly operation: Operation;
      readonly form: Form;
      readonly inputs: readonly Read[];
      readonly result: number;
    };

export interface Stage {
  /** The step behind its last. */
  readonly end: number;
  /** Sums over the batch that it makes, in order of the outputs: to be all-reduced before the next stage. */
  readonly crossings: readonly number[];
}

export interface Program {
  readonly buffers: readonly Buffer[];
  readonly steps: readonly Step[];
  readonly outputs: Readonly<Record<string, number>>;
  readonly stages: readonly Stage[];
  /** Steps at the start that do not depend on what is late. */
  readonly numEarly: number;
}

export function compile(outputs: Readonly<Record<string, Value>>, options: CompileOptions = {}): Program {
  const canonical = merged(Object.values(outputs));
  const named = Object.fromEntries(
    Object.entries(outputs).map(([name, value]) => [name, canonical.get(value) as Value]),
  );
  return new Compiler(named, options).program();
}

/** JSON has no sign of zero and no infinity. */
function exactly(_key: string, value: unknown): unknown {
  return typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0))
    ? `${1 / value} ${value}`
    : value;
}

/** One value for all that are equal. */
function merged(outputs: readonly Value[]): ReadonlyMap<Value, Value> {
  const canonical = new Map<Value, Value>();
  const known = new Map<string, Value>();
  const ids = new Map<Value, number>();
  for (const value of ancestors(outputs)) {
    const inputs = value.inputs.map((x) => canonical.get(x) as Value);
    if (value.op === "stopGradient") {
      canonical.set(value, inputs[0]);
      continue;
    }
    const key = JSON.stringify({ ...value, inputs: inputs.map((x) => ids.get(x)) }, exactly);
    const same = known.get(key) ?? { ...value, inputs };
    if (!known.has(key)) ids.set(same, ids.size);
    known.set(key, same);
    canonical.set(value, same);
  }
  return canonical;
}

class Compiler {
  readonly #outputs: Readonly<Record<string, Value>>;
  readonly #clusters: Clusters;
  readonly #buffers = new Map<Value, number>();

  constructor(outputs: Readonly<Record<string, Value>>, options: CompileOptions) {
    this.#outputs = outputs;
    this.#clusters = new Clusters(Object.values(outputs), options);
  }

  program(): Program {
    const order = this.#clusters.inOrder();
    const steps: Step[] = [];
    const buffers: Buffer[] = [];
    const allocate = (value: Value, step: number): number => {
      const { shape, extent, batches } = value;
      this.#buffers.set(value, buffers.length);
      return buffers.push({ form: { shape, extent, batches }, value, step }) - 1;
    };
    for (const [step, cluster] of order.entries()) {
      for (const value of cluster.values) {
        for (const x of sourcesOf(value)) if (isLeaf(x) && !this.#buffers.has(x)) allocate(x, -1);
      }
      for (const value of cluster.values) if (this.#clusters.isWritten(value)) allocate(value, step);
      steps.push(this.#step(cluster));
    }
    for (const value of Object.values(this.#outputs).map(source))
      if (isLeaf(value) && !this.#buffers.has(value)) allocate(value, -1);
    const outputs = Object.fromEntries(
      Object.entries(this.#outputs).map(([name, value]) => [name, this.#bufferOf(value)]),
    );
    const numEarly = order.findIndex((cluster) => this.#clusters.isLate(cluster));
    return {
      buffers,
      steps,
      outputs,
      stages: this.#stages(order, buffers, Object.values(outputs)),
      numEarly: numEarly < 0 ? order.length : numEarly,
    };
  }

  #stages(
    order: readonly Cluster[],
    buffers: readonly Buffer[],
    outputs: readonly number[],
  ): readonly Stage[] {
    const last = order.map((cluster) => this.#clusters.stageOf(cluster));
    const numStages = Math.max(0, ...last) + 1;
    const place = (buffer: number): number => {
      const i = outputs.indexOf(buffer);
      return i < 0 ? outputs.length + buffer : i;
    };
    return Array.from({ length: numStages }, (_, stage) => ({
      end: last.filter((own) => own <= stage).length,
      crossings: [...buffers.keys()]
        .filter((i) => buffers[i].value.op === "sumBatch" && last[buffers[i].step] === stage)
        .sort((a, b) => place(a) - place(b)),
    }));
  }

  #bufferOf(value: Value): number {
    return this.#buffers.get(source(value)) as number;
  }

  #step({ kind, values }: Cluster): Step {
    switch (kind) {
      case "map":
        return { kind, map: this.#map(values, null) };
      case "move":
        return this.#move(values[0]);
      case "product":
        return this.#product(values);
      case "reduce":
        return this.#reduce(values);
    }
  }

  #read(value: Value): Read {
    const { shape, extent, batches } = value;
    return { buffer: this.#bufferOf(value), form: { shape, extent, batches } };
  }

  #move(value: Value): Step {
    const { inputs, shape, extent, batches, ...operation } = value;
    return {
      kind: "move",
      operation,
      form: { shape, extent, batches },
      inputs: inputs.map((x) => this.#read(x)),
      result: this.#bufferOf(value),
    };
  }

  #product(values: readonly Value[]): Step {
    const products = values.filter(isProduct);
    const tree = values.some(({ op }) => op === "sumBatch");
    const elementwise = tree ? [] : values.filter(isElementwise);
    const { shape, extent, batches } = products[0];
    const last = values[values.length - 1];
    return {
      kind: "product",
      form: { shape, extent, batches },
      terms: products.map(({ inputs: [a, b], ...operation }) => ({
        operation,
        a: this.#read(a),
        b: this.#read(b),
      })),
      tree,
      ending: elementwise.length > 0 ? this.#map(elementwise, products[0]) : null,
      result: elementwise.length > 0 ? null : this.#bufferOf(last),
    };
  }

  #reduce(values: readonly Value[]): Step {
    const elementwise: readonly Value[] = values.filter(isElementwise);
    const [first, ...rest] = values.filter((value) => isReduction(value));
    const result = rest.at(-1) ?? first;
    const within = first.op === "sum" || first.op === "max" ? first : null;
    const shardwise = [first, ...rest].findLast(({ op }) => op !== "sumBatch") ?? first;
    const { extent, batches } = shardwise.op === "sumBatch" ? shardwise.inputs[0] : shardwise;
    const [input] = first.inputs;
    const map = elementwise.length > 0 ? this.#map(elementwise, null) : null;
    return {
      kind: "reduce",
      op: within?.op ?? "sum",
      axes: within?.axes ?? [],
      form: { shape: shardwise.shape, extent, batches },
      tree: result.op === "sumBatch",
      input:
        map === null
          ? this.#read(input)
          : { map, register: map.operands.length + elementwise.indexOf(input) },
      result: this.#bufferOf(result),
    };
  }

  /** @param product Whose result is an operand. */
  #map(values: readonly Value[], product: Value | null): MapCode {
    const { shape, extent, batches } = values[0];
    const operands: Operand[] = [];
    const keys = new Map<string, number>();
    const code: { op: ElementwiseOp; registers: readonly Value[] }[] = [];
    const operandOf = (x: Value): number => {
      const constant = scalarOf(x);
      const own = source(view(x));
      const operand: Operand =
        constant !== undefined
          ? { constant }
          : own === product
            ? "product"
            : { buffer: this.#bufferOf(own), shape: view(x).shape };
      const key = JSON.stringify(operand);
      const known = keys.get(key) ?? operands.push(operand) - 1;
      keys.set(key, known);
      return known;
    };
    const inner = new Set(values);
    const outer = new Map<Value, number>();
    for (const value of values) {
      code.push({ op: value.op as ElementwiseOp, registers: value.inputs });
      for (const x of value.inputs) if (!inner.has(x)) outer.set(x, operandOf(x));
    }
    const registerOf = (x: Value): number => outer.get(x) ?? operands.length + values.indexOf(x);
    const written = values.filter((value) => this.#clusters.isWritten(value));
    return {
      form: { shape, extent, batches },
      operands,
      code: code.map(({ op, registers }) => ({ op, registers: registers.map(registerOf) })),
      results: written.map((value) => ({ register: registerOf(value), buffer: this.#bufferOf(value) })),
    };
  }
}
