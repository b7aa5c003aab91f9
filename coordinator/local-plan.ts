/**
 * Which worker processes a run starts on this machine: runtime and GPU of each.
 *
 * @module
 */
import type { EngineName, RunConfig } from "../shared/config.ts";
import { UsageError } from "../shared/errors.ts";
import { RUNTIME } from "../shared/runtime.ts";
import { engineEnvironment } from "../worker/engine/environment.ts";
import type { LocalWorker } from "./launch.ts";
import type { WorkerRuntime } from "./runtime-command.ts";

/**
 * The GPUs of `--gpus`, as indices into those that the engine can use.
 *
 * @param wanted "all" or indices with commas, or null if the flag was not given.
 * @param names Of the GPUs that the engine can use.
 * @throws {UsageError} If a GPU is not there.
 */
export function selectGpus(
  wanted: string | null,
  engine: string,
  names: readonly string[],
): readonly number[] {
  if (wanted === null || wanted === "all") {
    if (wanted === "all" && names.length === 0) {
      throw new UsageError(
        `Cannot use --gpus all as engine ${engine} finds no GPU here: see lockstep doctor, or leave --gpus away`,
      );
    }
    return names.map((_, i) => i);
  }
  const gpus = wanted.split(",").map(Number);
  const missing = gpus.filter((gpu) => gpu >= names.length);
  if (missing.length > 0) {
    const found = names.length === 0 ? "none" : names.map((name, i) => `${i} (${name})`).join(", ");
    throw new UsageError(
      `Cannot use --gpus ${wanted} as engine ${engine} finds no GPU ${missing.join(", ")} here: it finds ${found}`,
    );
  }
  if (new Set(gpus).size < gpus.length) {
    throw new UsageError(`Cannot use --gpus ${wanted} as a GPU is named twice: see --workers-per-gpu`);
  }
  return gpus;
}

/**
 * The GPU of each worker; neighbours in rank share one.
 *
 * @param workersPerGpu Null for as few as the number of workers allows.
 * @throws {UsageError} If there are more workers than places.
 */
export function assignGpus(
  workers: number,
  gpus: readonly number[],
  workersPerGpu: number | null,
): readonly (number | null)[] {
  if (gpus.length === 0) return Array<null>(workers).fill(null);
  const places = workersPerGpu ?? Math.ceil(workers / gpus.length);
  if (workers > places * gpus.length) {
    throw new UsageError(
      `Cannot start ${workers} workers as ${gpus.length} GPUs with ${places} workers each have fewer places: raise --workers-per-gpu or lower --workers`,
    );
  }
  return Array.from({ length: workers }, (_, i) => gpus[Math.floor(i / places)]);
}

/** @param gpus Those that the engine may use. */
export function planLocalWorkers(
  { workers, runtime, engine, workersPerGpu }: RunConfig,
  gpus: readonly number[],
): readonly LocalWorker[] {
  return assignGpus(workers, gpus, workersPerGpu).map((device, i) => ({
    runtime: workerRuntime(runtime, engine, i),
    device,
    environment: engineEnvironment(engine, { device }),
  }));
}

/** What a worker runs on. For auto: bits of engine wasm, and of it alone, are the same on every version of Node. */
export function workerRuntime(
  runtime: RunConfig["runtime"],
  engine: EngineName,
  index: number,
): WorkerRuntime {
  if (runtime === "auto") return RUNTIME === "node" && engine === "wasm" ? "fastest-node" : RUNTIME;
  return runtime === "mixed" ? (["node", "deno"] as const)[index % 2] : runtime;
}
