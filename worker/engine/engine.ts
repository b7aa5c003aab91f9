/**
 * An engine turns (parameters, shard, noise) into (flat gradient, metrics) on
 * some device. It keeps no training state of its own: parameters are handed to
 * it after every update, and the same inputs give the same bits.
 *
 * @module
 */
import type { EngineName, TrainingConfig } from "../../shared/config.ts";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";
import type { Model } from "../../shared/nn/models.ts";
import type { NetworkName } from "../../shared/nn/network.ts";
import type { Capability, Objective } from "../../shared/nn/objectives.ts";
import { HostMemory } from "../host-memory.ts";
import type { ParameterOrder } from "./parameter-order.ts";
import { WasmEngine } from "./wasm-engine.ts";

/**
 * The samples of consecutive shards that form a node of the canonical tree.
 * Sums are divided by the global batch size, so that shards just add up to the mean.
 */
export interface Batch {
  /** Samples of each shard, in order. */
  readonly shardSizes: readonly number[];
  readonly globalBatchSize: number;
  /** (samples, latentDim). */
  readonly noise: Float32Array;
}

export interface RealBatch extends Batch {
  /** (samples, imagePixels) uint8; the engine scales them to [-1, 1]. */
  readonly pixels: Uint8Array;
  /** (samples,) in [0, 1), for an objective whose penalty uses them. */
  readonly uniforms?: Float32Array | undefined;
}

export interface Engine {
  readonly name: EngineName;
  /** For the log: what computes, and with what. */
  readonly description: string;
  /** The order of values in vectors of parameters and gradients. */
  readonly order: ParameterOrder;
  /** Most samples of one batch. */
  readonly maxSamples: number;
  /**
   * @param flat (numParameters,). Where it lies in the engine's host memory it is used in place: set it
   * again after every change.
   */
  setParameters(network: NetworkName, flat: Float32Array): void;
  /**
   * Gradient of the discriminator's loss, and its metrics behind it, summed over the shards in the
   * canonical tree: the bits of a TreeSum over the shards one by one. With gradients in bf16, of a TreeSum
   * that rounds them (not the metrics) in every node.
   *
   * @param out Receives numParameters gradients, then PHASE_METRICS.discriminator. For engine wasm it must
   * lie in the host memory.
   * @throws {RangeError} Before anything is written, if the batch has more than maxSamples.
   */
  discriminatorGradient(batch: RealBatch, out: Float32Array): Promise<void>;
  /** The same for the generator's loss: numParameters gradients, then PHASE_METRICS.generator. */
  generatorGradient(batch: Batch, out: Float32Array): Promise<void>;
  /**
   * May run the generator on the noise of the next batch, which the next call then does not repeat: the
   * generator's forward pass does not depend on the discriminator.
   */
  prepareGenerator(noise: Float32Array): void;
  /** @param noise (numSamples, latentDim). @returns (numSamples, imagePixels) in [-1, 1]. */
  generate(noise: Float32Array, numSamples: number): Promise<Float32Array>;
  dispose(): void;
}

export interface EngineOptions {
  readonly model: Model;
  readonly objective: Objective;
  /** Most samples of one batch. */
  readonly maxSamples: number;
  /** Index of the GPU adapter to use, among those that the engine finds; null for its own choice. */
  readonly device: number | null;
}

/** Options of engines that work beside the host memory, not in it. */
export interface DetachedEngineOptions extends EngineOptions {
  /** Whether gradients are rounded to bfloat16 in every node of the tree. */
  readonly bf16: boolean;
}

/** What of a configuration an engine must know. */
export type EngineConfig = Pick<TrainingConfig, "engine" | "deterministicKernels" | "gradientDtype">;

export interface LoadedEngine {
  readonly engine: Engine;
  /** Where parameters and gradients of engine wasm must lie; reserved for its own vectors and `lengths`. */
  readonly memory: HostMemory;
}

/** What each engine can do: it passes the cases of test/conformance that ask for it. */
export const CAPABILITIES: Readonly<Record<EngineName, readonly Capability[]>> = {
  tensorflow: ["gradient-of-gradient"],
  webgpu: ["gradient-of-gradient"],
  wasm: ["gradient-of-gradient"],
  cpu: ["gradient-of-gradient"],
};

/** @throws {UsageError} If an engine with these capabilities cannot compute the objective. */
export function checkCapabilities(
  engine: EngineName,
  objective: Pick<Objective, "needs">,
  capabilities: Readonly<Record<EngineName, readonly Capability[]>> = CAPABILITIES,
): void {
  for (const need of objective.needs) {
    if (capabilities[engine].includes(need)) continue;
    const others = ENGINE_NAMES.filter((name) => capabilities[name].includes(need));
    throw new UsageError(
      `Cannot train this objective with engine ${engine} as it needs ${need}: use --engine ${others.join(" or ")}, or another --objective`,
    );
  }
}

/**
 * Loads an engine, and a host memory with room for more vectors.
 *
 * @param lengths Lengths of the vectors that the caller will allocate in the memory.
 * @throws {UsageError} If the engine cannot compute the objective.
 * @throws {Error} If the engine's library cannot run here.
 */
export async function loadEngine(
  config: EngineConfig,
  options: EngineOptions,
  lengths: readonly number[],
): Promise<LoadedEngine> {
  checkCapabilities(config.engine, options.objective);
  const fused = config.engine === "wasm" && !config.deterministicKernels;
  const memory = await HostMemory.create({ fused });
  const bf16 = config.gradientDtype === "bf16";
  const { softplusForm } = options.objective;
  const own = config.engine === "wasm" && softplusForm !== null ? WasmEngine.lengths(options, memory) : null;
  memory.reserve([...lengths, ...(own ?? [])]);
  if (own !== null && softplusForm !== null) {
    return { engine: new WasmEngine({ ...options, softplusForm, bf16 }, memory), memory };
  }
  return { engine: await loadDetached(config.engine, fused, { ...options, bf16 }), memory };
}

async function loadDetached(
  name: EngineName,
  fused: boolean,
  options: DetachedEngineOptions,
): Promise<Engine> {
  switch (name) {
    case "tensorflow":
      return (await import("./tensorflow-engine.ts")).createTensorflowEngine(options);
    case "webgpu":
      return (await import("./webgpu-engine.ts")).createWebgpuEngine(options);
    case "wasm":
    case "cpu":
      return (await import("./tfjs-engine.ts")).createTfjsEngine(name, fused, options);
  }
}
