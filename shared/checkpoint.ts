/**
 * The checkpoint format: four safetensors files (two networks, two optimizers)
 * and a manifest that names their hashes and all that a resumed run must agree
 * with. Networks carry the names and the (out, in) orientation of a PyTorch
 * module whose nn.Sequential is called `model`.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { checked } from "./checked.ts";
import type { DataPosition, RunConfig } from "./config.ts";
import { CheckpointError, describeError } from "./errors.ts";
import { bytesOf, floatsOf } from "./frames.ts";
import type { Model } from "./nn/models.ts";
import type { Network, NetworkName, ParameterEntry } from "./nn/network.ts";
import { describeNetwork } from "./nn/network.ts";
import type { NamedTensor } from "./safetensors.ts";
import { decodeSafetensors, encodeSafetensors } from "./safetensors.ts";
import { PACKAGE_VERSION } from "./version.ts";

/** Bump when a checkpoint of before cannot be read any more. */
export const FORMAT_VERSION = 1;

export const MANIFEST_FILE = "manifest.json";

/** Parameters and optimizer of one network, flat, in the engines' layout. */
export interface NetworkVectors {
  readonly parameters: Float32Array;
  readonly m: Float32Array;
  readonly v: Float32Array;
  /** Optimizer updates applied. */
  readonly step: number;
}

export type TrainingState = Record<NetworkName, NetworkVectors>;

export interface DatasetIdentity {
  readonly name: string;
  readonly numImages: number;
  /** SHA-256 of the pixels. */
  readonly sha256: string;
}

const sha256Text = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);

const NetworkSummary = z.strictObject({
  description: z.string(),
  numParameters: count,
  /** SHA-256 of the parameters' bytes, in the order and orientation of the file. */
  parametersSha256: sha256Text,
});

const ManifestSchema = z.strictObject({
  formatVersion: z.literal(FORMAT_VERSION),
  createdBy: z.string(),
  createdAt: z.string(),
  /** Steps complete. */
  globalStep: count,
  /** Phase that comes next. Checkpoints are written between steps. */
  phase: z.literal("D0"),
  dataPosition: z.strictObject({ samples: count, epoch: count, positionInEpoch: count }),
  dataset: z.strictObject({ name: z.string(), numImages: count, sha256: sha256Text }),
  config: z.record(z.string(), z.unknown()),
  networks: z.strictObject({ generator: NetworkSummary, discriminator: NetworkSummary }),
  files: z.record(z.string(), z.strictObject({ bytes: count, sha256: sha256Text })),
  /** SHA-256 of this manifest's JSON without this field. */
  manifestSha256: sha256Text,
});
export type Manifest = z.infer<typeof ManifestSchema>;

export interface CheckpointMeta {
  readonly globalStep: number;
  readonly config: RunConfig;
  readonly dataset: DatasetIdentity;
  readonly dataPosition: DataPosition;
}

export function sha256(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

const NETWORKS: readonly NetworkName[] = ["generator", "discriminator"];

/** All files of a checkpoint; the manifest is the last. */
export function encodeCheckpoint(
  model: Model,
  state: TrainingState,
  meta: CheckpointMeta,
  createdAt: Date,
): ReadonlyMap<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  const summary = (name: NetworkName): z.infer<typeof NetworkSummary> => {
    const net = model[name];
    const { parameters, m, v, step } = state[name];
    const tensors = toTensors(net, parameters, "");
    files.set(`${name}.safetensors`, encodeSafetensors(tensors));
    const stepBytes = new Uint8Array(new BigInt64Array([BigInt(step)]).buffer);
    files.set(
      `${name}-optimizer.safetensors`,
      encodeSafetensors([
        ...toTensors(net, m, "exp_avg."),
        ...toTensors(net, v, "exp_avg_sq."),
        { name: "step", dtype: "I64", shape: [], bytes: stepBytes },
      ]),
    );
    return {
      description: describeNetwork(net),
      numParameters: net.numParameters,
      parametersSha256: tensorsSha256(tensors),
    };
  };
  const networks = { generator: summary("generator"), discriminator: summary("discriminator") };
  const body = {
    formatVersion: FORMAT_VERSION,
    createdBy: `lockstep ${PACKAGE_VERSION}`,
    createdAt: createdAt.toISOString(),
    globalStep: meta.globalStep,
    phase: "D0",
    dataPosition: meta.dataPosition,
    dataset: meta.dataset,
    config: meta.config,
    networks,
    files: Object.fromEntries(
      [...files].map(([name, bytes]) => [name, { bytes: bytes.byteLength, sha256: sha256(bytes) }]),
    ),
  };
  const manifest = { ...body, manifestSha256: sha256(JSON.stringify(body)) };
  files.set(MANIFEST_FILE, new TextEncoder().encode(`${JSON.stringify(manifest, null, 2)}\n`));
  return files;
}

