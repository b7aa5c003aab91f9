/**
 * Computes graphs with plain loops, in float64 or with every result rounded to float32: what engines are held
 * against. It prefers being readable to being fast, and shares nothing with them but the graph.
 *
 * @module
 */
import { treeSplit } from "../sharding.ts";
import type { ConvGeometry, ElementwiseOp, Form, Operation, Value } from "./graph.ts";
import { ancestors, ELEMENTWISE, sizeOf } from "./graph.ts";

export type Precision = "float32" | "float64";
export type Numbers = Float32Array | Float64Array;

/** Consecutive shards of a batch. */
export interface Shards {
  /** Samples of each. */
  readonly sizes: readonly number[];
  /** Index of the first sample in the global batch. Default 0. */
  readonly first?: number;
}

export interface Bindings {
  readonly parameters?: Readonly<Record<string, Readonly<Record<string, ArrayLike<number>>>>>;
  /** By name; for values per sample in the order of samples. */
  readonly inputs?: Readonly<Record<string, ArrayLike<number>>>;
}

/** @returns The numbers of each output. A sum over the batch is that of these shards: a node of the tree. */
export function evaluate(
  outputs: readonly Value[],
  bindings: Bindings,
  shards: Shards,
  precision: Precision = "float64",
): readonly Numbers[] {
  const results = new Map<Value, Numbers>();
  const machine = new Machine(bindings, shards, precision);
  for (const value of ancestors(outputs)) {
    const inputs = value.inputs.map((x) => ({ form: x, numbers: results.get(x) as Numbers }));
    results.set(value, machine.compute(value, value, inputs));
  }
  return outputs.map((value) => results.get(value) as Numbers);
}

/** Numbers, and of what. */
export interface Held {
  readonly form: Form;
  readonly numbers: Numbers;
}

/** Computes operations, one by one. */
export class Machine {
  readonly #bindings: Bindings;
  readonly #shards: Shards;
  readonly #precision: Precision;

  constructor(bindings: Bindings, shards: Shards, precision: Precision) {
    this.#bindings = bindings;
    this.#shards = shards;
    this.#precision = precision;
  }

