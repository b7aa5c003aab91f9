import { createHash } from "node:crypto";
import t from "tap";
import {
  checkFile,
  checkNetworks,
  decodeParameters,
  decodeState,
  encodeCheckpoint,
  MANIFEST_FILE,
  parseManifest,
} from "../../shared/checkpoint.ts";
import type { TrainingState } from "../../shared/checkpoint.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { CheckpointError } from "../../shared/errors.ts";
import { dense, leakyRelu, sigmoid } from "../../shared/nn/layers.ts";
import type { Model } from "../../shared/nn/models.ts";
import { MODELS } from "../../shared/nn/models.ts";
import { network } from "../../shared/nn/network.ts";
import { decodeSafetensors, encodeSafetensors } from "../../shared/safetensors.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

const model: Model = {
  generator: network("generator", 3, [dense(3, 5), leakyRelu(0.2), dense(5, 4)]),
  discriminator: network("discriminator", 4, [dense(4, 2), leakyRelu(0.2), dense(2, 1)], sigmoid()),
};
const random = mulberry32(1);
const vectors = (n: number) => {
  const one = (): Float32Array => Float32Array.from({ length: n }, () => random.uniform() - 0.5);
  return { parameters: one(), m: one(), v: one(), step: 12345 };
};
const state: TrainingState = {
  generator: vectors(model.generator.numParameters),
  discriminator: vectors(model.discriminator.numParameters),
};
const meta = {
  globalStep: 7,
  config: parseRunConfig({ workers: 2, maxSteps: 10 }),
  dataset: { name: "mnist", numImages: 10, sha256: "0".repeat(64) },
  dataPosition: { samples: 448, epoch: 44, positionInEpoch: 8 },
};
const files = encodeCheckpoint(model, state, meta, new Date(0));
const manifestText = new TextDecoder().decode(files.get(MANIFEST_FILE));

t.test("a checkpoint gives back the same bits", async (t) => {
  const manifest = parseManifest(manifestText);
  for (const name of Object.keys(manifest.files)) checkFile(manifest, name, files.get(name) as Uint8Array);
  checkNetworks(manifest, model);
  t.same(decodeState(model, files), state);
  t.equal(manifest.globalStep, 7);
});

t.test("networks are stored as PyTorch's nn.Sequential has them", async (t) => {
  const tensors = decodeSafetensors(files.get("generator.safetensors") as Uint8Array);
  t.same(
    tensors.map(({ name, shape }) => [name, shape]),
    [
      ["model.0.weight", [5, 3]],
      ["model.0.bias", [5]],
      ["model.2.weight", [4, 5]],
      ["model.2.bias", [4]],
    ],
  );
  const [{ bytes }] = tensors;
  const stored = new Float32Array(bytes.slice().buffer);
  // (in, out) here, (out, in) there.
  for (let i = 0; i < 3; i++)
    for (let o = 0; o < 5; o++) t.equal(stored[o * 3 + i], state.generator.parameters[i * 5 + o]);
  const reference = MODELS.mlp({ latentDim: 100, imagePixels: 784 });
  t.same(
    [reference.generator, reference.discriminator].map((net) => net.parameters.map((p) => p.torchName)),
    [
      [0, 2, 4, 6].flatMap((i) => [`model.${i}.weight`, `model.${i}.bias`]),
      [0, 2, 4].flatMap((i) => [`model.${i}.weight`, `model.${i}.bias`]),
    ],
  );
  t.same([reference.generator.numParameters, reference.discriminator.numParameters], [1_486_352, 533_505]);
});

t.test("parseManifest() refuses every truncation and every changed digit", async (t) => {
  for (let length = 0; length < manifestText.length - 1; length++) {
    t.throws(() => parseManifest(manifestText.slice(0, length)), CheckpointError);
  }
  let changed = 0;
  for (const match of manifestText.matchAll(/[0-9a-f]/g)) {
    const other = match[0] === "1" ? "2" : "1";
    const text = manifestText.slice(0, match.index) + other + manifestText.slice(match.index + 1);
    if (text === manifestText) continue;
    t.throws(() => parseManifest(text), CheckpointError);
    changed += 1;
  }
  t.ok(changed > 500);
});

t.test("another format version is incompatible, not damaged", async (t) => {
  const { manifestSha256, ...body } = JSON.parse(manifestText) as Record<string, unknown>;
  const hashOf = (value: object): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");
  t.equal(manifestSha256, hashOf(body));
  const other = { ...body, formatVersion: 2 };
  t.throws(() => parseManifest(JSON.stringify({ ...other, manifestSha256: hashOf(other) })), {
    reason: "incompatible",
    message: /format version must be 1: got 2/,
  });
  for (const damaged of [{ ...other, manifestSha256 }, {}]) {
    t.throws(() => parseManifest(JSON.stringify(damaged)), { reason: "damaged", message: /SHA-256/ });
  }
});

t.test("checkFile() names file, expected and found", async (t) => {
  const manifest = parseManifest(manifestText);
  const file = (files.get("generator.safetensors") as Uint8Array).slice();
  t.throws(
    () => checkFile(manifest, "generator.safetensors", file.subarray(1)),
    /must have \d+ bytes: got \d+/,
  );
  file[file.length - 1] ^= 1;
  t.throws(
    () => checkFile(manifest, "generator.safetensors", file),
    /SHA-256 must be [0-9a-f]{64}: got [0-9a-f]{64}/,
  );
  t.throws(() => checkFile(manifest, "other", file), CheckpointError);
});

t.test("checkNetworks() and decodeParameters() refuse another network, with the difference", async (t) => {
  const other: Model = {
    ...model,
    generator: network("generator", 3, [dense(3, 6), leakyRelu(0.2), dense(6, 4)]),
  };
  t.throws(() => checkNetworks(parseManifest(manifestText), other), {
    reason: "incompatible",
    message: /generator must be\n {4}dense\(3, 6\).*\n {2}but is\n {4}dense\(3, 5\)/,
  });
  const file = files.get("generator.safetensors") as Uint8Array;
  t.throws(
    () => decodeParameters(other.generator, file),
    /"model.0.weight" must be F32 \[6, 3\]: got F32 \[5, 3\]/,
  );
  const extra = encodeSafetensors([{ name: "x", dtype: "F32", shape: [], bytes: new Uint8Array(4) }]);
  t.throws(() => decodeParameters(model.generator, extra), /unknown tensor "x"/);
});

t.test(
  "decodeSafetensors() survives every truncation and random damage with a CheckpointError or valid tensors",
  async (t) => {
    const file = files.get("discriminator.safetensors") as Uint8Array;
    for (let length = 0; length < file.length; length++) {
      t.throws(() => decodeSafetensors(file.subarray(0, length)), CheckpointError);
    }
    const size = decodeSafetensors(file).reduce((sum, { bytes }) => sum + bytes.length, 0);
    for (let trial = 0; trial < 3000; trial++) {
      const damaged = file.slice();
      const at = Math.floor(random.uniform() * file.length);
      damaged[at] ^= 1 << Math.floor(random.uniform() * 8);
      try {
        const tensors = decodeSafetensors(damaged);
        const found = tensors.reduce((sum, { bytes }) => sum + bytes.length, 0);
        if (found > file.length || (at >= file.length - size && found !== size)) t.fail(`flip at ${at}`);
      } catch (error) {
        if (!(error instanceof CheckpointError)) t.fail(`flip at ${at}: ${String(error)}`);
      }
    }
  },
);
