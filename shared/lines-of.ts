/**
 * The lines of a file, however large: read in pieces, as a string has at most
 * half a gigabyte.
 *
 * @module
 */
import { closeSync, openSync, readSync } from "node:fs";

const CHUNK_BYTES = 1 << 16;
const NEWLINE = 10;

/** Every line without its line break; an empty end of the file is none. @throws {Error} If it cannot be read. */
export function* linesOf(path: string, chunkBytes = CHUNK_BYTES): Generator<string> {
  const file = openSync(path, "r");
  try {
    const chunk = Buffer.alloc(chunkBytes);
    let rest: Buffer = Buffer.alloc(0);
    for (;;) {
      const numBytes = readSync(file, chunk);
      if (numBytes === 0) break;
      const bytes = Buffer.concat([rest, chunk.subarray(0, numBytes)]);
      let start = 0;
      // What is left over has no line break.
      for (let end; (end = bytes.indexOf(NEWLINE, Math.max(start, rest.byteLength))) >= 0; start = end + 1) {
        yield bytes.toString("utf8", start, end);
      }
      rest = bytes.subarray(start);
    }
    if (rest.byteLength > 0) yield rest.toString();
  } finally {
    closeSync(file);
  }
}
