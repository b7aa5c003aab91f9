import t from "tap";
import type { Pointer } from "../../../worker/kernels/kernels.ts";
import { loadBuilds, skipFused, SPECIAL_VALUES, ulps } from "./arena.ts";
import { sameBits } from "../../same-bits.ts";

const builds = await loadBuilds();
const { arena, kernels } = builds[0];
const f = Math.fround;

const sigmoid = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** Values dense around 0 and spread over all magnitudes, and the special ones; an odd number. */
function inputs(): Float32Array {
  const wide = arena.view(arena.random(20001, 20), 20001);
  const narrow = arena.view(arena.random(20001), 20001).map((x, i) => x * 2 ** -(i % 40));
  const tails = arena.view(arena.random(5001, 110), 5001);
  const values = Float32Array.of(...wide, ...narrow, ...tails, ...SPECIAL_VALUES, NaN);
  arena.reset();
  return values;
}

for (const { name, kernel, exact, limit } of [
  { name: "tanhForward", kernel: kernels.tanhForward, exact: Math.tanh, limit: 3 },
  { name: "sigmoidForward", kernel: kernels.sigmoidForward, exact: sigmoid, limit: 3 },
  { name: "softplusForward", kernel: kernels.softplusForward, exact: softplus, limit: 3 },
]) {
  t.test(`${name}() is within ${limit} units in the last place`, (t) => {
    const x = inputs();
    const from = arena.floats(x);
    const to = arena.allocate(x.length * 4);
    kernel(x.length, from, to);
    const y = arena.view(to, x.length);
    let worst = 0;
    let at = 0;
    for (let i = 0; i < x.length; i++) {
      const error = ulps(y[i], exact(x[i]));
      if (error > worst) {
        worst = error;
        at = x[i];
      }
    }
    t.comment(`${name}: largest error ${worst.toFixed(2)} ulp at ${at}`);
    t.ok(worst <= limit, `${worst} at ${at}`);
    t.ok(arena.reset());
    t.end();
  });

  t.test(`${name}() gives an element the same bits at any position, also in place`, (t) => {
    const x = arena.random(23, 3);
    const whole = arena.allocate(23 * 4);
    kernel(23, x, whole);
    const single = arena.allocate(23 * 4);
    for (let i = 0; i < 23; i++) kernel(1, x + 4 * i, single + 4 * i);
    t.ok(sameBits(arena.bits(single, 23), arena.bits(whole, 23)));
    kernel(23, x, x);
    t.ok(sameBits(arena.bits(x, 23), arena.bits(whole, 23)));
    t.ok(arena.reset());
    t.end();
  });
}

t.test("activations saturate and keep signs, zeros and NaN", (t) => {
  const values = Float32Array.of(0, -0, Infinity, -Infinity, NaN, 40, -40);
  const n = values.length;
  const run = (kernel: (n: number, x: Pointer, y: Pointer) => void): number[] => {
    const y = arena.allocate(n * 4);
    kernel(n, arena.floats(values), y);
    return [...arena.view(y, n)];
  };
  t.same(run(kernels.tanhForward), [0, -0, 1, -1, NaN, 1, -1]);
  t.ok(Object.is(run(kernels.tanhForward)[1], -0));
  const tail = Math.exp(-40);
  const sigmoids = run(kernels.sigmoidForward);
  t.same(sigmoids.slice(0, 6), [0.5, 0.5, 1, 0, NaN, 1]);
  t.ok(ulps(sigmoids[6], tail) < 2);
  const softpluses = run(kernels.softplusForward);
  t.same(softpluses.slice(0, 6), [f(Math.LN2), f(Math.LN2), Infinity, 0, NaN, 40]);
  t.ok(ulps(softpluses[6], tail) < 2);
  const leaky = run((n, x, y) => kernels.leakyReluForward(n, x, y, 0.2));
  t.same(leaky, [0, -0, Infinity, -Infinity, NaN, 40, f(-40 * f(0.2))]);
  t.ok(arena.reset());
  t.end();
});

t.test("backward kernels are the promised float32 operations, bit for bit", (t) => {
  for (const n of [1, 2, 3, 4, 5, 8, 63, 1001]) {
    const dy = arena.random(n, 2);
    const x = arena.random(n, 1);
    const y = arena.allocate(n * 4);
    const dx = arena.allocate(n * 4);
    const slope = f(0.2);
    const check = (label: string, want: (dy: number, x: number, y: number) => number): void => {
      const [a, b, c] = [arena.view(dy, n), arena.view(x, n), arena.view(y, n)];
      const expected = Float32Array.from(a, (value, i) => want(value, b[i], c[i]));
      t.same(arena.view(dx, n), expected, `${label}, n ${n}`);
    };
    kernels.leakyReluForward(n, x, y, 0.2);
    kernels.leakyReluBackward(n, dy, x, dx, 0.2);
    check("leakyRelu from x", (d, x) => (x > 0 ? d : f(slope * d)));
    kernels.leakyReluBackward(n, dy, y, dx, 0.2);
    check("leakyRelu from y", (d, x) => (x > 0 ? d : f(slope * d)));
    kernels.tanhForward(n, x, y);
    kernels.tanhBackward(n, dy, y, dx);
    check("tanh", (d, _x, y) => f(d * f(1 - f(y * y))));
    kernels.sigmoidForward(n, x, y);
    kernels.sigmoidBackward(n, dy, y, dx);
    check("sigmoid", (d, _x, y) => f(d * f(y * f(1 - y))));
    kernels.softplusBackward(n, dy, x, dx);
    check("softplus", (d, _x, y) => f(d * y));
    t.ok(arena.reset());
  }
  t.end();
});

t.test("activations have the same bits in both builds", { skip: skipFused }, (t) => {
  const x = inputs();
  const [plain, fused] = builds.map(({ arena, kernels }) => {
    const from = arena.floats(x);
    const results: Uint32Array[] = [];
    for (const kernel of [kernels.tanhForward, kernels.sigmoidForward, kernels.softplusForward]) {
      const to = arena.allocate(x.length * 4);
      kernel(x.length, from, to);
      results.push(arena.bits(to, x.length));
    }
    t.ok(arena.reset());
    return results;
  });
  plain.forEach((bits, i) => t.ok(sameBits(bits, fused[i])));
  t.end();
});
