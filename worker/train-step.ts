/**
 * One global step, as every worker runs it in lockstep: for each phase,
 * gradients of this rank's shards, all-reduce, optimizer.
 *
 * @module
 */
import type { AdamConfig } from "../shared/adam.ts";
import type { TrainingConfig } from "../shared/config.ts";
import type { Model } from "../shared/nn/models.ts";
import type { NetworkName } from "../shared/nn/network.ts";
import { OBJECTIVES } from "../shared/nn/objectives.ts";
import type { Phase } from "../shared/phases.ts";
import { PHASE_METRICS, phasesOfStep } from "../shared/phases.ts";
import type { Position, StepMetrics, Timing } from "../shared/protocol.ts";
import { fillNormal, streamKey, uniformUnit } from "../shared/random.ts";
import type { Range } from "../shared/sharding.ts";
import {
  coveringNodes,
  fittingNodes,
  rankSamples,
  rankShards,
  samplesOf,
  shardSamples,
} from "../shared/sharding.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";
import { TreeSum } from "../shared/tree-sum.ts";
import type { Engine } from "./engine/engine.ts";
import type { HostMemory } from "./host-memory.ts";
import { SEGMENT_FLOATS, SegmentPool } from "./collective.ts";
import type { Replica } from "./replica.ts";

/** A loss or gradient that is not finite, found before anybody applied it; or what follows from one that is. */
export class NonFiniteError extends Error {
  override name = "NonFiniteError";
  /** Whether it was applied, so that parameters or moments are not finite, and the replica holds no state of use. */
  readonly isApplied: boolean;
  /** What this rank's own shards contributed, or null if that was finite. */
  readonly own: string | null;

  constructor(
    phase: string,
    { isApplied, own }: { readonly isApplied: boolean; readonly own: string | null },
  ) {
    const what = isApplied ? "A parameter or moment after" : "Loss or gradient of";
    super(`${what} phase ${phase} is not finite`);
    this.isApplied = isApplied;
    this.own = own;
  }
}

/** The engine could not compute a gradient: with the same inputs it fails again. */
export class EngineError extends Error {
  override name = "EngineError";
}

/** How far a replica is, changed in place as phases are applied: a step that was interrupted goes on where it was. */
export interface Progress extends Position {
  globalStep: number;
  phase: number;
  /** What the step under way has measured so far, or null. */
  measured: Measured | null;
}

/** The last discriminator phase of a step. */
export interface Measured {
  /** PHASE_METRICS.discriminator. */
  readonly metrics: readonly number[];
  /** Of the reduced gradient. */
  readonly norm: number;
}

export interface StepContext {
  readonly config: TrainingConfig & AdamConfig;
  readonly model: Model;
  readonly engine: Engine;
  readonly replica: Replica;
  readonly rank: number;
  readonly worldSize: number;
  readonly memory: HostMemory;
  readonly allReduce: (
    globalStep: number,
    phase: Phase,
    partials: readonly Partial[],
    result: Float32Array,
  ) => Promise<Float32Array>;
  /** Lets messages and heartbeats through. */
  readonly breathe: () => Promise<void>;
  /** Told what the worker does now. */
  readonly onPhase: (phase: Phase) => void;
}

export interface StepResult {
  readonly metrics: StepMetrics;
  readonly timing: Omit<Timing, "waitMs">;
}

/** Buffers that live as long as the run. */
export class StepBuffers {
  /** Lengths of the vectors that the buffers allocate. */
  static lengths(model: Model, phases: readonly Phase[], numShards: number): readonly number[] {
    const partials = (network: NetworkName): readonly number[] =>
      Array<number>(maxPartials(numShards)).fill(vectorLength(model, network));
    return [
      ...phases.map((phase) => vectorLength(model, phase.network)),
      ...partials("generator"),
      ...partials("discriminator"),
      ...Array<number>(SegmentPool.buffersFor(numShards)).fill(SEGMENT_FLOATS),
    ];
  }

  /** Reduced gradient and metrics of each phase. A result is in use until the next reduction is done, so each phase has its own. */
  readonly results: readonly Float32Array[];
  /** For sums in the all-reduce. */
  readonly segments: readonly Float32Array[];
  readonly #partials: Record<NetworkName, readonly Float32Array[]>;
  #free: Record<NetworkName, Float32Array[]> = { generator: [], discriminator: [] };

  constructor(model: Model, phases: readonly Phase[], numShards: number, memory: HostMemory) {
    this.results = phases.map((phase) => memory.allocate(vectorLength(model, phase.network)));
    const partials = (network: NetworkName): Float32Array[] =>
      Array.from({ length: maxPartials(numShards) }, () => memory.allocate(vectorLength(model, network)));
    const numSegments = SegmentPool.buffersFor(numShards);
    this.segments = Array.from({ length: numSegments }, () => memory.allocate(SEGMENT_FLOATS));
    this.#partials = { generator: partials("generator"), discriminator: partials("discriminator") };
    this.reset();
  }