  /** A result of float64 arithmetic, as it is kept. */
  round = (x: number): number => (this.#precision === "float64" ? x : Math.fround(x));

  allocate(length: number): Numbers {
    return this.#precision === "float64" ? new Float64Array(length) : new Float32Array(length);
  }

  /** How often a value is there. */
  numRows({ extent, batches }: Pick<Form, "extent" | "batches">): number {
    const { sizes } = this.#shards;
    if (extent === "shared") return 1;
    return batches * (extent === "shard" ? sizes.length : sizes.reduce((a, b) => a + b, 0));
  }

  length(form: Form): number {
    return this.numRows(form) * sizeOf(form.shape);
  }

  /** For each row of `form`, the row that `source` has for it, of an extent that is no larger; or the other way. */
  rowMap(form: Form, source: Form): Int32Array {
    const map = new Int32Array(this.numRows(form));
    const index = {
      shared: () => 0,
      shard: (shard: number, batch: number) => shard * source.batches + batch,
    };
    let row = 0;
    for (const [shard, size] of this.#shards.sizes.entries()) {
      for (let batch = 0; batch < form.batches; batch++) {
        const n = form.extent === "sample" ? size : 1;
        for (let i = 0; i < n && row < map.length; i++, row++) {
          const from = source.batches === 1 ? 0 : batch;
          map[row] = source.extent === "sample" ? row : index[source.extent](shard, from);
        }
      }
    }
    return map;
  }

  compute(operation: Operation, form: Form, inputs: readonly Held[]): Numbers {
    const out = this.allocate(this.length(form));
    this.#compute(operation, form, inputs, out);
    return out;
  }

  #compute(operation: Operation, form: Form, inputs: readonly Held[], out: Numbers): void {
    const size = sizeOf(form.shape);
    const [a, b] = inputs;
    // eslint-disable-next-line @typescript-eslint/switch-exhaustiveness-check -- the rest is elementwise
    switch (operation.op) {
      case "parameter": {
        const numbers = this.#bindings.parameters?.[operation.vector]?.[operation.name];
        return copy(numbers, out, `${operation.vector} ${operation.name}`);
      }
      case "input":
        if (operation.fill === "shardSize") out.set(this.#shards.sizes);
        else copy(this.#bindings.inputs?.[operation.name], out, operation.name);
        return;
      case "constant":
        return out.set(operation.values);
      case "stopGradient":
      case "reshape":
        return out.set(a.numbers);
      case "matmul":
        return this.#matmul(operation, form, a, b, out);
      case "conv2d":
      case "conv2dInput":
      case "conv2dFilter":
        return this.#convolve(operation.op, operation.geometry, form, a, b, out);
      case "transpose": {
        const strides = stridesOf(a.form.shape);
        const taken = operation.axes.map((axis) => strides[axis]);
        return this.#move(form, a, out, (index) => dot(index, taken));
      }
      case "pad": {
        const { start, stride, dilate } = operation;
        const strides = stridesOf(a.form.shape);
        return this.#move(form, a, out, (index) => {
          let at = 0;
          for (const [axis, o] of index.entries()) {
            const i = (o * stride[axis] + start[axis]) / dilate[axis];
            if (!Number.isInteger(i) || i < 0 || i >= a.form.shape[axis]) return -1;
            at += i * strides[axis];
          }
          return at;
        });
      }
      case "broadcast": {
        const strides = stridesOf(a.form.shape).map((n, axis) => (a.form.shape[axis] === 1 ? 0 : n));
        return this.#move(form, a, out, (index) => dot(index, strides));
      }
      case "concat": {
        const inner = sizeOf(form.shape.slice(operation.axis + 1));
        let offset = 0;
        for (const { form: own, numbers } of inputs) {
          const run = own.shape[operation.axis] * inner;
          const step = form.shape[operation.axis] * inner;
          for (let i = 0, at = offset; i < numbers.length; i += run, at += step) {
            out.set(numbers.subarray(i, i + run), at);
          }
          offset += run;
        }
        return;
      }
      case "sum":
      case "max": {
        const strides = stridesOf(form.shape).map((n, axis) => (operation.axes.includes(axis) ? 0 : n));
        const places = indices(a.form.shape).map((index) => dot(index, strides));
        if (operation.op === "max") out.fill(-Infinity);
        for (let row = 0; row < out.length / size; row++) {
          for (const [i, place] of places.entries()) {
            const x = a.numbers[row * places.length + i];
            const at = row * size + place;
            out[at] = operation.op === "max" ? Math.max(out[at], x) : out[at] + x;
          }
        }
        return;
      }
      case "sumShard": {
        const rows = this.rowMap(a.form, form);
        for (const [row, to] of rows.entries()) {
          for (let i = 0; i < size; i++) out[to * size + i] += a.numbers[row * size + i];
        }
        return;
      }
      case "sumBatch":
        return out.set(this.#tree(a.numbers, size, 0, this.#shards.sizes.length));
      case "join":
      case "part": {
        const numBatches = Math.max(form.batches, a.form.batches);
        let offset = 0;
        for (const n of this.#shards.sizes) {
          const run = (form.extent === "sample" ? n : 1) * size;
          for (let batch = 0; batch < numBatches; batch++) {
            const [single, joined] = [offset, offset * numBatches + batch * run];
            if (operation.op === "join") {
              out.set(inputs[batch].numbers.subarray(single, single + run), joined);
            } else if (batch === operation.index) {
              out.set(a.numbers.subarray(joined, joined + run), single);
            }
          }
          offset += run;
        }
        return;
      }
      case "place":
      case "rows": {
        const sample = operation.op === "place" ? a.form : form;
        const whole = operation.op === "place" ? form : a.form;
        const n = sizeOf(sample.shape);
        let global = this.#shards.first ?? 0;
        for (const [row, of] of this.rowMap(sample, whole).entries()) {
          const at = of * sizeOf(whole.shape) + global++ * n;
          if (operation.op === "place") out.set(a.numbers.subarray(row * n, (row + 1) * n), at);
          else out.set(a.numbers.subarray(at, at + n), row * n);
        }
        return;
      }
      default:
        this.#elementwise(operation.op, inputs, out);
    }
  }

  #elementwise(op: ElementwiseOp, inputs: readonly Held[], out: Numbers): void {
    const f: (a: number, b: number, c: number) => number = ELEMENTWISE[op];
    const [x, y, z] = inputs.map(({ numbers }) => numbers);
    for (let i = 0; i < out.length; i++) out[i] = f(x[i], y?.[i], z?.[i]);
  }

