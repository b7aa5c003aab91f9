/**
 * A network is a name and a layer, which may be made of layers. What parameters it has, and their shapes, follow
 * from applying it once: a layer sees the shape of its input and asks its scope for what it needs.
 *
 * @module
 */
import type { Shape, Value } from "./graph.ts";
import { describe, input, join, parameter, sameShape, ShapeError, sizeOf } from "./graph.ts";
import type { Declaration, Entry } from "./initial-values.ts";

/** @typeParam T What it gives: a value, or a record of several. */
export interface Layer<T = Value> {
  /** For errors: "dense 512". */
  readonly kind: string;
  /** @param inputs Those of the layer before it, then those of the network beyond its first, as labels. */
  apply(scope: Scope, ...inputs: readonly Value[]): T;
}

export function layer<T = Value>(
  kind: string,
  apply: (scope: Scope, ...inputs: readonly Value[]) => T,
): Layer<T> {
  return { kind, apply };
}

export interface TraceOptions {
  /** Whether batches are normalized by their own statistics, and noise and dropout act. */
  readonly mode: "train" | "evaluate";
  /** Samples of the global batch. */
  readonly batchSize: number;
}

/** One use of networks: what a phase computes, or samples. Remembers what of their state it changes. */
export class Trace {
  readonly options: TraceOptions;
  /** By leaf: what it is after what was traced so far. */
  readonly #state = new Map<Value, Value>();
  readonly #draws = new Map<string, number>();

  constructor(options: TraceOptions) {
    this.options = options;
  }

  stateOf(leaf: Value): Value {
    return this.#state.get(leaf) ?? leaf;
  }

  setState(leaf: Value, value: Value): void {
    this.#state.set(leaf, value);
  }

  /** New values of the state that changes, by its leaf. */
  get updates(): ReadonlyMap<Value, Value> {
    return this.#state;
  }

  /** Random numbers per sample, of a name that no other draw of this trace has. */
  draw(path: string, fill: "uniform" | "normal", shape: Shape): Value {
    const count = this.#draws.get(path) ?? 0;
    this.#draws.set(path, count + 1);
    return input(`${path}.${fill}.${count}`, shape, "sample", fill);
  }
}

/** Tensors of one kind of a network. */
class Registry {
  readonly #vector: string;
  readonly entries: Entry[] = [];
  readonly leaves: Value[] = [];

  constructor(vector: string) {
    this.#vector = vector;
  }

  get size(): number {
    return this.entries.reduce((sum, { size }) => sum + size, 0);
  }

  declare(path: string, declaration: Declaration): Value {
    if (this.entries.some((entry) => entry.path === path)) {
      throw new ShapeError(`Cannot declare ${path} as another layer of the same name has one`);
    }
    const leaf = parameter(this.#vector, path, declaration.shape);
    this.entries.push({ ...declaration, path, offset: this.size, size: sizeOf(declaration.shape) });
    this.leaves.push(leaf);
    return leaf;
  }

  find(path: string): Value | undefined {
    return this.leaves[this.entries.findIndex((entry) => entry.path === path)];
  }
}

interface Registries {
  readonly parameters: Registry;
  readonly state: Registry;
  /** Whether the network is being declared. */
  open: boolean;
}

/** How a layer wraps the parameters of another: spectral norm, weight norm. */
type Wrap = (declaration: Declaration, scope: Scope) => Value | null;

/** What a layer may ask for, under its own name. */
export class Scope {
  readonly #trace: Trace;
  readonly #network: string;
  readonly #registries: Registries;
  readonly #path: readonly string[];
  readonly #wrap: Wrap | null;

  constructor(
    trace: Trace,
    network: string,
    registries: Registries,
    path: readonly string[] = [],
    wrap: Wrap | null = null,
  ) {
    this.#trace = trace;
    this.#network = network;
    this.#registries = registries;
    this.#path = path;
    this.#wrap = wrap;
  }

  get training(): boolean {
    return this.#trace.options.mode === "train";
  }

  get batchSize(): number {
    return this.#trace.options.batchSize;
  }

  parameter(declaration: Declaration): Value {
    return this.#wrap?.(declaration, this.wrapped(null)) ?? this.#leaf("parameters", declaration);
  }

  /** A tensor that is no parameter but lives on, as it is now. */
  state(declaration: Declaration): Value {
    return this.#trace.stateOf(this.#leaf("state", declaration));
  }

