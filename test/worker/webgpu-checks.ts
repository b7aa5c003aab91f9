/**
 * What must hold of engine webgpu, in any runtime: the test for Node and the
 * program for Deno both run these.
 *
 * @module
 */
import assert from "node:assert/strict";
import { roundToBf16 } from "../../shared/bf16.ts";
import { dense, leakyRelu, sigmoid, tanh } from "../../shared/nn/layers.ts";
import type { Model } from "../../shared/nn/models.ts";
import type { NetworkName } from "../../shared/nn/network.ts";
import { initialParameters, network } from "../../shared/nn/network.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import { PHASE_METRICS } from "../../shared/phases.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import { loadEngine } from "../../worker/engine/engine.ts";
import { listAdapters, openDevice, probeWebgpu } from "../../worker/engine/webgpu-device.ts";
import type { OpenDevice } from "../../worker/engine/webgpu-device.ts";
import { createWebgpuEngine } from "../../worker/engine/webgpu-engine.ts";
import type { Product } from "../../worker/engine/webgpu-products.ts";
import { TILES } from "../../worker/engine/webgpu-products.ts";
import { computeProduct, tilesAgree } from "../../worker/engine/webgpu-tiles.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

const objective = OBJECTIVES["non-saturating"];

const small: Model = {
  generator: network("generator", 5, [dense(5, 8), leakyRelu(0.2), dense(8, 12), tanh()]),
  discriminator: network("discriminator", 12, [dense(12, 9), leakyRelu(0.2), dense(9, 1)], sigmoid()),
};

function setParameters(engine: Engine, name: NetworkName): void {
  engine.setParameters(name, initialParameters(small[name], 3));
}

async function smallEngine(open: OpenDevice, maxSamples: number, bf16: boolean): Promise<Engine> {
  const engine = await createWebgpuEngine({ model: small, objective, maxSamples, device: null, bf16 }, open);
  setParameters(engine, "generator");
  setParameters(engine, "discriminator");
  return engine;
}

function inputsOf(numSamples: number) {
  const random = mulberry32(numSamples);
  return {
    noise: Float32Array.from(random.normals(numSamples * 5)),
    pixels: Uint8Array.from({ length: numSamples * 12 }, () => random.uniform() * 256),
  };
}

/** Gradient and metrics of a phase over shards of these sizes, which begin at a sample. */
async function gradientOf(
  engine: Engine,
  phase: NetworkName,
  { noise, pixels }: ReturnType<typeof inputsOf>,
  shardSizes: readonly number[],
  start: number,
): Promise<Float32Array> {
  const end = shardSizes.reduce((sum, n) => sum + n, start);
  const globalBatchSize = noise.length / 5;
  const out = new Float32Array(small[phase].numParameters + PHASE_METRICS[phase].length);
  const batch = { shardSizes, globalBatchSize, noise: noise.slice(start * 5, end * 5) };
  if (phase === "generator") await engine.generatorGradient(batch, out);
  else await engine.discriminatorGradient({ ...batch, pixels: pixels.slice(start * 12, end * 12) }, out);
  return out;
}

const PHASES = ["discriminator", "generator"] as const;

