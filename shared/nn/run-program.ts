/**
 * Runs programs with the operations of the interpreter, in memory as it is planned: what programs are held against
 * graphs with, and an example of what an engine does.
 *
 * @module
 */
import type { Form, Operation } from "./graph.ts";
import { ELEMENTWISE, sizeOf } from "./graph.ts";
import type { Bindings, Held, Numbers, Precision, Shards } from "./interpreter.ts";
import { indices, Machine, stridesOf } from "./interpreter.ts";
import { planMemory } from "./memory-plan.ts";
import type { MapCode, Program, Read, Step } from "./program.ts";

/** @returns The numbers of each output; sums over the batch are those of these shards. */
export function runProgram(
  program: Program,
  bindings: Bindings,
  shards: Shards,
  precision: Precision = "float64",
): Readonly<Record<string, Numbers>> {
  const run = new Run(program, bindings, shards, precision);
  for (const step of program.steps) run.step(step);
  return Object.fromEntries(
    Object.entries(program.outputs).map(([name, buffer]) => [name, run.numbers(buffer).slice()]),
  );
}

class Run {
  readonly #machine: Machine;
  readonly #program: Program;
  readonly #numbers: readonly Numbers[];

  constructor(program: Program, bindings: Bindings, shards: Shards, precision: Precision) {
    const machine = new Machine(bindings, shards, precision);
    const samples = shards.sizes.reduce((a, b) => a + b, 0);
    const { offsets, length } = planMemory(program, { samples, shards: shards.sizes.length });
    const memory = machine.allocate(length).fill(NaN);
    this.#machine = machine;
    this.#program = program;
    this.#numbers = program.buffers.map(({ form, value, step }, i) => {
      const size = machine.length(form);
      const own = offsets[i] < 0 ? machine.allocate(size) : memory.subarray(offsets[i], offsets[i] + size);
      if (step < 0) own.set(machine.compute(value, form, []));
      return own;
    });
  }

  numbers(buffer: number): Numbers {
    return this.#numbers[buffer];
  }

  step(step: Step): void {
    switch (step.kind) {
      case "map":
        this.#map(step.map, null);
        return;
      case "move": {
        const { operation, form, inputs, result } = step;
        this.numbers(result).set(this.#machine.compute(operation, form, inputs.map((read) => this.#held(read)))); // prettier-ignore
        return;
      }
      case "product":
        return this.#product(step);
      case "reduce":
        return this.#reduce(step);
    }
  }

  #held({ buffer, form }: Read): Held {
    return { form, numbers: this.numbers(buffer) };
  }

  /** Sums over shards what is one value a shard. */
  #tree(form: Form, numbers: Numbers): Numbers {
    return this.#machine.compute({ op: "sumBatch" }, { ...form, extent: "shared" }, [{ form, numbers }]);
  }

  #product({ form, terms, tree, ending, result }: Extract<Step, { kind: "product" }>): void {
    const products = terms.map(({ operation, a, b }) =>
      this.#machine.compute(operation, form, [this.#held(a), this.#held(b)]),
    );
    const sum = products.reduce((left, right) =>
      this.#machine.compute({ op: "add" }, form, [left, right].map((numbers) => ({ form, numbers }))),
    ); // prettier-ignore
    if (ending !== null) this.#map(ending, sum);
    if (result !== null) this.numbers(result).set(tree ? this.#tree(form, sum) : sum);
  }

  #reduce({ op, axes, form, tree, input, result }: Extract<Step, { kind: "reduce" }>): void {
    let held: Held =
      "buffer" in input
        ? this.#held(input)
        : { form: input.map.form, numbers: this.#map(input.map, null, input.register) };
    const compute = (operation: Operation, next: Form): void => {
      held = { form: next, numbers: this.#machine.compute(operation, next, [held]) };
    };
    const { shape } = form;
    if (axes.length > 0) compute({ op, axes }, { ...held.form, shape });
    if (held.form.extent !== form.extent || held.form.batches !== form.batches)
      compute({ op: "sumShard" }, form);
    this.numbers(result).set(tree ? this.#tree(form, held.numbers) : held.numbers);
  }

  /** @returns What one register was, of all values. */
  #map({ form, operands, code, results }: MapCode, product: Numbers | null, register = 0): Numbers {
    const { round } = this.#machine;
    const size = sizeOf(form.shape);
    const reads = operands.map((operand): ((row: number, i: number) => number) => {
      if (operand === "product") return (row, i) => (product as Numbers)[row * size + i];
      if ("constant" in operand) return () => round(operand.constant);
      const numbers = this.numbers(operand.buffer);
      const own = { ...this.#program.buffers[operand.buffer].form, shape: operand.shape };
      const rows = this.#machine.rowMap(form, own);
      const strides = stridesOf(own.shape).map((n, axis) => (own.shape[axis] === 1 ? 0 : n));
      const places = indices(form.shape).map((index) =>
        index.reduce((sum, x, axis) => sum + x * strides[axis], 0),
      );
      return (row, i) => numbers[rows[row] * sizeOf(own.shape) + places[i]];
    });
    const seen = this.#machine.allocate(this.#machine.length(form));
    const writes = [
      { register, numbers: seen },
      ...results.map(({ register, buffer }) => ({ register, numbers: this.numbers(buffer) })),
    ];
    const registers: number[] = [];
    for (let row = 0; row < this.#machine.numRows(form); row++) {
      for (let i = 0; i < size; i++) {
        for (const [r, read] of reads.entries()) registers[r] = read(row, i);
        for (const [c, { op, registers: from }] of code.entries()) {
          const f: (a: number, b: number, c: number) => number = ELEMENTWISE[op];
          registers[reads.length + c] = round(f(registers[from[0]], registers[from[1]], registers[from[2]]));
        }
        for (const { register, numbers } of writes) numbers[row * size + i] = registers[register];
      }
    }
    return seen;
  }
}
