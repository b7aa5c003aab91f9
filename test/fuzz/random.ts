/**
 * Random and damaged values, reproducible from a seed.
 *
 * @module
 */
import type { TestRandom } from "../reference/mulberry32.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

const EDGE_NUMBERS = [
  0,
  -0,
  1,
  -1,
  0.5,
  2 ** 31,
  2 ** 32,
  2 ** 48,
  2 ** 48 + 1,
  2 ** 53,
  1e308,
  NaN,
  Infinity,
];
const STRINGS = ["", "a", "worker-0", "state", "tcp://127.0.0.1:1", "x".repeat(5000), "\0\uffff\ud800"];
/** Names that mean something to JavaScript. */
const KEYS = [
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "valueOf",
  "toJSON",
  "then",
  "length",
  "type",
];
/** First bytes of msgpack's long, nested and extended values, and of none. */
const TAGS = [
  0x80, 0x8f, 0x90, 0x9f, 0xc0, 0xc1, 0xc4, 0xc6, 0xc7, 0xc9, 0xca, 0xd3, 0xd4, 0xd6, 0xd8, 0xdb, 0xdc,
];
const LONG_TAGS = [0xc6, 0xc9, 0xdb, 0xdd, 0xdf];

export class FuzzRandom {
  readonly #random: TestRandom;

  constructor(seed: number) {
    this.#random = mulberry32(seed);
    // Neighbouring seeds begin alike.
    for (let i = 0; i < 4; i++) this.#random.uniform();
  }

  /** 0..n-1. */
  below(n: number): number {
    return Math.floor(this.#random.uniform() * n);
  }

  chance(probability: number): boolean {
    return this.#random.uniform() < probability;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }

  /** Anything that JSON, YAML or msgpack can bring. */
  value(depth = 3): unknown {
    switch (this.below(depth > 0 ? 10 : 7)) {
      case 0:
        return this.pick(EDGE_NUMBERS);
      case 1:
        return this.below(1000);
      case 2:
        return this.pick(STRINGS);
      case 3:
        return this.pick([null, undefined, true, false]);
      case 4:
        return BigInt(this.below(2 ** 31)) << BigInt(this.below(33));
      case 5:
        return this.bytes(this.below(20));
      case 6:
        return new Date(this.below(2 ** 31));
      case 7:
        return Array.from({ length: this.below(5) }, () => this.value(depth - 1));
      default: {
        const object: Record<string, unknown> = {};
        for (let i = this.below(5); i > 0; i--) this.#define(object, this.value(depth - 1));
        return object;
      }
    }
  }

  #define(object: object, value: unknown): void {
    const key = this.chance(0.5) ? this.pick(KEYS) : this.pick(STRINGS);
    // As a parser does: an own property, whatever its name.
    Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  }

  /** A copy in which one to three fields, at any depth, are lost, added or of another value. */
  damaged(value: unknown): unknown {
    let result = value;
    for (let i = 1 + this.below(3); i > 0; i--) result = this.#damagedOnce(result);
    return result;
  }

  #damagedOnce(value: unknown): unknown {
    if (typeof value !== "object" || value === null || this.chance(0.15)) return this.value();
    if (Array.isArray(value)) {
      const copy = [...(value as unknown[])];
      if (copy.length === 0 || this.chance(0.2)) return [...copy, this.value(1)];
      const at = this.below(copy.length);
      copy[at] = this.#damagedOnce(copy[at]);
      return copy;
    }
    const copy: Record<string, unknown> = { ...value };
    const keys = Object.keys(copy);
    if (keys.length === 0 || this.chance(0.2)) {
      this.#define(copy, this.value(1));
      return copy;
    }
    const key = this.pick(keys);
    if (this.chance(0.2)) delete copy[key];
    else copy[key] = this.#damagedOnce(copy[key]);
    return copy;
  }

  /** A copy in which bits are flipped, or a part is lost, doubled, or of another value. */
  damagedBytes(bytes: Uint8Array): Uint8Array {
    // Not slice(), which for a Buffer is a view.
    let copy = Uint8Array.from(bytes);
    for (let i = 1 + this.below(4); i > 0; i--) {
      const at = this.below(copy.length + 1);
      switch (this.below(7)) {
        case 0:
          copy = copy.slice(0, at);
          break;
        case 1:
          copy = Uint8Array.from([...copy.subarray(0, at), ...copy.subarray(at + 1 + this.below(8))]);
          break;
        case 2:
          copy = Uint8Array.from([
            ...copy.subarray(0, at),
            ...this.bytes(1 + this.below(8)),
            ...copy.subarray(at),
          ]);
          break;
        case 3:
          copy = Uint8Array.from([...copy.subarray(0, at), ...copy.subarray(this.below(copy.length + 1))]);
          break;
        case 4: {
          const size = [this.pick([0, 1, 127, 255]), this.below(256), this.below(256), this.below(256)];
          const tag = [this.pick(LONG_TAGS), ...size];
          copy = Uint8Array.from([...copy.subarray(0, at), ...tag, ...copy.subarray(at)]);
          break;
        }
        case 5:
          if (at < copy.length) copy[at] = this.pick(TAGS);
          break;
        default:
          if (at < copy.length) copy[at] ^= 1 << this.below(8);
      }
    }
    return copy;
  }
}
