/**
 * The optimizer on the host: Adam over a flat vector, in float32 with every
 * operation rounded (Math.fround), so that all replicas compute the same bits
 * and a SIMD kernel can compute them too.
 *
 * @module
 */

export interface AdamConfig {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
}

export interface AdamState {
  /** First moments, (numParameters,). */
  readonly m: Float32Array;
  /** Second moments, (numParameters,). */
  readonly v: Float32Array;
  /** Updates applied so far. */
  step: number;
}

export function initAdam(numParameters: number): AdamState {
  return { m: new Float32Array(numParameters), v: new Float32Array(numParameters), step: 0 };
}

/** base^exponent by repeated squaring: Math.pow differs between JavaScript engines. */
export function exactPower(base: number, exponent: number): number {
  let result = 1;
  let square = base;
  for (let n = exponent; n > 0; n = Math.floor(n / 2)) {
    if (n % 2 === 1) result *= square;
    square *= square;
  }
  return result;
}

/**
 * One Adam step, in place.
 *
 * @param parameters Float32Array (numParameters,), updated.
 * @param gradient At least numParameters values; more are ignored. Not mutated.
 * @throws {RangeError} If lengths do not fit.
 * Source: Kingma & Ba 2015, Algorithm 1, epsilon outside the corrected root as in PyTorch.
 */
export function adamStep(
  parameters: Float32Array,
  gradient: Float32Array,
  state: AdamState,
  config: AdamConfig,
): void {
  const { m, v } = state;
  if (
    m.length !== parameters.length ||
    v.length !== parameters.length ||
    gradient.length < parameters.length
  ) {
    throw new RangeError(
      `Cannot apply Adam as lengths must agree: got ${parameters.length} parameters, ${m.length} and ${v.length} moments, ${gradient.length} gradients`,
    );
  }
  state.step += 1;
  const fround = Math.fround;
  const beta1 = fround(config.beta1);
  const beta2 = fround(config.beta2);
  const rest1 = fround(1 - config.beta1);
  const rest2 = fround(1 - config.beta2);
  const epsilon = fround(config.epsilon);
  const stepSize = fround(config.learningRate / (1 - exactPower(config.beta1, state.step)));
  const rootFactor = fround(1 / Math.sqrt(1 - exactPower(config.beta2, state.step)));
  for (let i = 0; i < parameters.length; i++) {
    const g = gradient[i];
    const m1 = fround(fround(beta1 * m[i]) + fround(rest1 * g));
    const v1 = fround(fround(beta2 * v[i]) + fround(rest2 * fround(g * g)));
    m[i] = m1;
    v[i] = v1;
    const denominator = fround(fround(fround(Math.sqrt(v1)) * rootFactor) + epsilon);
    parameters[i] = parameters[i] - fround(fround(stepSize * m1) / denominator);
  }
}
