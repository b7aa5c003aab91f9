/**
 * Names for the functions of our kernels in a CPU profile, which knows them by
 * number only: the builds carry no names.
 *
 * @module
 */
import { chooseKernels, compileKernels } from "../../worker/kernels/kernel-builds.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";

/** Exported kernels of the build that runs by default, by function number. */
export async function kernelNames(): Promise<ReadonlyMap<number, string>> {
  const fused = fusesMultiplyAdd();
  const { wide } = await chooseKernels(fused);
  const module = await compileKernels({ fused, wide });
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const names = new Map<number, string>();
  for (const [name, value] of Object.entries(exports)) {
    // The JavaScript interface of WebAssembly names an exported function by its number.
    if (typeof value === "function") names.set(Number(value.name), name);
  }
  return names;
}
