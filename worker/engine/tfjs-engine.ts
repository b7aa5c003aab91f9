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
import type { Engine, EngineOptions, RealShard, Shard } from "./engine.ts";
import type { TensorAccess } from "./wasm-backend.ts";
import { loadWasmBackend } from "./wasm-backend.ts";

// tfjs is CommonJS: Node gives its exports as names or only as the default, depending on how the names were found.
const tf: TensorFlow = "default" in tfModule ? (tfModule.default as TensorFlow) : tfModule;

export async function createTfjsEngine(name: EngineName, options: EngineOptions): Promise<Engine> {
  // Without this the cpu backend prints advice to install tfjs-node.
  if (name === "cpu") tf.env().set("IS_NODE", false);
  if (name === "wasm") {
    const access = await loadWasmBackend(tf);
    tf.enableProdMode();
    return new TfjsEngine(name, options, access);
  }
  if (!(await tf.setBackend(name))) throw new Error(`Cannot use engine ${name} as tfjs must start its backend`);
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
  readonly #options: EngineOptions;
  readonly #access: TensorAccess;
  readonly #parameters: Record<NetworkName, readonly Tensor[]>;

  constructor(name: EngineName, options: EngineOptions, access: TensorAccess) {
    this.name = name;
    this.#options = options;
    this.#access = access;
    const zeros = (net: Network): readonly Tensor[] => net.parameters.map(({ shape }) => tf.zeros([...shape]));
    const { generator, discriminator } = options.model;
    this.#parameters = { generator: zeros(generator), discriminator: zeros(discriminator) };
  }

  get description(): string {
    return `${this.name} (tfjs ${tf.version["tfjs-core"]}, ${tf.getBackend()} backend)`;
  }

  setParameters(name: NetworkName, flat: Float32Array): void {
    const net = this.#options.model[name];
    if (flat.length !== net.numParameters) {
      throw new RangeError(`Cannot set ${name} parameters as there must be ${net.numParameters}: got ${flat.length}`);
    }
    for (const [i, { offset, size }] of net.parameters.entries()) {
      this.#access.write(this.#parameters[name][i], flat.subarray(offset, offset + size));
    }
  }

  discriminatorGradient(shard: RealShard, out: Float32Array): void {
    const { model, objective } = this.#options;
    const { numSamples, globalBatchSize, pixels } = shard;
    tf.tidy(() => {
      const fake = this.#forward("generator", this.#noise(shard));
      const real = tf.tensor(scalePixels(pixels), [numSamples, model.discriminator.numInputs]);
      // Real and fake images in one pass: the gradient of a weight is one matrix product over both.
      const both = tf.concat([real, fake]);
      let realLogits!: Tensor;
      let fakeLogits!: Tensor;
      const loss = (parameters: readonly Tensor[]): Tensor => {
        const logits = forward(model.discriminator, both, parameters);
        realLogits = tf.slice(logits, [0, 0], [numSamples, 1]);
        fakeLogits = tf.slice(logits, [numSamples, 0], [numSamples, 1]);
        const losses = objective.discriminatorLoss(tf, realLogits, fakeLogits);
        tf.keep(realLogits);
        tf.keep(fakeLogits);
        return tf.mul(tf.sum(losses), 1 / globalBatchSize);
      };
      const end = this.#gradient(model.discriminator, loss, out);
      out[end + 1] = meanProbability(realLogits, globalBatchSize);
      out[end + 2] = meanProbability(fakeLogits, globalBatchSize);
      tf.dispose([realLogits, fakeLogits]);
    });
  }

  generatorGradient(shard: Shard, out: Float32Array): void {
    const { model, objective } = this.#options;
    const { globalBatchSize } = shard;
    tf.tidy(() => {
      const noise = this.#noise(shard);
      let logits!: Tensor;
      const loss = (parameters: readonly Tensor[]): Tensor => {
        const fake = forward(model.generator, noise, parameters);
        logits = tf.keep(this.#forward("discriminator", fake));
        return tf.mul(tf.sum(objective.generatorLoss(tf, logits)), 1 / globalBatchSize);
      };
      const end = this.#gradient(model.generator, loss, out);
      out[end + 1] = meanProbability(logits, globalBatchSize);
      tf.dispose(logits);
    });
  }

  generate(noise: Float32Array, numSamples: number): Float32Array {
    return tf.tidy(() => {
      const z = tf.tensor(noise, [numSamples, this.#options.model.generator.numInputs]);
      return this.#forward("generator", z).dataSync<"float32">().slice();
    });
  }

  dispose(): void {
    tf.dispose([...this.#parameters.generator, ...this.#parameters.discriminator]);
  }

  #noise({ noise, numSamples }: Shard): Tensor {
    return tf.tensor(noise, [numSamples, this.#options.model.generator.numInputs]);
  }

  #forward(name: NetworkName, x: Tensor): Tensor {
    return forward(this.#options.model[name], x, this.#parameters[name]);
  }

  /** Writes the gradient and, behind it, the loss. @returns Position of the loss in `out`. */
  #gradient(net: Network, loss: (parameters: readonly Tensor[]) => Tensor, out: Float32Array): number {
    const { value, grads } = tf.valueAndGrads((...parameters: Tensor[]) => loss(parameters).asScalar())(
      [...this.#parameters[net.name]],
    );
    for (const [i, { offset }] of net.parameters.entries()) this.#access.read(grads[i], out, offset);
    out[net.numParameters] = value.dataSync()[0];
    return net.numParameters;
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

/** Pixels 0..255 to [-1, 1]. */
export function scalePixels(pixels: Uint8Array): Float32Array {
  const scaled = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) scaled[i] = pixels[i] / 127.5 - 1;
  return scaled;
}

/** Sum of sigmoid(logit) over the global batch size. */
function meanProbability(logits: Tensor, globalBatchSize: number): number {
  return tf.sum(tf.sigmoid(logits)).dataSync()[0] / globalBatchSize;
}
