import t from "tap";
import { decodeRounded, encodeRounded, roundToBf16 } from "../../shared/bf16.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

const bitsOf = (x: number): number => new Uint32Array(Float32Array.of(x).buffer)[0];
const rounded = (x: number): number => {
  const value = Float32Array.of(x);
  roundToBf16(value);
  return value[0];
};

t.test("roundToBf16() takes the nearest value with eight significant bits, ties to even", async (t) => {
  t.equal(rounded(1 + 2 ** -8), 1, "a tie goes to the even neighbour");
  t.equal(rounded(1 + 3 * 2 ** -8), 1 + 2 ** -6, "also upwards");
  t.equal(rounded(1 + 2 ** -8 + 2 ** -20), 1 + 2 ** -7);
  t.equal(rounded(-1.001), -1);
  t.ok(Object.is(rounded(-0), -0));
  t.equal(rounded(Infinity), Infinity);
  t.equal(rounded(3.4e38), Infinity, "too large");
  t.ok(Number.isNaN(rounded(NaN)));
  t.equal(rounded(2 ** -149), 0);
  const random = mulberry32(1);
  for (let i = 0; i < 1000; i++) {
    const x = Math.fround((random.uniform() - 0.5) * 10 ** Math.floor(random.uniform() * 60 - 30));
    const y = rounded(x);
    t.equal(bitsOf(y) & 0xffff, 0);
    if (Math.abs(x - y) > Math.abs(x) * 2 ** -8 && Math.abs(x) > 2 ** -126) t.fail(`${x}: ${y}`);
  }
});

t.test("decodeRounded() gives back what encodeRounded() was given, with exact values behind", async (t) => {
  const random = mulberry32(2);
  for (const [length, numRounded] of [
    [1, 1],
    [5, 3],
    [8, 8],
    [1003, 1000],
  ]) {
    const values = Float32Array.from({ length }, () => random.uniform() - 0.5);
    roundToBf16(values.subarray(0, numRounded));
    const bytes = encodeRounded(values, numRounded);
    t.equal(bytes.length, 4 * (length - numRounded) + 2 * numRounded);
    const target = new Float32Array(length);
    decodeRounded(bytes, numRounded, target);
    t.same(target, values);
  }
});
