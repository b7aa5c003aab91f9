/**
 * A fast hash of parameters that travels with every step's metrics: replicas
 * whose hashes differ have diverged. It finds any single changed word; it is
 * not cryptographic (checkpoints use SHA-256).
 *
 * @module
 */

const PRIME = 0x01000193;
const BASIS = 0x811c9dc5;

/**
 * FNV-1a over 32-bit words in four interleaved lanes, which are then folded.
 *
 * @returns Eight hexadecimal digits.
 * Source: Fowler, Noll, Vo, FNV-1a, with words in place of bytes.
 */
export function parameterHash(values: Float32Array): string {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let a = BASIS;
  let b = BASIS ^ 1;
  let c = BASIS ^ 2;
  let d = BASIS ^ 3;
  const whole = words.length & ~3;
  for (let i = 0; i < whole; i += 4) {
    a = Math.imul(a ^ words[i], PRIME);
    b = Math.imul(b ^ words[i + 1], PRIME);
    c = Math.imul(c ^ words[i + 2], PRIME);
    d = Math.imul(d ^ words[i + 3], PRIME);
  }
  for (let i = whole; i < words.length; i++) a = Math.imul(a ^ words[i], PRIME);
  let folded = BASIS;
  for (const lane of [a, b, c, d, words.length]) {
    folded = Math.imul(folded ^ (lane & 0xffff), PRIME);
    folded = Math.imul(folded ^ (lane >>> 16), PRIME);
  }
  return (folded >>> 0).toString(16).padStart(8, "0");
}
