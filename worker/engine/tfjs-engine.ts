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
import type { Model } from "../../shared/nn/models.ts";
import { roundToBf16 } from "../../shared/bf16.ts";
import type { Add } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Batch, Engine, EngineOptions, RealBatch } from "./engine.ts";
import { canonicalOrder } from "./parameter-order.ts";
import { numSamplesOf, shardSums } from "./shard-sums.ts";
import type { TensorAccess } from "./wasm-backend.ts";
import { loadWasmBackend } from "./wasm-backend.ts";

// tfjs is CommonJS: Node gives its exports as names or only as the default, depending on how the names were found.
const tf: TensorFlow = "default" in tfModule ? tfModule.default : tfModule;

/**
 * @param fused Whether matrix products of backend wasm use fused multiply-adds.
 * @param bf16 Whether gradients are rounded in every node of the tree.
 */
export async function createTfjsEngine(
  name: EngineName,
  fused: boolean,
  bf16: boolean,
  options: EngineOptions,
): Promise<Engine> {
  // Without this the cpu backend prints advice to install tfjs-node.
  if (name === "cpu") tf.env().set("IS_NODE", false);
  if (name === "wasm") {
    const access = await loadWasmBackend(tf, fused);
    tf.enableProdMode();
    return new TfjsEngine(name, bf16, options, access);
  }
  if (!(await tf.setBackend(name)))
    throw new Error(`Cannot use engine ${name} as tfjs must start its backend`);
  tf.enableProdMode();
  return new TfjsEngine(name, bf16, options, portableAccess);
}

/** For a backend whose memory we do not know: its tensors' arrays are its own, and may be read and replaced. */
const portableAccess: TensorAccess = {
  read: (tensor, out, offset) => out.set(tensor.dataSync<"float32">(), offset),
  write: (tensor, values) => tensor.dataSync<"float32">().set(values),
};

class TfjsEngine implements Engine {
  readonly name: EngineName;
  readonly order = canonicalOrder;
  readonly #bf16: boolean;
  readonly #options: EngineOptions;
  readonly #access: TensorAccess;
  readonly #parameters: Record<NetworkName, readonly Tensor[]>;

  constructor(name: EngineName, bf16: boolean, options: EngineOptions, access: TensorAccess) {
    this.name = name;
    this.#bf16 = bf16;
    this.#options = options;
    this.#access = access;
    const zeros = (net: Network): readonly Tensor[] =>
      net.parameters.map(({ shape }) => tf.zeros([...shape]));
    const { generator, discriminator } = options.model;
    this.#parameters = { generator: zeros(generator), discriminator: zeros(discriminator) };
  }

  get description(): string {
    return `${this.name} (tfjs ${tf.version["tfjs-core"]}, ${tf.getBackend()} backend)`;
  }

  setParameters(name: NetworkName, flat: Float32Array): void {
    const net = this.#options.model[name];
    if (flat.length !== net.numParameters) {
      throw new RangeError(
        `Cannot set ${name} parameters as there must be ${net.numParameters}: got ${flat.length}`,
      );
    }
    for (const [i, { offset, size }] of net.parameters.entries()) {
      this.#access.write(this.#parameters[name][i], flat.subarray(offset, offset + size));
    }
  }

  discriminatorGradient(batch: RealBatch, out: Float32Array): void {
    this.#overShards("discriminator", batch, out, (part, vector) => this.#discriminatorPass(part, vector));
  }

  generatorGradient(batch: Batch, out: Float32Array): void {
    this.#overShards("generator", batch, out, (part, vector) => this.#generatorPass(part, vector));
  }