  /** Whether this trace has changed it. */
  changed({ name }: Declaration): boolean {
    const leaf = this.#registries.state.find(this.#pathOf(name));
    return leaf !== undefined && this.#trace.stateOf(leaf) !== leaf;
  }

  /** @param value Shared: the same on every worker. */
  setState({ name }: Declaration, value: Value): void {
    const leaf = this.#registries.state.find(this.#pathOf(name));
    if (leaf !== undefined) this.#trace.setState(leaf, value);
  }

  /** Random numbers for each sample, of one or several batches. */
  draw(fill: "uniform" | "normal", shape: Shape, batches: number): Value {
    const path = [this.#network, ...this.#path].join(".");
    return join(Array.from({ length: batches }, () => this.#trace.draw(path, fill, shape)));
  }

  /** The same scope, whose parameters a wrap makes where it does not give null. */
  wrapped(wrap: Wrap | null): Scope {
    return new Scope(this.#trace, this.#network, this.#registries, this.#path, wrap);
  }

  /** Applies a layer under a name of its own. @throws {ShapeError} Which names network and layer. */
  apply<T>(name: string, layer: Layer<T>, ...inputs: readonly Value[]): T {
    const path = name === "" ? this.#path : [...this.#path, name];
    const scope = new Scope(this.#trace, this.#network, this.#registries, path, this.#wrap);
    try {
      return layer.apply(scope, ...inputs);
    } catch (error) {
      if (!(error instanceof ShapeError) || error.located) throw error;
      throw new ShapeError(
        `Cannot build ${this.#network}: layer ${path.join(".")} (${layer.kind}): ${error.message}`,
        true,
      );
    }
  }

  #pathOf(name: string): string {
    return [...this.#path, name].join(".");
  }

  #leaf(kind: "parameters" | "state", declaration: Declaration): Value {
    const registry = this.#registries[kind];
    const path = this.#pathOf(declaration.name);
    const leaf = registry.find(path);
    // State may be asked for again within its layer; two parameters of one name are a mistake.
    if (this.#registries.open && (kind === "parameters" || leaf === undefined)) {
      return registry.declare(path, declaration);
    }
    if (leaf === undefined || !sameShape(leaf.shape, declaration.shape)) {
      const expected = leaf === undefined ? "none" : `[${leaf.shape.join(", ")}]`;
      throw new ShapeError(
        `Cannot use another ${path} than was declared: expected ${expected}, got [${declaration.shape.join(", ")}]`,
      );
    }
    return leaf;
  }
}

export interface Network<T = Value> {
  readonly name: string;
  /** Shapes per sample. */
  readonly inputs: readonly Shape[];
  readonly parameters: readonly Entry[];
  /** The value of each parameter, in order: what gradients are taken by. */
  readonly leaves: readonly Value[];
  readonly numParameters: number;
  /** What is kept between steps but not trained: running statistics, vectors of spectral norm. */
  readonly state: readonly Entry[];
  readonly stateLeaves: readonly Value[];
  /** @throws {ShapeError} If the inputs are not those declared. */
  apply(trace: Trace, ...inputs: readonly Value[]): T;
}

/** @throws {ShapeError} If shapes do not fit or two tensors have one name; says which layer, what it expected, what it got. */
export function declareNetwork<T = Value>(
  name: string,
  inputs: readonly Shape[],
  root: Layer<T>,
): Network<T> {
  const registries: Registries = {
    parameters: new Registry(name),
    state: new Registry(`${name}.state`),
    open: true,
  };
  const trace = new Trace({ mode: "train", batchSize: 1 });
  const scope = (trace: Trace): Scope => new Scope(trace, name, registries);
  const placeholders = inputs.map((shape, i) => input(`input ${i}`, shape));
  scope(trace).apply("", root, ...placeholders);
  registries.open = false;
  const { parameters, state } = registries;
  return {
    name,
    inputs,
    parameters: parameters.entries,
    leaves: parameters.leaves,
    numParameters: parameters.size,
    state: state.entries,
    stateLeaves: state.leaves,
    apply(trace, ...values) {
      for (const [i, shape] of inputs.entries()) {
        const value = values.at(i);
        if (value === undefined || !sameShape(value.shape, shape)) {
          throw new ShapeError(
            `Cannot apply ${name} as input ${i} must have its shape: expected [${shape.join(", ")}], got ${value === undefined ? "none" : describe(value)}`,
            true,
          );
        }
      }
      return scope(trace).apply("", root, ...values);
    },
  };
}
