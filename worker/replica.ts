/**
 * One copy of the training state: parameters and optimizer of both networks,
 * as flat float32 vectors in host memory.
 *
 * @module
 */
import type { AdamState } from "../shared/adam.ts";
import type { Model } from "../shared/nn/models.ts";
import type { NetworkName } from "../shared/nn/network.ts";
import { initialParameters } from "../shared/nn/network.ts";
import { STATE_FRAMES } from "../shared/protocol.ts";
import type { HostMemory } from "./host-memory.ts";

export interface NetworkState {
  /** (numParameters,). */
  readonly parameters: Float32Array;
  readonly adam: AdamState;
}

export type Replica = Record<NetworkName, NetworkState>;

/** Lengths of the vectors that a replica allocates. */
export function replicaLengths(model: Model): readonly number[] {
  return [model.generator, model.discriminator].flatMap((net) => Array<number>(3).fill(net.numParameters));
}

/** The state before the first step. */
export function initialReplica(model: Model, seed: number, memory: HostMemory): Replica {
  const state = (name: NetworkName): NetworkState => {
    const allocate = (): Float32Array => memory.allocate(model[name].numParameters);
    const parameters = allocate();
    parameters.set(initialParameters(model[name], seed));
    return { parameters, adam: { m: allocate(), v: allocate(), step: 0 } };
  };
  return { generator: state("generator"), discriminator: state("discriminator") };
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
 * @param frames Vectors in the order of STATE_FRAMES; copied.
 * @throws {RangeError} If there are more or fewer vectors.
 */
export function replicaFrom(
  frames: readonly Float32Array[],
  steps: { readonly generatorSteps: number; readonly discriminatorSteps: number },
  memory: HostMemory,
): Replica {
  if (frames.length !== STATE_FRAMES.length) {
    throw new RangeError(
      `Cannot restore state as it must have ${STATE_FRAMES.length} frames: got ${frames.length}`,
    );
  }
  const [gp, gm, gv, dp, dm, dv] = frames.map((frame) => {
    const vector = memory.allocate(frame.length);
    vector.set(frame);
    return vector;
  });
  return {
    generator: { parameters: gp, adam: { m: gm, v: gv, step: steps.generatorSteps } },
    discriminator: { parameters: dp, adam: { m: dm, v: dv, step: steps.discriminatorSteps } },
  };
}
