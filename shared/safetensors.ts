/**
 * The safetensors file format: eight bytes of header length, a JSON header,
 * then the tensors' bytes without gaps.
 *
 * Source: the format description in github.com/huggingface/safetensors.
 *
 * @module
 */
import { CheckpointError } from "./errors.ts";

const DTYPE_BYTES = { F32: 4, I64: 8 } as const;
export type Dtype = keyof typeof DTYPE_BYTES;

export interface NamedTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Little-endian values, row-major. */
  readonly bytes: Uint8Array;
}

const MAX_HEADER_BYTES = 100 * 2 ** 20;

/** @returns The file's bytes; tensors lie in the given order. */
export function encodeSafetensors(
  tensors: readonly NamedTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: "pt", ...metadata } };
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.byteLength] };
    offset += bytes.byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  // Tensors begin at a multiple of eight bytes; the format lets spaces pad the header.
  const headerBytes = Math.ceil(json.byteLength / 8) * 8;
  const file = new Uint8Array(8 + headerBytes + offset).fill(0x20, 8, 8 + headerBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.set(json, 8);
  let position = 8 + headerBytes;
  for (const { bytes } of tensors) {
    file.set(bytes, position);
    position += bytes.byteLength;
  }
  return file;
}

/**
 * @returns Tensors in the order of their bytes. They view `file`.
 * @throws {CheckpointError} If anything is not as the format says.
 */
export function decodeSafetensors(file: Uint8Array): readonly NamedTensor[] {
  const refuse = (rule: string): never => {
    throw new CheckpointError(`Cannot read safetensors as ${rule}`);
  };
  if (file.byteLength < 8) refuse(`a file has at least 8 bytes: got ${file.byteLength}`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const declared = view.getBigUint64(0, true);
  if (declared > BigInt(Math.min(MAX_HEADER_BYTES, file.byteLength - 8))) {
    refuse(`the header must fit the file: got ${declared} bytes of ${file.byteLength}`);
  }
  const headerBytes = Number(declared);
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(8, 8 + headerBytes)));
  } catch (error) {
    throw new CheckpointError("Cannot read safetensors as the header must be JSON", { cause: error });
  }
  if (typeof header !== "object" || header === null) return refuse("the header must be an object");
  const data = file.subarray(8 + headerBytes);
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  const tensors = entries.map(([name, entry]) => parseEntry(name, entry, data, refuse));
  tensors.sort((a, b) => a.start - b.start);
  let position = 0;
  for (const { name, start, bytes } of tensors) {
    if (start !== position)
      refuse(`tensors must lie without gaps: "${name}" is at ${start}, not ${position}`);
    position += bytes.byteLength;
  }
  if (position !== data.byteLength)
    refuse(`tensors must fill the file: got ${position} of ${data.byteLength} bytes`);
  return tensors.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, bytes }));
}

function parseEntry(
  name: string,
  entry: unknown,
  data: Uint8Array,
  refuse: (rule: string) => never,
): NamedTensor & { readonly start: number } {
  const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  if (dtype !== "F32" && dtype !== "I64")
    return refuse(`"${name}" must have dtype F32 or I64: got ${String(dtype)}`);
  const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  if (!Array.isArray(shape) || !shape.every(isCount)) return refuse(`"${name}" must have a shape`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return refuse(`"${name}" must have two data_offsets`);
  }
  const [start, end] = offsets;
  const size = shape.reduce((product, n) => product * n, 1) * DTYPE_BYTES[dtype];
  if (end - start !== size || end > data.byteLength) {
    return refuse(
      `"${name}" must have ${size} bytes within the file: got ${start}..${end} of ${data.byteLength}`,
    );
  }
  return { name, dtype, shape, bytes: data.subarray(start, end), start };
}
