/**
 * The engine on WebGPU. Networks of dense layers and objectives of softplus
 * form run on our own kernels, all others on tfjs (tfjs-engine.ts). With our
 * kernels the whole phase is one command buffer, with one read-back. What the mathematics does not need is not computed, as in
 * wasm-engine.ts.
 *
 * @module
 */
import type { NetworkName } from "../../shared/nn/network.ts";
import type { Model } from "../../shared/nn/models.ts";
import type { SoftplusForm } from "../../shared/nn/objectives.ts";
import { SAMPLE_COUNT } from "../../shared/samples.ts";
import { stagesOf } from "./dense-network.ts";
import { checkBatch, checkNoise, checkParameters } from "./checked-input.ts";
import type { Batch, DetachedEngineOptions, Engine, RealBatch } from "./engine.ts";
import { canonicalOrder } from "./parameter-order.ts";
import { numSamplesOf, shardSums } from "./shard-sums.ts";
import type { OpenDevice } from "./webgpu-device.ts";
import { describeAdapter, openDevice } from "./webgpu-device.ts";
import type { Dispatch } from "./webgpu-dispatch.ts";
import { bind, encode, linearWorkgroups, readBack, stagingBuffer, storageBuffer } from "./webgpu-dispatch.ts";
import { BatchHeaders } from "./webgpu-headers.ts";
import { GpuNetwork, rowTiles, smallTile, tileBySize } from "./webgpu-network.ts";
import { headShader, MAX_ROW_GROUPS, pixelsShader } from "./webgpu-shaders.ts";
import type { Activation, DenseShape } from "./webgpu-wgsl.ts";
import { tilesAgree } from "./webgpu-tiles.ts";
import { TreeSums } from "./webgpu-tree-sum.ts";

/**
 * @param device Where to compute, if it is open already; the engine closes it.
 * @throws {Error} If it cannot be used here; the message says what to do.
 */
export async function createWebgpuEngine(
  options: DetachedEngineOptions,
  device?: OpenDevice,
): Promise<Engine> {
  const { model, objective } = options;
  const { softplusForm } = objective;
  const stages = { generator: shapesOf(model, "generator"), discriminator: shapesOf(model, "discriminator") };
  const { generator, discriminator } = stages;
  if (softplusForm === null || generator === null || discriminator?.at(-1)?.numOutputs !== 1) {
    device?.close();
    const { createTfjsEngine } = await import("./tfjs-engine.ts");
    return createTfjsEngine("webgpu", false, options);
  }
  const open = device ?? (await openDevice(options.device));
  try {
    return await WebgpuEngine.create({ ...options, softplusForm, generator, discriminator, open });
  } catch (error) {
    open.close();
    throw error;
  }
}

function shapesOf(model: Model, name: NetworkName): readonly DenseShape[] | null {
  return stagesOf(model[name])?.map((stage) => ({ ...stage, offset: stage.weight / 4 })) ?? null;
}

interface WebgpuEngineOptions extends DetachedEngineOptions {
  readonly softplusForm: SoftplusForm;
  readonly generator: readonly DenseShape[];
  readonly discriminator: readonly DenseShape[];
  readonly open: OpenDevice;
}

/** What a network's phase needs beside the network itself. */
interface Phase {
  readonly network: GpuNetwork;
  readonly sums: TreeSums;
  /** From the last forward pass of the discriminator to the gradients by all sums of the network. */
  readonly backward: (numRows: number) => readonly Dispatch[];
  /** What the network's first layer saw. */
  readonly input: GPUBuffer;
}

