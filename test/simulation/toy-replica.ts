/**
 * A replica small enough to train a hundred thousand runs: two vectors, and
 * gradients that are cheap, differ from shard to shard, and depend on all that
 * decides the bits. Sums have other bits in another order, as real ones have.
 *
 * @module
 */
import type { NetworkName } from "../../shared/nn/network.ts";
import { phasesOfStep } from "../../shared/phases.ts";
import type { Position } from "../../shared/protocol.ts";
import type { Range } from "../../shared/sharding.ts";
import type { Partial } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";

const LENGTHS: Record<NetworkName, number> = { generator: 7, discriminator: 4 };
/** Behind the gradient: 1 per shard, then the number of the generation per shard. They are checked, not applied. */
const NUM_TAGS = 2;

/** Lengths of the vectors that a peer sends. */
export const STATE_LENGTHS = [LENGTHS.generator, LENGTHS.discriminator] as const;

export function gradientLength(network: NetworkName): number {
  return LENGTHS[network] + NUM_TAGS;
}

export interface ToyState {
  readonly vectors: readonly Float32Array[];
  /** Updates of the generator and of the discriminator. */
  readonly steps: readonly [number, number];
}

export class ToyReplica {
  readonly #vectors: Record<NetworkName, Float32Array>;
  #steps: [number, number] = [0, 0];
  globalStep = 0;
  phase = 0;

  constructor(seed: number) {
    const vector = (network: NetworkName, salt: number): Float32Array =>
      Float32Array.from({ length: LENGTHS[network] }, (_, i) => noise(seed, salt, i, 0));
    this.#vectors = { generator: vector("generator", 1), discriminator: vector("discriminator", 2) };
  }

  /** Partial sums of a range of shards. */
  partials(network: NetworkName, shards: Range, numShards: number, generation: number): readonly Partial[] {
    const length = gradientLength(network);
    const sum = new TreeSum(numShards, addInJavaScript, () => new Float32Array(length));
    const own = this.#vectors[network];
    const other = this.#vectors[network === "generator" ? "discriminator" : "generator"];
    for (let shard = shards.start; shard < shards.end; shard++) {
      const gradient = new Float32Array(length);
      for (let i = 0; i < own.length; i++) {
        gradient[i] =
          noise(this.globalStep, this.phase, shard, i) * 10 ** (i % 4) + own[i] * (shard + 1) + other[0];
      }
      gradient[own.length] = 1;
      gradient[own.length + 1] = generation;
      sum.push({ start: shard, end: shard + 1 }, gradient, true);
    }
    return sum.take();
  }

  /** @returns What is wrong with a reduced gradient, or null. */
  static fault(
    network: NetworkName,
    reduced: Float32Array,
    numShards: number,
    generation: number,
  ): string | null {
    const [count, generations] = reduced.subarray(LENGTHS[network]);
    if (count !== numShards) return `a sum over ${count} of ${numShards} shards`;
    return generations === numShards * generation ? null : `a sum with parts of another generation`;
  }

  /** Applies a phase. */
  apply(network: NetworkName, reduced: Float32Array, isLastPhase: boolean): void {
    const own = this.#vectors[network];
    for (let i = 0; i < own.length; i++) own[i] = own[i] * 0.75 + reduced[i] * 0.001;
    this.#steps[network === "generator" ? 0 : 1] += 1;
    if (isLastPhase) this.globalStep += 1;
    this.phase = isLastPhase ? 0 : this.phase + 1;
  }

  /** A copy. */
  get state(): ToyState {
    const { generator, discriminator } = this.#vectors;
    return { vectors: [generator.slice(), discriminator.slice()], steps: [...this.#steps] };
  }

  restore({ vectors, steps }: ToyState, { globalStep, phase }: Position): void {
    this.#vectors.generator.set(vectors[0]);
    this.#vectors.discriminator.set(vectors[1]);
    this.#steps = [...steps];
    this.globalStep = globalStep;
    this.phase = phase;
  }

  get hash(): string {
    return hashOf(this.state);
  }
}

/** FNV-1a over the bits. */
export function hashOf({ vectors, steps }: ToyState): string {
  let hash = 0x811c9dc5;
  for (const vector of vectors) {
    const words = new Uint32Array(vector.buffer, vector.byteOffset, vector.length);
    for (const word of words) hash = Math.imul(hash ^ word, 0x01000193) ^ (hash >>> 15);
  }
  return `${(hash >>> 0).toString(16)}-${steps.join("-")}`;
}

/** A number in [-1, 1) of four small integers. */
function noise(a: number, b: number, c: number, d: number): number {
  let bits = Math.imul(a + 0x9e37, 0x85ebca6b) ^ Math.imul(b + 0x79b9, 0xc2b2ae35);
  bits = Math.imul(bits ^ (bits >>> 13), 0x27d4eb2f) ^ Math.imul(c * 64 + d + 1, 0x165667b1);
  bits = Math.imul(bits ^ (bits >>> 15), 0x2c1b3c6d);
  return ((bits ^ (bits >>> 12)) | 0) / 2 ** 31;
}

/** Hashes of a run that nothing disturbs, by "step/phase". */
export function calmRun(
  seed: number,
  steps: number,
  discriminatorSteps: number,
  numShards: number,
): ReadonlyMap<string, string> {
  const replica = new ToyReplica(seed);
  const hashes = new Map([[keyOf(replica), replica.hash]]);
  const phases = phasesOfStep(discriminatorSteps);
  while (replica.globalStep < steps) {
    for (const { network, index } of phases) {
      const [sum] = replica.partials(network, { start: 0, end: numShards }, numShards, 1);
      replica.apply(network, sum.values, index === phases.length - 1);
      hashes.set(keyOf(replica), replica.hash);
    }
  }
  return hashes;
}

export function keyOf({ globalStep, phase }: Position): string {
  return `${globalStep}/${phase}`;
}
