// The training step of an MLP GAN in float64, with backpropagation derived by hand. It exists so that tests
// can check the product against something written separately: it imports nothing, from the product or from
// any library, and prefers being readable to being fast. It refuses arrays whose lengths do not fit the network.
//
// Shape suffixes (all arrays row-major): B batch, I a layer's inputs, O a layer's outputs, D pixels,
// L latentDim, P parameters. dX is the derivative of the loss with respect to X, in X's shape.

export type Layer =
  | { readonly type: "dense"; readonly in: number; readonly out: number }
  | { readonly type: "leakyRelu"; readonly alpha: number }
  | { readonly type: "tanh" }
  | { readonly type: "sigmoid" };

export type DenseLayer = Extract<Layer, { type: "dense" }>;

/**
 * Layers in order of application. Parameters are one flat array: for each dense layer in order, the weight W
 * (in, out), then the bias b (out,).
 */
export type Network = readonly Layer[];

/** The input of each layer in order, then the output of the last: numLayers + 1 arrays, each (B, width). */
export type Activations = readonly Float64Array[];

export interface AdamHyper {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  /** Default 1e-8. */
  readonly epsilon?: number;
}

export interface AdamState {
  /** First moment, biased towards 0, (P,). */
  readonly m_P: Float64Array;
  /** Second moment, biased towards 0, (P,). */
  readonly v_P: Float64Array;
  /** Number of updates made so far. */
  readonly t: number;
}

export interface GanNetworks {
  readonly generator: Network;
  /** One output per sample; with or without a trailing sigmoid, the losses are the same. */
  readonly discriminator: Network;
  readonly gParams: Float64Array;
  readonly dParams: Float64Array;
}

export interface GanState extends GanNetworks {
  readonly gAdam: AdamState;
  readonly dAdam: AdamState;
}

export interface TrainBatch {
  /** Real samples for the discriminator's update (B, D), in [-1, 1]. */
  readonly real_BD: Float64Array;
  /** Noise for the discriminator's update (B, L). */
  readonly noiseD_BL: Float64Array;
  /** Noise for the generator's update (B, L). */
  readonly noiseG_BL: Float64Array;
}

export interface GanHyper {
  readonly generator: AdamHyper;
  readonly discriminator: AdamHyper;
}

export interface DiscriminatorGradient {
  readonly loss: number;
  /** Derivative of the loss with respect to dParams, (P,). */
  readonly gradient: Float64Array;
  /** Mean over the batch of sigmoid(D(x)). */
  readonly meanRealProbability: number;
  /** Mean over the batch of sigmoid(D(G(z))). */
  readonly meanFakeProbability: number;
}

export interface GeneratorGradient {
  readonly loss: number;
  /** Derivative of the loss with respect to gParams, (P,). */
  readonly gradient: Float64Array;
  /** Mean over the batch of sigmoid(D(G(z))). */
  readonly meanFakeProbability: number;
}

export interface TrainStepResult {
  readonly state: GanState;
  /** Before the discriminator's update. */
  readonly discriminatorLoss: number;
  /** After the discriminator's update, before the generator's. */
  readonly generatorLoss: number;
  readonly meanRealProbability: number;
  /** From the discriminator's half of the step (noiseD_BL). */
  readonly meanFakeProbability: number;
}

/**
 * One GAN training step: the discriminator's update against fakes of the current generator, then the
 * generator's update through the updated discriminator.
 * @param state Not mutated, nor are its arrays.
 * @throws {RangeError} If an array's length does not fit its network.
 * Source: Goodfellow et al. 2014, Algorithm 1 with k = 1 and the non-saturating generator loss.
 */
export function trainStep(state: GanState, batch: TrainBatch, hyper: GanHyper): TrainStepResult {
  const { real_BD, noiseD_BL, noiseG_BL } = batch;
  const d = discriminatorGradient({ ...state, real_BD, noise_BL: noiseD_BL });
  const dUpdate = adamStep(state.dParams, d.gradient, state.dAdam, hyper.discriminator);

  const g = generatorGradient({ ...state, dParams: dUpdate.params, noise_BL: noiseG_BL });
  const gUpdate = adamStep(state.gParams, g.gradient, state.gAdam, hyper.generator);

  return {
    state: {
      generator: state.generator,
      discriminator: state.discriminator,
      gParams: gUpdate.params,
      dParams: dUpdate.params,
      gAdam: gUpdate.state,
      dAdam: dUpdate.state,
    },
    discriminatorLoss: d.loss,
    generatorLoss: g.loss,
    meanRealProbability: d.meanRealProbability,
    meanFakeProbability: d.meanFakeProbability,
  };
}