class WebgpuEngine implements Engine {
  readonly name = "webgpu";
  readonly order = canonicalOrder;
  readonly description: string;
  readonly #options: WebgpuEngineOptions;
  readonly #networks: Record<NetworkName, GpuNetwork>;
  readonly #phases: Record<NetworkName, Phase>;
  readonly #headers: BatchHeaders;
  readonly #maxGenerated: number;
  /** (most samples generated, latentDim). */
  readonly #noise: GPUBuffer;
  /** (most samples, imagePixels) uint8. */
  readonly #pixels: GPUBuffer;
  readonly #unpackPixels: { readonly pipeline: GPUComputePipeline; readonly bindings: GPUBindGroup };
  readonly #generate: (numRows: number) => readonly Dispatch[];
  readonly #discriminate: (numRows: number) => readonly Dispatch[];
  /** A phase's gradient, the batch's token, losses and probabilities of rows. */
  readonly #results: GPUBuffer;
  readonly #staging: GPUBuffer;
  /** Noise of the generator's last forward pass with its present parameters. */
  #prepared: Float32Array | null = null;

  /** @throws {Error} If a shader does not compile, or the device has no memory left. */
  static async create(options: WebgpuEngineOptions): Promise<WebgpuEngine> {
    const { model, maxSamples, softplusForm, open, generator, discriminator } = options;
    const generated = Math.max(maxSamples, SAMPLE_COUNT);
    const used = [...rowTiles(generator, generated), ...rowTiles(discriminator, 2 * maxSamples)];
    const agree = await tilesAgree(open, new Set(used));
    const tiles = agree ? tileBySize : smallTile;
    const images: Activation = generator[generator.length - 1];
    const last = discriminator.length - 1;
    const layer = discriminator[last];
    const belowHead = last > 0 ? discriminator[last - 1] : null;
    const head = (phase: NetworkName): Promise<GPUComputePipeline> => {
      const { real, fake, generator } = softplusForm;
      const losses = phase === "discriminator" ? ([fake, real] as const) : ([generator, generator] as const);
      const below = belowHead ?? (phase === "generator" ? images : null);
      const resultOffset = model[phase].numParameters + 1;
      return open.compile(`${phase} head`, headShader({ layer, losses, below, resultOffset }));
    };
    const [g, d, generatorHead, discriminatorHead, unpack] = await Promise.all([
      GpuNetwork.create({
        net: model.generator,
        stages: generator,
        open,
        maxRows: generated,
        outputRows: Math.max(generated, 2 * maxSamples),
        rowsPerSample: 1,
        tiles,
        below: null,
        head: false,
      }),
      GpuNetwork.create({
        net: model.discriminator,
        stages: discriminator,
        open,
        maxRows: 2 * maxSamples,
        outputRows: 2 * maxSamples,
        rowsPerSample: 2,
        tiles,
        below: images,
        head: true,
      }),
      head("generator"),
      head("discriminator"),
      open.compile("pixels", pixelsShader(model.discriminator.numInputs)),
    ]);
    const pipelines = { generatorHead, discriminatorHead, unpack };
    return open.checked("set up engine webgpu", () => new WebgpuEngine(options, agree, g, d, pipelines));
  }

