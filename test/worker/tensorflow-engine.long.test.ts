import t from "tap";
import { dense, leakyRelu, tanh } from "../../shared/nn/layers.ts";
import type { Model } from "../../shared/nn/models.ts";
import { MODELS } from "../../shared/nn/models.ts";
import { initialParameters, network } from "../../shared/nn/network.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import type { Binding } from "../../worker/engine/tensorflow-binding.ts";
import { loadBinding } from "../../worker/engine/tensorflow-binding.ts";
import { createTensorflowEngine } from "../../worker/engine/tensorflow-engine.ts";
import { tensorflowEnvironment } from "../../worker/engine/tensorflow-environment.ts";
import { TensorflowOps } from "../../worker/engine/tensorflow-ops.ts";
import { probeTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { scalePixels } from "../../worker/engine/tfjs-engine.ts";
import { vectorLength } from "../../worker/train-step.ts";
import { skipUnlessUsable } from "../engines.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import { sameBits } from "../same-bits.ts";

const options = { skip: skipUnlessUsable("tensorflow", await probeTensorflow()) };

const mlp = MODELS.mlp({ latentDim: 100, imagePixels: 784 });
/** No parameter of it lies at a multiple of 64 bytes. */
const odd: Model = {
  generator: network("generator", 3, [dense(3, 5), leakyRelu(0.2), dense(5, 7), tanh()]),
  discriminator: network("discriminator", 7, [dense(7, 5), leakyRelu(0.2), dense(5, 1)]),
};

function binding(): Binding {
  Object.assign(process.env, tensorflowEnvironment({ device: null }));
  return loadBinding();
}

async function engineFor(model: Model, objective = OBJECTIVES["non-saturating"]): Promise<Engine> {
  const engine = await createTensorflowEngine({ model, objective, maxSamples: 8, device: null, bf16: false });
  for (const name of ["generator", "discriminator"] as const) {
    engine.setParameters(name, initialParameters(model[name], 3));
  }
  return engine;
}

function batchOf(model: Model, shardSizes: readonly number[]) {
  const random = mulberry32(5);
  const numSamples = shardSizes.reduce((sum, n) => sum + n, 0);
  const noise = Float32Array.from(random.normals(numSamples * model.generator.numInputs));
  const numPixels = numSamples * model.discriminator.numInputs;
  const pixels = Uint8Array.from({ length: numPixels }, () => random.uniform() * 256);
  return { shardSizes, globalBatchSize: numSamples, noise, pixels };
}

/** Values at a multiple of 64 bytes, as in the host memory. */
function aligned(length: number): Float32Array {
  return new Float32Array(new WebAssembly.Memory({ initial: Math.ceil(length / 16384) }).buffer, 0, length);
}

/** What t.same() would take minutes for. */

t.test("tensors do not outlive what they are made for", options, async (t) => {
  const library = binding();
  for (const objective of [
    OBJECTIVES["non-saturating"],
    { ...OBJECTIVES["non-saturating"], softplusForm: null },
  ]) {
    const before = library.getNumOfTensors();
    const engine = await engineFor(odd, objective);
    const out = {
      generator: new Float32Array(vectorLength(odd, "generator")),
      discriminator: new Float32Array(vectorLength(odd, "discriminator")),
    };
    const counts: number[] = [];
    for (let step = 0; step < 3; step++) {
      const batch = batchOf(odd, [3, 2]);
      await engine.discriminatorGradient(batch, out.discriminator);
      engine.prepareGenerator(batch.noise);
      await engine.generatorGradient(batch, out.generator);
      engine.prepareGenerator(batch.noise);
      await engine.generate(batch.noise, 5);
      for (const name of ["generator", "discriminator"] as const) {
        engine.setParameters(name, initialParameters(odd[name], step));
      }
      counts.push(library.getNumOfTensors());
    }
    t.equal(counts[1], counts[0]);
    t.equal(counts[2], counts[0]);
    engine.dispose();
    t.equal(library.getNumOfTensors(), before, "after dispose()");
  }
});

t.test("a prepared forward pass of the generator does not change bits", options, async (t) => {
  const engine = await engineFor(odd);
  const gradient = async (prepare: "same shards" | "other shards" | "no"): Promise<Float32Array> => {
    const batch = batchOf(odd, [3, 2]);
    const sizes = prepare === "other shards" ? [2, 3] : [3, 2];
    await engine.discriminatorGradient(
      { ...batch, shardSizes: sizes },
      new Float32Array(vectorLength(odd, "discriminator")),
    );
    if (prepare !== "no") engine.prepareGenerator(batch.noise);
    const out = new Float32Array(vectorLength(odd, "generator"));
    await engine.generatorGradient(batch, out);
    return out;
  };
  const expected = await gradient("no");
  t.ok(sameBits(await gradient("same shards"), expected));
  t.ok(sameBits(await gradient("other shards"), expected));
  engine.dispose();
});

t.test("parameters count as they are when they are set, wherever they lie", options, async (t) => {
  const engine = await engineFor(mlp);
  const batch = batchOf(mlp, [4]);
  const values = initialParameters(mlp.discriminator, 9);
  const gradientWith = async (flat: Float32Array, of = values): Promise<Float32Array> => {
    flat.set(of);
    engine.setParameters("discriminator", flat);
    const out = new Float32Array(vectorLength(mlp, "discriminator"));
    await engine.discriminatorGradient(batch, out);
    return out;
  };
  const shared = aligned(values.length);
  const expected = await gradientWith(shared);
  t.ok(
    sameBits(await gradientWith(new Float32Array(values.length + 1).subarray(1)), expected),
    "not aligned",
  );
  const other = initialParameters(mlp.discriminator, 10);
  t.notOk(sameBits(await gradientWith(shared, other), expected), "other values in the same memory");
  t.ok(sameBits(await gradientWith(shared), expected), "the first values again");
  engine.dispose();
});

t.test("read() gives the same values by every way", options, async (t) => {
  const library = binding();
  const onGpu = Object.create(library, { isUsingGpuDevice: { value: () => true } }) as Binding;
  const large = Float32Array.from({ length: 6000 }, (_, i) => Math.fround(Math.sin(i)));
  const small = large.subarray(0, 5);
  for (const [way, ops] of [
    ["in place", new TensorflowOps(library)],
    ["together", new TensorflowOps(onGpu)],
  ] as const) {
    for (const out of [aligned(6000), new Float32Array(6001).subarray(1)]) {
      const few = new Float32Array(5);
      ops.tidy(() => {
        ops.read([
          { tensor: ops.tensor(large.slice(), [60, 100]), out },
          { tensor: ops.tensor(small.slice(), [5, 1]), out: few },
        ]);
      });
      t.ok(sameBits(out, large), way);
      t.ok(sameBits(few, small), way);
    }
    const nan = aligned(6000);
    ops.tidy(() =>
      ops.read([
        {
          tensor: ops.tensor(
            large.map(() => NaN),
            [6000],
          ),
          out: nan,
        },
      ]),
    );
    t.ok(nan.every(Number.isNaN), `${way}: values that are no numbers`);
    ops.dispose();
  }
});

t.test("pixels are scaled with the bits of the other engines", options, async (t) => {
  const ops = new TensorflowOps(binding());
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const out = new Float32Array(256);
  ops.tidy(() => {
    const [halfRange, one] = [127.5, 1].map((value) => ops.tensor(Float32Array.of(value), []));
    const tensor = ops.sub(ops.div(ops.toFloat(ops.tensor(bytes, [256])), halfRange), one);
    ops.read([{ tensor, out }]);
  });
  t.ok(sameBits(out, scalePixels(bytes)));
  ops.dispose();
});
