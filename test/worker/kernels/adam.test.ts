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
