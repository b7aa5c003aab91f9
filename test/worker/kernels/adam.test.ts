import t from "tap";
import { adamStep, exactPower, initAdam } from "../../../shared/adam.ts";
import type { AdamConfig } from "../../../shared/adam.ts";
import { loadBuilds } from "./arena.ts";

const CONFIGS: readonly AdamConfig[] = [
  { learningRate: 2e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 },
  { learningRate: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-7 },
  { learningRate: 1e-4, beta1: 0, beta2: 0.9, epsilon: 1e-8 },
];

for (const { name, arena, kernels } of await loadBuilds()) {
  t.test(`adam() (${name}) says whether all that it leaves is finite`, (t) => {
    // An epsilon that is 0 as float32: in lanes behind the end nothing is divided by nothing.
    const tiny = { learningRate: 1e-3, beta1: 0.5, beta2: 0.999, epsilon: 1e-60 };
    /** What one step on ones leaves, with one value of one vector changed. */
    const isFinite = (
      n: number,
      at: number,
      change: Partial<Record<"p" | "m" | "v" | "g", number>>,
    ): boolean => {
      const [p, m, v, g] = (["p", "m", "v", "g"] as const).map((vector) => {
        const values = new Float32Array(n).fill(1);
        values[at] = change[vector] ?? 1;
        return arena.floats(values);
      });
      const { learningRate, beta1, beta2, epsilon } = tiny;
      const result = kernels.adam(n, p, m, v, g, learningRate, beta1, beta2, epsilon, 1 - beta1, 1 - beta2);
      const all = [p, m, v].every((vector) => arena.view(vector, n).every(Number.isFinite));
      t.equal(result === 1, all, `n ${n}, ${JSON.stringify(change)} at ${at}`);
      t.ok(arena.reset());
      return result === 1;
    };
    for (const n of [1, 2, 3, 4, 5, 8, 11]) {
      t.ok(isFinite(n, 0, {}), "all is finite");
      for (let at = 0; at < n; at++) {
        // The square overflows, so the second moment, and nothing else, is not finite.
        t.notOk(isFinite(n, at, { g: 1e25 }));
        t.notOk(isFinite(n, at, { p: Infinity }));
        t.notOk(isFinite(n, at, { m: -Infinity }));
        t.notOk(isFinite(n, at, { v: NaN }));
        t.ok(isFinite(n, at, { p: 3e38, m: 1e-42, v: 0, g: -1e-3 }), "large and small");
      }
    }
    t.end();
  });

  t.test(`adam() (${name}) gives the bits of adamStep(), whatever the size`, (t) => {
    for (const n of [1, 2, 3, 4, 5, 7, 16, 1021]) {
      for (const config of CONFIGS) {
        const parameters = arena.random(n);
        const m = arena.floats(new Float32Array(n));
        const v = arena.floats(new Float32Array(n));
        const expected = arena.view(parameters, n).slice();
        const state = initAdam(n);
        for (let step = 1; step <= 4; step++) {
          const gradient = arena.random(n, 10 ** (1 - 3 * (step % 3)));
          // Gradients of 0, of the smallest size, and large ones whose square overflows.
          arena.view(gradient, n)[(step * 5) % n] = [0, 1e-42, 1e25, -0][step % 4];
          adamStep(expected, arena.view(gradient, n), state, config);
          const correction1 = 1 - exactPower(config.beta1, step);
          const correction2 = 1 - exactPower(config.beta2, step);
          const { learningRate, beta1, beta2, epsilon } = config;
          kernels.adam(
            ...([n, parameters, m, v, gradient, learningRate, beta1, beta2, epsilon] as const),
            ...([correction1, correction2] as const),
          );
        }
        const same = (pointer: number, want: Float32Array): boolean =>
          arena.view(pointer, n).every((value, i) => Object.is(value, want[i]));
        t.ok(same(parameters, expected) && same(m, state.m) && same(v, state.v), `n ${n}`);
        t.ok(arena.reset());
      }
    }
    t.end();
  });
}
