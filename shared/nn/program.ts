/**
 * From graphs to steps that an engine can run one after another: equal values once, nothing that no output needs,
 * elementwise operations as one pass over memory, and what follows a product or precedes a sum within it. An engine
 * is a table from these four kinds of steps to kernels; it knows no network and no loss.
 *
 * Where all shards must be summed, a program is cut into stages: what crosses is all-reduced between them.
 *
 * @module
 */
import type { ElementwiseOp, Form, Operation, Shape, Value } from "./graph.ts";
import { ancestors, describe, ELEMENTWISE, scalarOf } from "./graph.ts";

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

export type Product = Extract<Operation, { op: "matmul" | "conv2d" | "conv2dInput" | "conv2dFilter" }>;

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

export interface CompileOptions {
  /** Vectors of parameters that are known last: what does not depend on them comes first. */
  readonly late?: readonly string[];
  /** Most buffers that a map reads and writes, where an engine has a limit. Default: none. */
  readonly maxBuffers?: number;
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

const isElementwise = (value: Value): value is Value & { readonly op: ElementwiseOp } =>
  value.op in ELEMENTWISE;
const isProduct = (value: Value): value is Value & Product =>
  value.op === "matmul" || value.op === "conv2d" || value.op === "conv2dInput" || value.op === "conv2dFilter";
const isLeaf = ({ op }: Value): boolean => op === "parameter" || op === "input" || op === "constant";
/** Whether it sums over a shard, so that several can be one sum. */
const isShardSum = (value: Value): boolean =>
  value.op === "conv2dFilter" || (value.op === "matmul" && value.overShard);

/** The value whose numbers these are, in the same order. */
function source(value: Value): Value {
  return value.op === "reshape" ? source(value.inputs[0]) : value;
}

/** What an elementwise operation reads of an input, without the broadcast. */
function view(value: Value): Value {
  return value.op === "broadcast" ? value.inputs[0] : value;
}

/** Values that become one step. The first of its kind names it. */
interface Cluster {
  kind: Step["kind"];
  readonly values: Value[];
}

class Compiler {
  readonly #outputs: Readonly<Record<string, Value>>;
  readonly #options: CompileOptions;
  /** What must be computed, inputs first, and its place in this order. */
  readonly #values: readonly Value[];
  readonly #order: ReadonlyMap<Value, number>;
  readonly #users = new Map<Value, Set<Value>>();
  readonly #kept: ReadonlySet<Value>;
  readonly #stage = new Map<Value, number>();
  readonly #late = new Set<Value>();
  readonly #clusters = new Map<Value, Cluster>();
  readonly #buffers = new Map<Value, number>();

