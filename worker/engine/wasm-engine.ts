/**
 * The engine for networks of dense layers: our kernels on the host memory that
 * also holds parameters and gradients, so that a phase reads parameters where
 * the optimizer leaves them and writes its gradient where the all-reduce takes
 * it. What the mathematics does not need is not computed: no gradients of the
 * generator in the discriminator's phase, none of the discriminator's
 * parameters in the generator's, and none by pixels of real images or noise.
 *
 * @module
 */
import type { NetworkName } from "../../shared/nn/network.ts";
import type { SoftplusForm, SoftplusLoss } from "../../shared/nn/objectives.ts";
import { SAMPLE_COUNT } from "../../shared/samples.ts";
import type { HostMemory } from "../host-memory.ts";
import type { Leaves, Pointer } from "../kernels/kernels.ts";
import { DenseNetwork, maxWidth } from "./dense-network.ts";
import { checkBatch, checkNoise, checkParameters } from "./checked-input.ts";
import type { Batch, Engine, EngineOptions, RealBatch } from "./engine.ts";
import { panelOrder } from "./parameter-order.ts";
import { numSamplesOf, shardSums } from "./shard-sums.ts";

interface WasmEngineOptions extends EngineOptions {
  readonly softplusForm: SoftplusForm;
  /** Whether gradients are rounded in every node of the tree. */
  readonly bf16: boolean;
  /** Most samples of a batch; images are generated in portions of at least 64. */
  readonly maxSamples: number;
}

/** The parts of an engine, each as long as it must be. */
function sizesOf({ model, maxSamples }: Pick<WasmEngineOptions, "model" | "maxSamples">, memory: HostMemory) {
  const { generator, discriminator } = model;
  const generated = Math.max(maxSamples, SAMPLE_COUNT);
  // A sample is a real and a fake image to the discriminator.
  const rows = Math.max(2 * maxSamples, generated);
  const width = Math.max(maxWidth(generator), maxWidth(discriminator));
  const scratchBytes = memory.kernels.gemmScratchBytes(Math.max(width, rows), Math.max(width, rows), "tree");
  return {
    generated,
    rows,
    leaves: maxSamples + 1,
    noise: generated * generator.numInputs,
    pixels: Math.ceil((maxSamples * discriminator.numInputs) / 4),
    images: 2 * maxSamples * discriminator.numInputs,
    gradient: rows * width,
    scratch: Math.ceil(scratchBytes / 4),
  };
}

export class WasmEngine implements Engine {
  readonly name = "wasm";
  readonly order = panelOrder;
  readonly #options: WasmEngineOptions;
  readonly #memory: HostMemory;
  readonly #generator: DenseNetwork;
  readonly #discriminator: DenseNetwork;
  readonly #parameters: Record<NetworkName, Pointer> = { generator: 0, discriminator: 0 };
  readonly #maxGenerated: number;
  /** The generator's last forward pass with its present parameters. */
  #prepared: { readonly noise: Float32Array; readonly images: Pointer } | null = null;
  readonly #leaves: Float32Array;
  readonly #noise: Float32Array;
  readonly #pixels: Float32Array;
  readonly #images: Float32Array;
  readonly #gradients: readonly [Float32Array, Float32Array];
  /** Per row: sign logit, softplus of it, sigmoid of it, probability. */
  readonly #scores: readonly [Float32Array, Float32Array, Float32Array, Float32Array];

  /**
   * Lengths of the vectors that the engine allocates in the memory, or null if it cannot compute the model.
   */
  static lengths(
    options: Pick<WasmEngineOptions, "model" | "maxSamples">,
    memory: HostMemory,
  ): readonly number[] | null {
    const { generator, discriminator } = options.model;
    const size = sizesOf(options, memory);
    const networks = [
      DenseNetwork.lengths(generator, size.generated),
      DenseNetwork.lengths(discriminator, size.rows),
    ];
    if (networks[0] === null || networks[1] === null) return null;
    const { leaves, noise, pixels, images, gradient, scratch, rows } = size;
    const scores = Array<number>(4).fill(rows);
    return [
      ...networks[0],
      ...networks[1],
      leaves,
      noise,
      pixels,
      images,
      gradient,
      gradient,
      scratch,
      rows,
      ...scores,
    ];
  }

