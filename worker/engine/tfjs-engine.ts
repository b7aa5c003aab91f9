/**
 * The engine on TensorFlow.js: any network and objective, differentiated by
 * tfjs, on one of its backends.
 *
 * @module
 */
import * as tfModule from "@tensorflow/tfjs";
import type { Tensor } from "@tensorflow/tfjs";
import type { EngineName } from "../../shared/config.ts";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import type { Network, NetworkName } from "../../shared/nn/network.ts";
import { checkBatch, checkParameters } from "./checked-input.ts";
import type { Batch, DetachedEngineOptions, Engine, RealBatch } from "./engine.ts";
import { canonicalOrder } from "./parameter-order.ts";
import { sumShards } from "./shard-by-shard.ts";
import { numSamplesOf, shardSums } from "./shard-sums.ts";
import { loadTensorflowBackend } from "./tensorflow-binding.ts";
import { repairGradients } from "./tfjs-gradients.ts";
import type { TensorAccess } from "./wasm-backend.ts";
import { loadWasmBackend } from "./wasm-backend.ts";
import { loadWebgpuBackend } from "./webgpu-backend.ts";
import { describeAdapter, openDevice } from "./webgpu-device.ts";

// tfjs is CommonJS: Node gives its exports as names or only as the default, depending on how the names were found.
const tf: TensorFlow = "default" in tfModule ? tfModule.default : tfModule;

/** @param fused Whether matrix products of backend wasm use fused multiply-adds. */
export async function createTfjsEngine(
  name: EngineName,
  fused: boolean,
  options: DetachedEngineOptions,
): Promise<Engine> {
  repairGradients(tf);
  // Without this the cpu backend prints advice to install tfjs-node.
  if (name === "cpu") tf.env().set("IS_NODE", false);
  if (name === "wasm") {
    const access = await loadWasmBackend(tf, fused);
    tf.enableProdMode();
    return new TfjsEngine(name, options, access);
  }
  if (name === "tensorflow") {
    const access = await loadTensorflowBackend(tf);
    tf.enableProdMode();
    return new TfjsEngine(name, options, access);
  }
  if (name === "webgpu") {
    const open = await openDevice(options.device, { guardIndices: true });
    try {
      const access = await loadWebgpuBackend(tf, open);
      tf.enableProdMode();
      return new TfjsEngine(name, options, access, ` on ${describeAdapter(open.adapter)}`);
    } catch (error) {
      open.close();
      throw error;
    }
  }
  if (!(await tf.setBackend(name)))
    throw new Error(`Cannot use engine ${name} as tfjs must start its backend`);
  tf.enableProdMode();
  return new TfjsEngine(name, options, portableAccess);
}

/** For a backend whose memory we do not know: its tensors' arrays are its own, and may be read and replaced. */
const portableAccess: TensorAccess = {
  read: (tensor, out, offset) => out.set(tensor.dataSync<"float32">(), offset),
  write: (tensor, values) => tensor.dataSync<"float32">().set(values),
};

class TfjsEngine implements Engine {
  readonly name: EngineName;
  readonly order = canonicalOrder;
  readonly #options: DetachedEngineOptions;
  readonly #access: TensorAccess;
  readonly #where: string;
  readonly #parameters: Record<NetworkName, readonly Tensor[]>;

  /** @param where Of the description: what the backend runs on. */
  constructor(name: EngineName, options: DetachedEngineOptions, access: TensorAccess, where = "") {
    this.name = name;
    this.#where = where;
    this.#options = options;
    this.#access = access;
    const zeros = (net: Network): readonly Tensor[] =>
      net.parameters.map(({ shape }) => tf.zeros([...shape]));
    const { generator, discriminator } = options.model;
    this.#parameters = { generator: zeros(generator), discriminator: zeros(discriminator) };
  }

  get description(): string {
    return `${this.name} (tfjs ${tf.version["tfjs-core"]}, ${tf.getBackend()} backend)${this.#where}`;
  }

  get maxSamples(): number {
    return this.#options.maxSamples;
  }

