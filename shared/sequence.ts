/**
 * Numbers on the messages of the control plane, so that a message which was
 * lost with a broken connection is noticed by the next one. ZeroMQ connects
 * again in silence.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";
import type { CoordinatorMessage } from "./protocol.ts";

/** On messages to somebody who is not counted as a member. */
export const UNNUMBERED = 0;

const NUM_BYTES = 6;

/** Counts what is sent to each member, from 1. */
export class Sequences {
  readonly #last = new Map<string, number>();

  /** The number of the next message to somebody. */
  of(to: string, { type }: CoordinatorMessage): number {
    if (type === "unknown" || type === "refuse" || type === "otherRun" || type === "wait") {
      this.#last.delete(to);
      return UNNUMBERED;
    }
    const sequence = (this.#last.get(to) ?? 0) + 1;
    this.#last.set(to, sequence);
    return sequence;
  }
}

/** A number as a frame. */
export function encodeSequence(sequence: number): Buffer {
  const frame = Buffer.alloc(NUM_BYTES);
  frame.writeUIntBE(sequence, 0, NUM_BYTES);
  return frame;
}

/** @throws {ProtocolError} If the frame holds no number. */
export function decodeSequence(frame: Uint8Array | undefined): number {
  if (frame?.byteLength !== NUM_BYTES) {
    throw new ProtocolError(
      `Cannot decode number of message as it must have ${NUM_BYTES} bytes: got ${frame?.byteLength ?? "no frame"}`,
    );
  }
  return Buffer.from(frame.buffer, frame.byteOffset, NUM_BYTES).readUIntBE(0, NUM_BYTES);
}
