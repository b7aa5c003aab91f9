/**
 * The engine on TensorFlow, on the processor or on CUDA. Networks of dense
 * layers are differentiated by hand and computed by TensorFlow's own
 * operations; others go through tfjs.
 *
 * Shards are computed one by one: the bits of TensorFlow's products depend on
 * the number of their rows.
 *
 * @module
 */
import type { NetworkName } from "../../shared/nn/network.ts";
import type { SoftplusForm, SoftplusLoss } from "../../shared/nn/objectives.ts";
import { checkBatch, checkNoise, checkParameters } from "./checked-input.ts";
import type { Batch, DetachedEngineOptions, Engine, RealBatch } from "./engine.ts";
import { sumShards } from "./shard-by-shard.ts";
import { numSamplesOf, shardSums } from "./shard-sums.ts";
import type { Binding, TensorId } from "./tensorflow-binding.ts";
import { loadBinding } from "./tensorflow-binding.ts";
import { tensorflowEnvironment } from "./tensorflow-environment.ts";
import type { ForwardPass } from "./tensorflow-network.ts";
import { TensorflowNetwork } from "./tensorflow-network.ts";
import { SETUP_COMMAND } from "./tensorflow-installation.ts";
import { TensorflowOps } from "./tensorflow-ops.ts";
import { tensorflowOrder } from "./tensorflow-order.ts";

/** @throws {Error} If TensorFlow cannot be used here; the message says what to do. */
export async function createTensorflowEngine(options: DetachedEngineOptions): Promise<Engine> {
  // The library reads them when it loads, so this is in time for a worker that was started by hand.
  Object.assign(process.env, tensorflowEnvironment(options));
  const { model, objective, device } = options;
  const { softplusForm } = objective;
  const binding = loadBinding();
  if (device !== null && !binding.isUsingGpuDevice()) {
    throw new Error(
      `Cannot use GPU ${device} as TensorFlow must find it: run ${SETUP_COMMAND} -- --cuda, and see whether nvidia-smi lists the GPU`,
    );
  }
  const isDense = [model.generator, model.discriminator].every((net) => TensorflowNetwork.supports(net));
  if (!isDense || softplusForm === null) {
    return (await import("./tfjs-engine.ts")).createTfjsEngine("tensorflow", false, options);
  }
  return new TensorflowEngine({ ...options, softplusForm }, binding);
}

interface TensorflowEngineOptions extends DetachedEngineOptions {
  readonly softplusForm: SoftplusForm;
}

/** Forward passes of the generator with its present parameters. */
interface Prepared {
  /** Of all shards. */
  readonly noise: Float32Array;
  readonly shardSizes: readonly number[];
  /** For each shard. */
  readonly passes: readonly ForwardPass[];
}

/** A loss for each row: signs and weights of its softplus, and what its derivative is multiplied with. */
interface RowLosses {
  /** (B, 1). */
  readonly signs: TensorId;
  /** weight sign / globalBatchSize, (B, 1). */
  readonly factors: TensorId;
  /** (B,). */
  readonly weights: Float32Array;
}

class TensorflowEngine implements Engine {
  readonly name = "tensorflow";
  readonly order = tensorflowOrder;
  readonly #options: TensorflowEngineOptions;
  readonly #binding: Binding;
  readonly #ops: TensorflowOps;
  readonly #networks: Record<NetworkName, TensorflowNetwork>;
  #prepared: Prepared | null = null;
  /** Shards of the batch before. */
  #shardSizes: readonly number[] = [];
  readonly #rowLosses = new Map<string, RowLosses>();
  /** 127.5 and 1. */
  readonly #halfRange: TensorId;
  readonly #one: TensorId;

