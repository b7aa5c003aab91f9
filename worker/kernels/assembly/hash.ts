import { loadPart } from "./lanes";

const PRIME: i32 = 0x01000193;
const BASIS: i32 = 0x811c9dc5;
const GOLDEN: i32 = 0x9e3779b9;

/** One step of a lane: invertible in h and in w, so one changed word always changes the lane. */
function absorb(h: v128, w: v128): v128 {
  const x = i32x4.mul(v128.xor(h, w), i32x4.splat(PRIME));
  return v128.xor(x, i32x4.shr_u(x, 15));
}

function mix(h: u32, w: u32, factor: u32): u32 {
  const x = (h ^ w) * factor;
  return x ^ (x >> 15);
}

/**
 * A 64-bit hash of n 32-bit words; its TypeScript twin, in ../hash-words.ts,
 * says how it is built. @returns The low and the high word as one 64-bit number.
 */
export function hashWords(n: i32, p: usize): u64 {
  const words = n;
  const golden = i32x4.splat(GOLDEN);
  const basis = i32x4.splat(BASIS);
  let h0 = v128.xor(basis, i32x4.mul(golden, i32x4(0, 1, 2, 3)));
  let h1 = v128.xor(basis, i32x4.mul(golden, i32x4(4, 5, 6, 7)));
  let h2 = v128.xor(basis, i32x4.mul(golden, i32x4(8, 9, 10, 11)));
  let h3 = v128.xor(basis, i32x4.mul(golden, i32x4(12, 13, 14, 15)));
  for (; n >= 16; n -= 16) {
    h0 = absorb(h0, v128.load(p));
    h1 = absorb(h1, v128.load(p, 16));
    h2 = absorb(h2, v128.load(p, 32));
    h3 = absorb(h3, v128.load(p, 48));
    p += 64;
  }
  if (n > 0) {
    h0 = absorb(h0, part(n, p));
    h1 = absorb(h1, part(n - 4, p + 16));
    h2 = absorb(h2, part(n - 8, p + 32));
    h3 = absorb(h3, part(n - 12, p + 48));
  }
  let low: u32 = <u32>words;
  let high: u32 = ~(<u32>words);
  for (let lane: i32 = 0; lane < 16; lane++) {
    const h = lane < 4 ? h0 : lane < 8 ? h1 : lane < 12 ? h2 : h3;
    const w = <u32>laneOf(h, lane & 3);
    low = mix(low, w, 0x85ebca6b);
    high = mix(high, (w << 16) | (w >> 16), 0xc2b2ae35);
  }
  return ((<u64>high) << 32) | (<u64>low);
}

/** A block's words past the end count as 0. */
function part(n: i32, p: usize): v128 {
  return n >= 4 ? v128.load(p) : n > 0 ? loadPart(p, n) : i32x4.splat(0);
}

function laneOf(x: v128, lane: i32): i32 {
  if (lane === 0) return i32x4.extract_lane(x, 0);
  if (lane === 1) return i32x4.extract_lane(x, 1);
  if (lane === 2) return i32x4.extract_lane(x, 2);
  return i32x4.extract_lane(x, 3);
}
