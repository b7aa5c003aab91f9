/**
 * One copy of the training state: parameters and optimizer of both networks,
 * as flat float32 vectors in host memory, their values in the engine's order.
 *
 * @module
 */
import type { AdamState } from "../shared/adam.ts";
import type { Model } from "../shared/nn/models.ts";
import type { Network, NetworkName } from "../shared/nn/network.ts";
import { initialParameters } from "../shared/nn/network.ts";
import { STATE_FRAMES } from "../shared/protocol.ts";
import type { ParameterOrder } from "./engine/parameter-order.ts";
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

/** The state before the first step. @param order The engine's. */
export function initialReplica(
  model: Model,
  seed: number,
  memory: HostMemory,
  order: ParameterOrder,
): Replica {
  const state = (name: NetworkName): NetworkState => {
    const allocate = (): Float32Array => memory.allocate(model[name].numParameters);
    const parameters = allocate();
    order.toEngine(model[name], initialParameters(model[name], seed), parameters);
    return { parameters, adam: { m: allocate(), v: allocate(), step: 0 } };
  };
  return { generator: state("generator"), discriminator: state("discriminator") };
}

/** The network of each of STATE_FRAMES. */
function networkOfFrame(model: Model, frame: number): Network {
  return STATE_FRAMES[frame].startsWith("generator") ? model.generator : model.discriminator;
}

/** Copies of the vectors, in the order of STATE_FRAMES and with values in canonical order. */
export function snapshot(
  model: Model,
  { generator, discriminator }: Replica,
  order: ParameterOrder,
): readonly Float32Array[] {
  const vectors = [generator, discriminator].flatMap(({ parameters, adam }) => [parameters, adam.m, adam.v]);
  return vectors.map((vector, frame) => {
    const copy = new Float32Array(vector.length);
    order.fromEngine(networkOfFrame(model, frame), vector, copy);
    return copy;
  });
}

/**
 * @param frames Vectors as {@linkcode snapshot} returns them; copied.
 * @throws {RangeError} If there are more or fewer vectors.
 */
export function replicaFrom(
  model: Model,
  frames: readonly Float32Array[],
  steps: { readonly generatorSteps: number; readonly discriminatorSteps: number },
  memory: HostMemory,
  order: ParameterOrder,
): Replica {
  if (frames.length !== STATE_FRAMES.length) {
    throw new RangeError(
      `Cannot restore state as it must have ${STATE_FRAMES.length} frames: got ${frames.length}`,
    );
  }
  const [gp, gm, gv, dp, dm, dv] = frames.map((frame, i) => {
    const vector = memory.allocate(frame.length);
    order.toEngine(networkOfFrame(model, i), frame, vector);
    return vector;
  });
  return {
    generator: { parameters: gp, adam: { m: gm, v: gv, step: steps.generatorSteps } },
    discriminator: { parameters: dp, adam: { m: dm, v: dv, step: steps.discriminatorSteps } },
  };
}
