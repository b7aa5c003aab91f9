/**
 * Headers of messages: msgpack maps in one frame. What they may hold is in protocol.ts.
 *
 * @module
 */
import { Packr, Unpackr } from "msgpackr";
import { ProtocolError } from "./errors.ts";
import { brokenLimit } from "./msgpack-limits.ts";

const packr = new Packr({ useRecords: false, encodeUndefinedAsNil: true });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true });

/** Largest header that a peer may send; headers are small by design. */
export const MAX_HEADER_BYTES = 1 << 20;

/** A header as one frame. The buffer is fresh, so ZeroMQ may keep it. */
export function encodeHeader(header: object): Buffer {
  return Buffer.from(packr.pack(header));
}

/** @throws {ProtocolError} If the frame is missing, too large, no msgpack or nested too deep. */
export function decodeHeader(frame: Uint8Array | undefined): unknown {
  if (frame === undefined) throw new ProtocolError("Cannot use message as it must have a header: got none");
  if (frame.byteLength > MAX_HEADER_BYTES) {
    throw new ProtocolError(
      `Cannot decode header as it must have at most ${MAX_HEADER_BYTES} bytes: got ${frame.byteLength}`,
    );
  }
  const broken = brokenLimit(frame);
  if (broken !== null) throw new ProtocolError(`Cannot decode header as its msgpack ${broken}`);
  try {
    return unpackr.unpack(frame);
  } catch (error) {
    throw new ProtocolError("Cannot decode header as it must be msgpack", { cause: error });
  }
}