/** Random products against float64: sizes around the tiles' edges, and parameters at any offset. */
async function productsAgree(): Promise<void> {
  const random = mulberry32(7);
  const upTo = (n: number): number => 1 + Math.floor(random.uniform() * n);
  const open = await openDevice(null);
  for (let round = 0; round < 8; round++) {
    const numRows = upTo(140);
    // Half of the rounds have sizes that allow for loads of four values.
    const [numInputs, numOutputs] = round % 2 === 0 ? [upTo(140), upTo(140)] : [4 * upTo(35), 4 * upTo(35)];
    const offset = round % 2 === 0 ? upTo(5) : 4;
    const activation = {
      activation: (["leakyRelu", "tanh", "sigmoid", "none"] as const)[round % 4],
      alpha: 0.2,
    };
    const layer = { numInputs, numOutputs, offset, ...activation };
    const normals = (n: number): Float32Array => Float32Array.from(random.normals(n), (x) => x / 8);
    const x = normals(numRows * numInputs);
    const dz = normals(numRows * numOutputs);
    const parameters = normals(offset + (numInputs + 1) * numOutputs);
    const W = (i: number, o: number): number => parameters[offset + i * numOutputs + o];
    const leaves = [0, Math.floor(numRows / 3), numRows];
    const leafStride = Math.ceil((parameters.length + 1) / 64) * 64;
    const common = { layer, activation, rowsPerSample: 1, leafStride } as const;
    const header = [numRows, numRows, 2, 0, 0, ...leaves];
    const product = (kind: Product["kind"]) => ({ header, product: { ...common, kind }, y: null });
    const tile = Object.values(TILES)[round % 3];
    const close = (actual: Float32Array, at: (i: number) => number, n: number, what: string): void => {
      for (let i = 0; i < n; i++) {
        const error = Math.abs(actual[i] - at(i));
        assert.ok(
          error < 1e-5 * (1 + Math.abs(at(i))),
          `${what} ${numRows} ${numInputs} ${numOutputs} at ${i}: ${error}`,
        );
      }
    };
    const sum = (n: number, term: (k: number) => number): number => {
      let total = 0;
      for (let k = 0; k < n; k++) total += term(k);
      return total;
    };
    const forward = await computeProduct(
      open,
      {
        ...product("forward"),
        a: x,
        b: parameters,
        outputLength: numRows * numOutputs,
        size: [numRows, numOutputs, 1],
      },
      tile,
    );
    const z = (i: number): number => {
      const [row, o] = [Math.floor(i / numOutputs), i % numOutputs];
      return sum(numInputs, (k) => x[row * numInputs + k] * W(k, o)) + W(numInputs, o);
    };
    const act = {
      none: (v: number) => v,
      leakyRelu: (v: number) => (v > 0 ? v : 0.2 * v),
      tanh: Math.tanh,
      sigmoid: (v: number) => 1 / (1 + Math.exp(-v)),
    };
    close(forward, (i) => act[activation.activation](z(i)), forward.length, "forward");
    const input = await computeProduct(
      open,
      {
        ...product("inputGradient"),
        a: dz,
        b: parameters,
        y: x,
        outputLength: x.length,
        size: [numRows, numInputs, 1],
      },
      tile,
    );
    const derivative = {
      none: () => 1,
      leakyRelu: (y: number) => (y > 0 ? 1 : 0.2),
      tanh: (y: number) => 1 - y * y,
      sigmoid: (y: number) => y * (1 - y),
    };
    close(
      input,
      (i) => {
        const [row, k] = [Math.floor(i / numInputs), i % numInputs];
        return (
          sum(numOutputs, (o) => dz[row * numOutputs + o] * W(k, o)) * derivative[activation.activation](x[i])
        );
      },
      input.length,
      "input gradient",
    );
    const weight = await computeProduct(
      open,
      {
        ...product("weightGradient"),
        a: x,
        b: dz,
        outputLength: 2 * leafStride,
        size: [numInputs, numOutputs, 2],
      },
      tile,
    );
    for (const leaf of [0, 1]) {
      const [start, end] = [leaves[leaf], leaves[leaf + 1]];
      const expected = (i: number): number => {
        const [k, o] = [Math.floor(i / numOutputs), i % numOutputs];
        return sum(
          end - start,
          (r) => (k < numInputs ? x[(start + r) * numInputs + k] : 1) * dz[(start + r) * numOutputs + o],
        );
      };
      close(
        weight.subarray(leaf * leafStride + offset),
        expected,
        (numInputs + 1) * numOutputs,
        "weight gradient",
      );
    }
  }
  open.close();
}