  setParameters(name: NetworkName, flat: Float32Array): void {
    const net = this.#options.model[name];
    checkParameters(net, flat);
    for (const [i, { offset, size }] of net.parameters.entries()) {
      this.#access.write(this.#parameters[name][i], flat.subarray(offset, offset + size));
    }
  }

  async discriminatorGradient(batch: RealBatch, out: Float32Array): Promise<void> {
    await this.#overShards("discriminator", batch, out, (part, vector) =>
      this.#discriminatorPass(part, vector),
    );
  }

  async generatorGradient(batch: Batch, out: Float32Array): Promise<void> {
    await this.#overShards("generator", batch, out, (part, vector) => this.#generatorPass(part, vector));
  }

  /**
   * All shards in one pass where backend and networks allow it, else one by one.
   *
   * @param pass Asks for its gradient to be read; what it returns writes its metrics, once it is.
   */
  async #overShards<B extends Batch>(
    name: NetworkName,
    batch: B,
    out: Float32Array,
    pass: (part: B, vector: Float32Array) => () => void,
  ): Promise<void> {
    checkBatch(this.#options, batch);
    const { shardSizes } = batch;
    const { model, objective } = this.#options;
    const { generator, discriminator } = model;
    // With a penalty a parameter's gradient is a sum of several products, each of which would be a tree of its own.
    const rowwise =
      objective.penalty === null &&
      [...generator.layers, ...discriminator.layers].every((layer) => layer.rowwise);
    const { sumOverShards } = this.#access;
    if (shardSizes.length > 1 && sumOverShards !== undefined && rowwise && !this.#options.bf16) {
      // A row of the discriminator's pass is a real or a fake image, a row of the generator's an image.
      const rowsPerSample = name === "discriminator" ? 2 : 1;
      sumOverShards(
        shardSizes.map((n) => n * rowsPerSample),
        () => pass(batch, out)(),
      );
    } else {
      await sumShards(this.#options, name, batch, out, async (part, vector) => {
        const finish = pass(part, vector);
        await this.#access.settle?.();
        finish();
      });
    }
  }

  #discriminatorPass(batch: RealBatch, out: Float32Array): () => void {
    const { model, objective } = this.#options;
    const { shardSizes, globalBatchSize, pixels } = batch;
    const numSamples = numSamplesOf(batch);
    const rows = this.#tidily(() => {
      const fake = this.#forward("generator", this.#noise(batch));
      const real = tf.tensor(scalePixels(pixels), [numSamples, model.discriminator.numInputs]);
      // Real and fake images in one pass, those of a shard together: its gradient is a sum over consecutive rows.
      const both = interleave(real, fake, shardSizes);
      let kept: readonly Tensor[] = [];
      const loss = (parameters: readonly Tensor[]): Tensor => {
        const [realLogits, fakeLogits] = separate(forward(model.discriminator, both, parameters), shardSizes);
        const classified = objective.discriminatorLoss(tf, realLogits, fakeLogits);
        const penalty = objective.penalty?.value(tf, {
          discriminator: (images) => forward(model.discriminator, images, parameters),
          real,
          fake,
          uniforms: tf.tensor(batch.uniforms ?? new Float32Array(numSamples), [numSamples, 1]),
        });
        const losses = penalty === undefined ? classified : tf.add(classified, penalty);
        kept = [losses, realLogits, fakeLogits].map((tensor) => tf.keep(tensor));
        return tf.mul(tf.sum(losses), 1 / globalBatchSize);
      };
      this.#gradient(model.discriminator, loss, out);
      const [losses, realLogits, fakeLogits] = kept;
      const vectors = [losses, tf.sigmoid(realLogits), tf.sigmoid(fakeLogits)].map((x) => this.#vector(x));
      tf.dispose([...kept]);
      return vectors;
    });
    return () => out.set(shardSums(rows, shardSizes, globalBatchSize), model.discriminator.numParameters);
  }

  #generatorPass(batch: Batch, out: Float32Array): () => void {
    const { model, objective } = this.#options;
    const { shardSizes, globalBatchSize } = batch;
    const rows = this.#tidily(() => {
      const noise = this.#noise(batch);
      let kept: readonly Tensor[] = [];
      const loss = (parameters: readonly Tensor[]): Tensor => {
        const logits = this.#forward("discriminator", forward(model.generator, noise, parameters));
        const losses = objective.generatorLoss(tf, logits);
        kept = [losses, logits].map((tensor) => tf.keep(tensor));
        return tf.mul(tf.sum(losses), 1 / globalBatchSize);
      };
      this.#gradient(model.generator, loss, out);
      const [losses, logits] = kept;
      const vectors = [losses, tf.sigmoid(logits)].map((x) => this.#vector(x));
      tf.dispose([...kept]);
      return vectors;
    });
    return () => out.set(shardSums(rows, shardSizes, globalBatchSize), model.generator.numParameters);
  }

  /** Not worth it here: tfjs would have to keep the pass's tensors for the gradient. */
  prepareGenerator(): void {
    return;
  }

  async generate(noise: Float32Array, numSamples: number): Promise<Float32Array> {
    const [images] = this.#tidily(() => {
      const z = tf.tensor(noise, [numSamples, this.#options.model.generator.numInputs]);
      return [this.#vector(this.#forward("generator", z))];
    });
    await this.#access.settle?.();
    return images;
  }

  dispose(): void {
    tf.dispose([...this.#parameters.generator, ...this.#parameters.discriminator]);
    this.#access.close?.();
  }

  /** tf.tidy() for work whose result is not tensors. */
  #tidily<T>(work: () => T): T {
    let result: T | undefined;
    tf.tidy(() => void (result = work()));
    return result as T;
  }

  /** A tensor's values, which arrive as those of TensorAccess.read() do. */
  #vector(tensor: Tensor): Float32Array {
    const values = new Float32Array(tensor.size);
    this.#access.read(tensor, values, 0);
    return values;
  }

  #noise(batch: Batch): Tensor {
    return tf.tensor(batch.noise, [numSamplesOf(batch), this.#options.model.generator.numInputs]);
  }

  #forward(name: NetworkName, x: Tensor): Tensor {
    return forward(this.#options.model[name], x, this.#parameters[name]);
  }

  #gradient(net: Network, loss: (parameters: readonly Tensor[]) => Tensor, out: Float32Array): void {
    const { grads } = tf.valueAndGrads((...parameters: Tensor[]) => loss(parameters).asScalar())([
      ...this.#parameters[net.name],
    ]);
    for (const [i, { offset }] of net.parameters.entries()) this.#access.read(grads[i], out, offset);
  }
}

