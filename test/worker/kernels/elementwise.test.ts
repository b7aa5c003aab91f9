import t from "tap";
import { loadBuilds } from "./arena.ts";

const [{ arena, kernels }] = await loadBuilds();
const f = Math.fround;
const LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 31, 1027];

t.test("add(), addScaled(), scale() round as scalar float32 operations", (t) => {
  for (const n of LENGTHS) {
    const [a, b, out] = [arena.random(n), arena.random(n, 100), arena.random(n)];
    const [left, right] = [arena.view(a, n).slice(), arena.view(b, n)];
    const sum = left.map((value, i) => f(value + right[i]));
    kernels.add(n, a, b, out);
    t.same(arena.view(out, n), sum, `add ${n}`);
    kernels.scale(n, 0.3, b, out);
    t.same(
      arena.view(out, n),
      right.map((value) => f(f(0.3) * value)),
      `scale ${n}`,
    );
    arena.view(out, n).set(left);
    kernels.addScaled(n, -1.7, b, out);
    t.same(
      arena.view(out, n),
      left.map((value, i) => f(value + f(f(-1.7) * right[i]))),
      `addScaled ${n}`,
    );
    kernels.add(n, a, b, a);
    t.same(arena.view(a, n), sum, `add in place ${n}`);
    t.ok(arena.reset());
  }
  t.end();
});

t.test("pixelsToReal() maps every byte as float32 x / 127.5 - 1", (t) => {
  for (const n of [1, 3, 4, 6, 256, 259]) {
    const pixels = Uint8Array.from({ length: n }, (_, i) => (i * 37) & 255);
    const x = arena.allocate(n);
    new Uint8Array(arena.memory.buffer, x, n).set(pixels);
    const y = arena.allocate(n * 4);
    kernels.pixelsToReal(n, x, y);
    t.same(
      arena.view(y, n),
      Float32Array.from(pixels, (pixel) => f(pixel / 127.5) - 1),
    );
    t.ok(arena.reset());
  }
  t.end();
});

t.test("transpose() transposes any sizes", (t) => {
  for (const [M, N] of [
    [1, 1],
    [1, 9],
    [9, 1],
    [4, 4],
    [7, 5],
    [16, 33],
    [66, 100],
  ]) {
    const x = arena.random(M * N);
    const y = arena.allocate(M * N * 4);
    kernels.transpose(M, N, x, y);
    const [from, to] = [arena.view(x, M * N), arena.view(y, M * N)];
    t.ok(
      from.every((value, at) => to[(at % N) * M + Math.floor(at / N)] === value),
      `${M}x${N}`,
    );
    t.ok(arena.reset());
  }
  t.end();
});