/** Whether an engine on the GPU gives what engine wasm gives, but for rounding. Disposes of it. */
async function agreesWithWasm(engine: Engine): Promise<void> {
  const lengths = PHASES.flatMap((phase) => [small[phase].numParameters, small[phase].numParameters + 3]);
  const options = { model: small, objective, maxSamples: 9, device: null };
  const config = { engine: "wasm", deterministicKernels: true, gradientDtype: "fp32" } as const;
  const { engine: wasm, memory } = await loadEngine(config, options, lengths);
  const inputs = inputsOf(9);
  for (const phase of PHASES) {
    const parameters = memory.allocate(small[phase].numParameters);
    wasm.order.toEngine(small[phase], initialParameters(small[phase], 3), parameters);
    wasm.setParameters(phase, parameters);
  }
  const same = (actual: Float32Array, expected: Float32Array, what: string): void =>
    actual.forEach((value, i) =>
      assert.ok(Math.abs(value - expected[i]) < 1e-6, `${what} at ${i}: ${value}, not ${expected[i]}`),
    );
  for (const phase of PHASES) {
    const out = memory.allocate(small[phase].numParameters + PHASE_METRICS[phase].length);
    const batch = { shardSizes: [4, 5], globalBatchSize: 9, noise: inputs.noise };
    if (phase === "generator") await wasm.generatorGradient(batch, out);
    else await wasm.discriminatorGradient({ ...batch, pixels: inputs.pixels }, out);
    const expected = out.slice();
    wasm.order.fromEngine(small[phase], out, expected.subarray(0, small[phase].numParameters));
    same(await gradientOf(engine, phase, inputs, [4, 5], 0), expected, phase);
  }
  same(await engine.generate(inputs.noise, 9), await wasm.generate(inputs.noise, 9), "images");
  engine.dispose();
  wasm.dispose();
}

async function ownKernelsAgreeWithWasm(): Promise<void> {
  await agreesWithWasm(await smallEngine(await openDevice(null), 9, false));
}

/** An objective that is not of softplus form: the same, so that values can be compared. */
async function tfjsAgreesWithWasm(): Promise<void> {
  for (let i = 0; i < 2; i++) {
    const other = { ...objective, softplusForm: null };
    const engine = await createWebgpuEngine({
      model: small,
      objective: other,
      maxSamples: 9,
      device: null,
      bf16: false,
    });
    assert.match(engine.description, /tfjs .* on /);
    setParameters(engine, "generator");
    setParameters(engine, "discriminator");
    await agreesWithWasm(engine);
  }
}

/** More shards than one group of the tree holds, and than two of its levels. */
async function manyShardsHaveTheBitsOfSingleOnes(): Promise<void> {
  for (const [numShards, bf16] of [
    [11, false],
    [67, true],
  ] as const) {
    const shardSizes = Array.from({ length: numShards }, (_, i) => 1 + (i % 2));
    const numSamples = shardSizes.reduce((sum, n) => sum + n, 0);
    const inputs = inputsOf(numSamples);
    const open = await openDevice(null);
    const engine = await smallEngine(open, numSamples, bf16);
    for (const phase of PHASES) {
      const { numParameters } = small[phase];
      const add = (out: Float32Array, left: Float32Array, right: Float32Array): void => {
        addInJavaScript(out, left, right);
        if (bf16) roundToBf16(out.subarray(0, numParameters));
      };
      const sum = new TreeSum(
        numShards,
        add,
        () => new Float32Array(numParameters + PHASE_METRICS[phase].length),
      );
      let start = 0;
      for (const [shard, n] of shardSizes.entries()) {
        sum.push({ start: shard, end: shard + 1 }, await gradientOf(engine, phase, inputs, [n], start), true);
        start += n;
      }
      const [{ values }] = sum.take();
      assert.deepEqual(
        new Uint32Array((await gradientOf(engine, phase, inputs, shardSizes, 0)).buffer),
        new Uint32Array(values.buffer),
        `${phase}, ${numShards} shards`,
      );
    }
    engine.dispose();
  }
}

async function preparedNoiseChangesNoBits(): Promise<void> {
  const open = await openDevice(null);
  const engine = await smallEngine(open, 6, false);
  const { noise } = inputsOf(6);
  const batch = { shardSizes: [3, 3], globalBatchSize: 6, noise };
  const out = (): Float32Array => new Float32Array(small.generator.numParameters + 2);
  const [plain, prepared] = [out(), out()];
  await engine.generatorGradient(batch, plain);
  // New parameters make what was prepared before them worthless.
  engine.prepareGenerator(noise);
  engine.setParameters("generator", initialParameters(small.generator, 99));
  await engine.generatorGradient(batch, prepared);
  assert.notDeepEqual(prepared, plain);
  setParameters(engine, "generator");
  engine.prepareGenerator(noise);
  await engine.generatorGradient(batch, prepared);
  assert.deepEqual(prepared, plain);
  engine.dispose();
}

