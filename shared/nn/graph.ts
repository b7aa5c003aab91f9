/**
 * Computations as data. A value is an operation on other values, so networks, losses, their gradients and the
 * gradients of those are one kind of thing: a graph, from which program.ts makes the steps that an engine runs.
 *
 * The batch is no axis. A value says with its extent how often it is there: once (shared), once a shard, or once
 * a sample; its shape is that of one of them. So whatever mixes samples must be an operation that says so, and
 * {@linkcode sumBatch} is the only one that mixes shards: in the canonical tree, which gives the same bits for any
 * number of workers. Several batches (real and fake images) may go through a network in one pass: the rows of a
 * shard are then those of the first batch, then those of the second ({@linkcode join}).
 *
 * Operations take exact forms; the functions here that make them convert, simplify what is free to simplify,
 * and refuse shapes that do not fit.
 *
 * @module
 */

export type Extent = "shared" | "shard" | "sample";

const RANK: Readonly<Record<Extent, number>> = { shared: 0, shard: 1, sample: 2 };

export type Shape = readonly number[];

/** What numbers a value has. */
export interface Form {
  /** Of one shard's or sample's; images are (height, width, channels). */
  readonly shape: Shape;
  readonly extent: Extent;
  /** Batches in one pass, 1 for shared values. Rows are shard by shard, within it batch by batch. */
  readonly batches: number;
}

/** What each elementwise operation does with numbers. */
export const ELEMENTWISE = {
  add: (a, b) => a + b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  exp: (a) => Math.exp(a),
  log: (a) => Math.log(a),
  sqrt: (a) => Math.sqrt(a),
  tanh: (a) => Math.tanh(a),
  sigmoid: (a) => (a >= 0 ? 1 / (1 + Math.exp(-a)) : Math.exp(a) / (1 + Math.exp(a))),
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
  /** b is a constant >= 0, so that the sign of the result is that of a. */
  leakyRelu: (a, b) => (a > 0 ? a : b * a),
  /** b where a > 0, else c. */
  select: (a, b, c) => (a > 0 ? b : c),
} as const satisfies Record<string, (a: number, b: number, c: number) => number>;

export type ElementwiseOp = keyof typeof ELEMENTWISE;

/** What gives an input its numbers: the data or the caller, or random numbers by counter, or the number of samples. */
export type Fill = "data" | "uniform" | "normal" | "shardSize";

/** A convolution's sizes, the same for its two adjoints: height, then width. Padding behind the image follows. */
export interface ConvGeometry {
  readonly image: readonly [number, number];
  readonly filter: readonly [number, number];
  readonly result: readonly [number, number];
  readonly stride: readonly [number, number];
  /** Zeros above and left of the image. */
  readonly padding: readonly [number, number];
  readonly groups: number;
}

/** Operations of several names with the same attributes, told apart by name. */
type Named<Op, Attributes = unknown> = Op extends string ? { readonly op: Op } & Attributes : never;

export type Operation =
  /** A tensor of a vector that lives on between steps: parameters, or other state. */
  | Named<"parameter", { readonly vector: string; readonly name: string }>
  | Named<"input", { readonly name: string; readonly fill: Fill }>
  | Named<"constant", { readonly values: readonly number[] }>
  | Named<ElementwiseOp | "stopGradient" | "reshape" | "broadcast">
  /** (M, K) by (K, N), a vector being one row; overShard: the sum of a shard's products. */
  | Named<"matmul", Required<Transposes> & { readonly overShard: boolean }>
  /** Image and filter; result and filter; image and result (summed over a shard). */
  | Named<"conv2d" | "conv2dInput" | "conv2dFilter", { readonly geometry: ConvGeometry }>
  /** Axis i of the result is axis axes[i] of the input. */
  | Named<"transpose", { readonly axes: readonly number[] }>
  /** y[o] = x[i] where o stride + start = i dilate on every axis, else 0: pads, crops, strides and dilates. */
  | Named<"pad", Required<Omit<Padding, "shape">>>
  | Named<"concat", { readonly axis: number }>
  /** Over axes, which stay with length 1. */
  | Named<"sum" | "max", { readonly axes: readonly number[] }>
  /** Of a shard's samples, for each batch or over all batches; of shards. */
  | Named<"sumShard" | "sumBatch" | "join">
  | Named<"part", { readonly index: number }>
  /** A shard's samples at their places in a whole batch of zeros; and the reverse. */
  | Named<"place" | "rows">;

