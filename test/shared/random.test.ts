import t from "tap";
import {
  exactLog,
  fillNormal,
  normalQuantile,
  permutation,
  streamKey,
  threefry4x32,
  uniformUnit,
} from "../../shared/random.ts";
import type { StreamKey } from "../../shared/random.ts";

t.test("threefry4x32() gives the known answers of the Random123 library", async (t) => {
  const answer = (key: StreamKey, c: readonly number[]): string => {
    const out = new Uint32Array(4);
    threefry4x32(key, c[0], c[1], c[2], c[3], out);
    return [...out].map((word) => word.toString(16).padStart(8, "0")).join(" ");
  };
  const ones = 0xffffffff;
  t.equal(answer([0, 0, 0, 0], [0, 0, 0, 0]), "9c6ca96a e17eae66 fc10ecd4 5256a7d8");
  t.equal(answer([ones, ones, ones, ones], [ones, ones, ones, ones]), "2a881696 57012287 f6c7446e a16a6732");
  t.equal(
    answer(
      [0xa4093822, 0x299f31d0, 0x082efa98, 0xec4e6c89],
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    ),
    "59cd1dbb b8879579 86b5d00c ac8b6d84",
  );
});

t.test("streamKey() separates seeds beyond 32 bits and refuses what is no seed", async (t) => {
  t.same(streamKey(2 ** 32 + 5, "noise", 7), [5, 1, 3, 7]);
  for (const seed of [-1, 1.5, NaN, 2 ** 53]) t.throws(() => streamKey(seed, "noise"), RangeError);
});

t.test("exactLog() agrees with the logarithm over its range", async (t) => {
  for (const x of [2 ** -32, 1e-9, 0.1, 0.5, 0.7071, 0.9999999, 1, 1.5, 3, 1e10]) {
    const expected = Math.log(x);
    t.ok(Math.abs(exactLog(x) - expected) <= 1e-15 * Math.max(1, Math.abs(expected)), `log ${x}`);
  }
});

t.test("normalQuantile() inverts the normal distribution", async (t) => {
  // Abramowitz & Stegun, table 26.5, and its symmetry.
  for (const [p, z] of [
    [0.5, 0],
    [0.975, 1.959963984540054],
    [0.9, 1.2815515655446004],
    [0.999, 3.0902323061678132],
    [1e-9, -5.9978070150076865],
  ]) {
    t.ok(Math.abs(normalQuantile(p) - z) < 1e-13, `quantile of ${p}`);
  }
});

t.test("fillNormal() depends on key and counter only, and is standard normal", async (t) => {
  const key = streamKey(3, "noise");
  const whole = new Float32Array(40_000);
  fillNormal(whole, key, 1, 2, 3);
  const later = new Float32Array(10);
  fillNormal(later, key, 1, 2, 3, 4, 10);
  t.same([...later.slice(4)], [...whole.slice(0, 6)]);
  const other = new Float32Array(40_000);
  fillNormal(other, key, 2, 2, 3);
  const mean = (f: (x: number, i: number) => number): number =>
    whole.reduce((s, x, i) => s + f(x, i), 0) / whole.length;
  t.ok(Math.abs(mean((x) => x)) < 0.02, "mean 0");
  t.ok(Math.abs(mean((x) => x * x) - 1) < 0.03, "variance 1");
  t.ok(Math.abs(mean((x) => x ** 4) - 3) < 0.2, "kurtosis 3");
  t.ok(Math.abs(mean((x, i) => x * other[i])) < 0.02, "another counter is independent");
});

t.test(
  "uniformUnit() depends on key and counter only, and is uniform in [0, 1), exact in float32",
  async (t) => {
    const key = streamKey(3, "penalty");
    const values = Array.from({ length: 20_000 }, (_, sample) => uniformUnit(key, sample, 1, 2));
    t.equal(values[7], uniformUnit(key, 7, 1, 2));
    const others = [uniformUnit(key, 7, 0, 2), uniformUnit(key, 7, 1, 3), uniformUnit(key, 8, 1, 2)];
    t.equal(new Set([values[7], ...others, uniformUnit(streamKey(4, "penalty"), 7, 1, 2)]).size, 5);
    t.ok(values.every((x) => x >= 0 && x < 1 && Math.fround(x) === x));
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    t.ok(Math.abs(mean - 1 / 2) < 0.01, `mean ${mean}`);
    t.ok(Math.abs(square - 1 / 3) < 0.01, `mean square ${square}`);
  },
);

t.test("permutation() is a permutation, a function of its key, and unbiased", async (t) => {
  const order = permutation(60_000, streamKey(1, "shuffle", 4));
  t.equal(new Set(order).size, 60_000);
  t.same(permutation(1000, streamKey(1, "shuffle", 4)), permutation(1000, streamKey(1, "shuffle", 4)));
  t.notSame(permutation(1000, streamKey(1, "shuffle", 4)), permutation(1000, streamKey(1, "shuffle", 5)));
  t.same([...permutation(1, streamKey(1, "shuffle"))], [0]);
  // All 24 orders of 4 things over 24,000 keys: chi-squared with 23 degrees of freedom, 0.9999 quantile 56.
  const counts = new Map<string, number>();
  for (let epoch = 0; epoch < 24_000; epoch++) {
    const name = permutation(4, streamKey(9, "shuffle", epoch)).join("");
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const chi2 = [...counts.values()].reduce((sum, n) => sum + (n - 1000) ** 2 / 1000, 0);
  t.equal(counts.size, 24);
  t.ok(chi2 < 56, `chi-squared ${chi2.toFixed(1)}`);
});
