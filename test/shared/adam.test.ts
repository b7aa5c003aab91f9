import t from "tap";
import { adamStep, exactPower, initAdam } from "../../shared/adam.ts";
import { adamStep as referenceStep, initAdam as referenceInit } from "../reference/float64-gan.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

t.test("adamStep() agrees with the float64 reference over many steps", async (t) => {
  const config = { learningRate: 2e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
  const n = 101;
  const random = mulberry32(5);
  const parameters = Float32Array.from({ length: n }, () => random.uniform() - 0.5);
  const state = initAdam(n);
  let expected: Float64Array = Float64Array.from(parameters);
  let expectedState = referenceInit(n);
  for (let step = 0; step < 200; step++) {
    const gradient = Float32Array.from({ length: n }, () => (random.uniform() - 0.5) * 10 ** -(step % 5));
    adamStep(parameters, gradient, state, config);
    ({ params: expected, state: expectedState } = referenceStep(
      expected,
      Float64Array.from(gradient),
      expectedState,
      config,
    ));
  }
  const worst = Math.max(...parameters.map((p, i) => Math.abs(p - expected[i])));
  t.ok(worst < 2e-6, `largest difference ${worst}`);
  t.equal(state.step, 200);
});

t.test("adamStep() ignores what lies behind the gradient and refuses lengths that do not fit", async (t) => {
  const config = { learningRate: 0.1, beta1: 0.5, beta2: 0.9, epsilon: 1e-8 };
  const a = new Float32Array([1, 2]);
  const b = new Float32Array([1, 2]);
  adamStep(a, new Float32Array([3, 4]), initAdam(2), config);
  adamStep(b, new Float32Array([3, 4, NaN]), initAdam(2), config);
  t.same(a, b);
  t.throws(() => adamStep(a, new Float32Array(1), initAdam(2), config), RangeError);
  t.throws(() => adamStep(a, new Float32Array(2), initAdam(3), config), RangeError);
});

t.test("exactPower() is a power", async (t) => {
  t.equal(exactPower(0.5, 10), 2 ** -10);
  t.equal(exactPower(0.999, 0), 1);
  t.ok(Math.abs(exactPower(0.999, 1000) / 0.999 ** 1000 - 1) < 1e-13);
});
