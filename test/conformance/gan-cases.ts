/**
 * Every layer and every objective that we ship, through the interface of an
 * engine: images, gradients and metrics of both phases, for odd sizes and
 * several shards.
 *
 * @module
 */
import type { EngineName } from "../../shared/config.ts";
import type * as layers from "../../shared/nn/layers.ts";
import { dense, leakyRelu, sigmoid, tanh } from "../../shared/nn/layers.ts";
import type { Layer } from "../../shared/nn/layers.ts";
import type { Model } from "../../shared/nn/models.ts";
import { MODELS } from "../../shared/nn/models.ts";
import type { NetworkName } from "../../shared/nn/network.ts";
import { initialParameters, network } from "../../shared/nn/network.ts";
import type { ObjectiveName } from "../../shared/nn/objectives.ts";
import { OBJECTIVE_NAMES, OBJECTIVES } from "../../shared/nn/objectives.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import { loadEngine } from "../../worker/engine/engine.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import { vectorLength } from "../../worker/train-step.ts";
import { forward, pixelsToReal } from "../reference/float64-gan.ts";
import type { GanNetworks } from "../reference/float64-gan.ts";
import * as reference from "../reference/float64-objectives.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import { referenceNetwork } from "../reference/network-of.ts";
import type { Case } from "./case.ts";
import { gradientError, maxError } from "./case.ts";

export interface Device {
  readonly engine: EngineName;
  /** As in EngineOptions. */
  readonly device: number | null;
}

/** Sizes of shards; the samples of a batch are their sum. */
const UNEVEN = [8, 1, 8] as const;
const BATCHES = [[1], UNEVEN] as const;
const MOST_SAMPLES = 17;

/** Around a layer: one that follows a dense layer and one that ends the generator. */
function modelWith(layer: Layer): Model {
  return {
    generator: network("generator", 5, [dense(5, 7), layer, dense(7, 13), layer]),
    discriminator: network("discriminator", 13, [dense(13, 9), layer, dense(9, 3), layer, dense(3, 1)]),
  };
}

const mixed: Model = {
  generator: network("generator", 5, [dense(5, 7), leakyRelu(0.2), dense(7, 13), tanh()]),
  discriminator: network("discriminator", 13, [
    dense(13, 17),
    leakyRelu(0.2),
    dense(17, 6),
    tanh(),
    dense(6, 5),
    sigmoid(),
    dense(5, 1),
  ]),
};

/** A model for each layer that there is. */
const LAYERS: Readonly<Record<keyof typeof layers, Model>> = {
  dense: {
    generator: network("generator", 1, [dense(1, 17), dense(17, 33)]),
    discriminator: network("discriminator", 33, [dense(33, 3), dense(3, 1)]),
  },
  leakyRelu: modelWith(leakyRelu(0.2)),
  tanh: modelWith(tanh()),
  sigmoid: modelWith(sigmoid()),
};

