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
  #rest = "";

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
    for (;;) {
      const numBytes = readSync(this.#file, this.#chunk);
      if (numBytes === 0) break;
      this.#rest += this.#chunk.toString("latin1", 0, numBytes);
    }
    const lines = this.#rest.split("\n");
    this.#rest = lines.pop() ?? "";
    return lines;
  }

  close(): void {
    closeSync(this.#file);
  }
}