  private constructor(
    options: WebgpuEngineOptions,
    tilesAgree: boolean,
    generator: GpuNetwork,
    discriminator: GpuNetwork,
    pipelines: Readonly<Record<"generatorHead" | "discriminatorHead" | "unpack", GPUComputePipeline>>,
  ) {
    const { model, maxSamples, open, bf16 } = options;
    const { device } = open;
    const { numInputs: imagePixels } = model.discriminator;
    const generated = Math.max(maxSamples, SAMPLE_COUNT);
    this.description = `webgpu on ${describeAdapter(open.adapter)}${tilesAgree ? "" : ", small tiles only"}`;
    this.#options = options;
    this.#maxGenerated = generated;
    this.#networks = { generator, discriminator };
    this.#headers = new BatchHeaders(device, maxSamples);
    this.#noise = storageBuffer(device, "noise", generated * model.generator.numInputs);
    this.#pixels = storageBuffer(device, "pixels", Math.ceil((maxSamples * imagePixels) / 4));
    const numResults = Math.max(model.generator.numParameters, model.discriminator.numParameters) + 1;
    this.#results = storageBuffer(device, "results", numResults + 4 * maxSamples);
    const stagingLength = Math.max(numResults + 4 * maxSamples, generated * imagePixels);
    this.#staging = stagingBuffer(device, "staging", stagingLength);

    const header = this.#headers.binding(0);
    const images = generator.activations[generator.activations.length - 1];
    const imageGradient = generator.gradients[generator.gradients.length - 1];
    this.#unpackPixels = {
      pipeline: pipelines.unpack,
      bindings: bind(device, pipelines.unpack, [header, this.#pixels, images]),
    };
    this.#generate = generator.forward(header, this.#noise);
    this.#discriminate = discriminator.forward(header, images);

    const last = options.discriminator.length - 1;
    const headOf = (phase: NetworkName): ((numRows: number) => Dispatch) => {
      const pipeline = pipelines[`${phase}Head`];
      const below = last > 0 ? discriminator.gradients[last - 1] : imageGradient;
      const buffers = [
        header,
        discriminator.inputOf(last, images),
        discriminator.parameters,
        discriminator.gradients[last],
        this.#results,
        ...(last > 0 || phase === "generator" ? [below] : []),
      ];
      const bindings = bind(device, pipeline, buffers);
      return (numRows) => ({
        pipeline,
        bindings,
        workgroups: [Math.min(numRows, MAX_ROW_GROUPS), Math.ceil(numRows / MAX_ROW_GROUPS), 1],
      });
    };
    const heads = { generator: headOf("generator"), discriminator: headOf("discriminator") };
    const withinDiscriminator = discriminator.inputGradients(header, images, null);
    const toImages = discriminator.inputGradients(header, images, imageGradient);
    const withinGenerator = generator.inputGradients(header, this.#noise, null);
    const sums = (network: GpuNetwork): TreeSums =>
      new TreeSums({
        open,
        headers: this.#headers,
        length: network.options.net.numParameters,
        stride: network.leafStride,
        bf16,
        results: this.#results,
      });
    this.#phases = {
      discriminator: {
        network: discriminator,
        sums: sums(discriminator),
        backward: (numRows) => [heads.discriminator(numRows), ...withinDiscriminator(numRows)],
        input: images,
      },
      generator: {
        network: generator,
        sums: sums(generator),
        backward: (numRows) => [heads.generator(numRows), ...toImages(numRows), ...withinGenerator(numRows)],
        input: this.#noise,
      },
    };
  }

  get maxSamples(): number {
    return this.#options.maxSamples;
  }

  setParameters(name: NetworkName, flat: Float32Array): void {
    checkParameters(this.#options.model[name], flat);
    if (name === "generator") this.#prepared = null;
    this.#write(this.#networks[name].parameters, flat);
  }

  async discriminatorGradient(batch: RealBatch, out: Float32Array): Promise<void> {
    const numSamples = numSamplesOf(batch);
    const { shardSizes, globalBatchSize, pixels } = batch;
    const unpack: Dispatch = {
      ...this.#unpackPixels,
      workgroups: linearWorkgroups(Math.ceil(pixels.length / 4)),
    };
    await this.#phase(
      "discriminator",
      batch,
      2 * numSamples,
      out,
      () => {
        this.#write(this.#pixels, pixels);
        return [unpack];
      },
      (losses, probabilities) => {
        const fake = {
          losses: losses.subarray(0, numSamples),
          probabilities: probabilities.subarray(0, numSamples),
        };
        const real = {
          losses: losses.subarray(numSamples),
          probabilities: probabilities.subarray(numSamples),
        };
        const pairLoss = real.losses.map((loss, i) => loss + fake.losses[i]);
        return shardSums([pairLoss, real.probabilities, fake.probabilities], shardSizes, globalBatchSize);
      },
    );
  }

  async generatorGradient(batch: Batch, out: Float32Array): Promise<void> {
    const { shardSizes, globalBatchSize } = batch;
    await this.#phase(
      "generator",
      batch,
      numSamplesOf(batch),
      out,
      () => [],
      (losses, probabilities) => shardSums([losses, probabilities], shardSizes, globalBatchSize),
    );
  }

