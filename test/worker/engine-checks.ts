/**
 * What every engine must compute, as tests: beside the float64 reference, and with the same bits however a batch is cut.
 *
 * @module
 */
import type { Test } from "tap";
import { dense, leakyRelu, sigmoid, tanh } from "../../shared/nn/layers.ts";
import type { Model } from "../../shared/nn/models.ts";
import { MODELS } from "../../shared/nn/models.ts";
import type { Network, NetworkName } from "../../shared/nn/network.ts";
import { initialParameters, network } from "../../shared/nn/network.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import type { Batch, Engine, EngineOptions, LoadedEngine, RealBatch } from "../../worker/engine/engine.ts";
import { loadEngine } from "../../worker/engine/engine.ts";
import { HostMemory } from "../../worker/host-memory.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import { emptyReplica, initialize, replicaLengths, snapshot } from "../../worker/replica.ts";
import type { Progress, StepContext } from "../../worker/train-step.ts";
import { StepBuffers, trainStep, trainingNoise, vectorLength } from "../../worker/train-step.ts";
import type { EngineName, GRADIENT_DTYPES } from "../../shared/config.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { phasesOfStep } from "../../shared/phases.ts";
import { roundToBf16 } from "../../shared/bf16.ts";
import type { Add } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import { gradientError, maxError, TOLERANCES } from "../conformance/case.ts";
import * as reference from "../reference/float64-gan.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import { referenceNetwork } from "../reference/network-of.ts";

export const objective = OBJECTIVES["non-saturating"];

const small: Model = {
  generator: network("generator", 5, [
    dense(5, 7),
    leakyRelu(0.2),
    dense(7, 6),
    sigmoid(),
    dense(6, 12),
    tanh(),
  ]),
  discriminator: network(
    "discriminator",
    12,
    [dense(12, 9), leakyRelu(0.2), dense(9, 4), tanh(), dense(4, 1)],
    sigmoid(),
  ),
};

/** Of the gradient at the beginning of a vector. */
function errorOf(net: Network, vector: Float32Array, expected: Float64Array): number {
  return gradientError(net, vector.subarray(0, net.numParameters), expected);
}

function inputs(model: Model, numSamples: number, seed: number) {
  const random = mulberry32(seed);
  const noise = Float32Array.from(random.normals(numSamples * model.generator.numInputs));
  const pixels = Uint8Array.from(
    { length: numSamples * model.discriminator.numInputs },
    () => random.uniform() * 256,
  );
  return { noise, pixels };
}

type GradientDtype = (typeof GRADIENT_DTYPES)[number];
export type Load = (
  options: EngineOptions,
  lengths: readonly number[],
  gradientDtype?: GradientDtype,
) => Promise<LoadedEngine>;

export const withConfig =
  (engine: EngineName, deterministicKernels: boolean): Load =>
  (options, lengths, gradientDtype = "fp32") =>
    loadEngine({ engine, deterministicKernels, gradientDtype }, options, lengths);

export const FUSED = fusesMultiplyAdd();

/** An engine beside a memory that is not its own. */
export const besideMemory =
  (create: (options: EngineOptions & { readonly bf16: boolean }) => Promise<Engine>): Load =>
  async (options, lengths, gradientDtype) => {
    const memory = await HostMemory.create({ fused: FUSED });
    memory.reserve(lengths);
    return { engine: await create({ ...options, bf16: gradientDtype === "bf16" }), memory };
  };

interface Rig {
  readonly engine: Engine;
  readonly g: Float32Array;
  readonly d: Float32Array;
  /** The discriminator's gradient if the batch has pixels, else the generator's; with metrics. */
  readonly gradient: (batch: Batch | RealBatch) => Promise<Float32Array>;
}