/** Cases for an engine. Those of one model and objective stand together, as loading it for them takes most of the time. */
export function ganCases(device: Device): readonly Case[] {
  const rigs = new Rigs(device);
  const penalized = OBJECTIVE_NAMES.filter((name) => OBJECTIVES[name].penalty !== null);
  const reached = (network: NetworkName, objective: ObjectiveName): Case["order"] =>
    network === "discriminator" && OBJECTIVES[objective].penalty !== null
      ? "gradient-of-gradient"
      : "gradient";
  return [
    ...Object.entries(LAYERS).flatMap(([layer, model]): readonly Case[] => {
      const name = `layer ${layer}`;
      const worst = (objectives: readonly ObjectiveName[], networks: readonly NetworkName[]) => async () => {
        let error = 0;
        for (const objective of objectives) {
          for (const network of networks) {
            error = Math.max(error, await worstError(rigs, model, objective, network, BATCHES));
          }
        }
        return error;
      };
      return [
        { name, order: "forward", run: () => forwardError(rigs, model) },
        // One objective that engines may have kernels of their own for, and one that they have not.
        {
          name,
          order: "gradient",
          run: worst(["non-saturating", "least-squares"], ["discriminator", "generator"]),
        },
        // The other penalties meet every layer, too, in the model of the objectives' cases.
        {
          name,
          order: "gradient-of-gradient",
          run: worst(penalized.slice(0, 1), ["discriminator"]),
        },
      ];
    }),
    ...OBJECTIVE_NAMES.flatMap((objective) =>
      (["discriminator", "generator"] as const).flatMap((network): readonly Case[] => {
        const name = `objective ${objective}, ${network}`;
        const order = reached(network, objective);
        return [
          { name, order, run: () => worstError(rigs, mixed, objective, network, BATCHES) },
          { name, order: "bits", run: () => bitsError(rigs, objective, network) },
        ];
      }),
    ),
    ...Object.entries(MODELS).flatMap(([modelName, declare]) => {
      const model = declare({ latentDim: 100, imagePixels: 784 });
      return OBJECTIVE_NAMES.flatMap((objective) =>
        (["discriminator", "generator"] as const).map((network) => ({
          name: `model ${modelName}, ${objective}, ${network}`,
          order: reached(network, objective),
          run: () => worstError(rigs, model, objective, network, [[3, 2]]),
        })),
      );
    }),
  ];
}

interface Rig {
  readonly engine: Engine;
  readonly networks: GanNetworks;
  /** Gradient in canonical order, then metrics. */
  readonly gradient: (
    network: NetworkName,
    shardSizes: readonly number[],
    samples: Samples,
  ) => Promise<Float32Array>;
}

interface Samples {
  readonly globalBatchSize: number;
  readonly noise: Float32Array;
  readonly pixels: Uint8Array;
  readonly uniforms: Float32Array;
}

/** The last engine that was loaded, for as long as cases want the same model and objective. */
class Rigs {
  readonly #device: Device;
  #last: { readonly model: Model; readonly objective: ObjectiveName; readonly rig: Rig } | null = null;

  constructor(device: Device) {
    this.#device = device;
  }

  async rig(model: Model, objective: ObjectiveName): Promise<Rig> {
    if (this.#last?.model !== model || this.#last.objective !== objective) {
      this.#last?.rig.engine.dispose();
      this.#last = null;
      this.#last = { model, objective, rig: await loadRig(this.#device, model, objective) };
    }
    return this.#last.rig;
  }
}

/** An engine that has initial parameters. */
async function loadRig(
  { engine: name, device }: Device,
  model: Model,
  objective: ObjectiveName,
): Promise<Rig> {
  const config = {
    engine: name,
    deterministicKernels: name === "wasm" && !fusesMultiplyAdd(),
    gradientDtype: "fp32",
  } as const;
  const names = ["generator", "discriminator"] as const;
  const lengths = names.flatMap((net) => [model[net].numParameters, vectorLength(model, net)]);
  const options = { model, objective: OBJECTIVES[objective], maxSamples: MOST_SAMPLES, device };
  const { engine, memory } = await loadEngine(config, options, lengths);
  const [g, d] = names.map((net) => {
    const canonical = initialParameters(model[net], 7);
    const parameters = memory.allocate(canonical.length);
    engine.order.toEngine(model[net], canonical, parameters);
    engine.setParameters(net, parameters);
    return { canonical, out: memory.allocate(vectorLength(model, net)) };
  });
  return {
    engine,
    networks: {
      generator: referenceNetwork(model.generator),
      discriminator: referenceNetwork(model.discriminator),
      gParams: Float64Array.from(g.canonical),
      dParams: Float64Array.from(d.canonical),
    },
    async gradient(net, shardSizes, { pixels, uniforms, ...samples }) {
      const { out } = net === "generator" ? g : d;
      if (net === "generator") await engine.generatorGradient({ shardSizes, ...samples }, out);
      else await engine.discriminatorGradient({ shardSizes, ...samples, pixels, uniforms }, out);
      const canonical = out.slice();
      engine.order.fromEngine(model[net], out, canonical.subarray(0, model[net].numParameters));
      return canonical;
    },
  };
}

