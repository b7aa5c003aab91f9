/**
 * Reads a file's lines while another process writes them, and notes when each came.
 *
 * @module
 */
import type { FSWatcher } from "node:fs";
import { existsSync, watch } from "node:fs";
import { AppendedLines } from "./appended-lines.ts";

/** How often to look for a file that does not exist yet, in milliseconds. */
const LOOK_MS = 20;

export class FollowedLines {
  readonly #path: string;
  readonly #onLine: (line: string, atMs: number) => void;
  #lines: AppendedLines | null = null;
  #watcher: FSWatcher | null = null;
  #looking: NodeJS.Timeout | null;

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
    this.#lines?.close();
    this.#lines = null;
  }

  #look(): void {
    if (this.#lines === null) {
      if (!existsSync(this.#path)) return;
      this.#stopLooking();
      this.#lines = new AppendedLines(this.#path);
      this.#watcher = watch(this.#path, () => this.#read());
    }
    this.#read();
  }

  #stopLooking(): void {
    if (this.#looking !== null) clearInterval(this.#looking);
    this.#looking = null;
  }

  #read(): void {
    const atMs = performance.now();
    for (const line of this.#lines?.read() ?? []) this.#onLine(line, atMs);
  }
}