export type Value = Operation & Form & { readonly inputs: readonly Value[] };

/** Shapes or extents that do not fit. */
export class ShapeError extends TypeError {
  override name = "ShapeError";
  /** Whether the message says of which layer. */
  readonly located: boolean;

  constructor(message: string, located = false) {
    super(message);
    this.located = located;
  }
}

export function sizeOf(shape: Shape): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** "[28, 28, 1] per sample". */
export function describe({ shape, extent, batches }: Form): string {
  const of = extent === "shared" ? "" : ` per ${extent}`;
  return `[${shape.join(", ")}]${of}${batches > 1 ? ` of ${batches} batches` : ""}`;
}

function make(operation: Operation, inputs: readonly Value[], form: Form): Value {
  const { shape, extent, batches } = form;
  return { ...operation, inputs, shape, extent, batches };
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, axis) => n === b[axis]);
}

export function sameForm(a: Form, b: Form): boolean {
  return a.extent === b.extent && a.batches === b.batches && sameShape(a.shape, b.shape);
}

function formOf({ shape, extent, batches }: Form): Form {
  return { shape, extent, batches };
}

/** The largest extent of some values: where a value is there more rarely, it is the same for all. */
function commonExtent(what: string, values: readonly Form[]): Pick<Form, "extent" | "batches"> {
  const extent = values.reduce<Extent>((e, v) => (RANK[v.extent] > RANK[e] ? v.extent : e), "shared");
  const batches = Math.max(...values.map((v) => v.batches));
  for (const v of values) {
    if (v.batches !== batches && (v.extent === "sample" || v.batches !== 1)) {
      const expected = `${batches} batches in one pass`;
      throw new ShapeError(`Cannot ${what} as batches must match: expected ${expected}, got ${describe(v)}`);
    }
  }
  return { extent, batches };
}

// Leaves

export function parameter(vector: string, name: string, shape: Shape): Value {
  return make({ op: "parameter", vector, name }, [], { shape, extent: "shared", batches: 1 });
}

export function input(name: string, shape: Shape, extent: Extent = "sample", fill: Fill = "data"): Value {
  return make({ op: "input", name, fill }, [], { shape, extent, batches: 1 });
}

/** How many samples each shard has: they may differ by one. */
export function shardSize(): Value {
  return input("shardSize", [], "shard", "shardSize");
}

export function constant(values: number | readonly number[], shape: Shape = []): Value {
  const list = typeof values === "number" ? [values] : values;
  if (list.length !== sizeOf(shape)) {
    throw new ShapeError(`Cannot make a constant [${shape.join(", ")}] of ${list.length} numbers`);
  }
  return make({ op: "constant", values: list }, [], { shape, extent: "shared", batches: 1 });
}

/** The number that a value is everywhere, where that is known. */
export function scalarOf(value: Value): number | undefined {
  if (value.op === "constant") return value.values.length === 1 ? value.values[0] : undefined;
  return value.op === "broadcast" ? scalarOf(value.inputs[0]) : undefined;
}

export function filled(number: number, form: Form): Value {
  return broadcast(constant(number), form);
}

// Elementwise

/** Numbers and values of lower extent or rank are broadcast. */
export function elementwise(op: ElementwiseOp, ...operands: readonly (Value | number)[]): Value {
  const inputs = operands.map((x) => (typeof x === "number" ? constant(x) : x));
  const form = commonForm(op, inputs);
  const scalars = inputs.map(scalarOf);
  if (scalars.every((x) => x !== undefined)) {
    const [a, b, c] = scalars;
    return filled(ELEMENTWISE[op](a, b, c), form);
  }
  const full = inputs.map((x) => broadcast(x, form));
  return simplified(op, full, scalars) ?? make({ op }, full, form);
}