function draw({ generator, discriminator }: Model, numSamples: number): Samples {
  const random = mulberry32(5);
  const { numInputs } = discriminator;
  return {
    globalBatchSize: numSamples,
    noise: Float32Array.from(random.normals(numSamples * generator.numInputs)),
    pixels: Uint8Array.from({ length: numSamples * numInputs }, () => random.uniform() * 256),
    uniforms: Float32Array.from({ length: numSamples }, () => random.uniform()),
  };
}

async function forwardError(rigs: Rigs, model: Model): Promise<number> {
  const { engine, networks } = await rigs.rig(model, "non-saturating");
  let error = 0;
  for (const numSamples of [1, MOST_SAMPLES]) {
    const { noise } = draw(model, numSamples);
    const images = await engine.generate(noise, numSamples);
    const expected = forward(networks.generator, networks.gParams, Float64Array.from(noise));
    error = Math.max(error, maxError(images, expected[expected.length - 1]));
  }
  return error;
}

/** Of gradient and metrics. */
async function worstError(
  rigs: Rigs,
  model: Model,
  objectiveName: ObjectiveName,
  network: NetworkName,
  batches: readonly (readonly number[])[],
): Promise<number> {
  const { gradient, networks } = await rigs.rig(model, objectiveName);
  const objective = reference.OBJECTIVES[objectiveName];
  let error = 0;
  for (const shardSizes of batches) {
    const samples = draw(
      model,
      shardSizes.reduce((sum, n) => sum + n, 0),
    );
    const vector = await gradient(network, shardSizes, samples);
    const noise_BL = Float64Array.from(samples.noise);
    const { numParameters } = model[network];
    const [expected, metrics] =
      network === "generator"
        ? expectGenerator(objective, networks, noise_BL)
        : expectDiscriminator(objective, networks, samples, noise_BL);
    const errors = [
      gradientError(model[network], vector.subarray(0, numParameters), expected),
      maxError(vector.subarray(numParameters), metrics),
    ];
    error = Math.max(error, ...errors);
  }
  return error;
}

function expectGenerator(objective: reference.Objective, networks: GanNetworks, noise_BL: Float64Array) {
  const expected = reference.generatorGradient(objective, networks, noise_BL);
  return [expected.gradient, [expected.loss, expected.meanFakeProbability]] as const;
}

function expectDiscriminator(
  objective: reference.Objective,
  networks: GanNetworks,
  { pixels, uniforms }: Samples,
  noise_BL: Float64Array,
) {
  const uniforms_B = Float64Array.from(uniforms);
  const expected = reference.discriminatorGradient(
    objective,
    networks,
    pixelsToReal(pixels),
    noise_BL,
    uniforms_B,
  );
  const { loss, meanRealProbability, meanFakeProbability } = expected;
  return [expected.gradient, [loss, meanRealProbability, meanFakeProbability]] as const;
}

/** 0 if shards in one call have the bits of shards one by one, summed in the canonical tree; else 1. */
async function bitsError(rigs: Rigs, objective: ObjectiveName, network: NetworkName): Promise<number> {
  const { gradient } = await rigs.rig(mixed, objective);
  const shardSizes = UNEVEN;
  const { generator, discriminator } = mixed;
  const samples = draw(mixed, MOST_SAMPLES);
  const whole = await gradient(network, shardSizes, samples);
  const sum = new TreeSum(shardSizes.length, addInJavaScript, () => new Float32Array(whole.length));
  let start = 0;
  for (const [shard, n] of shardSizes.entries()) {
    const end = start + n;
    const part = await gradient(network, [n], {
      globalBatchSize: MOST_SAMPLES,
      noise: samples.noise.slice(start * generator.numInputs, end * generator.numInputs),
      pixels: samples.pixels.slice(start * discriminator.numInputs, end * discriminator.numInputs),
      uniforms: samples.uniforms.slice(start, end),
    });
    sum.push({ start: shard, end: shard + 1 }, part, true);
    start = end;
  }
  const bits = (values: Float32Array): string => Buffer.from(values.slice().buffer).toString("base64");
  return bits(sum.take()[0].values) === bits(whole) ? 0 : 1;
}