  constructor(options: TensorflowEngineOptions, binding: Binding) {
    const { generator, discriminator } = options.model;
    this.#options = options;
    this.#binding = binding;
    this.#ops = new TensorflowOps(binding);
    this.#halfRange = this.#ops.tensor(Float32Array.of(127.5), []);
    this.#one = this.#ops.tensor(Float32Array.of(1), []);
    this.#networks = {
      generator: new TensorflowNetwork(generator, this.#ops),
      discriminator: new TensorflowNetwork(discriminator, this.#ops),
    };
  }

  get description(): string {
    const device = this.#binding.isUsingGpuDevice() ? "CUDA" : "CPU";
    return `tensorflow (TensorFlow ${this.#binding.TF_Version}, ${device})`;
  }

  get maxSamples(): number {
    return this.#options.maxSamples;
  }

  setParameters(name: NetworkName, flat: Float32Array): void {
    checkParameters(this.#options.model[name], flat);
    if (name === "generator") this.#forget();
    this.#networks[name].setParameters(flat);
  }

  async discriminatorGradient(batch: RealBatch, out: Float32Array): Promise<void> {
    checkBatch(this.#options, batch);
    this.#shardSizes = batch.shardSizes;
    await sumShards(this.#options, "discriminator", batch, out, (part, vector) =>
      this.#ops.tidy(() => this.#discriminatorPass(part, vector)),
    );
  }

  async generatorGradient(batch: Batch, out: Float32Array): Promise<void> {
    checkBatch(this.#options, batch);
    const { noise, shardSizes } = batch;
    const prepared = this.#prepared;
    const fits = prepared?.noise === noise && prepared.shardSizes.join() === shardSizes.join();
    await sumShards(this.#options, "generator", batch, out, (part, vector, shard) =>
      this.#ops.tidy(() => this.#generatorPass(part, fits ? prepared.passes[shard] : null, vector)),
    );
    this.#forget();
  }

  #discriminatorPass({ noise, pixels, globalBatchSize }: RealBatch, out: Float32Array): void {
    const { model, softplusForm } = this.#options;
    const { discriminator } = this.#networks;
    const ops = this.#ops;
    const numSamples = pixels.length / model.discriminator.numInputs;
    const fake = this.#fakes(noise).activations.at(-1) as TensorId;
    const bytes = ops.tensor(pixels, [numSamples, model.discriminator.numInputs]);
    // Rounded as the kernel pixelsToReal().
    const real = ops.sub(ops.div(ops.toFloat(bytes), this.#halfRange), this.#one);
    const forward = discriminator.forward(ops.concat([real, fake]));
    const { real: realForm, fake: fakeForm } = softplusForm;
    const rows = this.#losses(
      forward,
      [
        { form: realForm, n: numSamples },
        { form: fakeForm, n: numSamples },
      ],
      globalBatchSize,
    );
    const { readings } = discriminator.backward(forward, rows.outputGradient, out, false);
    const { losses, probabilities } = this.#read(readings, rows);
    const pairLoss = losses.subarray(0, numSamples).map((loss, i) => loss + losses[numSamples + i]);
    const halves = [probabilities.subarray(0, numSamples), probabilities.subarray(numSamples)];
    out.set(
      shardSums([pairLoss, ...halves], [numSamples], globalBatchSize),
      model.discriminator.numParameters,
    );
  }

  #generatorPass(batch: Batch, prepared: ForwardPass | null, out: Float32Array): void {
    const { model, softplusForm } = this.#options;
    const { generator, discriminator } = this.#networks;
    const { globalBatchSize } = batch;
    const numSamples = numSamplesOf(batch);
    const generated = prepared ?? this.#fakes(batch.noise);
    const forward = discriminator.forward(generated.activations.at(-1) as TensorId);
    const rows = this.#losses(forward, [{ form: softplusForm.generator, n: numSamples }], globalBatchSize);
    const { inputGradient } = discriminator.backward(forward, rows.outputGradient, null, true);
    const { readings } = generator.backward(generated, inputGradient as TensorId, out, false);
    const { losses, probabilities } = this.#read(readings, rows);
    out.set(shardSums([losses, probabilities], [numSamples], globalBatchSize), model.generator.numParameters);
  }

  prepareGenerator(noise: Float32Array): void {
    checkNoise(this.#options, noise);
    this.#forget();
    const { numInputs } = this.#options.model.generator;
    // The generator's batch has the shards of the discriminator's, if it has as many samples.
    if (noise.length !== numSamplesOf({ shardSizes: this.#shardSizes }) * numInputs) return;
    let start = 0;
    const shardSizes = this.#shardSizes;
    const passes = shardSizes.map((n) => {
      const part = noise.slice(start, start + n * numInputs);
      start += n * numInputs;
      return this.#ops.tidy(() => {
        const pass = this.#fakes(part);
        this.#ops.keep([pass.input, ...pass.activations]);
        return pass;
      });
    });
    this.#prepared = { noise, shardSizes, passes };
  }

  async generate(noise: Float32Array, numSamples: number): Promise<Float32Array> {
    const images = new Float32Array(numSamples * this.#options.model.discriminator.numInputs);
    this.#ops.tidy(() => {
      const tensor = this.#fakes(noise).activations.at(-1) as TensorId;
      this.#ops.read([{ tensor, out: images }]);
    });
    return images;
  }

  dispose(): void {
    this.#forget();
    this.#networks.generator.dispose();
    this.#networks.discriminator.dispose();
    for (const { signs, factors } of this.#rowLosses.values()) this.#ops.free([signs, factors]);
    this.#rowLosses.clear();
    this.#ops.free([this.#halfRange, this.#one]);
    this.#ops.dispose();
  }

  #forget(): void {
    for (const { input, activations } of this.#prepared?.passes ?? []) {
      this.#ops.free([input, ...activations]);
    }
    this.#prepared = null;
  }

  /** @param noise (B, latentDim). */
  #fakes(noise: Float32Array): ForwardPass {
    const { numInputs } = this.#options.model.generator;
    return this.#networks.generator.forward(this.#ops.tensor(noise, [noise.length / numInputs, numInputs]));
  }

  /** Losses of consecutive rows with a form each, and their derivatives by the logits; all (B, 1). */
  #losses({ activations }: ForwardPass, groups: readonly RowGroup[], globalBatchSize: number): Rows {
    const ops = this.#ops;
    const logits = activations.at(-1) as TensorId;
    const { signs, factors, weights } = this.#rowLossesOf(groups, globalBatchSize);
    const signed = ops.mul(logits, signs);
    return {
      outputGradient: ops.mul(ops.sigmoid(signed), factors),
      softplus: ops.softplus(signed),
      probabilities: ops.sigmoid(logits),
      weights,
    };
  }

  #rowLossesOf(groups: readonly RowGroup[], globalBatchSize: number): RowLosses {
    const key = JSON.stringify([groups, globalBatchSize]);
    let losses = this.#rowLosses.get(key);
    if (losses === undefined) {
      const each = (value: (form: SoftplusLoss) => number): Float32Array =>
        Float32Array.from(groups.flatMap(({ form, n }) => Array<number>(n).fill(value(form))));
      const weights = each(({ weight }) => weight);
      const column = (values: Float32Array): TensorId => this.#ops.tensor(values, [values.length, 1]);
      losses = {
        signs: column(each(({ sign }) => sign)),
        factors: column(each(({ weight, sign }) => (weight * sign) / globalBatchSize)),
        weights,
      };
      this.#ops.keep([losses.signs, losses.factors]);
      this.#rowLosses.set(key, losses);
    }
    return losses;
  }

  /** Reads gradients, and what the metrics are made of, (B,) each. */
  #read(
    readings: Parameters<TensorflowOps["read"]>[0],
    { softplus, probabilities, weights }: Rows,
  ): { readonly losses: Float32Array; readonly probabilities: Float32Array } {
    const column = (tensor: TensorId) => ({ tensor, out: new Float32Array(weights.length) });
    const columns = [column(softplus), column(probabilities)];
    this.#ops.read([...readings, ...columns]);
    return { losses: columns[0].out.map((value, i) => value * weights[i]), probabilities: columns[1].out };
  }
}

/** Consecutive rows with the same form of loss. */
interface RowGroup {
  readonly form: SoftplusLoss;
  readonly n: number;
}

/** Of each row: (B, 1). */
interface Rows {
  /** Derivative of the loss by the logit, divided by the global batch size. */
  readonly outputGradient: TensorId;
  /** The loss, but for its weight. */
  readonly softplus: TensorId;
  readonly probabilities: TensorId;
  /** (B,). */
  readonly weights: Float32Array;
}
