/**
 * An engine turns (parameters, shard, noise) into (flat gradient, metrics) on
 * some device. It keeps no training state of its own: parameters are handed to
 * it after every update, and the same inputs give the same bits.
 *
 * @module
 */
import type { EngineName, TrainingConfig } from "../../shared/config.ts";
import type { Model } from "../../shared/nn/models.ts";
import type { NetworkName } from "../../shared/nn/network.ts";
import type { Objective } from "../../shared/nn/objectives.ts";

/** A slice of the global batch. Sums are divided by the global batch size, so that shards just add up to the mean. */
export interface Shard {
  readonly numSamples: number;
  readonly globalBatchSize: number;
  /** (numSamples, latentDim). */
  readonly noise: Float32Array;
}

export interface RealShard extends Shard {
  /** (numSamples, imagePixels) uint8; the engine scales them to [-1, 1]. */
  readonly pixels: Uint8Array;
}

export interface Engine {
  readonly name: EngineName;
  /** For the log: what computes, and with what. */
  readonly description: string;
  /** @param flat (numParameters,), copied. */
  setParameters(network: NetworkName, flat: Float32Array): void;
  /**
   * Gradient of the discriminator's loss on a shard, and its metrics behind it.
   *
   * @param out Receives numParameters gradients, then PHASE_METRICS.discriminator.
   */
  discriminatorGradient(shard: RealShard, out: Float32Array): void;
  /** The same for the generator's loss: numParameters gradients, then PHASE_METRICS.generator. */
  generatorGradient(shard: Shard, out: Float32Array): void;
  /** @param noise (numSamples, latentDim). @returns (numSamples, imagePixels) in [-1, 1]. */
  generate(noise: Float32Array, numSamples: number): Float32Array;
  dispose(): void;
}

export interface EngineOptions {
  readonly model: Model;
  readonly objective: Objective;
}

/**
 * Loads an engine.
 *
 * @throws {Error} If its library cannot run here.
 */
export async function createEngine(config: Pick<TrainingConfig, "engine">, options: EngineOptions): Promise<Engine> {
  const { createTfjsEngine } = await import("./tfjs-engine.ts");
  return createTfjsEngine(config.engine, options);
}
