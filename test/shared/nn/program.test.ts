import t from "tap";
import { batchMean, softmax, sub } from "../../../shared/nn/composed.ts";
import { gradient } from "../../../shared/nn/gradient.ts";
import {
  add,
  exp,
  gather,
  input,
  matmul,
  mul,
  parameter,
  reshape,
  stopGradient,
  sum,
  sumBatch,
  tanh,
} from "../../../shared/nn/graph.ts";
import type { Value } from "../../../shared/nn/graph.ts";
import { evaluate } from "../../../shared/nn/interpreter.ts";
import { lengthOf, planMemory } from "../../../shared/nn/memory-plan.ts";
import { printProgram } from "../../../shared/nn/print-program.ts";
import { compile } from "../../../shared/nn/program.ts";
import { runProgram } from "../../../shared/nn/run-program.ts";
import { assign, bind, NUM_SAMPLES, relativeError, SHARDS } from "./finite-differences.ts";
import { mlp, PAIRS, phases } from "./phases.ts";

/** The reference run's two phases, which engines must have kernels for. A change of this text is a change of the bits or of the speed. */
const GOLDEN = {
  D: `stage 0
  matmul(noise, generator:model.0.weight), then %3 = leakyRelu(add(·, generator:model.0.bias*), 0.2)  [256] per sample
  matmul(%3, generator:model.2.weight), then %6 = leakyRelu(add(·, generator:model.2.bias*), 0.2)  [512] per sample
  matmul(%6, generator:model.4.weight), then %9 = leakyRelu(add(·, generator:model.4.bias*), 0.2)  [1024] per sample
  matmul(%9, generator:model.6.weight), then %12 = tanh(add(·, generator:model.6.bias*))  [784] per sample
  %14 = join(real, %12)  [784] per sample of 2 batches
  matmul(%14, discriminator:model.0.weight), then %17 = leakyRelu(add(·, discriminator:model.0.bias*), 0.2)  [512] per sample of 2 batches
  matmul(%17, discriminator:model.2.weight), then %20 = leakyRelu(add(·, discriminator:model.2.bias*), 0.2)  [256] per sample of 2 batches
  matmul(%20, discriminator:model.4.weight), then %23 = add(·, discriminator:model.4.bias*)  [1] per sample of 2 batches
  %24 = part(%23)  [1] per sample
  %25 = sum over shard, batch of mul(0.015625, sigmoid(%24))  [1] per shard
  %26 = part(%23)  [1] per sample
  %28 = sum over shard, batch of r5 = mul(-1, %24); %27 = mul(-0.0078125, sigmoid(r5)); mul(0.0078125, add(softplus(r5), softplus(%26)))  [1] per shard
  %30 = sum over shard, batch of r3 = sigmoid(%26); %29 = mul(0.0078125, r3); mul(0.015625, r3)  [1] per shard
  %31 = join(%27, %29)  [1] per sample of 2 batches
  %32 = matmul(%20', %31) over the batch  [256, 1] per shard
  %33 = sum over shard, batch of %31  [1] per shard
  matmul(%31, discriminator:model.4.weight'), then %34 = select(%20, ·, mul(0.2, ·))  [256] per sample of 2 batches
  %35 = matmul(%17', %34) over the batch  [512, 256] per shard
  %36 = sum over shard, batch of %34  [256] per shard
  matmul(%34, discriminator:model.2.weight'), then %37 = select(%17, ·, mul(0.2, ·))  [512] per sample of 2 batches
  %38 = matmul(%14', %37) over the batch  [784, 512] per shard
  %39 = sum over shard, batch of %37  [512] per shard
  all-reduce %38, %39, %35, %36, %32, %33, %28, %25, %30
outputs
  gradient model.0.weight = %38
  gradient model.0.bias = %39
  gradient model.2.weight = %35
  gradient model.2.bias = %36
  gradient model.4.weight = %32
  gradient model.4.bias = %33
  loss = %28
  real = %25
  fake = %30
`,
  G: `stage 0
  matmul(noise, generator:model.0.weight), then %3 = leakyRelu(add(·, generator:model.0.bias*), 0.2)  [256] per sample (early)
  matmul(%3, generator:model.2.weight), then %6 = leakyRelu(add(·, generator:model.2.bias*), 0.2)  [512] per sample (early)
  matmul(%6, generator:model.4.weight), then %9 = leakyRelu(add(·, generator:model.4.bias*), 0.2)  [1024] per sample (early)
  matmul(%9, generator:model.6.weight), then %12 = tanh(add(·, generator:model.6.bias*))  [784] per sample (early)
  matmul(%12, discriminator:model.0.weight), then %15 = leakyRelu(add(·, discriminator:model.0.bias*), 0.2)  [512] per sample
  matmul(%15, discriminator:model.2.weight), then %18 = leakyRelu(add(·, discriminator:model.2.bias*), 0.2)  [256] per sample
  matmul(%18, discriminator:model.4.weight), then %21 = add(·, discriminator:model.4.bias*); %22 = mul(-1, %21); %23 = mul(-0.015625, sigmoid(%22))  [1] per sample
  %24 = sum over shard, batch of mul(0.015625, softplus(%22))  [1] per shard
  %25 = sum over shard, batch of mul(0.015625, sigmoid(%21))  [1] per shard
  matmul(%23, discriminator:model.4.weight'), then %26 = select(%18, ·, mul(0.2, ·))  [256] per sample
  matmul(%26, discriminator:model.2.weight'), then %27 = select(%15, ·, mul(0.2, ·))  [512] per sample
  matmul(%27, discriminator:model.0.weight'), then %28 = mul(·, add(1, mul(-1, mul(%12, %12))))  [784] per sample
  %29 = matmul(%9', %28) over the batch  [1024, 784] per shard
  %30 = sum over shard, batch of %28  [784] per shard
  matmul(%28, generator:model.6.weight'), then %31 = select(%9, ·, mul(0.2, ·))  [1024] per sample
  %32 = matmul(%6', %31) over the batch  [512, 1024] per shard
  %33 = sum over shard, batch of %31  [1024] per shard
  matmul(%31, generator:model.4.weight'), then %34 = select(%6, ·, mul(0.2, ·))  [512] per sample
  %35 = matmul(%3', %34) over the batch  [256, 512] per shard
  %36 = sum over shard, batch of %34  [512] per shard
  matmul(%34, generator:model.2.weight'), then %37 = select(%3, ·, mul(0.2, ·))  [256] per sample
  %38 = matmul(noise', %37) over the batch  [100, 256] per shard
  %39 = sum over shard, batch of %37  [256] per shard
  all-reduce %38, %39, %35, %36, %32, %33, %29, %30, %24, %25
outputs
  gradient model.0.weight = %38
  gradient model.0.bias = %39
  gradient model.2.weight = %35
  gradient model.2.bias = %36
  gradient model.4.weight = %32
  gradient model.4.bias = %33
  gradient model.6.weight = %29
  gradient model.6.bias = %30
  loss = %24
  fake = %25
`,
};

