/**
 * One copy of the training state: parameters and optimizer of both networks,
 * as flat float32 vectors in host memory, their values in the engine's order.
 *
 * @module
 */
import type { AdamState } from "../shared/adam.ts";
import type { TrainingState } from "../shared/checkpoint.ts";
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

/** A replica of zeros. */
export function emptyReplica(model: Model, memory: HostMemory): Replica {
  const state = (name: NetworkName): NetworkState => {
    const allocate = (): Float32Array => memory.allocate(model[name].numParameters);
    return { parameters: allocate(), adam: { m: allocate(), v: allocate(), step: 0 } };
  };
  return { generator: state("generator"), discriminator: state("discriminator") };
}

/** Sets the state before the first step. @param order The engine's. */
export function initialize(replica: Replica, model: Model, seed: number, order: ParameterOrder): void {
  for (const name of ["generator", "discriminator"] as const) {
    const { parameters, adam } = replica[name];
    order.toEngine(model[name], initialParameters(model[name], seed), parameters);
    adam.m.fill(0);
    adam.v.fill(0);
    adam.step = 0;
  }
}

function vectorsOf({ generator, discriminator }: Replica): readonly Float32Array[] {
  return [generator, discriminator].flatMap(({ parameters, adam }) => [parameters, adam.m, adam.v]);
}

/** The network of each of STATE_FRAMES. */
function networkOfFrame(model: Model, frame: number): Network {
  return STATE_FRAMES[frame].startsWith("generator") ? model.generator : model.discriminator;
}

/** Copies of the vectors, in the order of STATE_FRAMES and with values in canonical order. */
export function snapshot(model: Model, replica: Replica, order: ParameterOrder): readonly Float32Array[] {
  return vectorsOf(replica).map((vector, frame) => {
    const copy = new Float32Array(vector.length);
    order.fromEngine(networkOfFrame(model, frame), vector, copy);
    return copy;
  });
}

/**
 * Sets a state.
 *
 * @param frames Vectors as {@linkcode snapshot} returns them; copied.
 * @throws {RangeError} If there are more or fewer vectors, or one has another length.
 */
export function restore(
  replica: Replica,
  model: Model,
  frames: readonly Float32Array[],
  steps: { readonly generatorSteps: number; readonly discriminatorSteps: number },
  order: ParameterOrder,
): void {
  const vectors = vectorsOf(replica);
  if (frames.length !== vectors.length || frames.some((frame, i) => frame.length !== vectors[i].length)) {
    throw new RangeError(
      `Cannot restore state as it must have vectors of ${vectors.map(({ length }) => length).join()} values: got ${frames.map(({ length }) => length).join()}`,
    );
  }
  for (const [i, frame] of frames.entries()) order.toEngine(networkOfFrame(model, i), frame, vectors[i]);
  replica.generator.adam.step = steps.generatorSteps;
  replica.discriminator.adam.step = steps.discriminatorSteps;
}

/** Hash of all of a state. */
export function stateHash({ generator, discriminator }: Replica, memory: HostMemory): string {
  const of = ({ parameters, adam }: NetworkState): string =>
    [parameters, adam.m, adam.v].map((vector) => memory.hash(vector)).join("-") + `-${adam.step}`;
  return `${of(generator)}/${of(discriminator)}`;
}

/** Optimizer updates of each network, as messages carry them. */
export function stepsOf({ generator, discriminator }: Replica): {
  readonly generatorSteps: number;
  readonly discriminatorSteps: number;
} {
  return { generatorSteps: generator.adam.step, discriminatorSteps: discriminator.adam.step };
}

/** A copy of the state, as a checkpoint holds it. */
export function trainingState(model: Model, replica: Replica, order: ParameterOrder): TrainingState {
  const [gp, gm, gv, dp, dm, dv] = snapshot(model, replica, order);
  return {
    generator: { parameters: gp, m: gm, v: gv, step: replica.generator.adam.step },
    discriminator: { parameters: dp, m: dm, v: dv, step: replica.discriminator.adam.step },
  };
}