  constructor(options: WasmEngineOptions, memory: HostMemory) {
    const { generator, discriminator } = options.model;
    const size = sizesOf(options, memory);
    this.#options = options;
    this.#memory = memory;
    this.#maxGenerated = size.generated;
    this.#leaves = memory.allocate(size.leaves);
    this.#noise = memory.allocate(size.noise);
    this.#pixels = memory.allocate(size.pixels);
    this.#images = memory.allocate(size.images);
    this.#gradients = [memory.allocate(size.gradient), memory.allocate(size.gradient)];
    const column = (): Float32Array => memory.allocate(size.rows);
    this.#scores = [column(), column(), column(), column()];
    const workspace = {
      scratch: memory.allocate(size.scratch).byteOffset,
      gradients: [this.#gradients[0].byteOffset, this.#gradients[1].byteOffset] as const,
      ones: column().fill(1).byteOffset,
    };
    this.#generator = new DenseNetwork(generator, size.generated, memory, workspace);
    this.#discriminator = new DenseNetwork(discriminator, size.rows, memory, workspace);
  }

  get description(): string {
    const { fused, wide } = this.#memory.kernels;
    return `wasm (${fused ? "fused" : "plain"} SIMD kernels, vectors of ${wide ? 256 : 128} bits)`;
  }

  get maxSamples(): number {
    return this.#options.maxSamples;
  }

  setParameters(name: NetworkName, flat: Float32Array): void {
    checkParameters(this.#options.model[name], flat);
    if (name === "generator") this.#prepared = null;
    this.#parameters[name] = this.#memory.pointer(flat);
  }

  async discriminatorGradient(batch: RealBatch, out: Float32Array): Promise<void> {
    const { model, softplusForm } = this.#options;
    checkBatch(this.#options, batch);
    const { shardSizes, globalBatchSize } = batch;
    const numSamples = numSamplesOf(batch);
    const fake = this.#fakes(batch.noise);
    this.#interleave(batch, fake);
    const input = this.#images.byteOffset;
    const numRows = 2 * numSamples;
    const logits = this.#discriminator.forward(this.#parameters.discriminator, input, numRows);
    const outputGradient = this.#gradients[0].byteOffset;
    const halves = shardSizes.flatMap((n) => [
      { form: softplusForm.real, n },
      { form: softplusForm.fake, n },
    ]);
    const losses = this.#losses(logits, halves, globalBatchSize, outputGradient);
    this.#discriminator.backward({
      parameters: this.#parameters.discriminator,
      input,
      numRows,
      outputGradient,
      parameterGradient: {
        pointer: this.#memory.pointer(out),
        leaves: this.#leavesOf(shardSizes, 2),
        mode: this.#mode,
      },
      inputGradient: false,
    });
    const probabilities = this.#probabilities(logits, numRows);
    const [realLoss, fakeLoss] = separate(losses, shardSizes);
    const [real, fakes] = separate(probabilities, shardSizes);
    const pairLoss = realLoss.map((loss, i) => loss + fakeLoss[i]);
    out.set(
      shardSums([pairLoss, real, fakes], shardSizes, globalBatchSize),
      model.discriminator.numParameters,
    );
  }

  async generatorGradient(batch: Batch, out: Float32Array): Promise<void> {
    const { model, softplusForm } = this.#options;
    checkBatch(this.#options, batch);
    const { shardSizes, globalBatchSize } = batch;
    const numRows = numSamplesOf(batch);
    const fake = this.#fakes(batch.noise);
    const logits = this.#discriminator.forward(this.#parameters.discriminator, fake, numRows);
    const form = softplusForm.generator;
    const outputGradient = this.#gradients[0].byteOffset;
    const losses = this.#losses(logits, [{ form, n: numRows }], globalBatchSize, outputGradient);
    const probabilities = this.#probabilities(logits, numRows);
    const fakeGradient = this.#discriminator.backward({
      parameters: this.#parameters.discriminator,
      input: fake,
      numRows,
      outputGradient,
      parameterGradient: null,
      inputGradient: true,
    });
    this.#generator.backward({
      parameters: this.#parameters.generator,
      input: this.#noise.byteOffset,
      numRows,
      outputGradient: fakeGradient as Pointer,
      parameterGradient: {
        pointer: this.#memory.pointer(out),
        leaves: this.#leavesOf(shardSizes, 1),
        mode: this.#mode,
      },
      inputGradient: false,
    });
    out.set(shardSums([losses, probabilities], shardSizes, globalBatchSize), model.generator.numParameters);
  }

  prepareGenerator(noise: Float32Array): void {
    checkNoise(this.#options, noise);
    this.#fakes(noise);
  }

  async generate(noise: Float32Array, numSamples: number): Promise<Float32Array> {
    const { numInputs } = this.#options.model.generator;
    const { numInputs: imagePixels } = this.#options.model.discriminator;
    const images = new Float32Array(numSamples * imagePixels);
    for (let start = 0; start < numSamples; start += this.#maxGenerated) {
      const end = Math.min(start + this.#maxGenerated, numSamples);
      this.#noise.set(noise.subarray(start * numInputs, end * numInputs));
      const pointer = this.#generator.forward(
        this.#parameters.generator,
        this.#noise.byteOffset,
        end - start,
      );
      images.set(this.#view(pointer, (end - start) * imagePixels), start * imagePixels);
    }
    return images;
  }

  /** The memory goes with the engine's last reference. */
  dispose(): void {
    this.#parameters.generator = 0;
    this.#parameters.discriminator = 0;
  }

  /** Images of the noise (B, latentDim): (B, imagePixels), with the activations for a backward pass. */
  #fakes(noise: Float32Array): Pointer {
    const { numInputs } = this.#options.model.generator;
    if (this.#prepared?.noise !== noise) {
      this.#noise.set(noise);
      const numRows = noise.length / numInputs;
      const images = this.#generator.forward(this.#parameters.generator, this.#noise.byteOffset, numRows);
      this.#prepared = { noise, images };
    }
    return this.#prepared.images;
  }

  /** Real and fake images shard by shard, so that a shard's rows follow each other, into #images. */
  #interleave({ shardSizes, pixels }: RealBatch, fake: Pointer): void {
    const { numInputs } = this.#options.model.discriminator;
    const { kernels } = this.#memory;
    const bytes = new Uint8Array(kernels.memory.buffer, this.#pixels.byteOffset, pixels.length);
    bytes.set(pixels);
    const fakes = this.#view(fake, pixels.length);
    let start = 0;
    for (const numSamples of shardSizes) {
      const n = numSamples * numInputs;
      kernels.pixelsToReal(n, bytes.byteOffset + start, this.#images.byteOffset + 2 * start * 4);
      this.#images.set(fakes.subarray(start, start + n), 2 * start + n);
      start += n;
    }
  }

  get #mode(): "tree" | "treeBf16" {
    return this.#options.bf16 ? "treeBf16" : "tree";
  }

  #leavesOf(shardSizes: readonly number[], rowsPerSample: number): Leaves {
    const starts = new Int32Array(this.#leaves.buffer, this.#leaves.byteOffset, shardSizes.length + 1);
    for (const [i, n] of shardSizes.entries()) starts[i + 1] = starts[i] + n * rowsPerSample;
    return { starts: starts.byteOffset, count: shardSizes.length };
  }

  /**
   * Losses and their derivatives by the logits, for groups of consecutive rows with a form each.
   *
   * @param gradient Receives the derivatives, divided by the global batch size: (B, 1).
   * @returns The losses, (B,).
   */
  #losses(
    logits: Pointer,
    groups: readonly { readonly form: SoftplusLoss; readonly n: number }[],
    globalBatchSize: number,
    gradient: Pointer,
  ): Float32Array {
    const { kernels } = this.#memory;
    const [signed, softplus, sigmoid] = this.#scores;
    const numRows = groups.reduce((sum, { n }) => sum + n, 0);
    const values = this.#view(logits, numRows);
    eachRow(groups, ({ sign }, row) => (signed[row] = sign * values[row]));
    kernels.softplusForward(numRows, signed.byteOffset, softplus.byteOffset);
    kernels.sigmoidForward(numRows, signed.byteOffset, sigmoid.byteOffset);
    const derivatives = this.#view(gradient, numRows);
    eachRow(groups, ({ weight, sign }, row) => {
      derivatives[row] = ((weight * sign) / globalBatchSize) * sigmoid[row];
      softplus[row] *= weight;
    });
    return softplus.subarray(0, numRows);
  }

  #probabilities(logits: Pointer, numRows: number): Float32Array {
    const probability = this.#scores[3];
    this.#memory.kernels.sigmoidForward(numRows, logits, probability.byteOffset);
    return probability.subarray(0, numRows);
  }

  #view(pointer: Pointer, length: number): Float32Array {
    return new Float32Array(this.#memory.kernels.memory.buffer, pointer, length);
  }
}

function eachRow(
  groups: readonly { readonly form: SoftplusLoss; readonly n: number }[],
  visit: (form: SoftplusLoss, row: number) => void,
): void {
  let row = 0;
  for (const { form, n } of groups) for (const end = row + n; row < end; row++) visit(form, row);
}

/** Values of real and of fake rows, each in order of samples, from rows shard by shard. */
function separate(rows: Float32Array, shardSizes: readonly number[]): readonly [Float32Array, Float32Array] {
  const halves = [new Float32Array(rows.length / 2), new Float32Array(rows.length / 2)] as const;
  let start = 0;
  for (const n of shardSizes) {
    halves[0].set(rows.subarray(2 * start, 2 * start + n), start);
    halves[1].set(rows.subarray(2 * start + n, 2 * (start + n)), start);
    start += n;
  }
  return halves;
}
