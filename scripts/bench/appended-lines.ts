/**
 * The lines that another process adds to a file.
 *
 * @module
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const CHUNK_BYTES = 65536;

export class AppendedLines {
  readonly #file: number;
  readonly #chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  #position = 0;
  /** What was read of a line that is not whole yet. */
  #rest = "";
  /** The last whole line that was read, or null. */
  #last: string | null = null;

  /** @throws {Error} If the file cannot be opened. */
  constructor(path: string) {
    this.#file = openSync(path, "r");
  }

  /** Tells the file from another one of its name. */
  get inode(): number {
    return fstatSync(this.#file).ino;
  }

  /** Whole lines that were added since the last call. They must be ASCII. */
  read(): readonly string[] {
    const added: string[] = [];
    for (;;) {
      const numBytes = readSync(this.#file, this.#chunk, 0, CHUNK_BYTES, this.#position);
      if (numBytes === 0) break;
      this.#position += numBytes;
      const lines = (this.#rest + this.#chunk.toString("latin1", 0, numBytes)).split("\n");
      this.#rest = lines.pop() ?? "";
      added.push(...lines);
    }
    this.#last = added.at(-1) ?? this.#last;
    return added;
  }

  /** Whether the last line that was read is not there any more: the file was cut before it, and may have grown again. */
  isCut(): boolean {
    if (fstatSync(this.#file).size < this.#position) return true;
    if (this.#last === null) return false;
    const expected = Buffer.from(`${this.#last}\n`, "latin1");
    const bytes = Buffer.alloc(expected.byteLength);
    const end = this.#position - this.#rest.length;
    readSync(this.#file, bytes, 0, bytes.byteLength, end - bytes.byteLength);
    return !bytes.equals(expected);
  }

  close(): void {
    closeSync(this.#file);
  }
}
