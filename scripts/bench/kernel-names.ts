/**
 * Names for the functions of our kernels in a CPU profile, which knows them by
 * number only: the builds carry no names.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";

/** Exported kernels of the build that runs by default, by function number. */
export function kernelNames(): ReadonlyMap<number, string> {
  const build = fusesMultiplyAdd() ? "kernels-fused.wasm" : "kernels.wasm";
  const bytes = readFileSync(new URL(`../../worker/kernels/${build}`, import.meta.url));
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  const names = new Map<number, string>();
  for (const [name, value] of Object.entries(exports)) {
    // The JavaScript interface of WebAssembly names an exported function by its number.
    if (typeof value === "function") names.set(Number(value.name), name);
  }
  return names;
}
