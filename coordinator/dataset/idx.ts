/**
 * The IDX format of MNIST: a big-endian header (two zero bytes, the type 0x08
 * for unsigned bytes, the number of dimensions, then one 32-bit size for each)
 * and the bytes, the last dimension fastest. Any file that is not exactly as
 * long as its header says is refused: a short one would train on zeros.
 *
 * Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
 *
 * @module
 */
import { constants, gunzipSync } from "node:zlib";
import { DatasetError } from "../../shared/errors.ts";
import { IMAGE_SIDE } from "../../shared/image.ts";

/** 20 times the largest file of MNIST. */
export const MAX_UNPACKED_BYTES = 2 ** 30;

export type IdxKind = "images" | "labels";

export interface IdxExpectation {
  readonly kind: IdxKind;
  /** Path or name for messages. */
  readonly file: string;
  /** What the user can do about a bad file; the end of every message. Empty for none. */
  readonly advice?: string;
  /** Size above which a packed file is taken for a gzip bomb, whatever it says itself; default MAX_UNPACKED_BYTES. */
  readonly maxUnpackedBytes?: number;
  /** The advice where it is larger, if that is another. */
  readonly adviceIfLarger?: string;
}

export interface IdxArray {
  /** (numImages, 28, 28) or (numLabels,). */
  readonly shape: number[];
  /** Row-major. A view of the parsed bytes where these were not packed. */
  readonly data: Uint8Array;
}

const MAGIC: Record<IdxKind, number> = { images: 0x00000803, labels: 0x00000801 };
const DEFAULT_ADVICE = "delete the file and run `npx lockstep download`";

function bad(expected: IdxExpectation, rule: string, got: string, cause?: unknown): DatasetError {
  const advice = expected.advice ?? DEFAULT_ADVICE;
  return new DatasetError(
    `Cannot read ${expected.file} as ${rule}: got ${got}${advice === "" ? "" : `; ${advice}`}`,
    cause === undefined ? undefined : { cause },
  );
}

function hex(word: number): string {
  return `0x${word.toString(16).padStart(8, "0")}`;
}

/** Whether the bytes begin with the magic of gzip. */
function isGzip(bytes: Uint8Array): boolean {
  return bytes.length >= 2 && bytes[0] === 0x1f && bytes[1] === 0x8b;
}

/**
 * The bytes themselves, or what they unpack to where they begin with the magic of gzip.
 *
 * @throws {DatasetError} If the archive is truncated or corrupt, or unpacks to more than it announces, or than maxUnpackedBytes.
 */
export function gunzipIfPacked(bytes: Uint8Array, expected: IdxExpectation): Uint8Array {
  if (!isGzip(bytes)) return bytes;
  const most = expected.maxUnpackedBytes ?? MAX_UNPACKED_BYTES;
  const maxOutputLength = Math.min(most, announcedBytes(bytes, expected.kind) ?? most);
  try {
    return gunzipSync(bytes, { maxOutputLength, chunkSize: 2 ** 17 });
  } catch (error) {
    const rule = "it must be one whole gzip archive of a data file";
    if (!(error instanceof RangeError)) {
      throw bad(expected, rule, `a truncated or corrupt archive of ${bytes.length} bytes`, error);
    }
    const advice = expected.adviceIfLarger ?? expected.advice;
    const larger = advice === undefined ? expected : { ...expected, advice };
    throw bad(larger, rule, `more than ${maxOutputLength} unpacked bytes`, error);
  }
}

/** Packed bytes that hold the header of any IDX file, and unpack to little. */
const HEAD_BYTES = 2 ** 12;

