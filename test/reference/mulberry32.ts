// A small deterministic generator for the reference tests only. It is deliberately not the product's own
// counter-based generator: the reference shares nothing with what it checks.

export interface TestRandom {
  /** @returns Next number, uniform in [0, 1), a multiple of 2^-32. */
  uniform(): number;
  /** @returns Float64Array (length,), independent uniforms in [-halfWidth, halfWidth). */
  uniforms(length: number, halfWidth: number): Float64Array;
  /** @returns Float64Array (length,), independent standard normals (Box & Muller 1958, the cosine half). */
  normals(length: number): Float64Array;
}

/**
 * A stream of numbers fixed by its seed.
 * @param seed Integer, its low 32 bits are used.
 * Source: mulberry32, T. Ettinger 2017 (public domain).
 */
export function mulberry32(seed: number): TestRandom {
  let state = seed | 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
  // 1 - uniform() lies in (0, 1], so the logarithm is finite.
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return {
    uniform,
    uniforms: (length, halfWidth) => Float64Array.from({ length }, () => halfWidth * (2 * uniform() - 1)),
    normals: (length) => Float64Array.from({ length }, normal),
  };
}