  /** Takes back all partial sums, after a step that was interrupted. */
  reset(): void {
    const { generator, discriminator } = this.#partials;
    this.#free = { generator: [...generator], discriminator: [...discriminator] };
  }

  take(network: NetworkName): Float32Array {
    const buffer = this.#free[network].pop();
    if (buffer === undefined)
      throw new Error("Cannot hold more partial sums than a range of shards has covering nodes");
    return buffer;
  }

  give(network: NetworkName, buffer: Float32Array): void {
    this.#free[network].push(buffer);
  }
}

/** Most partial sums that a worker holds at once: the covering nodes of a range of shards. */
function maxPartials(numShards: number): number {
  return 2 * Math.ceil(Math.log2(Math.max(2, numShards)));
}

/** Length of the vector that is all-reduced: gradient, then metrics. */
export function vectorLength(model: Model, network: NetworkName): number {
  return model[network].numParameters + PHASE_METRICS[network].length;
}

/**
 * Brings the replica to the end of the step that it is in.
 *
 * @param batch (discriminatorSteps, rank's samples, imagePixels) uint8.
 * @throws {NonFiniteError} Every rank in the same phase: before anything of it is applied, or when all is.
 * @throws {EngineError} If the engine fails.
 * @throws {Interrupted} If the members change; progress says how far the replica is.
 */
export async function trainStep(
  context: StepContext,
  buffers: StepBuffers,
  progress: Progress,
  batch: Uint8Array,
): Promise<StepResult> {
  const { config, model, engine, replica } = context;
  const { globalStep } = progress;
  const phases = phasesOfStep(config.discriminatorSteps);
  const timing = { computeMs: 0, allReduceMs: 0, applyMs: 0 };
  let generator: Measured = { metrics: [], norm: 0 };

  let parts = partsOf(context, globalStep, phases[progress.phase]);
  for (const phase of phases.slice(progress.phase)) {
    context.onPhase(phase);
    const { network } = phase;
    const computeStart = performance.now();
    const partials = await shardGradients(context, buffers, parts, phase, batch);
    const reduceStart = performance.now();
    timing.computeMs += reduceStart - computeStart;

    const reduction = context.allReduce(globalStep, phase, partials, buffers.results[phase.index]);
    // While the parts travel: what the next phase needs and this phase's update does not change.
    const next = phases.at(phase.index + 1);
    if (next !== undefined) {
      parts = partsOf(context, globalStep, next);
      if (network === "discriminator") engine.prepareGenerator(parts[0].noise);
    }
    const overlapEnd = performance.now();
    timing.computeMs += overlapEnd - reduceStart;
    const reduced = await reduction;
    const applyStart = performance.now();
    timing.allReduceMs += applyStart - overlapEnd;

    const { numParameters } = model[network];
    const norm = context.memory.norm(reduced, numParameters);
    const metrics = [...reduced.subarray(numParameters)];
    if (!Number.isFinite(norm) || !metrics.every(Number.isFinite)) {
      throw new NonFiniteError(phase.name, { isApplied: false, own: ownFault(partials, numParameters) });
    }
    for (const { values } of partials) buffers.give(network, values);
    const { parameters, adam } = replica[network];
    if (!context.memory.adamStep(parameters, reduced, adam, config)) {
      throw new NonFiniteError(phase.name, { isApplied: true, own: null });
    }
    engine.setParameters(network, parameters);
    progress.phase += 1;
    timing.applyMs += performance.now() - applyStart;

    if (network === "discriminator") progress.measured = { metrics, norm };
    else generator = { metrics, norm };
  }
  const discriminator = progress.measured ?? { metrics: [], norm: 0 };
  const [discriminatorLoss, realProbability, fakeProbability] = discriminator.metrics;
  Object.assign(progress, { globalStep: globalStep + 1, phase: 0, measured: null } satisfies Progress);
  return {
    metrics: {
      discriminatorLoss,
      generatorLoss: generator.metrics[0],
      realProbability,
      fakeProbability,
      discriminatorGradientNorm: discriminator.norm,
      generatorGradientNorm: generator.norm,
    },
    timing,
  };
}

/** The shards of a node of the canonical tree that a rank computes in one pass, and their random numbers. */
interface Part {
  readonly node: Range;
  readonly shardSizes: readonly number[];
  /** Of the global batch. */
  readonly samples: Range;
  readonly noise: Float32Array;
  /** Where the objective takes them. */
  readonly uniforms: Float32Array | undefined;
}

