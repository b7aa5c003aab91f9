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
}

export interface Engine {
  readonly name: EngineName;
  /** For the log: what computes, and with what. */
  readonly description: string;
  /** @param flat (numParameters,), copied. */
  setParameters(network: NetworkName, flat: Float32Array): void;
  /**
   * Gradient of the discriminator's loss, and its metrics behind it, summed over the shards in the
   * canonical tree: the bits of a TreeSum over the shards one by one.
   *
   * @param out Receives numParameters gradients, then PHASE_METRICS.discriminator.
   */
  discriminatorGradient(batch: RealBatch, out: Float32Array): void;
  /** The same for the generator's loss: numParameters gradients, then PHASE_METRICS.generator. */
  generatorGradient(batch: Batch, out: Float32Array): void;
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
export async function createEngine(
  config: Pick<TrainingConfig, "engine">,
  options: EngineOptions,
): Promise<Engine> {
  const { createTfjsEngine } = await import("./tfjs-engine.ts");
  return createTfjsEngine(config.engine, options);
}