  /** out[index] = input[place(index)] of each row, or 0 where that is -1. */
  #move(form: Form, input: Held, out: Numbers, place: (index: readonly number[]) => number): void {
    const places = indices(form.shape).map(place);
    const size = sizeOf(input.form.shape);
    for (const [row, from] of this.rowMap(form, input.form).entries()) {
      for (const [i, at] of places.entries()) {
        if (at >= 0) out[row * places.length + i] = input.numbers[from * size + at];
      }
    }
  }

  /** Sum of rows start..end-1. */
  #tree(numbers: Numbers, size: number, start: number, end: number): Numbers {
    if (end - start === 1) return numbers.subarray(start * size, end * size);
    const split = treeSplit({ start, end });
    const left = this.#tree(numbers, size, start, split);
    const right = this.#tree(numbers, size, split, end);
    const out = this.allocate(size);
    for (let i = 0; i < size; i++) out[i] = left[i] + right[i];
    return out;
  }

  /** Where the rows of two operands meet and where their product goes. */
  #eachPair(form: Form, a: Held, b: Held, visit: (out: number, a: number, b: number) => void): void {
    const larger = this.numRows(a.form) >= this.numRows(b.form) ? a.form : b.form;
    const [rowsA, rowsB] = [this.rowMap(larger, a.form), this.rowMap(larger, b.form)];
    const rows = this.rowMap(larger, form);
    for (const [i, row] of rows.entries()) {
      visit(row * sizeOf(form.shape), rowsA[i] * sizeOf(a.form.shape), rowsB[i] * sizeOf(b.form.shape));
    }
  }

  #matmul(
    { transA, transB }: Extract<Operation, { op: "matmul" }>,
    form: Form,
    a: Held,
    b: Held,
    out: Numbers,
  ): void {
    const [rowsA, columnsA] = a.form.shape.length === 1 ? [1, a.form.shape[0]] : a.form.shape;
    const columnsB = b.form.shape.at(-1) as number;
    const [M, K] = transA ? [columnsA, rowsA] : [rowsA, columnsA];
    const N = sizeOf(form.shape) / M;
    this.#eachPair(form, a, b, (atOut, atA, atB) => {
      for (let m = 0; m < M; m++) {
        for (let k = 0; k < K; k++) {
          const x = a.numbers[atA + (transA ? k * columnsA + m : m * columnsA + k)];
          for (let n = 0; n < N; n++) {
            out[atOut + m * N + n] += x * b.numbers[atB + (transB ? n * columnsB + k : k * columnsB + n)];
          }
        }
      }
    });
  }

  #convolve(
    op: "conv2d" | "conv2dInput" | "conv2dFilter",
    { image, filter, result, stride, padding, groups }: ConvGeometry,
    form: Form,
    a: Held,
    b: Held,
    out: Numbers,
  ): void {
    const channels = op === "conv2dInput" ? form.shape[2] : a.form.shape[2];
    const results = op === "conv2dInput" ? a.form.shape[2] : (op === "conv2d" ? form : b.form).shape[2];
    const [inputs, outputs] = [channels / groups, results / groups];
    const taps = indices([...result, ...filter]);
    const channelPairs = indices([groups, inputs, outputs]);
    this.#eachPair(form, a, b, (atOut, atA, atB) => {
      for (const [oy, ox, ky, kx] of taps) {
        const y = oy * stride[0] + ky - padding[0];
        const x = ox * stride[1] + kx - padding[1];
        if (y < 0 || y >= image[0] || x < 0 || x >= image[1]) continue;
        for (const [g, i, o] of channelPairs) {
          const atImage = (y * image[1] + x) * channels + g * inputs + i;
          const atFilter = ((ky * filter[1] + kx) * inputs + i) * results + g * outputs + o;
          const atResult = (oy * result[1] + ox) * results + g * outputs + o;
          const [to, from, by] = {
            conv2d: [atResult, atImage, atFilter],
            conv2dInput: [atImage, atResult, atFilter],
            conv2dFilter: [atFilter, atImage, atResult],
          }[op];
          out[atOut + to] += a.numbers[atA + from] * b.numbers[atB + by];
        }
      }
    });
  }
}

function copy(numbers: ArrayLike<number> | undefined, out: Numbers, name: string): void {
  if (numbers?.length !== out.length) {
    throw new RangeError(
      `Cannot compute as ${name} must have ${out.length} numbers: got ${numbers?.length ?? "none"}`,
    );
  }
  out.set(numbers);
}

export function stridesOf(shape: readonly number[]): readonly number[] {
  return shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}

/** Every index of an array of this shape, the last axis fastest. */
export function indices(shape: readonly number[]): readonly (readonly number[])[] {
  const strides = stridesOf(shape);
  return Array.from({ length: sizeOf(shape) }, (_, flat) =>
    shape.map((n, axis) => Math.floor(flat / strides[axis]) % n),
  );
}