async function errorsReject(): Promise<void> {
  const open = await openDevice(null);
  await assert.rejects(
    open.compile("broken", "@compute @workgroup_size(1) fn main() { nothing(); }"),
    /Cannot compile shader broken.*line 1/,
  );
  await assert.rejects(
    open.compile("no entry", "@compute @workgroup_size(1) fn other() {}"),
    /Cannot compile shader no entry/,
  );
  const invalid = (): GPUBuffer =>
    open.device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE });
  await assert.rejects(open.checked("make a buffer", invalid), /Cannot make a buffer on /);
  // A command whose error nobody has asked for stops whatever comes next.
  open.device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE });
  await new Promise((resolve) => setTimeout(resolve, 50));
  await assert.rejects(
    open.checked("go on", () => undefined),
    /Cannot go on with/,
  );
  open.close();
  await assert.rejects(openDevice(1000), /Cannot use adapter 1000 as these are here: 0 \(/);
  await assert.rejects(openDevice("no such GPU"), /Cannot use adapter no such GPU/);
}

async function lostDevicesReject(): Promise<void> {
  const open = await openDevice(null);
  const engine = await smallEngine(open, 4, false);
  const inputs = inputsOf(4);
  const before = await gradientOf(engine, "generator", inputs, [4], 0);
  assert.ok(before.some((value) => value !== 0));
  const underWay = gradientOf(engine, "generator", inputs, [4], 0);
  open.device.destroy();
  await assert.rejects(underWay, /Cannot /);
  // Deno may say only that a command was invalid.
  await assert.rejects(gradientOf(engine, "discriminator", inputs, [4], 0), /Cannot /);
  await assert.rejects(engine.generate(inputs.noise, 4), /Cannot /);
  engine.dispose();
  await assert.rejects(gradientOf(engine, "generator", inputs, [4], 0), /Cannot /);
}

async function nothingGrows(): Promise<void> {
  const open = await openDevice(null);
  const engine = await smallEngine(open, 4, false);
  const inputs = inputsOf(4);
  const step = async (): Promise<void> => {
    for (const phase of PHASES) await gradientOf(engine, phase, inputs, [2, 2], 0);
    await engine.generate(inputs.noise, 4);
    setParameters(engine, "generator");
  };
  await step();
  const { device } = open;
  for (const name of ["createBuffer", "createBindGroup", "createShaderModule"] as const) {
    Object.defineProperty(device, name, { value: () => assert.fail(`${name} in a later step`) });
  }
  for (let i = 0; i < 20; i++) await step();
  engine.dispose();
}

async function adaptersAreListed(): Promise<void> {
  const adapters = await listAdapters();
  assert.ok(adapters.length > 0);
  adapters.forEach(({ index, name, maxBufferBytes }, i) => {
    assert.equal(index, i);
    assert.notEqual(name, "");
    assert.ok(maxBufferBytes >= 2 ** 27);
  });
  const { software, usable, description } = await probeWebgpu();
  assert.ok(usable);
  assert.ok(description.includes(adapters[0].name));
  assert.equal(software, adapters[0].software);
  const byName = await openDevice(adapters[0].name);
  assert.equal(byName.adapter.name, adapters[0].name);
  byName.close();
}

async function allTilesGiveTheSameBits(): Promise<void> {
  const open = await openDevice(null);
  assert.ok(await tilesAgree(open, new Set(Object.values(TILES))));
  open.close();
}

export const CHECKS: Readonly<Record<string, () => Promise<void>>> = {
  "adapters are listed, and one can be chosen by name": adaptersAreListed,
  "products of random sizes agree with float64, for every tile": productsAgree,
  "all tiles give the same bits": allTilesGiveTheSameBits,
  "gradients, metrics and images agree with engine wasm": ownKernelsAgreeWithWasm,
  "so they do through tfjs, for what has no kernels of ours": tfjsAgreesWithWasm,
  "many shards at once have the bits of single ones, also in bf16": manyShardsHaveTheBitsOfSingleOnes,
  "a prepared generator changes no bits": preparedNoiseChangesNoBits,
  "shaders that do not compile and invalid commands reject": errorsReject,
  "a lost device rejects": lostDevicesReject,
  "no step makes anything anew": nothingGrows,
};