function simplified(
  op: ElementwiseOp,
  [a, b, c]: readonly Value[],
  [p, q]: readonly (number | undefined)[],
): Value | null {
  // eslint-disable-next-line @typescript-eslint/switch-exhaustiveness-check -- nothing is free of the others
  switch (op) {
    case "add":
      if (p === 0) return b;
      if (q === 0) return a;
      if (a === b) return mul(2, a);
      // Sums over shards are paid by the byte: one of the sum, not the sum of two.
      if (a.op === "sumBatch" && b.op === "sumBatch") return sumBatch(add(a.inputs[0], b.inputs[0]));
      if (a.op === "join" && b.op === "join") {
        return join(a.inputs.map((x, i) => add(x, b.inputs[i])));
      }
      return halves(a, b) ?? halves(b, a);
    case "mul": {
      if (p === undefined && q !== undefined) return mul(q, a);
      if (p === 1) return b;
      if (p === 0) return filled(0, b);
      if (p === undefined) return null;
      if (b.op === "select") {
        const [condition, x, y] = b.inputs;
        return scalarOf(x) === 0 || scalarOf(y) === 0 ? select(condition, mul(p, x), mul(p, y)) : null;
      }
      // Constants are multiplied here, in float64.
      const inner = b.op === "mul" ? scalarOf(b.inputs[0]) : undefined;
      return inner === undefined ? null : mul(p * inner, b.inputs[1]);
    }
    case "div":
      return q === 1 ? a : null;
    case "select":
      return b === c ? b : null;
    default:
      return null;
  }
}

/** The sum of a value where a condition holds and another where it does not: the gradient of a gradient often is one. */
function halves(a: Value, b: Value): Value | null {
  if (a.op !== "select" || b.op !== "select" || a.inputs[0] !== b.inputs[0]) return null;
  const isSplit = scalarOf(a.inputs[2]) === 0 && scalarOf(b.inputs[1]) === 0;
  return isSplit ? select(a.inputs[0], a.inputs[1], b.inputs[2]) : null;
}

function commonForm(what: string, inputs: readonly Value[]): Form {
  const rank = Math.max(...inputs.map(({ shape }) => shape.length));
  const padded = inputs.map(({ shape }) => [...Array<number>(rank - shape.length).fill(1), ...shape]);
  const shape = Array.from({ length: rank }, (_, axis) => {
    const lengths = padded.map((s) => s[axis]).filter((n) => n !== 1);
    if (lengths.some((n) => n !== lengths[0])) {
      const [first, ...rest] = inputs.map(describe);
      throw new ShapeError(
        `Cannot ${what} as shapes must match: expected ${first}, got ${rest.join(" and ")}`,
      );
    }
    return lengths.at(0) ?? 1;
  });
  return { shape, ...commonExtent(what, inputs) };
}

type Operand = Value | number;
export const add = (a: Operand, b: Operand): Value => elementwise("add", a, b);
export const mul = (a: Operand, b: Operand): Value => elementwise("mul", a, b);
export const div = (a: Operand, b: Operand): Value => elementwise("div", a, b);
export const exp = (a: Value): Value => elementwise("exp", a);
export const log = (a: Value): Value => elementwise("log", a);
export const sqrt = (a: Value): Value => elementwise("sqrt", a);
export const tanh = (a: Value): Value => elementwise("tanh", a);
export const sigmoid = (a: Value): Value => elementwise("sigmoid", a);
export const softplus = (a: Value): Value => elementwise("softplus", a);
/** b where a > 0, else c. Without a gradient by a. */
export const select = (a: Value, b: Operand, c: Operand): Value => elementwise("select", a, b, c);

/** max(x, slope x). */
export function leakyRelu(x: Value, slope: number): Value {
  if (!(slope >= 0 && slope < 1))
    throw new RangeError(`Cannot use a slope that is not in [0, 1): got ${slope}`);
  return elementwise("leakyRelu", x, slope);
}

/** The same numbers, but constants to a gradient. */
export function stopGradient(x: Value): Value {
  return make({ op: "stopGradient" }, [x], x);
}

// Shapes

export function reshape(x: Value, shape: Shape): Value {
  if (sizeOf(shape) !== sizeOf(x.shape)) {
    throw new ShapeError(
      `Cannot reshape as the number of values must stay: expected ${sizeOf(x.shape)} for ${describe(x)}, got [${shape.join(", ")}]`,
    );
  }
  if (x.op === "reshape") return reshape(x.inputs[0], shape);
  if (sameShape(shape, x.shape)) return x;
  const scalar = x.op === "broadcast" ? scalarOf(x) : undefined;
  if (scalar !== undefined) return filled(scalar, { ...x, shape });
  return x.op === "constant" ? constant(x.values, shape) : make({ op: "reshape" }, [x], { ...x, shape });
}

