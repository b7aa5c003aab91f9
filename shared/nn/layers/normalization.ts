/** Values to mean 0 and variance 1, over samples or within each. @module */
import { maximum, mean as meanOf, oneHot, square, sub } from "../composed.ts";
import type { Layer, Scope } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import type { Value } from "../graph.ts";
import {
  add,
  describe,
  div,
  matmul,
  mul,
  part,
  reshape,
  ShapeError,
  shardSize,
  sizeOf,
  sqrt,
  sum,
  sumBatch,
  sumShard,
} from "../graph.ts";
import type { Declaration } from "../initial-values.ts";

export interface NormOptions {
  /** Added to the variance. Default 1e-5. */
  readonly epsilon?: number;
  /** Whether a scale and a shift for each channel are trained. */
  readonly affine?: boolean;
}

export interface BatchNormOptions extends NormOptions {
  /** The part of a new batch in the running statistics. Default 0.1. */
  readonly momentum?: number;
}

/**
 * By the statistics of a shard, for each batch of a pass: so it does not depend on the number of workers. The
 * running statistics, which evaluation takes, are means over all shards. Source: Ioffe & Szegedy 2015.
 */
export function batchNorm(options: BatchNormOptions = {}): Layer {
  return layer("batchNorm", (scope, x) => {
    const { affine = true } = options;
    const { centered, scale } = batchStatistics(scope, x, options);
    if (!affine) return mul(centered, scale);
    const { weight, bias } = affineParameters(scope, channelsOf(x));
    return add(mul(centered, mul(scale, weight)), bias);
  });
}

/** Batch norm whose scale and shift are those of the label's class, the second input. Source: de Vries et al. 2017. */
export function conditionalBatchNorm(classes: number, options: Omit<BatchNormOptions, "affine"> = {}): Layer {
  return layer("conditionalBatchNorm", (scope, x, label) => {
    const { centered, scale } = batchStatistics(scope, x, options);
    const shape = [classes, channelsOf(x)];
    const chosen = oneHot(label, classes);
    const weight = scope.parameter({
      name: "weight",
      shape,
      initial: { type: "normal", mean: 1, deviation: 0.02 },
    });
    const bias = scope.parameter({ name: "bias", shape, initial: { type: "constant", value: 0 } });
    return add(mul(mul(centered, scale), matmul(chosen, weight)), matmul(chosen, bias));
  });
}

function channelsOf(x: Value): number {
  const channels = x.shape.at(-1);
  if (channels === undefined)
    throw new ShapeError(`Cannot normalize one number: expected [channels], got ${describe(x)}`);
  return channels;
}

function affineParameters(scope: Scope, channels: number): { readonly weight: Value; readonly bias: Value } {
  const shape = [channels];
  return {
    weight: scope.parameter({ name: "weight", shape, initial: { type: "constant", value: 1 } }),
    bias: scope.parameter({ name: "bias", shape, initial: { type: "constant", value: 0 } }),
  };
}

/** x less its mean, and one over its deviation: for each channel. */
function batchStatistics(
  scope: Scope,
  x: Value,
  { epsilon = 1e-5, momentum = 0.1 }: BatchNormOptions,
): { readonly centered: Value; readonly scale: Value } {
  const shape = [channelsOf(x)];
  const running = {
    mean: { name: "running_mean", shape, initial: { type: "constant", value: 0 } },
    variance: { name: "running_var", shape, initial: { type: "constant", value: 1 } },
  } as const satisfies Record<string, Declaration>;
  const kept = { mean: scope.state(running.mean), variance: scope.state(running.variance) };
  if (!scope.training) {
    return { centered: sub(x, kept.mean), scale: div(1, sqrt(add(kept.variance, epsilon))) };
  }
  const axes = [...x.shape.keys()].slice(0, -1);
  const count = mul(shardSize(), sizeOf(x.shape) / shape[0]);
  const shardMean = (v: Value): Value => div(reshape(sumShard(sum(v, axes), x.batches), shape), count);
  const mean = shardMean(x);
  const centered = sub(x, mean);
  const variance = shardMean(square(centered));
  const unbiased = mul(variance, div(count, maximum(sub(count, 1), 1)));
  const weight = mul(shardSize(), 1 / scope.batchSize);
  for (let batch = 0; batch < x.batches; batch++) {
    const follow = (declaration: Declaration, now: Value): void => {
      const ofBatch = sumBatch(mul(part(now, batch), weight));
      scope.setState(declaration, add(mul(1 - momentum, scope.state(declaration)), mul(momentum, ofBatch)));
    };
    follow(running.mean, mean);
    follow(running.variance, unbiased);
  }
  return { centered, scale: div(1, sqrt(add(variance, epsilon))) };
}

function normalized(x: Value, axes: readonly number[], epsilon: number): Value {
  const centered = sub(x, meanOf(x, axes));
  return mul(centered, div(1, sqrt(add(meanOf(square(centered), axes), epsilon))));
}

/** Over all values of a sample, with a scale and a shift for each value. Source: Ba et al. 2016. */
export function layerNorm({ epsilon = 1e-5, affine = true }: NormOptions = {}): Layer {
  return layer("layerNorm", (scope, x) => {
    const y = normalized(x, [...x.shape.keys()], epsilon);
    if (!affine) return y;
    const { shape } = x;
    const torch = shape.length === 3 ? { torchAxes: [2, 0, 1] } : {};
    const weight = scope.parameter({
      name: "weight",
      shape,
      initial: { type: "constant", value: 1 },
      ...torch,
    });
    const bias = scope.parameter({ name: "bias", shape, initial: { type: "constant", value: 0 }, ...torch });
    return add(mul(y, weight), bias);
  });
}

/** Over groups of channels of a sample. Source: Wu & He 2018. */
export function groupNorm(groups: number, { epsilon = 1e-5, affine = true }: NormOptions = {}): Layer {
  return layer(`groupNorm ${groups}`, (scope, x) => {
    const channels = channelsOf(x);
    if (channels % groups !== 0) {
      throw new ShapeError(
        `Cannot group channels as their number must be a multiple: expected one of ${groups}, got ${channels}`,
      );
    }
    const pixels = sizeOf(x.shape) / channels;
    const y = reshape(normalized(reshape(x, [pixels, groups, channels / groups]), [0, 2], epsilon), x.shape);
    if (!affine) return y;
    const { weight, bias } = affineParameters(scope, channels);
    return add(mul(y, weight), bias);
  });
}

/** Over each channel of a sample. Source: Ulyanov et al. 2016. */
export function instanceNorm({ epsilon = 1e-5, affine = false }: NormOptions = {}): Layer {
  return layer("instanceNorm", (scope, x) => groupNorm(channelsOf(x), { epsilon, affine }).apply(scope, x));
}

/** Channels of a pixel to a mean square of 1. Source: Karras et al. 2018, section 4.2. */
export function pixelNorm(epsilon = 1e-8): Layer {
  return layer("pixelNorm", (_scope, x) => {
    const axis = [x.shape.length - 1];
    return mul(x, div(1, sqrt(add(meanOf(square(x), axis), epsilon))));
  });
}