t.test("compile() makes the reference model's phases a product a layer and direction", async (t) => {
  for (const [name, { outputs, late }] of Object.entries(phases(mlp(), 64, false))) {
    t.equal(printProgram(compile(outputs, { late })), GOLDEN[name as keyof typeof GOLDEN], name);
  }
});

for (const [name, make] of Object.entries(PAIRS)) {
  for (const penalty of [false, true]) {
    for (const [phase, { outputs, late }] of Object.entries(phases(make(), NUM_SAMPLES, penalty))) {
      const title = `${name}, phase ${phase}${penalty ? " with a gradient penalty" : ""}`;
      const given = (leaf: Value): readonly number[] | undefined =>
        leaf.op === "parameter" && leaf.name.endsWith("running_var")
          ? Array<number>(leaf.shape[0]).fill(1)
          : undefined;
      const values = Object.values(outputs);
      const bindings = bind(assign(values, given));

      t.test(`${title}: a program computes what its graph does, in memory that is used again`, async (t) => {
        for (const precision of ["float64", "float32"] as const) {
          const expected = evaluate(values, bindings, SHARDS, precision);
          const program = compile(outputs, { late });
          const ran = runProgram(program, bindings, SHARDS, precision);
          for (const [i, key] of Object.keys(outputs).entries()) {
            const error = relativeError(ran[key], expected[i], 1e-3);
            t.ok(error <= 1e-14, `${precision} ${key}: ${error}`);
          }
        }
      });

      t.test(`${title}: the order of steps is that of stages, early steps first`, async (t) => {
        const { steps, buffers, stages, numEarly } = compile(outputs, { late });
        t.equal(stages.at(-1)?.end, steps.length);
        const lateNames = buffers.filter(
          ({ value, step }) => step < 0 && value.op === "parameter" && late.includes(value.vector),
        );
        t.ok(lateNames.length > 0 && numEarly < steps.length);
        if (phase === "G") t.ok(numEarly >= 3, "the generator's pass does not wait for the discriminator");
        const crossings = stages.flatMap((stage) => stage.crossings);
        t.equal(new Set(crossings).size, buffers.filter(({ value }) => value.op === "sumBatch").length);
      });
    }
  }
}