/** @throws {CheckpointError} If it is torn, changed, or of another format version. */
export function parseManifest(text: string): Manifest {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`Cannot read ${MANIFEST_FILE} as it must be JSON: ${describeError(error)}`);
  }
  const { manifestSha256, ...body } = (json ?? {}) as Record<string, unknown>;
  const found = sha256(JSON.stringify(body));
  if (found !== manifestSha256) {
    throw new CheckpointError(
      `Cannot trust ${MANIFEST_FILE} as its SHA-256 must be ${JSON.stringify(manifestSha256)}: got ${found}`,
    );
  }
  // Every format has that hash: a changed bit is never taken for another format, behind which older ones are not looked at.
  const { formatVersion: version } = body;
  if (version !== FORMAT_VERSION) {
    throw new CheckpointError(
      `Cannot read checkpoint as format version must be ${FORMAT_VERSION}: got ${JSON.stringify(version)}`,
      { reason: "incompatible" },
    );
  }
  const result = checked(ManifestSchema, json);
  if (result.ok) return result.value;
  const [{ path, message }] = result.issues;
  throw new CheckpointError(`Cannot read ${MANIFEST_FILE} as '${path}' is wrong: ${message}`);
}

/** @throws {CheckpointError} If a file's bytes are not those that the manifest names. */
export function checkFile(manifest: Manifest, name: string, bytes: Uint8Array): void {
  const expected = manifest.files[name];
  if (expected === undefined) throw new CheckpointError(`Cannot find ${name} in ${MANIFEST_FILE}`);
  if (bytes.byteLength !== expected.bytes) {
    throw new CheckpointError(
      `Cannot trust ${name} as it must have ${expected.bytes} bytes: got ${bytes.byteLength}`,
    );
  }
  const found = sha256(bytes);
  if (found !== expected.sha256) {
    throw new CheckpointError(`Cannot trust ${name} as its SHA-256 must be ${expected.sha256}: got ${found}`);
  }
}

/** @throws {CheckpointError} If a value is not finite: nothing can be trained or drawn from such a state. */
export function checkFinite(name: string, file: Uint8Array): void {
  for (const { name: tensor, dtype, bytes } of decodeSafetensors(file)) {
    if (dtype !== "F32") continue;
    const value = floatsOf(bytes, bytes.byteLength / 4).find((x) => !Number.isFinite(x));
    if (value === undefined) continue;
    throw new CheckpointError(`Cannot use ${name} as all values must be finite: "${tensor}" has ${value}`);
  }
}

/** Names of the files beside the manifest. */
export const STATE_FILES = NETWORKS.flatMap((name) => [
  `${name}.safetensors`,
  `${name}-optimizer.safetensors`,
]);

/** @throws {CheckpointError} If the networks of the checkpoint are not the model's; names both. */
export function checkNetworks(manifest: Manifest, model: Model): void {
  for (const name of NETWORKS) {
    const expected = describeNetwork(model[name]);
    const found = manifest.networks[name].description;
    if (found !== expected) {
      throw new CheckpointError(
        `Cannot use checkpoint as its ${name} must be\n    ${expected}\n  but is\n    ${found}`,
        { reason: "incompatible" },
      );
    }
  }
}

/**
 * Reads the state from checked files.
 *
 * @throws {CheckpointError} If a tensor is missing, superfluous or of the wrong shape.
 */