/** Size of the IDX file in an archive, as its header says; null if it has none. */
function announcedBytes(packed: Uint8Array, kind: IdxKind): number | null {
  let head: Buffer;
  try {
    // All that unpacks without the rest; gzip makes at most a thousand bytes of one.
    head = gunzipSync(packed.subarray(0, HEAD_BYTES), { finishFlush: constants.Z_SYNC_FLUSH });
  } catch {
    return null;
  }
  const headerBytes = headerBytesOf(kind);
  if (head.length < headerBytes || head.readUInt32BE(0) !== MAGIC[kind]) return null;
  let dataBytes = 1;
  for (let at = 4; at < headerBytes; at += 4) dataBytes *= head.readUInt32BE(at);
  return headerBytes + dataBytes;
}

function headerBytesOf(kind: IdxKind): number {
  return 4 + 4 * (MAGIC[kind] & 0xff);
}

/**
 * Parses an IDX file of unsigned bytes, packed with gzip or not.
 *
 * @throws {DatasetError} If it is truncated, corrupt, of another kind or size, empty, or its images are not 28x28.
 */
export function parseIdx(bytes: Uint8Array, expected: IdxExpectation): IdxArray {
  const unpacked = gunzipIfPacked(bytes, expected);
  const headerBytes = headerBytesOf(expected.kind);
  const view = new DataView(unpacked.buffer, unpacked.byteOffset, unpacked.byteLength);
  if (unpacked.length >= 4 && view.getUint32(0) !== MAGIC[expected.kind]) {
    const rule = `an IDX file of ${expected.kind} must begin with ${hex(MAGIC[expected.kind])}`;
    throw bad(expected, rule, hex(view.getUint32(0)));
  }
  if (unpacked.length < headerBytes) {
    const rule = `the header of an IDX file of ${expected.kind} has ${headerBytes} bytes`;
    throw bad(expected, rule, `a file of ${unpacked.length} bytes`);
  }
  const shape = Array.from({ length: headerBytes / 4 - 1 }, (_, i) => view.getUint32(4 + 4 * i));
  if (expected.kind === "images" && (shape[1] !== IMAGE_SIDE || shape[2] !== IMAGE_SIDE)) {
    const rule = `its images must have ${IMAGE_SIDE}x${IMAGE_SIDE} pixels`;
    throw bad(expected, rule, `${shape[1]}x${shape[2]} pixels`);
  }
  if (shape[0] === 0) {
    throw bad(expected, `it must hold at least one of its ${expected.kind}`, "0");
  }
  // At most 2^32 * 784 < 2^53, so the product is exact whatever the header claims.
  const dataBytes = shape.reduce((product, size) => product * size, 1);
  if (unpacked.length !== headerBytes + dataBytes) {
    const rule = `${shape[0]} ${expected.kind} take ${headerBytes + dataBytes} bytes unpacked`;
    throw bad(expected, rule, `${unpacked.length} bytes`);
  }
  return { shape, data: unpacked.subarray(headerBytes) };
}

/**
 * Writes an IDX file of unsigned bytes, not packed.
 *
 * @param shape One to 255 sizes, each an integer in 0..2^32-1.
 * @throws {RangeError} If a size is none, or their product is not the number of bytes.
 */
export function encodeIdx(shape: readonly number[], data: Uint8Array): Uint8Array {
  if (shape.length < 1 || shape.length > 255 || shape.some((size) => size >>> 0 !== size)) {
    throw new RangeError(
      `Cannot encode IDX as it has 1 to 255 sizes in 0..2^32-1: got [${shape.join(", ")}]`,
    );
  }
  const dataBytes = shape.reduce((product, size) => product * size, 1);
  if (data.length !== dataBytes) {
    throw new RangeError(
      `Cannot encode IDX as [${shape.join(", ")}] takes ${dataBytes} bytes: got ${data.length}`,
    );
  }
  const headerBytes = 4 + 4 * shape.length;
  const bytes = new Uint8Array(headerBytes + dataBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x0800 | shape.length);
  shape.forEach((size, i) => view.setUint32(4 + 4 * i, size));
  bytes.set(data, headerBytes);
  return bytes;
}