  prepareGenerator(noise: Float32Array): void {
    checkNoise(this.#options, noise);
    this.#startGenerator(noise);
  }

  #startGenerator(noise: Float32Array): void {
    const { device } = this.#options.open;
    const numSamples = noise.length / this.#options.model.generator.numInputs;
    this.#headers.writeSamples(numSamples);
    this.#write(this.#noise, noise);
    const encoder = device.createCommandEncoder();
    encode(encoder, this.#generate(numSamples));
    device.queue.submit([encoder.finish()]);
    this.#prepared = noise;
  }

  async generate(noise: Float32Array, numSamples: number): Promise<Float32Array> {
    const { model, open } = this.#options;
    const { numInputs } = model.generator;
    const { numInputs: imagePixels } = model.discriminator;
    const all = new Float32Array(numSamples * imagePixels);
    const { activations } = this.#networks.generator;
    for (let start = 0; start < numSamples; start += this.#maxGenerated) {
      const end = Math.min(start + this.#maxGenerated, numSamples);
      const length = (end - start) * imagePixels;
      await open.checked("generate images", () => {
        this.#startGenerator(noise.subarray(start * numInputs, end * numInputs));
        return this.#read(activations[activations.length - 1], length, (images) =>
          all.set(images, start * imagePixels),
        );
      });
    }
    return all;
  }

  dispose(): void {
    this.#options.open.close();
  }

  /**
   * One phase: forward through both networks, backward to the gradients of one.
   *
   * @param numRows Of the discriminator.
   * @param before Uploads what only this phase needs, and says what is to run on it.
   * @param metricsOf From losses and probabilities of rows, (numRows,) each.
   */
  async #phase(
    name: NetworkName,
    batch: Batch,
    numRows: number,
    out: Float32Array,
    before: () => readonly Dispatch[],
    metricsOf: (losses: Float32Array, probabilities: Float32Array) => Float32Array,
  ): Promise<void> {
    const { open } = this.#options;
    checkBatch(this.#options, batch);
    const { network, sums, backward, input } = this.#phases[name];
    const { numParameters } = network.options.net;
    const numSamples = numSamplesOf(batch);
    const plan = await sums.plan(batch.shardSizes.length, (group, leaves) =>
      network.weightGradients(group, input, leaves),
    );
    await open.checked(`compute the gradient of the ${name}`, () => {
      const dispatches = before().slice();
      if (this.#prepared !== batch.noise) {
        this.#write(this.#noise, batch.noise);
        dispatches.push(...this.#generate(numSamples));
        this.#prepared = batch.noise;
      }
      const token = this.#headers.write(batch, numRows);
      dispatches.push(...this.#discriminate(numRows), ...backward(numRows), ...plan);
      const encoder = open.device.createCommandEncoder();
      encode(encoder, dispatches);
      const length = numParameters + 1 + 2 * numRows;
      return this.#read(
        this.#results,
        length,
        (values) => {
          if (values[numParameters] !== token) {
            throw new Error("its results did not arrive; the device may have been reset");
          }
          out.set(values.subarray(0, numParameters));
          const rows = values.subarray(numParameters + 1);
          out.set(metricsOf(rows.subarray(0, numRows), rows.subarray(numRows)), numParameters);
        },
        encoder,
      );
    });
  }

  /** Submits commands and copies what they leave in a buffer. */
  #read(
    source: GPUBuffer,
    length: number,
    use: (values: Float32Array) => void,
    encoder = this.#options.open.device.createCommandEncoder(),
  ): Promise<void> {
    encoder.copyBufferToBuffer(source, 0, this.#staging, 0, length * 4);
    this.#options.open.device.queue.submit([encoder.finish()]);
    return readBack(this.#staging, length, use);
  }

  /** Copies into a buffer, in whole words: what follows a last word that is not whole is not used. */
  #write(buffer: GPUBuffer, values: Float32Array | Uint8Array): void {
    const { queue } = this.#options.open.device;
    const whole = values.byteLength - (values.byteLength % 4);
    const { buffer: memory, byteOffset } = values;
    queue.writeBuffer(buffer, 0, memory, byteOffset, whole);
    if (whole === values.byteLength) return;
    const rest = new Uint8Array(4);
    rest.set(new Uint8Array(memory, byteOffset + whole, values.byteLength - whole));
    queue.writeBuffer(buffer, whole, rest);
  }
}
