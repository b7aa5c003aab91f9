/**
 * Reads a file's lines while another process writes them, and notes when each came.
 *
 * @module
 */
import type { FSWatcher } from "node:fs";
import { closeSync, existsSync, openSync, readSync, watch } from "node:fs";

/** How often to look for a file that does not exist yet, in milliseconds. */
const LOOK_MS = 20;

const CHUNK_BYTES = 65536;

export class FollowedLines {
  readonly #path: string;
  readonly #onLine: (line: string, atMs: number) => void;
  readonly #chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  #file: number | null = null;
  #watcher: FSWatcher | null = null;
  #looking: NodeJS.Timeout | null;
  #rest = "";

  /** @param onLine Told of each whole line, and when it was there, by performance.now(). Lines must be ASCII. */
  constructor(path: string, onLine: (line: string, atMs: number) => void) {
    this.#path = path;
    this.#onLine = onLine;
    this.#looking = setInterval(() => this.#look(), LOOK_MS);
  }

  /** Reads what is left, and ends. */
  close(): void {
    this.#look();
    this.#stopLooking();
    this.#watcher?.close();
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }

  #look(): void {
    if (this.#file === null) {
      if (!existsSync(this.#path)) return;
      this.#stopLooking();
      this.#file = openSync(this.#path, "r");
      this.#watcher = watch(this.#path, () => this.#read());
    }
    this.#read();
  }

  #stopLooking(): void {
    if (this.#looking !== null) clearInterval(this.#looking);
    this.#looking = null;
  }

  #read(): void {
    if (this.#file === null) return;
    const atMs = performance.now();
    for (;;) {
      const numBytes = readSync(this.#file, this.#chunk);
      if (numBytes === 0) break;
      this.#rest += this.#chunk.toString("latin1", 0, numBytes);
    }
    const lines = this.#rest.split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#onLine(line, atMs);
  }
}