async function engineWith(
  load: Load,
  model: Model,
  seed: number,
  gradientDtype: GradientDtype = "fp32",
): Promise<Rig> {
  const lengths = (["generator", "discriminator"] as const).flatMap((network) => [
    model[network].numParameters,
    vectorLength(model, network),
  ]);
  const { engine, memory } = await load(
    { model, objective, maxSamples: 20, device: null },
    lengths,
    gradientDtype,
  );
  const vectors = (network: NetworkName) => {
    const parameters = memory.allocate(model[network].numParameters);
    const canonical = initialParameters(model[network], seed);
    engine.order.toEngine(model[network], canonical, parameters);
    engine.setParameters(network, parameters);
    return { parameters: canonical, out: memory.allocate(vectorLength(model, network)) };
  };
  const [g, d] = [vectors("generator"), vectors("discriminator")];
  return {
    engine,
    g: g.parameters,
    d: d.parameters,
    async gradient(batch) {
      const [net, { out }] = "pixels" in batch ? [model.discriminator, d] : [model.generator, g];
      if ("pixels" in batch) await engine.discriminatorGradient(batch, out);
      else await engine.generatorGradient(batch, out);
      const canonical = out.slice();
      engine.order.fromEngine(net, out, canonical.subarray(0, net.numParameters));
      return canonical;
    },
  };
}

/** Bits of a replica after two steps of one worker with five shards. */
async function stateAfterSteps(load: Load, maxSamples: number, gradientDtype: GradientDtype) {
  const config = parseRunConfig({
    ...{ workers: 1, maxSteps: 2, globalBatchSize: 16, shards: 5, latentDim: 5, gradientDtype },
  });
  const phases = phasesOfStep(1);
  const { engine, memory } = await load(
    { model: small, objective, maxSamples, device: null },
    [...replicaLengths(small), ...StepBuffers.lengths(small, phases, config.shards)],
    gradientDtype,
  );
  const replica = emptyReplica(small, memory);
  initialize(replica, small, config.seed, engine.order);
  engine.setParameters("generator", replica.generator.parameters);
  engine.setParameters("discriminator", replica.discriminator.parameters);
  const buffers = new StepBuffers(small, phases, config.shards, memory);
  const progress: Progress = { globalStep: 0, phase: 0, measured: null };
  const context: StepContext = {
    ...{ config, model: small, engine, replica, rank: 0, worldSize: 1, memory },
    allReduce: async (_step, _phase, [partial]) => partial.values,
    breathe: async () => undefined,
    onPhase: () => undefined,
  };
  const results = [];
  for (let step = 0; step < config.maxSteps!; step++) {
    const { metrics } = await trainStep(context, buffers, progress, inputs(small, 16, step).pixels);
    results.push(metrics);
  }
  const state = snapshot(small, replica, engine.order).map((v) => Buffer.from(v.buffer).toString("hex"));
  engine.dispose();
  return { results, state };
}