/** The state before the first step: the given networks, and Adam at rest. The arrays are kept, not copied. */
export function initGan(networks: GanNetworks): GanState {
  const { generator, discriminator, gParams, dParams } = networks;
  return {
    generator,
    discriminator,
    gParams,
    dParams,
    gAdam: initAdam(gParams.length),
    dAdam: initAdam(dParams.length),
  };
}

/**
 * Discriminator loss, mean over the batch of [softplus(-D(x)) + softplus(D(G(z)))] / 2 where D is the logit,
 * and its gradient. This is half the binary cross-entropy with targets real = 1, fake = 0, summed over both.
 * @param args.real_BD (B, D). @param args.noise_BL (B, L), the same B.
 * @throws {RangeError} If an array's length does not fit, or the two batches differ in size.
 * Source: Goodfellow et al. 2014, equation 1; -log sigmoid(a) = softplus(-a), -log(1 - sigmoid(a)) = softplus(a).
 */
export function discriminatorGradient(
  args: GanNetworks & { readonly real_BD: Float64Array; readonly noise_BL: Float64Array },
): DiscriminatorGradient {
  const { generator, gParams, dParams, real_BD, noise_BL } = args;
  const discriminator = logitNetwork(args.discriminator);
  const fake_BD = output(forward(generator, gParams, noise_BL));

  const realActivations = forward(discriminator, dParams, real_BD);
  const fakeActivations = forward(discriminator, dParams, fake_BD);
  const realLogit_B = output(realActivations);
  const fakeLogit_B = output(fakeActivations);
  const batchSize = checkBatch(discriminator, real_BD, realLogit_B);
  if (checkBatch(discriminator, fake_BD, fakeLogit_B) !== batchSize) {
    throw new RangeError(
      `Cannot average the discriminator loss as real and fake batches differ: got ${batchSize} and ${fakeLogit_B.length}`,
    );
  }

  // d softplus(-a) / da = -sigmoid(-a), d softplus(a) / da = sigmoid(a).
  const scale = 1 / (2 * batchSize);
  const dReal_B = realLogit_B.map((logit) => -sigmoid(-logit) * scale);
  const dFake_B = fakeLogit_B.map((logit) => sigmoid(logit) * scale);
  const fromReal = backward(discriminator, dParams, realActivations, dReal_B);
  const fromFake = backward(discriminator, dParams, fakeActivations, dFake_B);

  return {
    loss: (mean(realLogit_B.map((logit) => softplus(-logit))) + mean(fakeLogit_B.map(softplus))) / 2,
    gradient: fromReal.dParams.map((value, index) => value + fromFake.dParams[index]),
    meanRealProbability: mean(realLogit_B.map(sigmoid)),
    meanFakeProbability: mean(fakeLogit_B.map(sigmoid)),
  };
}

/**
 * Non-saturating generator loss, mean over the batch of softplus(-D(G(z))) where D is the logit, and its
 * gradient, which goes through the discriminator (held fixed) into the generator.
 * @param args.noise_BL (B, L).
 * @throws {RangeError} If an array's length does not fit.
 * Source: Goodfellow et al. 2014, section 3: maximise log D(G(z)).
 */
export function generatorGradient(
  args: GanNetworks & { readonly noise_BL: Float64Array },
): GeneratorGradient {
  const { generator, gParams, dParams, noise_BL } = args;
  const discriminator = logitNetwork(args.discriminator);
  const gActivations = forward(generator, gParams, noise_BL);
  const fake_BD = output(gActivations);
  const dActivations = forward(discriminator, dParams, fake_BD);
  const logit_B = output(dActivations);
  const batchSize = checkBatch(discriminator, fake_BD, logit_B);

  const dLogit_B = logit_B.map((logit) => -sigmoid(-logit) / batchSize);
  const dFake_BD = backward(discriminator, dParams, dActivations, dLogit_B).dInput;
  return {
    loss: mean(logit_B.map((logit) => softplus(-logit))),
    gradient: backward(generator, gParams, gActivations, dFake_BD).dParams,
    meanFakeProbability: mean(logit_B.map(sigmoid)),
  };
}

/**
 * The network's values at every layer.
 * @param params (P,). @param x_BI (B, I), I the first layer's inputs.
 * @returns activations[0] is x_BI itself, activations[numLayers] the output.
 * @throws {RangeError} If params or x_BI does not fit the network.
 */
export function forward(network: Network, params: Float64Array, x_BI: Float64Array): Activations {
  checkParams(network, params);
  const activations = [x_BI];
  let offset = 0;
  for (const layer of network) {
    const input = output(activations);
    switch (layer.type) {
      case "dense":
        activations.push(denseForward(layer, params, offset, input));
        offset += numLayerParams(layer);
        break;
      case "leakyRelu":
        activations.push(input.map((x) => (x > 0 ? x : layer.alpha * x)));
        break;
      case "tanh":
        activations.push(input.map(Math.tanh));
        break;
      case "sigmoid":
        activations.push(input.map(sigmoid));
        break;
    }
  }
  return activations;
}

