import t from "tap";
import { sameBits } from "./same-bits.ts";

t.test("sameBits() tells what numbers do not", async (t) => {
  const of = (...values: number[]): Float32Array => Float32Array.from(values);
  t.ok(sameBits(of(1, -0, NaN), of(1, -0, NaN)));
  t.notOk(sameBits(of(0), of(-0)));
  t.notOk(sameBits(of(1), of(1, 0)));
  t.ok(sameBits(of(9, 1, 2).subarray(1), of(1, 2)), "a part of a buffer");
  t.notOk(sameBits(of(1, 2), of(1, 2 + 2 ** -22)));
});