/** What this rank computes in a phase: its covering nodes, those for which the engine has no room in parts. */
function partsOf(
  { config, engine, rank, worldSize }: StepContext,
  globalStep: number,
  phase: Phase,
): readonly Part[] {
  const { globalBatchSize, shards, seed, latentDim, objective } = config;
  const { penalty } = OBJECTIVES[objective];
  const usesUniforms = phase.network === "discriminator" && penalty?.usesUniforms === true;
  const fits = (node: Range): boolean => {
    const { start, end } = samplesOf(globalBatchSize, shards, node);
    return end - start <= engine.maxSamples;
  };
  const covering = coveringNodes(rankShards(shards, worldSize, rank), shards);
  return covering
    .flatMap((node) => fittingNodes(node, fits))
    .map((node) => {
      const ranges = Array.from({ length: node.end - node.start }, (_, i) =>
        shardSamples(globalBatchSize, shards, node.start + i),
      );
      const samples = samplesOf(globalBatchSize, shards, node);
      const noise = trainingNoise(seed, latentDim, globalStep, phase.index, samples);
      const uniforms = usesUniforms ? trainingUniforms(seed, globalStep, phase.index, samples) : undefined;
      return { node, shardSizes: ranges.map(({ start, end }) => end - start), samples, noise, uniforms };
    });
}

/** @returns The sums of this rank's covering nodes. */
async function shardGradients(
  context: StepContext,
  buffers: StepBuffers,
  parts: readonly Part[],
  phase: Phase,
  batch: Uint8Array,
): Promise<readonly Partial[]> {
  const { config, model, engine, rank, worldSize } = context;
  const { globalBatchSize, shards } = config;
  const imagePixels = model.discriminator.numInputs;
  const own = rankSamples(globalBatchSize, shards, worldSize, rank);
  const { network } = phase;
  const sum = treeSum(context, buffers, network);
  for (const { node, shardSizes, samples, noise, uniforms } of parts) {
    const values = buffers.take(network);
    try {
      if (network === "discriminator") {
        const first = phase.index * (own.end - own.start) + (samples.start - own.start);
        const numPixels = (samples.end - samples.start) * imagePixels;
        const pixels = batch.subarray(first * imagePixels, first * imagePixels + numPixels);
        await engine.discriminatorGradient({ shardSizes, globalBatchSize, noise, pixels, uniforms }, values);
      } else {
        await engine.generatorGradient({ shardSizes, globalBatchSize, noise }, values);
      }
    } catch (error) {
      throw new EngineError(`Engine ${engine.name} failed in phase ${phase.name}`, { cause: error });
    }
    sum.push(node, values, true);
    await context.breathe();
  }
  return sum.take();
}

/** Adds up what is computed in parts, with the bits of the engine's own sums over shards. */
function treeSum(
  { config, model, memory }: StepContext,
  buffers: StepBuffers,
  network: NetworkName,
): TreeSum {
  const add: Add = (out, left, right) => {
    memory.add(out, left, right);
    if (config.gradientDtype === "bf16") memory.roundToBf16(out.subarray(0, model[network].numParameters));
  };
  return new TreeSum(
    config.shards,
    add,
    () => buffers.take(network),
    (values) => buffers.give(network, values),
  );
}

/** Noise of some samples of a phase, a function of (seed, step, phase, sample index). @returns (samples, latentDim). */
export function trainingNoise(
  seed: number,
  latentDim: number,
  globalStep: number,
  phase: number,
  samples: Range,
): Float32Array {
  const key = streamKey(seed, "noise");
  const noise = new Float32Array((samples.end - samples.start) * latentDim);
  for (let sample = samples.start; sample < samples.end; sample++) {
    const row = (sample - samples.start) * latentDim;
    fillNormal(noise, key, sample, phase, globalStep, row, row + latentDim);
  }
  return noise;
}

/** A number in [0, 1) for some samples of a phase, a function of (seed, step, phase, sample index). @returns (samples,). */
export function trainingUniforms(
  seed: number,
  globalStep: number,
  phase: number,
  { start, end }: Range,
): Float32Array {
  const key = streamKey(seed, "penalty");
  return Float32Array.from({ length: end - start }, (_, i) => uniformUnit(key, start + i, phase, globalStep));
}

/** Describes the first value that is not finite in this rank's partial sums, or null. */
function ownFault(partials: readonly Partial[], numParameters: number): string | null {
  for (const { node, values } of partials) {
    const at = values.findIndex((value) => !Number.isFinite(value));
    if (at < 0) continue;
    const what = at < numParameters ? `gradient value ${at}` : "a loss or probability";
    return `${what} of shards ${node.start}..${node.end - 1} is ${values[at]}`;
  }
  return null;
}
