/**
 * One copy of the training state: parameters and optimizer of both networks,
 * as flat float32 vectors in host memory.
 *
 * @module
 */
import type { AdamState } from "../shared/adam.ts";
import { initAdam } from "../shared/adam.ts";
import type { Model } from "../shared/nn/models.ts";
import type { NetworkName } from "../shared/nn/network.ts";
import { initialParameters } from "../shared/nn/network.ts";
import { parameterHash } from "../shared/parameter-hash.ts";
import { STATE_FRAMES } from "../shared/protocol.ts";

export interface NetworkState {
  /** (numParameters,). */
  readonly parameters: Float32Array;
  readonly adam: AdamState;
}

export type Replica = Record<NetworkName, NetworkState>;

/** The state before the first step. */
export function initialReplica(model: Model, seed: number): Replica {
  const state = (name: NetworkName): NetworkState => ({
    parameters: initialParameters(model[name], seed),
    adam: initAdam(model[name].numParameters),
  });
  return { generator: state("generator"), discriminator: state("discriminator") };
}

/** Hash of both networks' parameters, for comparing replicas. */
export function replicaHash(replica: Replica): string {
  return `${parameterHash(replica.generator.parameters)}-${parameterHash(replica.discriminator.parameters)}`;
}

/** Copies of the vectors, in the order of STATE_FRAMES. */
export function snapshot({ generator, discriminator }: Replica): readonly Float32Array[] {
  return [generator, discriminator].flatMap(({ parameters, adam }) => [
    parameters.slice(),
    adam.m.slice(),
    adam.v.slice(),
  ]);
}

/**
 * @param frames Vectors in the order of STATE_FRAMES; kept, not copied.
 * @throws {RangeError} If there are more or fewer vectors.
 */
export function replicaFrom(
  frames: readonly Float32Array[],
  steps: { readonly generatorSteps: number; readonly discriminatorSteps: number },
): Replica {
  if (frames.length !== STATE_FRAMES.length) {
    throw new RangeError(`Cannot restore state as it must have ${STATE_FRAMES.length} frames: got ${frames.length}`);
  }
  const [gp, gm, gv, dp, dm, dv] = frames;
  return {
    generator: { parameters: gp, adam: { m: gm, v: gv, step: steps.generatorSteps } },
    discriminator: { parameters: dp, adam: { m: dm, v: dv, step: steps.discriminatorSteps } },
  };
}
