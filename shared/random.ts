/**
 * Counter-based random numbers: every value is a pure function of (seed,
 * stream, counter), so it does not matter who draws it, when, or in which order.
 * Only integer operations and exactly rounded IEEE operations (+ - * / sqrt)
 * are used: `Math.log` and friends differ between JavaScript engines.
 *
 * @module
 */

/** One stream per purpose, so that no two purposes ever share a number. The values are part of the bits. */
export const STREAMS = {
  generatorInit: 1,
  discriminatorInit: 2,
  noise: 3,
  shuffle: 4,
  sampleNoise: 5,
  syntheticDigits: 6,
  penalty: 7,
} as const;

export type StreamName = keyof typeof STREAMS;

/** Four 32-bit words: seed (low, high), stream, substream. */
export type StreamKey = readonly [number, number, number, number];

/**
 * @param seed Integer in 0..2^53-1.
 * @param substream Integer in 0..2^32-1; separates uses within one stream (for example the epoch).
 * @throws {RangeError} If seed is not such an integer.
 */
export function streamKey(seed: number, stream: StreamName, substream = 0): StreamKey {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new RangeError(
      `Cannot derive a random stream as seed must be an integer in 0..2^53-1: got ${seed}`,
    );
  }
  return [seed >>> 0, Math.floor(seed / 2 ** 32), STREAMS[stream], substream >>> 0];
}

/** Parity constant of the Threefry key schedule for 32-bit words. */
const SKEIN_KS_PARITY = 0x1bd11bda;

/**
 * Threefry-4x32 with 20 rounds.
 *
 * @param out Receives four 32-bit words at `offset`.
 * Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
 */
export function threefry4x32(
  key: StreamKey,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  out: Uint32Array,
  offset = 0,
): void {
  const k0 = key[0] | 0;
  const k1 = key[1] | 0;
  const k2 = key[2] | 0;
  const k3 = key[3] | 0;
  const k4 = SKEIN_KS_PARITY ^ k0 ^ k1 ^ k2 ^ k3;
  let x0 = (c0 + k0) | 0;
  let x1 = (c1 + k1) | 0;
  let x2 = (c2 + k2) | 0;
  let x3 = (c3 + k3) | 0;
  let a = k1;
  let b = k2;
  let c = k3;
  let d = k4;
  let e = k0;
  // Five groups of four rounds; the rotation distances alternate between two sets of four pairs.
  for (let group = 0; group < 5; group++) {
    if ((group & 1) === 0) {
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << 10) | (x1 >>> 22)) ^ x0;
      x2 = (x2 + x3) | 0;
      x3 = ((x3 << 26) | (x3 >>> 6)) ^ x2;
      x0 = (x0 + x3) | 0;
      x3 = ((x3 << 11) | (x3 >>> 21)) ^ x0;
      x2 = (x2 + x1) | 0;
      x1 = ((x1 << 21) | (x1 >>> 11)) ^ x2;
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << 13) | (x1 >>> 19)) ^ x0;
      x2 = (x2 + x3) | 0;
      x3 = ((x3 << 27) | (x3 >>> 5)) ^ x2;
      x0 = (x0 + x3) | 0;
      x3 = ((x3 << 23) | (x3 >>> 9)) ^ x0;
      x2 = (x2 + x1) | 0;
      x1 = ((x1 << 5) | (x1 >>> 27)) ^ x2;
    } else {
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << 6) | (x1 >>> 26)) ^ x0;
      x2 = (x2 + x3) | 0;
      x3 = ((x3 << 20) | (x3 >>> 12)) ^ x2;
      x0 = (x0 + x3) | 0;
      x3 = ((x3 << 17) | (x3 >>> 15)) ^ x0;
      x2 = (x2 + x1) | 0;
      x1 = ((x1 << 11) | (x1 >>> 21)) ^ x2;
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << 25) | (x1 >>> 7)) ^ x0;
      x2 = (x2 + x3) | 0;
      x3 = ((x3 << 10) | (x3 >>> 22)) ^ x2;
      x0 = (x0 + x3) | 0;
      x3 = ((x3 << 18) | (x3 >>> 14)) ^ x0;
      x2 = (x2 + x1) | 0;
      x1 = ((x1 << 20) | (x1 >>> 12)) ^ x2;
    }
    // Key injection number group + 1: the five key words rotate by one, and the last word counts.
    x0 = (x0 + a) | 0;
    x1 = (x1 + b) | 0;
    x2 = (x2 + c) | 0;
    x3 = (x3 + d + group + 1) | 0;
    const first = a;
    a = b;
    b = c;
    c = d;
    d = e;
    e = first;
  }
  out[offset] = x0;
  out[offset + 1] = x1;
  out[offset + 2] = x2;
  out[offset + 3] = x3;
}

/** 1/23, 1/21, ..., 1. */
const ATANH_SERIES = Array.from({ length: 12 }, (_, i) => 1 / (23 - 2 * i));