export function decodeState(model: Model, files: ReadonlyMap<string, Uint8Array>): TrainingState {
  const read = (name: NetworkName): NetworkVectors => {
    const optimizer = decodeSafetensors(fileOf(files, `${name}-optimizer.safetensors`));
    const step = optimizer.find((tensor) => tensor.name === "step");
    if (step?.dtype !== "I64" || step.bytes.byteLength !== 8) {
      throw new CheckpointError(`Cannot use optimizer of ${name} as it must have an I64 scalar "step"`);
    }
    const count = new DataView(step.bytes.buffer, step.bytes.byteOffset, 8).getBigInt64(0, true);
    return {
      parameters: decodeParameters(model[name], fileOf(files, `${name}.safetensors`)),
      m: fromTensors(model[name], optimizer, "exp_avg."),
      v: fromTensors(model[name], optimizer, "exp_avg_sq."),
      step: Number(count),
    };
  };
  return { generator: read("generator"), discriminator: read("discriminator") };
}

/** @returns Flat parameters in the engines' layout. @throws {CheckpointError} If the file does not fit the network. */
export function decodeParameters(net: Network, file: Uint8Array): Float32Array {
  const tensors = decodeSafetensors(file);
  const known = new Set(net.parameters.map((p) => p.torchName));
  const extra = tensors.find((tensor) => !known.has(tensor.name));
  if (extra !== undefined)
    throw new CheckpointError(`Cannot use ${net.name} as it has an unknown tensor "${extra.name}"`);
  return fromTensors(net, tensors, "");
}

/** SHA-256 over the tensors' bytes in file order. */
export function tensorsSha256(tensors: readonly NamedTensor[]): string {
  const hash = createHash("sha256");
  for (const { bytes } of tensors) hash.update(bytes);
  return hash.digest("hex");
}

function fileOf(files: ReadonlyMap<string, Uint8Array>, name: string): Uint8Array {
  const bytes = files.get(name);
  if (bytes === undefined) throw new CheckpointError(`Cannot find ${name} in the checkpoint`);
  return bytes;
}

function torchShape({ shape, transposedInTorch }: ParameterEntry): readonly number[] {
  return transposedInTorch ? [shape[1], shape[0]] : shape;
}

function toTensors(net: Network, flat: Float32Array, prefix: string): readonly NamedTensor[] {
  return net.parameters.map((entry): NamedTensor => {
    const values = flat.slice(entry.offset, entry.offset + entry.size);
    const oriented = entry.transposedInTorch ? transpose(values, entry.shape[0], entry.shape[1]) : values;
    return {
      name: prefix + entry.torchName,
      dtype: "F32",
      shape: torchShape(entry),
      bytes: bytesOf(oriented),
    };
  });
}

function fromTensors(net: Network, tensors: readonly NamedTensor[], prefix: string): Float32Array {
  const flat = new Float32Array(net.numParameters);
  for (const entry of net.parameters) {
    const name = prefix + entry.torchName;
    const tensor = tensors.find((candidate) => candidate.name === name);
    const expected = torchShape(entry);
    if (tensor?.dtype !== "F32" || tensor.shape.join() !== expected.join()) {
      const found = tensor === undefined ? "nothing" : `${tensor.dtype} [${tensor.shape.join(", ")}]`;
      throw new CheckpointError(
        `Cannot use ${net.name} as "${name}" must be F32 [${expected.join(", ")}]: got ${found}`,
      );
    }
    const values = floatsOf(tensor.bytes, entry.size);
    flat.set(entry.transposedInTorch ? transpose(values, expected[0], expected[1]) : values, entry.offset);
  }
  return flat;
}

/** (rows, columns) to (columns, rows), in blocks that fit the cache. */
function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const BLOCK = 32;
  const out = new Float32Array(values.length);
  for (let r0 = 0; r0 < rows; r0 += BLOCK) {
    for (let c0 = 0; c0 < columns; c0 += BLOCK) {
      const rEnd = Math.min(r0 + BLOCK, rows);
      const cEnd = Math.min(c0 + BLOCK, columns);
      for (let r = r0; r < rEnd; r++) {
        for (let c = c0; c < cEnd; c++) out[c * rows + r] = values[r * columns + c];
      }
    }
  }
  return out;
}
