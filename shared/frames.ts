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
 * The frame at a multiple of 4 bytes, copied only where it is at none.
 *
 * @throws {ProtocolError} If the frame has another length.
 */
export function alignedFrame(frame: Uint8Array, numBytes: number): Uint8Array {
  if (frame.byteLength !== numBytes) {
    throw new ProtocolError(`Cannot read frame as it must have ${numBytes} bytes: got ${frame.byteLength}`);
  }
  return frame.byteOffset % 4 === 0 ? frame : new Uint8Array(frame);
}

/**
 * Views a frame as float32, copying only where it is not aligned.
 *
 * @throws {ProtocolError} If the frame has another length.
 */
export function floatsOf(frame: Uint8Array, length: number): Float32Array {
  const { buffer, byteOffset } = alignedFrame(frame, length * 4);
  return new Float32Array(buffer, byteOffset, length);
}

/** Views numbers as bytes without a copy. After a send, the numbers must not change until the receiver has them. */
export function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
