import t from "tap";
import { bitsOf, floatOf, loadBuilds, SPECIAL_VALUES } from "./arena.ts";

const [{ arena, kernels }] = await loadBuilds();
const ALL_WORDS = Uint16Array.from({ length: 65536 }, (_, word) => word);

/** The value of an IEEE binary16 word. */
function f16Value(word: number): number {
  const sign = word & 0x8000 ? -1 : 1;
  const exponent = (word >>> 10) & 31;
  const mantissa = word & 1023;
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
}

function bf16Value(word: number): number {
  return floatOf((word << 16) >>> 0);
}

/** The word whose value is nearest; of two, the even one. Words of one sign are in the order of their values. */
function nearestWord(value: number, valueOf: (word: number) => number, infinity: number): number {
  const sign = Object.is(value, -0) || value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  let low = 0;
  let high = infinity;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (valueOf(middle) <= size) low = middle;
    else high = middle;
  }
  // Infinity stands where the next number would be.
  const next = high === infinity ? 2 * valueOf(high - 1) - valueOf(high - 2) : valueOf(high);
  const below = size - valueOf(low);
  const above = next - size;
  const up = size === Infinity || below > above || (below === above && (low & 1) === 1);
  return sign | (up ? high : low);
}

/** Random values of all magnitudes, special ones, and every midpoint between two words of binary16 and of bfloat16. */
function inputs(): Float32Array {
  const random = arena.view(arena.random(4001), 4001).map((x, i) => x * 2 ** ((i % 280) - 145));
  const middles: number[] = [];
  for (let word = 0; word < 0x7c00; word += 7) {
    const middle = (f16Value(word) + (word === 0x7bff ? 65536 : f16Value(word + 1))) / 2;
    for (const step of [-1, 0, 1]) middles.push(floatOf(bitsOf(middle) + step));
  }
  for (let word = 0; word < 0x7f7f; word += 11) {
    for (const step of [-1, 0, 1]) middles.push(floatOf(word * 65536 + 0x8000 + step));
  }
  const edges = [65504, 65519, 65519.996, 65520, 65536, 3.3895314e38, 3.4e38];
  const values = [...random, ...middles, ...edges, ...SPECIAL_VALUES];
  arena.reset();
  return Float32Array.from([...values, ...values.map((value) => -value)]);
}

for (const { name, narrow, widen, addWide, valueOf, infinity } of [
  {
    name: "bfloat16",
    narrow: kernels.f32ToBf16,
    widen: kernels.bf16ToF32,
    addWide: kernels.addBf16,
    valueOf: bf16Value,
    infinity: 0x7f80,
  },
  {
    name: "binary16",
    narrow: kernels.f32ToF16,
    widen: kernels.f16ToF32,
    addWide: kernels.addF16,
    valueOf: f16Value,
    infinity: 0x7c00,
  },
]) {
  const words = (pointer: number, n: number): Uint16Array => new Uint16Array(arena.memory.buffer, pointer, n);

  t.test(`${name}: every word widens to its value and comes back`, (t) => {
    const packed = arena.allocate(65536 * 2);
    words(packed, 65536).set(ALL_WORDS);
    const wide = arena.allocate(65536 * 4);
    widen(65536, packed, wide);
    const values = arena.view(wide, 65536);
    t.ok(values.every((value, word) => Object.is(value, valueOf(word))));
    narrow(65536, wide, packed);
    const back = words(packed, 65536);
    t.ok(ALL_WORDS.every((word) => back[word] === word || Number.isNaN(valueOf(word))));
    t.ok(ALL_WORDS.every((word) => Number.isNaN(valueOf(back[word])) === Number.isNaN(valueOf(word))));
    t.ok(arena.reset());
    t.end();
  });

  t.test(`${name}: values round to the nearest word, ties to even`, (t) => {
    const values = inputs();
    const n = values.length;
    const x = arena.floats(values);
    const y = arena.allocate(n * 2);
    narrow(n, x, y);
    const got = words(y, n);
    const wrong = values.findIndex((value, i) => got[i] !== nearestWord(value, valueOf, infinity));
    t.equal(wrong, -1, `value ${values[wrong]} became ${got[wrong]}`);
    t.ok(arena.reset());
    t.end();
  });

  t.test(`${name}: NaN of any payload stays NaN`, (t) => {
    const payloads = [0x7fc00000, 0x7f800001, 0xffffffff, 0xff800001, 0x7fffffff, 0x7f80ffff];
    const x = arena.allocate(payloads.length * 4);
    new Uint32Array(arena.memory.buffer, x, payloads.length).set(payloads);
    const y = arena.allocate(payloads.length * 2);
    narrow(payloads.length, x, y);
    t.ok([...words(y, payloads.length)].every((word) => Number.isNaN(valueOf(word))));
    t.ok(arena.reset());
    t.end();
  });

  t.test(`${name}: tails have the bits of the body; the wide sum is a float32 sum`, (t) => {
    for (const n of [1, 2, 3, 4, 5, 6, 7, 18]) {
      const [a, b, out] = [arena.random(n), arena.random(n, 5), arena.allocate(n * 4)];
      const packed = arena.allocate(n * 2);
      narrow(n, b, packed);
      const expected = [...arena.view(b, n)].map((value) => nearestWord(value, valueOf, infinity));
      t.same([...words(packed, n)], expected, `n ${n}`);
      widen(n, packed, out);
      t.same([...arena.view(out, n)], expected.map(valueOf));
      addWide(n, a, packed, out);
      const sums = arena.view(a, n).map((value, i) => Math.fround(value + valueOf(expected[i])));
      t.same(arena.view(out, n), sums);
      t.ok(arena.reset());
    }
    t.end();
  });
}