/** Adds the tests of an engine, or of why it is not tested here. */
export function checkEngine(t: Test, name: string, load: Load, skip: string | false): void {
  if (skip !== false) {
    t.test(name, { skip }, () => undefined);
    return;
  }
  t.test(`${name}: gradients and metrics of both objectives agree with the float64 reference`, async (t) => {
    for (const [model, numSamples] of [
      [small, 1],
      [small, 7],
      [MODELS.mlp({ latentDim: 100, imagePixels: 784 }), 3],
    ] as const) {
      const { engine, g, d, gradient } = await engineWith(load, model, 4);
      const { noise, pixels } = inputs(model, numSamples, 8);
      const common = {
        generator: referenceNetwork(model.generator),
        discriminator: referenceNetwork(model.discriminator),
        gParams: Float64Array.from(g),
        dParams: Float64Array.from(d),
        noise_BL: Float64Array.from(noise),
      };
      const batch = { shardSizes: [numSamples], globalBatchSize: numSamples, noise };
      const dOut = await gradient({ ...batch, pixels });
      const dExpected = reference.discriminatorGradient({
        ...common,
        real_BD: reference.pixelsToReal(pixels),
      });
      const dError = errorOf(model.discriminator, dOut, dExpected.gradient);
      t.ok(dError < TOLERANCES.gradient, `discriminator, ${dError}`);
      const dMetrics = [dExpected.loss, dExpected.meanRealProbability, dExpected.meanFakeProbability];
      t.ok(maxError(dOut.slice(-3), Float64Array.from(dMetrics)) < 1e-6, "its metrics");
      const gOut = await gradient(batch);
      const gExpected = reference.generatorGradient(common);
      const gError = errorOf(model.generator, gOut, gExpected.gradient);
      t.ok(gError < TOLERANCES.gradient, `generator, ${gError}`);
      const gMetrics = [gExpected.loss, gExpected.meanFakeProbability];
      t.ok(maxError(gOut.slice(-2), Float64Array.from(gMetrics)) < 1e-6, "its metrics");
      engine.dispose();
    }
  });

  t.test(
    `${name}: the gradient of every layer agrees with finite differences of the float64 reference`,
    async (t) => {
      for (const layer of [leakyRelu(0.2), tanh(), sigmoid()]) {
        const model: Model = {
          generator: network("generator", 3, [dense(3, 4), layer, dense(4, 5)]),
          discriminator: network("discriminator", 5, [dense(5, 3), layer, dense(3, 1)], sigmoid()),
        };
        const { engine, g, d, gradient } = await engineWith(load, model, 2);
        const { noise, pixels } = inputs(model, 4, 3);
        const lossAt = (
          phase: "generator" | "discriminator",
          gParams: Float64Array,
          dParams: Float64Array,
        ): number => {
          const common = {
            generator: referenceNetwork(model.generator),
            discriminator: referenceNetwork(model.discriminator),
            gParams,
            dParams,
            noise_BL: Float64Array.from(noise),
          };
          return phase === "generator"
            ? reference.generatorGradient(common).loss
            : reference.discriminatorGradient({ ...common, real_BD: reference.pixelsToReal(pixels) }).loss;
        };
        for (const phase of ["generator", "discriminator"] as const) {
          const batch = { shardSizes: [4], globalBatchSize: 4, noise };
          const out = await gradient(phase === "generator" ? batch : { ...batch, pixels });
          const own = phase === "generator" ? g : d;
          const differences = Float64Array.from(own, (_, i) => {
            const at = (h: number): number => {
              const moved = Float64Array.from(own);
              moved[i] += h;
              return phase === "generator"
                ? lossAt(phase, moved, Float64Array.from(d))
                : lossAt(phase, Float64Array.from(g), moved);
            };
            return (at(1e-5) - at(-1e-5)) / 2e-5;
          });
          const error = errorOf(model[phase], out, differences);
          t.ok(error < TOLERANCES.gradient, `${layer.description}, ${phase}: ${error}`);
        }
        engine.dispose();
      }
    },
  );

  t.test(`${name}: gradients of shards add up to the gradient of the batch`, async (t) => {
    const { engine, gradient } = await engineWith(load, small, 6);
    const { noise, pixels } = inputs(small, 8, 5);
    const whole = await gradient({ shardSizes: [8], globalBatchSize: 8, noise, pixels });
    const sum = new Float32Array(whole.length);
    for (const [start, end] of [
      [0, 3],
      [3, 8],
    ]) {
      const shard = { shardSizes: [end - start], globalBatchSize: 8 };
      const slice = { noise: noise.slice(start * 5, end * 5), pixels: pixels.slice(start * 12, end * 12) };
      addInJavaScript(sum, sum, await gradient({ ...shard, ...slice }));
    }
    const { numParameters } = small.discriminator;
    t.ok(errorOf(small.discriminator, sum, Float64Array.from(whole.subarray(0, numParameters))) < 1e-6);
    t.ok(maxError(sum.subarray(numParameters), whole.subarray(numParameters)) < 1e-6, "their metrics");
    engine.dispose();
  });

  t.test(`${name}: several shards at once have the bits of a tree sum over shards one by one`, async (t) => {
    for (const [model, shardSizes, gradientDtype] of [
      [small, [3, 2], "fp32"],
      [small, [1, 1, 1], "fp32"],
      [small, [2, 3, 2, 3, 2, 1, 4], "fp32"],
      [small, [2, 3, 2, 3, 2, 1, 4], "bf16"],
      [MODELS.mlp({ latentDim: 100, imagePixels: 784 }), [5, 4, 4, 5], "fp32"],
      [MODELS.mlp({ latentDim: 100, imagePixels: 784 }), [5, 4, 4, 5], "bf16"],
    ] as const) {
      const { engine, gradient } = await engineWith(load, model, 6, gradientDtype);
      const total = shardSizes.reduce((sum: number, n) => sum + n, 0);
      const { noise, pixels } = inputs(model, total, 5);
      for (const phase of ["discriminator", "generator"] as const) {
        const length = vectorLength(model, phase);
        const gradientOf = (sizes: readonly number[], start: number): Promise<Float32Array> => {
          const end = start + sizes.reduce((sum, n) => sum + n, 0);
          const slice = <A extends Float32Array | Uint8Array>(array: A, width: number) =>
            array.slice(start * width, end * width) as A;
          const batch = {
            shardSizes: sizes,
            globalBatchSize: total,
            noise: slice(noise, model.generator.numInputs),
          };
          return phase === "generator"
            ? gradient(batch)
            : gradient({ ...batch, pixels: slice(pixels, model.discriminator.numInputs) });
        };
        const { numParameters } = model[phase];
        const isRounded = (vector: Float32Array): boolean =>
          new Uint32Array(vector.buffer, 0, numParameters).every((bits) => (bits & 0xffff) === 0);
        const add: Add = (out, left, right) => {
          addInJavaScript(out, left, right);
          if (gradientDtype === "bf16") roundToBf16(out.subarray(0, numParameters));
        };
        const sum = new TreeSum(shardSizes.length, add, () => new Float32Array(length));
        let start = 0;
        for (const [shard, n] of shardSizes.entries()) {
          sum.push({ start: shard, end: shard + 1 }, await gradientOf([n], start), true);
          start += n;
        }
        const [{ values }] = sum.take();
        t.equal(
          isRounded(await gradientOf([shardSizes[0]], 0)),
          gradientDtype === "bf16",
          "rounding of a leaf",
        );
        t.ok(
          Buffer.from((await gradientOf(shardSizes, 0)).buffer).equals(Buffer.from(values.buffer)),
          `${phase}, ${shardSizes.join()}`,
        );
      }
      engine.dispose();
    }
  });

  t.test(`${name}: a batch for which there is no room is refused, and nothing is written`, async (t) => {
    const { engine, gradient } = await engineWith(load, small, 6);
    const { noise, pixels } = inputs(small, 21, 5);
    const fits = { shardSizes: [20], globalBatchSize: 21, noise: noise.slice(0, 100) };
    const real = pixels.slice(0, 240);
    const before = await gradient({ ...fits, pixels: real });
    const tooLarge = { shardSizes: [10, 11], globalBatchSize: 21, noise };
    const noRoom = { name: "RangeError", message: /room for 20 samples: got 21$/ };
    await t.rejects(gradient({ ...tooLarge, pixels }), noRoom);
    await t.rejects(gradient(tooLarge), noRoom);
    await t.rejects(gradient({ ...fits, pixels }), /its pixels must have 240 values: got 252$/);
    await t.rejects(gradient({ ...fits, noise }), /its noise must have 100 values: got 105$/);
    t.throws(() => engine.setParameters("generator", new Float32Array(3)), /parameters as there must be/);
    t.same(await gradient({ ...fits, pixels: real }), before);
    engine.dispose();
  });

  t.test(
    `${name}: a step has the same bits in parts, where the engine has room for a shard only`,
    async (t) => {
      // Of 16 samples in five shards: nodes of two shards, and shards one by one.
      for (const [gradientDtype, room] of [
        ["fp32", 7],
        ["bf16", 4],
      ] as const) {
        const whole = await stateAfterSteps(load, 16, gradientDtype);
        t.same(await stateAfterSteps(load, room, gradientDtype), whole, gradientDtype);
      }
    },
  );

  t.test(
    `${name}: three full steps of the reference model agree with the float64 implementation`,
    async (t) => {
      const config = parseRunConfig({ workers: 1, maxSteps: 3, globalBatchSize: 16, seed: 11 });
      const model = MODELS.mlp({ latentDim: 100, imagePixels: 784 });
      const { engine, memory } = await load({ model, objective, maxSamples: 16, device: null }, [
        ...replicaLengths(model),
        ...StepBuffers.lengths(model, phasesOfStep(1), 4),
      ]);
      const replica = emptyReplica(model, memory);
      initialize(replica, model, config.seed, engine.order);
      const progress: Progress = { globalStep: 0, phase: 0, measured: null };
      engine.setParameters("generator", replica.generator.parameters);
      engine.setParameters("discriminator", replica.discriminator.parameters);
      const [before, , , beforeD] = snapshot(model, replica, engine.order);
      let expected = reference.initGan({
        generator: referenceNetwork(model.generator),
        discriminator: referenceNetwork(model.discriminator),
        gParams: Float64Array.from(before),
        dParams: Float64Array.from(beforeD),
      });
      const buffers = new StepBuffers(model, phasesOfStep(1), 4, memory);
      const all = { start: 0, end: 16 };
      for (let globalStep = 0; globalStep < 3; globalStep++) {
        const { pixels } = inputs(model, 16, globalStep);
        const { metrics } = await trainStep(
          {
            config,
            model,
            engine,
            replica,
            rank: 0,
            worldSize: 1,
            memory,
            allReduce: async (_step, _phase, [partial]) => partial.values,
            breathe: async () => undefined,
            onPhase: () => undefined,
          },
          buffers,
          progress,
          pixels,
        );
        const hyper = { learningRate: config.learningRate, beta1: config.beta1, beta2: config.beta2 };
        const result = reference.trainStep(
          expected,
          {
            real_BD: reference.pixelsToReal(pixels),
            noiseD_BL: Float64Array.from(trainingNoise(config.seed, 100, globalStep, 0, all)),
            noiseG_BL: Float64Array.from(trainingNoise(config.seed, 100, globalStep, 1, all)),
          },
          { generator: hyper, discriminator: hyper },
        );
        expected = result.state;
        t.ok(
          Math.abs(metrics.discriminatorLoss - result.discriminatorLoss) < 2e-5,
          `D loss of step ${globalStep}`,
        );
        t.ok(Math.abs(metrics.generatorLoss - result.generatorLoss) < 2e-5, `G loss of step ${globalStep}`);
        t.ok(Math.abs(metrics.realProbability - result.meanRealProbability) < 2e-5, "D(x)");
        t.ok(Math.abs(metrics.fakeProbability - result.meanFakeProbability) < 2e-5, "D(G(z))");
      }
      // Adam's first steps have the size of the learning rate whatever the gradient's size, so parameters whose
      // gradient is nearly zero may step either way; the bulk must agree far better than one step's size.
      const [after, , , afterD] = snapshot(model, replica, engine.order);
      for (const [actual, wanted] of [
        [after, expected.gParams],
        [afterD, expected.dParams],
      ] as const) {
        const errors = Float64Array.from(actual, (p, i) => Math.abs(p - wanted[i])).sort();
        t.ok(errors[Math.floor(0.99 * errors.length)] < 0.02 * config.learningRate, "99 % of parameters");
        t.ok(errors[errors.length - 1] < 6.1 * config.learningRate, "all parameters");
      }
      t.ok(
        after.some((p, i) => p !== before[i]),
        "training changes parameters",
      );
      engine.dispose();
    },
  );
}