t.test("compile() computes equal values once and nothing that is not wanted", async (t) => {
  const x = input("x", [3]);
  const w = parameter("net", "w", [3, 3]);
  const twice = [matmul(x, w), matmul(x, w)];
  const unused = exp(twice[0]);
  t.ok(unused);
  const { steps } = compile({ y: add(tanh(twice[0]), tanh(twice[1])), z: stopGradient(tanh(twice[0])) });
  t.equal(steps.length, 1);
});

t.test("compile() tells apart constants that JSON does not", async (t) => {
  const x = input("x", [1]);
  const program = compile({ a: mul(x, mul(-1, 0)), b: add(x, Infinity), c: add(x, -Infinity) });
  const ran = runProgram(program, { inputs: { x: [1] } }, { sizes: [1] });
  t.same([ran["b"][0], ran["c"][0]], [Infinity, -Infinity]);
});

t.test("compile() cuts a program where shards must be summed", async (t) => {
  const [x, w] = [input("x", [3]), parameter("net", "w", [3, 1])];
  const scores = matmul(x, w);
  const weights = softmax(reshape(gather(scores, NUM_SAMPLES), [NUM_SAMPLES]));
  const loss = sum(mul(weights, reshape(gather(tanh(scores), NUM_SAMPLES), [NUM_SAMPLES])));
  const [g] = gradient(loss, [w]);
  const program = compile({ loss, g, centered: sub(x, batchMean(x, NUM_SAMPLES)) });
  t.same(
    program.stages.map(({ crossings }) => crossings.length),
    [3, 1],
  );
  const bindings = bind(assign([loss]));
  const [expected, gradients] = evaluate([loss, g], bindings, SHARDS);
  const ran = runProgram(program, bindings, SHARDS);
  t.ok(relativeError(ran["loss"], expected) < 1e-14);
  t.ok(relativeError(ran["g"], gradients) < 1e-14);
});

t.test("compile() keeps maps within a number of buffers", async (t) => {
  const xs = Array.from({ length: 9 }, (_, i) => input(`x${i}`, [2]));
  const y = xs.reduce((a, b) => tanh(add(a, b)));
  t.equal(compile({ y }).steps.length, 1);
  const { steps } = compile({ y }, { maxBuffers: 4 });
  t.ok(steps.length > 1);
  for (const step of steps) {
    t.ok(step.kind === "map" && step.map.operands.length + step.map.results.length <= 4);
  }
});

t.test(
  "planMemory() never gives two living values one place, and little more than lives at once",
  async (t) => {
    for (const [, { outputs, late }] of Object.entries(phases(PAIRS["dcgan"](), NUM_SAMPLES, true))) {
      const program = compile(outputs, { late });
      const extents = { samples: NUM_SAMPLES, shards: SHARDS.sizes.length };
      const { offsets, length } = planMemory(program, extents);
      const all = program.buffers.reduce(
        (n, { form }, i) => n + (offsets[i] < 0 ? 0 : lengthOf(form, extents)),
        0,
      );
      t.ok(length < all / 2, `${length} of ${all}`);
      for (const [i, offset] of offsets.entries()) {
        t.ok(
          offset < 0 || (offset % 4 === 0 && offset + lengthOf(program.buffers[i].form, extents) <= length),
        );
      }
    }
  },
);

t.test("a sum over the batch has the bits of the tree over shards, whoever holds them", async (t) => {
  const x = input("x", [1]);
  const y = { y: sumBatch(x) };
  const numbers = Float32Array.of(1e8, 1, 3, -1e8, 5, 7, 1);
  const whole = runProgram(compile(y), { inputs: { x: numbers } }, { sizes: [2, 1, 3, 1] }, "float32")[
    "y"
  ][0];
  const half = (part: Float32Array, sizes: readonly number[]): number =>
    runProgram(compile(y), { inputs: { x: part } }, { sizes }, "float32")["y"][0];
  const parts = [half(numbers.subarray(0, 3), [2, 1]), half(numbers.subarray(3), [3, 1])];
  t.equal(whole, Math.fround(parts[0] + parts[1]));
  const flat = numbers.reduce((sum, n) => Math.fround(sum + n), 0);
  t.not(whole, flat, "the order of this sum can be seen");
});