/** @returns Output of the last layer: logits for a network with a probability layer. */
function forward(net: Network, x: Tensor, parameters: readonly Tensor[]): Tensor {
  let y = x;
  for (const [index, layer] of net.layers.entries()) {
    y = layer.forward(
      tf,
      y,
      parameters.filter((_, i) => net.parameters[i].layer === index),
    );
  }
  return y;
}

/** Pixels 0..255 to [-1, 1], rounded as the kernel pixelsToReal(). */
export function scalePixels(pixels: Uint8Array): Float32Array {
  const scaled = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) scaled[i] = Math.fround(pixels[i] / 127.5) - 1;
  return scaled;
}

/** Rows of `a` and `b` shard by shard: (2 samples, columns). */
function interleave(a: Tensor, b: Tensor, shardSizes: readonly number[]): Tensor {
  if (shardSizes.length === 1) return tf.concat([a, b]);
  let start = 0;
  const parts = shardSizes.flatMap((n) => {
    const both = [a, b].map((x) => tf.slice(x, [start, 0], [n, x.shape[1] as number]));
    start += n;
    return both;
  });
  return tf.concat(parts);
}

/** The reverse of {@linkcode interleave}. */
function separate(both: Tensor, shardSizes: readonly number[]): readonly [Tensor, Tensor] {
  const columns = both.shape[1] as number;
  const parts: [Tensor[], Tensor[]] = [[], []];
  let start = 0;
  for (const n of shardSizes) {
    for (const list of parts) {
      list.push(tf.slice(both, [start, 0], [n, columns]));
      start += n;
    }
  }
  return shardSizes.length === 1 ? [parts[0][0], parts[1][0]] : [tf.concat(parts[0]), tf.concat(parts[1])];
}