/** Axis i of the result is axis axes[i] of x. */
export function transpose(x: Value, axes: readonly number[]): Value {
  const shape = axes.map((axis) => x.shape[axis]);
  if (!sameShape([...axes].sort(), [...x.shape.keys()])) {
    throw new ShapeError(
      `Cannot transpose ${describe(x)} as every axis must be named once: got ${axes.join(", ")}`,
    );
  }
  // Where only axes of length 1 move, no number does.
  const moving = axes.filter((axis) => x.shape[axis] !== 1);
  if (moving.every((axis, i) => i === 0 || axis > moving[i - 1])) return reshape(x, shape);
  return make({ op: "transpose", axes }, [x], { ...x, shape });
}

export interface Padding {
  /** Of the result. */
  readonly shape: Shape;
  readonly start: readonly number[];
  readonly stride?: readonly number[];
  readonly dilate?: readonly number[];
}

/** y[o] = x[i] where o stride + start = i dilate on every axis, else 0. */
export function pad(x: Value, { shape, start, stride, dilate }: Padding): Value {
  const ones = x.shape.map(() => 1);
  const same = sameShape(shape, x.shape) && start.every((n) => n === 0);
  if (same && [...(stride ?? []), ...(dilate ?? [])].every((n) => n === 1)) return x;
  return make({ op: "pad", start, stride: stride ?? ones, dilate: dilate ?? ones }, [x], { ...x, shape });
}

/** length values of an axis from start on, every stride-th. */
export function slice(x: Value, axis: number, start: number, length: number, stride = 1): Value {
  return pad(x, {
    shape: x.shape.with(axis, length),
    start: x.shape.map((_, a) => (a === axis ? start : 0)),
    stride: x.shape.map((_, a) => (a === axis ? stride : 1)),
  });
}

export function concat(values: readonly Value[], axis: number): Value {
  const { extent, batches } = commonExtent("concatenate", values);
  const [{ shape }] = values;
  for (const v of values) {
    if (!sameShape(v.shape.with(axis, 0), shape.with(axis, 0))) {
      throw new ShapeError(
        `Cannot concatenate along axis ${axis} as the others must match: expected ${describe(values[0])}, got ${describe(v)}`,
      );
    }
  }
  if (values.length === 1) return values[0];
  const full = values.map((v) => broadcast(v, { shape: v.shape, extent, batches }));
  const length = values.reduce((sum, v) => sum + v.shape[axis], 0);
  return make({ op: "concat", axis }, full, { shape: shape.with(axis, length), extent, batches });
}

/** The same numbers along more axes, shards or samples; shapes are aligned at their last axes. */
export function broadcast(x: Value, form: Form): Value {
  if (sameForm(x, form)) return x;
  const source = x.op === "broadcast" ? x.inputs[0] : x;
  const ones = Array<number>(form.shape.length - source.shape.length).fill(1);
  const shape = [...ones, ...source.shape];
  const fits = shape.every((n, axis) => n === 1 || n === form.shape[axis]);
  const batches = source.batches === form.batches || (source.batches === 1 && source.extent !== "sample");
  if (!fits || !batches || RANK[source.extent] > RANK[form.extent]) {
    throw new ShapeError(`Cannot broadcast as sizes must be 1 or match: expected ${describe(form)}, got ${describe(x)}`); // prettier-ignore
  }
  return make({ op: "broadcast" }, [reshape(source, shape)], formOf(form));
}

// Sums

export function sum(x: Value, axes: readonly number[] = [...x.shape.keys()]): Value {
  return reduce("sum", x, axes);
}

export function max(x: Value, axes: readonly number[] = [...x.shape.keys()]): Value {
  return reduce("max", x, axes);
}

function reduce(op: "sum" | "max", x: Value, axes: readonly number[]): Value {
  const long = axes.filter((axis) => x.shape[axis] !== 1).sort();
  if (long.length === 0) return x;
  return make({ op, axes: long }, [x], {
    ...x,
    shape: x.shape.map((n, axis) => (long.includes(axis) ? 1 : n)),
  });
}