/**
 * Derivatives of a scalar loss, from its derivative with respect to the network's output.
 * @param params (P,), the ones given to forward. @param activations What forward returned.
 * @param dOut The output's shape. No argument is mutated.
 * @returns dParams (P,), summed over the batch; dInput in the input's shape.
 * @throws {RangeError} If params, activations or dOut does not fit the network.
 */
export function backward(
  network: Network,
  params: Float64Array,
  activations: Activations,
  dOut: Float64Array,
): { dParams: Float64Array; dInput: Float64Array } {
  checkParams(network, params);
  if (activations.length !== network.length + 1) {
    throw new RangeError(
      `Cannot backpropagate as ${network.length} layers have ${network.length + 1} activations: got ${activations.length}`,
    );
  }
  if (dOut.length !== output(activations).length) {
    throw new RangeError(
      `Cannot backpropagate as the output has ${output(activations).length} values: got a dOut of ${dOut.length}`,
    );
  }
  const dParams = new Float64Array(params.length);
  let dY = dOut;
  let offset = params.length;
  for (let index = network.length - 1; index >= 0; index--) {
    const layer = network[index];
    const x = activations[index];
    const y = activations[index + 1];
    switch (layer.type) {
      case "dense":
        offset -= numLayerParams(layer);
        dY = denseBackward(layer, params, offset, x, dY, dParams);
        break;
      case "leakyRelu":
        // At exactly 0 the slope is alpha, as in PyTorch and TensorFlow.js.
        dY = dY.map((d, i) => (x[i] > 0 ? d : layer.alpha * d));
        break;
      case "tanh":
        dY = dY.map((d, i) => d * (1 - y[i] * y[i]));
        break;
      case "sigmoid":
        dY = dY.map((d, i) => d * y[i] * (1 - y[i]));
        break;
    }
  }
  return { dParams, dInput: dY };
}

/** Adam before its first update, for P parameters. */
export function initAdam(numParams: number): AdamState {
  return { m_P: new Float64Array(numParams), v_P: new Float64Array(numParams), t: 0 };
}

/**
 * One Adam update. Epsilon is added to the root of the bias-corrected second moment.
 * @param params (P,), not mutated. @param gradient (P,), not mutated. @param state Not mutated.
 * @throws {RangeError} If lengths differ.
 * Source: Kingma & Ba 2015, Algorithm 1 (torch.optim.Adam places epsilon the same way).
 */
export function adamStep(
  params: Float64Array,
  gradient: Float64Array,
  state: AdamState,
  hyper: AdamHyper,
): { params: Float64Array; state: AdamState } {
  for (const array of [gradient, state.m_P, state.v_P]) {
    if (array.length !== params.length) {
      throw new RangeError(
        `Cannot take an Adam step as ${params.length} parameters need as many values: got ${array.length}`,
      );
    }
  }
  const { learningRate, beta1, beta2, epsilon = 1e-8 } = hyper;
  const t = state.t + 1;
  const mCorrection = 1 - beta1 ** t;
  const vCorrection = 1 - beta2 ** t;
  const m_P = new Float64Array(params.length);
  const v_P = new Float64Array(params.length);
  const updated_P = new Float64Array(params.length);
  for (let i = 0; i < params.length; i++) {
    const g = gradient[i];
    const m = beta1 * state.m_P[i] + (1 - beta1) * g;
    const v = beta2 * state.v_P[i] + (1 - beta2) * g * g;
    updated_P[i] = params[i] - (learningRate * (m / mCorrection)) / (Math.sqrt(v / vCorrection) + epsilon);
    m_P[i] = m;
    v_P[i] = v;
  }
  return { params: updated_P, state: { m_P, v_P, t } };
}

/** Pixels 0..255 as reals in [-1, 1], the range of tanh. @param pixels Any shape, which is kept. */
export function pixelsToReal(pixels: Uint8Array): Float64Array {
  return Float64Array.from(pixels, (pixel) => pixel / 127.5 - 1);
}

/** Number of parameters of a network, P. */
export function numParams(network: Network): number {
  return network.reduce((sum, layer) => sum + numLayerParams(layer), 0);
}

/** log(1 + e^x), without overflow for large x and without losing the tail for very negative x. */
export function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** 1 / (1 + e^-x), without overflow. */
export function sigmoid(x: number): number {
  const decay = Math.exp(-Math.abs(x));
  return x >= 0 ? 1 / (1 + decay) : decay / (1 + decay);
}

/** The discriminator up to its logit: a trailing sigmoid is dropped. It has no parameters, so none change place. */
function logitNetwork(discriminator: Network): Network {
  return discriminator.at(-1)?.type === "sigmoid" ? discriminator.slice(0, -1) : discriminator;
}