  /** All shards in one pass where backend and networks allow it, else one by one. */
  #overShards<B extends Batch>(
    name: NetworkName,
    batch: B,
    out: Float32Array,
    pass: (part: B, vector: Float32Array) => void,
  ): void {
    const { shardSizes } = batch;
    const { generator, discriminator } = this.#options.model;
    const round = (vector: Float32Array): void => {
      if (this.#bf16) roundToBf16(vector.subarray(0, this.#options.model[name].numParameters));
    };
    const rowwise = [...generator.layers, ...discriminator.layers].every((layer) => layer.rowwise);
    const { sumOverShards } = this.#access;
    if (shardSizes.length === 1) {
      pass(batch, out);
      round(out);
    } else if (sumOverShards !== undefined && rowwise && !this.#bf16) {
      // A row of the discriminator's pass is a real or a fake image, a row of the generator's an image.
      const rowsPerSample = name === "discriminator" ? 2 : 1;
      sumOverShards(
        shardSizes.map((n) => n * rowsPerSample),
        () => pass(batch, out),
      );
    } else {
      const allocate = (): Float32Array => new Float32Array(out.length);
      const add: Add = (target, left, right) => {
        addInJavaScript(target, left, right);
        round(target);
      };
      const sum = new TreeSum(shardSizes.length, add, allocate);
      for (const [shard, part] of splitBatch(batch, this.#options.model).entries()) {
        const vector = allocate();
        pass(part, vector);
        round(vector);
        sum.push({ start: shard, end: shard + 1 }, vector, true);
      }
      out.set(sum.take()[0].values);
    }
  }

  #discriminatorPass(batch: RealBatch, out: Float32Array): void {
    const { model, objective } = this.#options;
    const { shardSizes, globalBatchSize, pixels } = batch;
    const numSamples = numSamplesOf(batch);
    tf.tidy(() => {
      const fake = this.#forward("generator", this.#noise(batch));
      const real = tf.tensor(scalePixels(pixels), [numSamples, model.discriminator.numInputs]);
      // Real and fake images in one pass, those of a shard together: its gradient is a sum over consecutive rows.
      const both = interleave(real, fake, shardSizes);
      let kept: readonly Tensor[] = [];
      const loss = (parameters: readonly Tensor[]): Tensor => {
        const [realLogits, fakeLogits] = separate(forward(model.discriminator, both, parameters), shardSizes);
        const losses = objective.discriminatorLoss(tf, realLogits, fakeLogits);
        kept = [losses, realLogits, fakeLogits].map((tensor) => tf.keep(tensor));
        return tf.mul(tf.sum(losses), 1 / globalBatchSize);
      };
      this.#gradient(model.discriminator, loss, out);
      const [losses, realLogits, fakeLogits] = kept;
      const rows = [losses, tf.sigmoid(realLogits), tf.sigmoid(fakeLogits)];
      out.set(shardSums(rows.map(valuesOf), shardSizes, globalBatchSize), model.discriminator.numParameters);
      tf.dispose([...kept]);
    });
  }

  #generatorPass(batch: Batch, out: Float32Array): void {
    const { model, objective } = this.#options;
    const { shardSizes, globalBatchSize } = batch;
    tf.tidy(() => {
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
      out.set(
        shardSums([losses, tf.sigmoid(logits)].map(valuesOf), shardSizes, globalBatchSize),
        model.generator.numParameters,
      );
      tf.dispose([...kept]);
    });
  }

  /** Not worth it here: tfjs would have to keep the pass's tensors for the gradient. */
  prepareGenerator(): void {
    return;
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

function valuesOf(tensor: Tensor): Float32Array {
  return tensor.dataSync<"float32">();
}

/** Pixels 0..255 to [-1, 1], rounded as the kernel pixelsToReal(). */
export function scalePixels(pixels: Uint8Array): Float32Array {
  const scaled = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) scaled[i] = Math.fround(pixels[i] / 127.5) - 1;
  return scaled;
}

/** A batch of every shard. Keeps what else the batch has. */
function splitBatch<B extends Batch>(batch: B, { generator, discriminator }: Model): readonly B[] {
  let start = 0;
  return batch.shardSizes.map((numSamples) => {
    const end = start + numSamples;
    const noise = batch.noise.slice(start * generator.numInputs, end * generator.numInputs);
    const { numInputs } = discriminator;
    const pixels =
      "pixels" in batch ? (batch.pixels as Uint8Array).slice(start * numInputs, end * numInputs) : undefined;
    start = end;
    return { ...batch, shardSizes: [numSamples], noise, ...(pixels === undefined ? {} : { pixels }) };
  });
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
