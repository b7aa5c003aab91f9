/**
 * The TypeScript twin of the kernel in assembly/hash.ts: a 64-bit hash of
 * 32-bit words, the same bits. Replicas compare it after a step: equal
 * parameters have equal hashes. It is not cryptographic.
 *
 * Word i goes to lane i mod 16. A lane absorbs a word by h = (h ^ w) * PRIME,
 * h ^= h >>> 15: invertible in h and in w, so a single changed word always
 * changes the hash; the shift spreads the upper bits, without which two
 * flipped signs in one lane would cancel. The last block is filled with zeros.
 * The lanes are then folded twice, with different factors, from the number of words.
 *
 * Source: Fowler, Noll, Vo, FNV-1a (basis, prime); Appleby, MurmurHash3 (factors, xor-shift).
 *
 * @module
 */

const NUM_LANES = 16;
const PRIME = 0x01000193;
const BASIS = 0x811c9dc5;
const GOLDEN = 0x9e3779b9;

function mix(h: number, word: number, factor: number): number {
  const x = Math.imul(h ^ word, factor);
  return x ^ (x >>> 15);
}

/** @returns Sixteen hexadecimal digits. */
export function hashWords(words: Uint32Array): string {
  const lanes = Int32Array.from({ length: NUM_LANES }, (_, lane) => BASIS ^ Math.imul(GOLDEN, lane));
  const padded = Math.ceil(words.length / NUM_LANES) * NUM_LANES;
  for (let i = 0; i < padded; i++) {
    const lane = i % NUM_LANES;
    lanes[lane] = mix(lanes[lane], i < words.length ? words[i] : 0, PRIME);
  }
  let low = words.length;
  let high = ~words.length;
  for (const word of lanes) {
    low = mix(low, word, 0x85ebca6b);
    high = mix(high, (word << 16) | (word >>> 16), 0xc2b2ae35);
  }
  return hexadecimal(high) + hexadecimal(low);
}

function hexadecimal(word: number): string {
  return (word >>> 0).toString(16).padStart(8, "0");
}