/** y = x W + b. @param x_BI (B, I). @returns (B, O). */
function denseForward(
  layer: DenseLayer,
  params: Float64Array,
  offset: number,
  x_BI: Float64Array,
): Float64Array {
  const { in: I, out: O } = layer;
  const B = rows(x_BI, I);
  const w_IO = params.subarray(offset, offset + I * O);
  const b_O = params.subarray(offset + I * O, offset + I * O + O);
  return timesTransposed(x_BI, transpose(w_IO, I, O), B, I, O).map((value, index) => value + b_O[index % O]);
}

/** Writes dW = xᵀ dY and db = sum over B of dY into dParams at offset. @returns dX = dY Wᵀ (B, I). */
function denseBackward(
  layer: DenseLayer,
  params: Float64Array,
  offset: number,
  x_BI: Float64Array,
  dY_BO: Float64Array,
  dParams: Float64Array,
): Float64Array {
  const { in: I, out: O } = layer;
  const B = rows(x_BI, I);
  const w_IO = params.subarray(offset, offset + I * O);
  const db_O = dParams.subarray(offset + I * O, offset + I * O + O);
  dParams.set(timesTransposed(transpose(x_BI, B, I), transpose(dY_BO, B, O), I, B, O), offset);
  dY_BO.forEach((value, index) => {
    db_O[index % O] += value;
  });
  return timesTransposed(dY_BO, w_IO, B, O, I);
}

/**
 * a bᵀ: every row of a times every row of b, each a plain sum in the order of k.
 * @param a_MK (M, K). @param b_NK (N, K). @returns (M, N).
 */
function timesTransposed(
  a_MK: Float64Array,
  b_NK: Float64Array,
  M: number,
  K: number,
  N: number,
): Float64Array {
  const c_MN = new Float64Array(M * N);
  // Four rows of b at a time, for speed: four sums that do not wait for one another.
  const quadN = N - (N % 4);
  for (let n = 0; n < quadN; n += 4) {
    const row0 = n * K;
    const row1 = row0 + K;
    const row2 = row1 + K;
    const row3 = row2 + K;
    for (let m = 0; m < M; m++) {
      let sum0 = 0;
      let sum1 = 0;
      let sum2 = 0;
      let sum3 = 0;
      for (let k = 0; k < K; k++) {
        const a = a_MK[m * K + k];
        sum0 += a * b_NK[row0 + k];
        sum1 += a * b_NK[row1 + k];
        sum2 += a * b_NK[row2 + k];
        sum3 += a * b_NK[row3 + k];
      }
      const at = m * N + n;
      c_MN[at] = sum0;
      c_MN[at + 1] = sum1;
      c_MN[at + 2] = sum2;
      c_MN[at + 3] = sum3;
    }
  }
  for (let n = quadN; n < N; n++) {
    for (let m = 0; m < M; m++) {
      let sum = 0;
      for (let k = 0; k < K; k++) {
        sum += a_MK[m * K + k] * b_NK[n * K + k];
      }
      c_MN[m * N + n] = sum;
    }
  }
  return c_MN;
}

/** @param a_MN (M, N). @returns (N, M). */
function transpose(a_MN: Float64Array, M: number, N: number): Float64Array {
  const a_NM = new Float64Array(N * M);
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      a_NM[n * M + m] = a_MN[m * N + n];
    }
  }
  return a_NM;
}

function numLayerParams(layer: Layer): number {
  return layer.type === "dense" ? layer.in * layer.out + layer.out : 0;
}

/** The last of the activations: the network's output. */
function output(activations: Activations): Float64Array {
  return activations.at(-1)!;
}

function mean(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Number of rows of the given width, at least one. */
function rows(values: Float64Array, width: number): number {
  if (values.length === 0 || values.length % width !== 0) {
    throw new RangeError(
      `Cannot read rows as a dense layer takes ${width} values each: got ${values.length}`,
    );
  }
  return values.length / width;
}

function checkParams(network: Network, params: Float64Array): void {
  if (params.length !== numParams(network)) {
    throw new RangeError(
      `Cannot use parameters as the network has ${numParams(network)}: got ${params.length}`,
    );
  }
}

/** The batch size, after checking that the discriminator gives one logit per sample. */
function checkBatch(discriminator: Network, x_BD: Float64Array, logit_B: Float64Array): number {
  const firstDense = discriminator.find((layer) => layer.type === "dense");
  const batchSize = firstDense === undefined ? x_BD.length : rows(x_BD, firstDense.in);
  if (logit_B.length !== batchSize) {
    throw new RangeError(
      `Cannot compute the loss as the discriminator gives one logit per sample: got ${logit_B.length} for ${batchSize} samples`,
    );
  }
  return batchSize;
}
