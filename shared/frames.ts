/**
 * Raw frames and typed arrays. ZeroMQ promises no alignment, and JavaScript
 * gives float32 in the machine's byte order: little-endian everywhere we run.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";

if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) {
  throw new Error("Cannot run on a big-endian machine as frames and checkpoints are little-endian");
}

/**
 * Views a frame as float32, copying only where it is not aligned.
 *
 * @throws {ProtocolError} If the frame has another length.
 */
export function floatsOf(frame: Uint8Array, length: number): Float32Array {
  if (frame.byteLength !== length * 4) {
    throw new ProtocolError(`Cannot read frame as it must have ${length * 4} bytes: got ${frame.byteLength}`);
  }
  if (frame.byteOffset % 4 === 0) return new Float32Array(frame.buffer, frame.byteOffset, length);
  return new Float32Array(frame.slice().buffer, 0, length);
}

/** Views numbers as bytes without a copy. After a send, the numbers must not change until the receiver has them. */
export function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