/** The sum over the samples of each shard, in order: all its batches' (1) or for each batch. */
export function sumShard(x: Value, batches = 1): Value {
  if (x.extent === "shared") {
    throw new ShapeError(`Cannot sum over a shard as values must be there per sample: got ${describe(x)}`);
  }
  if (x.extent === "shard" && x.batches === batches) return x;
  const form: Form = { shape: x.shape, extent: "shard", batches };
  if (x.op === "matmul" && batches === 1) {
    const full = x.inputs.map((each) => broadcast(each, { ...x, shape: each.shape }));
    return make({ ...x, overShard: true }, full, form);
  }
  return make({ op: "sumShard" }, [x], form);
}

/** The sum over all samples: over each shard, then over shards in the canonical tree. */
export function sumBatch(x: Value): Value {
  return make({ op: "sumBatch" }, [sumShard(x)], { shape: x.shape, extent: "shared", batches: 1 });
}

/** The adjoint of broadcasting from `form`: the sum over what was repeated; or broadcasting itself, to more. */
export function conform(x: Value, form: Form): Value {
  if (RANK[x.extent] < RANK[form.extent]) return broadcast(x, form);
  const within = sum(
    x,
    x.shape.flatMap((n, axis) => (n === form.shape[axis] ? [] : [axis])),
  );
  if (form.extent === "shared" && x.extent !== "shared") return sumBatch(within);
  return form.extent === "shard" ? sumShard(within, form.batches) : within;
}

// Products

/** Extents without the broadcasts that a product does itself. */
function unspread(what: string, inputs: readonly Value[]): readonly Value[] {
  const common = commonExtent(what, inputs);
  return inputs.map((x, i) => {
    if (x.op !== "broadcast" || !sameShape(x.shape, x.inputs[0].shape)) return x;
    const other = commonExtent(what, [x.inputs[0], inputs[1 - i]]);
    return other.extent === common.extent && other.batches === common.batches ? x.inputs[0] : x;
  });
}

export interface Transposes {
  readonly transA?: boolean;
  readonly transB?: boolean;
}

/** op(A) (M, K) by op(B) (K, N); a vector is a matrix of one row, and so is the result if A is one. */
export function matmul(a0: Value, b0: Value, { transA = false, transB = false }: Transposes = {}): Value {
  const [a, b] = unspread("multiply", [a0, b0]);
  const [rowsA, columnsA] = a.shape.length === 1 ? [1, a.shape[0]] : a.shape;
  const [rowsB, columnsB] = b.shape.length === 1 ? [1, b.shape[0]] : b.shape;
  const [M, K] = transA ? [columnsA, rowsA] : [rowsA, columnsA];
  const [inner, N] = transB ? [columnsB, rowsB] : [rowsB, columnsB];
  if (K !== inner || a.shape.length > 2 || b.shape.length > 2) {
    throw new ShapeError(
      `Cannot multiply as the inner sizes of two matrices must match: expected ${inner} for ${describe(b)}, got ${K} of ${describe(a)}`,
    );
  }
  const shape = a.shape.length === 1 && !transA ? [N] : [M, N];
  return make({ op: "matmul", transA, transB, overShard: false }, [a, b], {
    shape,
    ...commonExtent("multiply", [a, b]),
  });
}

export interface ConvOptions {
  readonly stride?: number;
  /** Zeros on every side. */
  readonly padding?: number;
  readonly groups?: number;
}

/** Image (H, W, C) by filter (height, width, C / groups, channels). */
export function conv2d(image: Value, filter: Value, options: ConvOptions = {}): Value {
  const { stride = 1, padding = 0, groups = 1 } = options;
  const [height, width, channels] = image.shape;
  const [filterHeight, filterWidth, inputs, outputs] = filter.shape;
  if (image.shape.length !== 3 || inputs * groups !== channels || outputs % groups !== 0) {
    throw new ShapeError(
      `Cannot convolve as the channels of image and filter must match: expected [height, width, ${inputs * groups}], got ${describe(image)}`,
    );
  }
  const lengthOf = (n: number, k: number): number => Math.floor((n + 2 * padding - k) / stride) + 1;
  const result = [lengthOf(height, filterHeight), lengthOf(width, filterWidth)] as const;
  if (Math.min(...result) < 1) {
    throw new ShapeError(
      `Cannot convolve as the filter must fit into the image: expected at least ${filterHeight} x ${filterWidth} with its padding, got ${describe(image)}`,
    );
  }
  return convolve("conv2d", image, filter, {
    image: [height, width],
    filter: [filterHeight, filterWidth],
    result,
    stride: [stride, stride],
    padding: [padding, padding],
    groups,
  });
}