const logBits = new DataView(new ArrayBuffer(8));

/** Natural logarithm from exactly rounded operations only; relative error below 1e-15. @param x Normal number > 0. */
export function exactLog(x: number): number {
  logBits.setFloat64(0, x);
  const high = logBits.getUint32(0);
  let exponent = (high >>> 20) - 1023;
  logBits.setUint32(0, (high & 0xfffff) | 0x3ff00000);
  let mantissa = logBits.getFloat64(0);
  if (mantissa > Math.SQRT2) {
    mantissa /= 2;
    exponent += 1;
  }
  // log m = 2 atanh((m - 1) / (m + 1)); |s| < 0.172, so the term s^25 / 25 is below 1e-20.
  const s = (mantissa - 1) / (mantissa + 1);
  const s2 = s * s;
  let series = ATANH_SERIES[0];
  for (let i = 1; i < ATANH_SERIES.length; i++) series = series * s2 + ATANH_SERIES[i];
  return exponent * Math.LN2 + 2 * s * series;
}

/** @param c Eight coefficients, highest power first. Written out, as this is most of the time that noise takes. */
function horner(c: readonly number[], x: number): number {
  return ((((((c[0] * x + c[1]) * x + c[2]) * x + c[3]) * x + c[4]) * x + c[5]) * x + c[6]) * x + c[7];
}

/* eslint-disable no-loss-of-precision -- the published digits, some more than float64 holds */
// Coefficients of Wichura 1988, algorithm AS 241 (PPND16), highest power first.
const CENTRAL_A = [
  2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
  13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
];
const CENTRAL_B = [
  5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
  5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1,
];
const MIDDLE_C = [
  7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
  3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
];
const MIDDLE_D = [
  1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
  0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1,
];
const FAR_E = [
  2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
  0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772,
];
const FAR_F = [
  2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
  0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1,
];
/* eslint-enable no-loss-of-precision */

/** Quantile function of the standard normal distribution. @param p In (0, 1). Source: Wichura 1988, AS 241, PPND16. */
export function normalQuantile(p: number): number {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * horner(CENTRAL_A, r)) / horner(CENTRAL_B, r);
  }
  const tail = Math.sqrt(-exactLog(q < 0 ? p : 1 - p));
  const value =
    tail <= 5
      ? horner(MIDDLE_C, tail - 1.6) / horner(MIDDLE_D, tail - 1.6)
      : horner(FAR_E, tail - 5) / horner(FAR_F, tail - 5);
  return q < 0 ? -value : value;
}

const words = new Uint32Array(4);

/**
 * Fills `out` with standard normal numbers; element i uses word i mod 4 of block floor(i / 4).
 *
 * @param c1 c2 c3 Counter words above the block index (for noise: sample index, phase, global step).
 */
export function fillNormal(
  out: Float32Array,
  key: StreamKey,
  c1 = 0,
  c2 = 0,
  c3 = 0,
  start = 0,
  end = out.length,
): void {
  for (let i = start; i < end; i++) {
    const k = i - start;
    if ((k & 3) === 0) threefry4x32(key, k >>> 2, c1, c2, c3, words);
    out[i] = normalQuantile((words[k & 3] + 0.5) / 2 ** 32);
  }
}

/** Fills `out[start..end)` with numbers uniform in [-bound, bound). */
export function fillUniform(
  out: Float32Array,
  key: StreamKey,
  bound: number,
  start = 0,
  end = out.length,
): void {
  for (let i = start; i < end; i++) {
    const k = i - start;
    if ((k & 3) === 0) threefry4x32(key, k >>> 2, 0, 0, 0, words);
    out[i] = (words[k & 3] / 2 ** 31 - 1) * bound;
  }
}

/** One number in [0, 1), a multiple of 2^-24: exact in float32. @param c1 c2 c3 As for {@linkcode fillNormal}. */
export function uniformUnit(key: StreamKey, c1: number, c2: number, c3: number): number {
  threefry4x32(key, 0, c1, c2, c3, words);
  return (words[0] >>> 8) / 2 ** 24;
}

/**
 * A permutation of 0..length-1: Fisher-Yates with draws taken by counter.
 *
 * @param length In 0..2^32-1. A draw below i+1 is taken from 53 bits, so its bias is below 2^-21.
 */
export function permutation(length: number, key: StreamKey): Uint32Array {
  const order = Uint32Array.from({ length }, (_, i) => i);
  const block = new Uint32Array(4);
  for (let i = length - 1; i > 0; i--) {
    const k = i & 1;
    if (k === 1 || i === length - 1) threefry4x32(key, i >>> 1, 0, 0, 0, block);
    const unit = ((block[2 * k] >>> 5) * 2 ** 26 + (block[2 * k + 1] >>> 6)) / 2 ** 53;
    const j = Math.floor(unit * (i + 1));
    const swap = order[i];
    order[i] = order[j];
    order[j] = swap;
  }
  return order;
}
