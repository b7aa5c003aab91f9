import t from "tap";
import { loadBuilds } from "./arena.ts";

const [{ arena, kernels }] = await loadBuilds();
const f = Math.fround;

t.test("columnSums() adds the rows in order, bit for bit", (t) => {
  for (const [M, N] of [
    [1, 1],
    [3, 2],
    [5, 7],
    [64, 16],
    [17, 35],
    [128, 257],
  ]) {
    const x = arena.random(M * N);
    const out = arena.random(N);
    kernels.columnSums(M, N, x, out);
    const rows = arena.view(x, M * N);
    const want = Float32Array.from({ length: N }, (_, j) => {
      let sum = 0;
      for (let i = 0; i < M; i++) sum = f(sum + rows[i * N + j]);
      return sum;
    });
    t.same(arena.view(out, N), want, `${M}x${N}`);
    t.ok(arena.reset());
  }
  t.end();
});

t.test("sumSquares() sums in float64, in four lanes", (t) => {
  for (const n of [0, 1, 2, 3, 4, 5, 1003]) {
    const x = arena.random(n, 3);
    const lanes = [0, 0, 0, 0];
    arena.view(x, n).forEach((value, i) => (lanes[i % 4] += value * value));
    t.equal(kernels.sumSquares(n, x), lanes[0] + lanes[1] + (lanes[2] + lanes[3]), `n ${n}`);
  }
  const large = arena.floats(new Float32Array(10).fill(3e38));
  t.ok(Number.isFinite(kernels.sumSquares(10, large)), "squares of large values do not overflow");
  t.ok(arena.reset());
  t.end();
});

t.test("allFinite() and sumSquares() find one bad value anywhere", (t) => {
  for (const n of [1, 3, 4, 6, 21]) {
    const x = arena.random(n);
    arena.view(x, n)[0] = -3.4e38;
    t.equal(kernels.allFinite(n, x), true);
    for (let i = 0; i < n; i++) {
      for (const bad of [NaN, Infinity, -Infinity]) {
        const before = arena.view(x, n)[i];
        arena.view(x, n)[i] = bad;
        if (kernels.allFinite(n, x)) t.fail(`allFinite missed ${bad} at ${i} of ${n}`);
        if (Number.isFinite(kernels.sumSquares(n, x))) t.fail(`sumSquares missed ${bad} at ${i} of ${n}`);
        arena.view(x, n)[i] = before;
      }
    }
    t.ok(arena.reset());
  }
  t.equal(kernels.allFinite(0, 4), true);
  t.end();
});