/** A convolution or one of its adjoints, which are each other's gradients. */
export function convolve(
  op: "conv2d" | "conv2dInput" | "conv2dFilter",
  a0: Value,
  b0: Value,
  geometry: ConvGeometry,
): Value {
  const { extent, batches } = commonExtent("convolve", [a0, b0]);
  const full = (x: Value): Value => broadcast(x, { shape: x.shape, extent, batches });
  const [a, b] = op === "conv2dFilter" ? [full(a0), full(b0)] : unspread("convolve", [a0, b0]);
  const { image, filter, result, groups } = geometry;
  switch (op) {
    case "conv2d":
      return make({ op, geometry }, [a, b], { shape: [...result, b.shape[3]], extent, batches });
    case "conv2dInput":
      return make({ op, geometry }, [a, b], { shape: [...image, b.shape[2] * groups], extent, batches });
    case "conv2dFilter": {
      const shape = [...filter, a.shape[2] / groups, b.shape[2]];
      return make({ op, geometry }, [a, b], {
        shape,
        extent: extent === "sample" ? "shard" : extent,
        batches: 1,
      });
    }
  }
}

// Batches and rows

/** Several batches for one pass. */
export function join(values: readonly Value[]): Value {
  if (values.length === 1) return values[0];
  const form = commonForm("join batches", values);
  if (form.batches !== 1 || form.extent === "shared") {
    throw new ShapeError(
      `Cannot join batches as each must be one: got ${values.map(describe).join(" and ")}`,
    );
  }
  return make(
    { op: "join" },
    values.map((v) => broadcast(v, form)),
    { ...form, batches: values.length },
  );
}

/** One of the batches of a pass. */
export function part(x: Value, index: number): Value {
  if (x.batches === 1) return x;
  return x.op === "join" ? x.inputs[index] : make({ op: "part", index }, [x], { ...x, batches: 1 });
}

/** The values of all samples, (batchSize, ...), the same on every worker: for losses that couple a batch. */
export function gather(x: Value, batchSize: number): Value {
  return sumBatch(place(x, batchSize));
}

/** A shard's samples at their places in a whole batch of zeros. */
export function place(x: Value, batchSize: number): Value {
  if (x.extent !== "sample" || x.batches !== 1) {
    throw new ShapeError(`Cannot gather as values must be those of one batch: got ${describe(x)}`);
  }
  return make({ op: "place" }, [x], { shape: [batchSize, ...x.shape], extent: "shard", batches: 1 });
}

/** Each sample's own of the rows of a whole batch. */
export function rows(x: Value): Value {
  return make({ op: "rows" }, [x], { shape: x.shape.slice(1), extent: "sample", batches: 1 });
}

// Walks

/** All that the outputs are made of, themselves included, inputs first. */
export function ancestors(outputs: readonly Value[]): readonly Value[] {
  const order: Value[] = [];
  const seen = new Set<Value>();
  const stack = outputs.map((value) => ({ value, next: 0 })).reverse();
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    if (top.next === 0 && seen.has(top.value)) {
      stack.pop();
    } else if (top.next < top.value.inputs.length) {
      seen.add(top.value);
      const value = top.value.inputs[top.next++];
      if (!seen.has(value)) stack.push({ value, next: 0 });
    } else {
      seen.add(top.value);
      order.push(top.value);
      stack.pop();
    }
  }
  return order;
}

/** Whether a sample's values depend on no other sample: then any rows may be computed in one pass. */
export function rowsAreIndependent(value: Value): boolean {
  return ancestors([value]).every(
    ({ extent, inputs }) => extent === "sample" || inputs.every((x) => x.extent !== "sample"),
  );
}