  constructor(outputs: Readonly<Record<string, Value>>, options: CompileOptions) {
    this.#outputs = outputs;
    this.#options = options;
    const roots = Object.values(outputs).map(source);
    this.#kept = new Set(roots);
    const needed = new Set(roots);
    const all = ancestors(roots);
    for (const value of all.toReversed())
      if (needed.has(value)) this.#sources(value).forEach((x) => needed.add(x));
    this.#values = all.filter((value) => needed.has(value) && !isLeaf(value));
    this.#order = new Map(all.map((value, i) => [value, i]));
    for (const value of this.#values) {
      for (const x of this.#sources(value)) {
        this.#users.set(x, (this.#users.get(x) ?? new Set<Value>()).add(value));
      }
    }
    for (const value of all.filter((value) => needed.has(value))) {
      const inputs = this.#sources(value);
      const stages = inputs.map((x) => (this.#stage.get(x) as number) + (x.op === "sumBatch" ? 1 : 0));
      this.#stage.set(value, Math.max(0, ...stages));
      const isLate = value.op === "parameter" && options.late?.includes(value.vector) === true;
      if (isLate || inputs.some((x) => this.#late.has(x))) this.#late.add(value);
    }
  }

  program(): Program {
    for (const value of this.#values) {
      const kind = isElementwise(value) ? "map" : isProduct(value) ? "product" : this.#isReduction(value) ? "reduce" : "move"; // prettier-ignore
      this.#clusters.set(value, { kind, values: [value] });
    }
    this.#fuseSums();
    this.#fuseMaps();
    this.#fuseEndings();
    this.#fuseSumsOfResults();
    const order = this.#schedule();
    const steps: Step[] = [];
    const buffers: Buffer[] = [];
    const allocate = (value: Value, step: number): number => {
      const { shape, extent, batches } = value;
      this.#buffers.set(value, buffers.length);
      return buffers.push({ form: { shape, extent, batches }, value, step }) - 1;
    };
    for (const [step, cluster] of order.entries()) {
      for (const value of cluster.values) {
        for (const x of this.#sources(value)) if (isLeaf(x) && !this.#buffers.has(x)) allocate(x, -1);
      }
      for (const value of cluster.values) if (this.#isWritten(value)) allocate(value, step);
      steps.push(this.#step(cluster));
    }
    for (const value of this.#kept) if (isLeaf(value) && !this.#buffers.has(value)) allocate(value, -1);
    const outputs = Object.fromEntries(
      Object.entries(this.#outputs).map(([name, value]) => [name, this.#bufferOf(value)]),
    );
    const numEarly = order.findIndex((cluster) => this.#isLate(cluster));
    return {
      buffers,
      steps,
      outputs,
      stages: this.#stages(order, buffers, Object.values(outputs)),
      numEarly: numEarly < 0 ? order.length : numEarly,
    };
  }

  /** Of the values that a value reads: of elementwise operations what lies before a broadcast, but constants. */
  #sources(value: Value): readonly Value[] {
    if (!isElementwise(value)) return value.inputs.map(source);
    return value.inputs.filter((x) => scalarOf(x) === undefined).map((x) => source(view(x)));
  }

  #isReduction({ op }: Value): boolean {
    return op === "sum" || op === "max" || op === "sumShard" || op === "sumBatch";
  }

  #usersOf(value: Value): readonly Value[] {
    return [...(this.#users.get(value) ?? [])];
  }

  /** The only user of a value that nobody else sees. */
  #onlyUser(value: Value): Value | null {
    const users = this.#usersOf(value);
    return users.length === 1 && !this.#kept.has(value) ? users[0] : null;
  }

  #clusterOf(value: Value): Cluster {
    return this.#clusters.get(value) as Cluster;
  }

  /** Whether a value is read by another step, or by the outside. */
  #isWritten(value: Value): boolean {
    const own = this.#clusterOf(value);
    return this.#kept.has(value) || this.#usersOf(value).some((user) => this.#clusterOf(user) !== own);
  }

  #stageOf({ values }: Cluster): number {
    return Math.max(...values.map((value) => this.#stage.get(value) as number));
  }

  #isLate({ values }: Cluster): boolean {
    return values.some((value) => this.#late.has(value));
  }

  /** Makes two clusters one where no third lies between them, and neither has to wait for it unless it may. */
  #merge(a: Cluster, b: Cluster, kind: Step["kind"], mayWait = false): boolean {
    if (a === b) return true;
    const isPrompt = this.#stageOf(a) === this.#stageOf(b) && this.#isLate(a) === this.#isLate(b);
    if (!isPrompt && !mayWait) return false;
    if (this.#detour(a, b) || this.#detour(b, a)) return false;
    for (const value of b.values) this.#clusters.set(value, a);
    a.values.push(...b.values);
    a.values.sort((x, y) => (this.#order.get(x) as number) - (this.#order.get(y) as number));
    a.kind = kind;
    return true;
  }

  /** Whether a way leads from a to b through other clusters. */
  #detour(a: Cluster, b: Cluster): boolean {
    const seen = new Set<Cluster>([a]);
    const stack = [a];
    for (let cluster = stack.pop(); cluster !== undefined; cluster = stack.pop()) {
      for (const value of cluster.values) {
        for (const user of this.#usersOf(value)) {
          const next = this.#clusterOf(user);
          if (next === b && cluster !== a) return true;
          if (seen.has(next) || next === b) continue;
          seen.add(next);
          stack.push(next);
        }
      }
    }
    return false;
  }

  /** Sums within samples, over samples, over shards: one step; so too the products that are such sums, and their sums. */
  #fuseSums(): void {
    for (const value of this.#values) {
      const [x] = this.#sources(value);
      if (value.op === "sumShard" && x.op === "sum" && this.#onlyUser(x) !== null) {
        this.#merge(this.#clusterOf(x), this.#clusterOf(value), "reduce");
      }
      if (value.op !== "sumBatch") continue;
      const terms = this.#terms(x);
      if (terms !== null) {
        const values = [value, ...terms.products, ...terms.sums].toSorted(
          (p, q) => (this.#order.get(p) as number) - (this.#order.get(q) as number),
        );
        const cluster: Cluster = { kind: "product", values };
        for (const each of values) this.#clusters.set(each, cluster);
      } else if (x.op === "sumShard" && this.#onlyUser(x) !== null) {
        this.#merge(this.#clusterOf(x), this.#clusterOf(value), "reduce");
      }
    }
  }

  /** The products over a shard whose sum a value is, if nobody else sees it and they are of one operation. */
  #terms(value: Value): { readonly products: readonly Value[]; readonly sums: readonly Value[] } | null {
    if (this.#onlyUser(value) === null) return null;
    if (isShardSum(value)) return { products: [value], sums: [] };
    if (value.op !== "add") return null;
    const sides = value.inputs.map((x) => (x.op === "reshape" ? null : this.#terms(x)));
    const [left, right] = sides;
    if (left === null || right === null) return null;
    const products = [...left.products, ...right.products];
    const same = products.every(({ op }) => op === products[0].op);
    return same ? { products, sums: [...left.sums, ...right.sums, value] } : null;
  }

  /** Elementwise operations on one form; those that only a sum needs go into the sum. */
  #fuseMaps(): void {
    // What one map alone reads is computed there, and not kept.
    for (const value of this.#values.toReversed()) {
      if (!this.#isMap(value) || this.#kept.has(value) || this.#isForSum(value)) continue;
      const users = this.#usersOf(value);
      const user = this.#clusterOf(users[0]);
      const isAlone = users.every((other) => this.#clusterOf(other) === user && other.inputs.includes(value));
      const own = this.#clusterOf(value);
      if (isAlone && user.kind === "map" && this.#fits(own, user)) this.#merge(own, user, "map", true);
    }
    const forSum = this.#values.filter((value) => this.#isForSum(value));
    const isTaken = (cluster: Cluster): boolean => forSum.some((value) => this.#clusterOf(value) === cluster);
    for (const value of this.#values) {
      for (const x of this.#isMap(value) ? value.inputs : []) {
        if (!this.#isMap(x)) continue;
        const [a, b] = [this.#clusterOf(x), this.#clusterOf(value)];
        if (!isTaken(a) && !isTaken(b) && this.#fits(a, b)) this.#merge(a, b, "map");
      }
    }
    for (const value of forSum) {
      const reduction = this.#clusterOf(this.#onlyUser(value) as Value);
      this.#merge(this.#clusterOf(value), reduction, "reduce", true);
    }
  }

  #isMap(value: Value): boolean {
    return isElementwise(value) && this.#clusterOf(value).kind === "map";
  }

  /** Whether only a sum of the same numbers reads it. */
  #isForSum(value: Value): boolean {
    const user = this.#onlyUser(value);
    if (!isElementwise(value) || user === null || this.#clusterOf(value).kind !== "map") return false;
    return this.#isReduction(user) && user.op !== "sumBatch" && user.inputs[0] === value;
  }

  #fits(a: Cluster, b: Cluster): boolean {
    const { maxBuffers = Infinity } = this.#options;
    const values = [...a.values, ...b.values];
    const read = new Set(values.flatMap((value) => this.#sources(value)).filter((x) => !values.includes(x)));
    const written = values.filter(
      (v) => this.#kept.has(v) || this.#usersOf(v).some((u) => !values.includes(u)),
    );
    return read.size + written.length <= maxBuffers;
  }

  /** What follows a product, where it is all that follows. */
  #fuseEndings(): void {
    for (const value of this.#values) {
      const users = this.#usersOf(value);
      if (!isProduct(value) || this.#kept.has(value) || isShardSum(value) || users.length === 0) continue;
      const ending = this.#clusterOf(users[0]);
      const isSame = users.every((user) => this.#clusterOf(user) === ending);
      const isWhole = users.every((user) => user.inputs.every((x) => source(view(x)) !== value || x.op !== "broadcast")); // prettier-ignore
      if (isSame && isWhole && ending.kind === "map") this.#merge(this.#clusterOf(value), ending, "product");
    }
  }

  /** A sum of what a map writes, or of what is made of it, is taken while it is written. */
  #fuseSumsOfResults(): void {
    for (const value of this.#values) {
      if (!this.#isReduction(value) || value.op === "sumBatch") continue;
      const read = this.#clusterOf(value).values.flatMap(({ inputs }) => inputs);
      for (const x of read.filter((x) => this.#isMap(x))) {
        this.#merge(this.#clusterOf(x), this.#clusterOf(value), "reduce");
      }
    }
  }

  /**
   * Clusters in an order in which each has what it reads: stage by stage, early ones first, and next to what they
   * read, sums before others, so that little is kept for long.
   */
  #schedule(): readonly Cluster[] {
    const waiting = new Set(this.#values.map((value) => this.#clusterOf(value)));
    const done = new Map<Cluster, number>();
    const sources = (cluster: Cluster): readonly Cluster[] =>
      cluster.values
        .flatMap((value) => this.#sources(value))
        .filter((x) => !isLeaf(x) && this.#clusterOf(x) !== cluster)
        .map((x) => this.#clusterOf(x));
    const all = [...waiting].map((cluster) => ({ cluster, sources: sources(cluster) }));
    const rank = ({ cluster, sources }: (typeof all)[number]): readonly number[] => [
      this.#stageOf(cluster),
      Number(this.#isLate(cluster)),
      -Math.max(-1, ...sources.map((x) => done.get(x) as number)),
      Number(cluster.values.at(-1)?.op !== "sumBatch"),
      this.#order.get(cluster.values[0]) as number,
    ];
    while (waiting.size > 0) {
      const ready = all
        .filter(({ cluster, sources }) => waiting.has(cluster) && sources.every((x) => done.has(x)))
        .map((each) => ({ ...each, rank: rank(each) }));
      if (ready.length === 0) throw new Error("Cannot order steps as some wait for each other");
      const { cluster } = ready.reduce((a, b) => {
        const axis = a.rank.findIndex((x, i) => x !== b.rank[i]);
        return a.rank[axis] < b.rank[axis] ? a : b;
      });
      waiting.delete(cluster);
      done.set(cluster, done.size);
    }
    return [...done.keys()];
  }

  #stages(
    order: readonly Cluster[],
    buffers: readonly Buffer[],
    outputs: readonly number[],
  ): readonly Stage[] {
    const last = order.map((cluster) => this.#stageOf(cluster));
    const numStages = Math.max(0, ...last) + 1;
    const place = (buffer: number): number => {
      const i = outputs.indexOf(buffer);
      return i < 0 ? outputs.length + buffer : i;
    };
    return Array.from({ length: numStages }, (_, stage) => ({
      end: last.filter((own) => own <= stage).length,
      crossings: [...buffers.keys()]
        .filter((i) => buffers[i].value.op === "sumBatch" && this.#stage.get(buffers[i].value) === stage)
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
    const [first, ...rest] = values.filter((value) => this.#isReduction(value));
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
    const written = values.filter((value) => this.#isWritten(value));
    return {
      form: { shape, extent, batches },
      operands,
      code: code.map(({ op, registers }) => ({ op, registers: registers.map(registerOf) })),
      results: written.map((value) => ({ register: registerOf(value), buffer: this.#bufferOf(value) })),
    };
  }
}

/** A program as text, a line a step. */
export function print(program: Program): string {
  const lines: string[] = [];
  const { buffers, steps, stages, outputs } = program;
  const name = (buffer: number): string => {
    const { value } = buffers[buffer];
    if (value.op === "parameter") return `${value.vector}:${value.name}`;
    if (value.op === "input") return value.name;
    if (value.op !== "constant") return `%${buffer}`;
    return value.values.length === 1 ? `${value.values[0]}` : `constant[${value.shape.join(", ")}]`;
  };
  /** @param reduced A register that is the last word. */
  const map = ({ form, operands, code, results }: MapCode, reduced = -1): string => {
    const uses = [...code.flatMap(({ registers }) => registers), reduced];
    const text: string[] = operands.map((operand) => {
      if (operand === "product") return "·";
      if ("constant" in operand) return String(operand.constant);
      const { form: own } = buffers[operand.buffer];
      const repeated = own.extent !== form.extent || operand.shape.join() !== form.shape.join();
      return repeated ? `${name(operand.buffer)}*` : name(operand.buffer);
    });
    const parts: string[] = [];
    for (const [i, { op, registers }] of code.entries()) {
      const register = operands.length + i;
      const result = results.find((r) => r.register === register);
      const call = `${op}(${registers.map((r) => text[r]).join(", ")})`;
      if (result === undefined && uses.filter((r) => r === register).length <= 1) {
        text.push(call);
        continue;
      }
      text.push(result === undefined ? `r${register}` : name(result.buffer));
      parts.push(`${text[register]} = ${call}`);
    }
    return [...parts, ...(reduced < 0 ? [] : [text[reduced]])].join("; ");
  };
  const line = (step: Step): string => {
    switch (step.kind) {
      case "map":
        return map(step.map);
      case "move":
        return `${name(step.result)} = ${step.operation.op}(${step.inputs.map(({ buffer }) => name(buffer)).join(", ")})`;
      case "product": {
        const terms = step.terms.map(({ operation, a, b }) => {
          const [ta, tb] = operation.op === "matmul" ? [operation.transA, operation.transB] : [false, false];
          return `${operation.op}(${name(a.buffer)}${ta ? "'" : ""}, ${name(b.buffer)}${tb ? "'" : ""})`;
        });
        const value = `${terms.join(" + ")}${step.tree ? " over the batch" : ""}`;
        return step.ending === null
          ? `${name(step.result as number)} = ${value}`
          : `${value}, then ${map(step.ending)}`;
      }
      case "reduce": {
        const over = [...step.axes.map((axis) => `axis ${axis}`), ...(step.form.extent === "shard" ? ["shard"] : []), ...(step.tree ? ["batch"] : [])]; // prettier-ignore
        const input =
          "buffer" in step.input ? name(step.input.buffer) : map(step.input.map, step.input.register);
        return `${name(step.result)} = ${step.op} over ${over.join(", ")} of ${input}`;
      }
    }
  };
  const formOf = (step: Step): Form => (step.kind === "map" ? step.map.form : step.form);
  let start = 0;
  for (const [stage, { end, crossings }] of stages.entries()) {
    lines.push(`stage ${stage}`);
    for (const [i, step] of steps.slice(start, end).entries()) {
      const early = start + i < program.numEarly && program.numEarly < steps.length ? " (early)" : "";
      lines.push(`  ${line(step)}  ${describe(formOf(step))}${early}`);
    }
    if (crossings.length > 0) lines.push(`  all-reduce ${crossings.map(name).join(", ")}`);
    start = end;
  }
  lines.push("outputs");
  for (const [key, buffer] of Object.entries(outputs)) lines.push(`  ${key} = ${name(buffer)}`);
  return `${lines.join("\n")}\n`;
}
