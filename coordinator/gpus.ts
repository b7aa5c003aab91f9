/**
 * The NVIDIA GPUs of this machine, by the tool of their driver.
 *
 * @module
 */
import { execFileSync } from "node:child_process";

export interface NvidiaGpu {
  /** As CUDA_VISIBLE_DEVICES counts with CUDA_DEVICE_ORDER=PCI_BUS_ID. */
  readonly index: number;
  readonly name: string;
  readonly memoryMiB: number;
  readonly driver: string;
}

/** @returns Empty where nvidia-smi is missing or fails. */
export function nvidiaGpus(): readonly NvidiaGpu[] {
  const query = ["--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits"];
  let output: string;
  try {
    const stdio: ["ignore", "pipe", "ignore"] = ["ignore", "pipe", "ignore"];
    output = execFileSync("nvidia-smi", query, { encoding: "utf8", stdio, timeout: 30_000 });
  } catch {
    return [];
  }
  return parseNvidiaSmi(output);
}

/** @param output A line per GPU: index, name, MiB, driver version. */
export function parseNvidiaSmi(output: string): readonly NvidiaGpu[] {
  return output
    .split("\n")
    .map((line) => line.split(",").map((field) => field.trim()))
    .filter((fields) => fields.length === 4 && /^\d+$/.test(fields[0]))
    .map(([index, name, memory, driver]) => ({
      ...{ index: Number(index), name, driver },
      // Some GPUs say "[N/A]".
      memoryMiB: Number.isNaN(Number(memory)) ? 0 : Number(memory),
    }));
}
