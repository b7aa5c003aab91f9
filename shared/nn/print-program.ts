/** Programs as text: what tests hold as golden, and what tells why a step is slow. @module */
import type { Form } from "./graph.ts";
import { describe } from "./graph.ts";
import type { MapCode, Program, Step } from "./program.ts";

/** A program as text, a line a step. */
export function printProgram(program: Program): string {
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
