/**
 * Which values of a graph become one step of a program: elementwise operations on one form, what follows a product,
 * what a sum takes in, sums of sums. Two are made one only where no third lies between them, so an order is left.
 *
 * @module
 */
import type { ElementwiseOp, Operation, Value } from "./graph.ts";
import { ancestors, ELEMENTWISE, scalarOf } from "./graph.ts";

export type Product = Extract<Operation, { op: "matmul" | "conv2d" | "conv2dInput" | "conv2dFilter" }>;

export interface CompileOptions {
  /** Vectors of parameters that are known last: what does not depend on them comes first. */
  readonly late?: readonly string[];
  /** Most buffers that a map reads and writes, where an engine has a limit. Default: none. */
  readonly maxBuffers?: number;
}

export const isElementwise = (value: Value): value is Value & { readonly op: ElementwiseOp } =>
  value.op in ELEMENTWISE;
export const isProduct = (value: Value): value is Value & Product =>
  value.op === "matmul" || value.op === "conv2d" || value.op === "conv2dInput" || value.op === "conv2dFilter";
export const isLeaf = ({ op }: Value): boolean => op === "parameter" || op === "input" || op === "constant";
/** Whether it sums over a shard, so that several can be one sum. */
const isShardSum = (value: Value): boolean =>
  value.op === "conv2dFilter" || (value.op === "matmul" && value.overShard);

/** The value whose numbers these are, in the same order. */
export function source(value: Value): Value {
  return value.op === "reshape" ? source(value.inputs[0]) : value;
}

/** What an elementwise operation reads of an input, without the broadcast. */
export function view(value: Value): Value {
  return value.op === "broadcast" ? value.inputs[0] : value;
}

export function isReduction({ op }: Value): boolean {
  return op === "sum" || op === "max" || op === "sumShard" || op === "sumBatch";
}

/** Of the values that a value reads: of elementwise operations what lies before a broadcast, but constants. */
export function sourcesOf(value: Value): readonly Value[] {
  if (!isElementwise(value)) return value.inputs.map(source);
  return value.inputs.filter((x) => scalarOf(x) === undefined).map((x) => source(view(x)));
}

/** Values that become one step. */
export interface Cluster {
  kind: "map" | "product" | "reduce" | "move";
  /** Inputs first. */
  readonly values: Value[];
}

export class Clusters {
  readonly #options: CompileOptions;
  /** What must be computed, inputs first, and its place in this order. */
  readonly #values: readonly Value[];
  readonly #order: ReadonlyMap<Value, number>;
  readonly #users = new Map<Value, Set<Value>>();
  readonly #kept: ReadonlySet<Value>;
  readonly #stage = new Map<Value, number>();
  readonly #late = new Set<Value>();
  readonly #clusters = new Map<Value, Cluster>();

  constructor(outputs: readonly Value[], options: CompileOptions) {
    this.#options = options;
    const roots = outputs.map(source);
    this.#kept = new Set(roots);
    const needed = new Set(roots);
    const all = ancestors(roots);
    for (const value of all.toReversed())
      if (needed.has(value)) sourcesOf(value).forEach((x) => needed.add(x));
    this.#values = all.filter((value) => needed.has(value) && !isLeaf(value));
    this.#order = new Map(all.map((value, i) => [value, i]));
    for (const value of this.#values) {
      for (const x of sourcesOf(value)) {
        this.#users.set(x, (this.#users.get(x) ?? new Set<Value>()).add(value));
      }
    }
    for (const value of all.filter((value) => needed.has(value))) {
      const inputs = sourcesOf(value);
      const stages = inputs.map((x) => (this.#stage.get(x) as number) + (x.op === "sumBatch" ? 1 : 0));
      this.#stage.set(value, Math.max(0, ...stages));
      const isLate = value.op === "parameter" && options.late?.includes(value.vector) === true;
      if (isLate || inputs.some((x) => this.#late.has(x))) this.#late.add(value);
    }
    for (const value of this.#values) {
      const kind = isElementwise(value) ? "map" : isProduct(value) ? "product" : isReduction(value) ? "reduce" : "move"; // prettier-ignore
      this.#clusters.set(value, { kind, values: [value] });
    }
    this.#fuseSums();
    this.#fuseMaps();
    this.#fuseEndings();
    this.#fuseSumsOfResults();
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
  isWritten(value: Value): boolean {
    const own = this.#clusterOf(value);
    return this.#kept.has(value) || this.#usersOf(value).some((user) => this.#clusterOf(user) !== own);
  }

  stageOf({ values }: Cluster): number {
    return Math.max(...values.map((value) => this.#stage.get(value) as number));
  }

  isLate({ values }: Cluster): boolean {
    return values.some((value) => this.#late.has(value));
  }

  /** Makes two clusters one where no third lies between them, and neither has to wait for it unless it may. */
  #merge(a: Cluster, b: Cluster, kind: Cluster["kind"], mayWait = false): boolean {
    if (a === b) return true;
    const isPrompt = this.stageOf(a) === this.stageOf(b) && this.isLate(a) === this.isLate(b);
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
      const [x] = sourcesOf(value);
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
    return isReduction(user) && user.op !== "sumBatch" && user.inputs[0] === value;
  }

  #fits(a: Cluster, b: Cluster): boolean {
    const { maxBuffers = Infinity } = this.#options;
    const values = [...a.values, ...b.values];
    const read = new Set(values.flatMap((value) => sourcesOf(value)).filter((x) => !values.includes(x)));
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
      if (!isReduction(value) || value.op === "sumBatch") continue;
      const read = this.#clusterOf(value).values.flatMap(({ inputs }) => inputs);
      for (const x of read.filter((x) => this.#isMap(x))) {
        this.#merge(this.#clusterOf(x), this.#clusterOf(value), "reduce");
      }
    }
  }

  /**
   * In an order in which each has what it reads: stage by stage, early ones first, and next to what they
   * read, sums before others, so that little is kept for long.
   */
  inOrder(): readonly Cluster[] {
    const waiting = new Set(this.#values.map((value) => this.#clusterOf(value)));
    const done = new Map<Cluster, number>();
    const sources = (cluster: Cluster): readonly Cluster[] =>
      cluster.values
        .flatMap((value) => sourcesOf(value))
        .filter((x) => !isLeaf(x) && this.#clusterOf(x) !== cluster)
        .map((x) => this.#clusterOf(x));
    const all = [...waiting].map((cluster) => ({ cluster, sources: sources(cluster) }));
    const rank = ({ cluster, sources }: (typeof all)[number]): readonly number[] => [
      this.stageOf(cluster),
      Number(this.isLate(cluster)),
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
}
