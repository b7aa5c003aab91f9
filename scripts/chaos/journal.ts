/**
 * What the processes of a chaos run say, line by line in order of arrival, and
 * waiting for what they will say.
 *
 * @module
 */
import { createWriteStream } from "node:fs";
import type { WriteStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Running } from "./processes.ts";

export interface JournalLine {
  /** Milliseconds, by performance.now(). */
  readonly atMs: number;
  /** "coordinator", a worker's id, or "chaos". */
  readonly source: string;
  /** Without "WARN: " or "ERROR: ". */
  readonly text: string;
}

/** A line that was waited for, and what its pattern matched. */
export interface Found {
  readonly line: JournalLine;
  readonly match: RegExpExecArray;
}

export class Journal {
  readonly lines: JournalLine[] = [];
  readonly #file: WriteStream;
  readonly #watchers = new Set<() => void>();
  readonly #startMs = performance.now();
  #failure: Error | null = null;

  constructor(path: string) {
    this.#file = createWriteStream(path);
  }

  /** Where the next line will be. */
  get end(): number {
    return this.lines.length;
  }

  follow(source: string, running: Running): void {
    for (const input of [running.child.stdout, running.child.stderr]) {
      if (input === null) continue;
      createInterface({ input }).on("line", (text) => this.add(source, text));
    }
  }

  add(source: string, text: string): void {
    const atMs = performance.now();
    this.#file.write(`${((atMs - this.#startMs) / 1000).toFixed(3)} ${source}: ${text}\n`);
    this.lines.push({ atMs, source, text: text.replace(/^(WARN|ERROR): /, "") });
    this.changed();
  }

  /** Calls a function whenever there may be something new. */
  watch(watcher: () => void): void {
    this.#watchers.add(watcher);
  }

  /** Lets everyone who waits look again. */
  changed(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  /** Whoever waits, now or later, fails: the run is over too early. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.changed();
  }

  /**
   * Waits until something is there.
   *
   * @param look Returns it, or null as long as it is not there.
   * @throws {Error} If it does not come in time.
   */
  until<T>(what: string, timeoutMs: number, look: () => T | null): Promise<T> {
    return new Promise((resolve, reject) => {
      const watcher = (): void => {
        const found = look();
        if (found === null && this.#failure === null) return;
        clearTimeout(timer);
        this.#watchers.delete(watcher);
        if (found !== null) resolve(found);
        else reject(this.#failure ?? new Error(what));
      };
      const timer = setTimeout(() => {
        this.#watchers.delete(watcher);
        const last = this.lines.slice(-8).map(({ source, text }) => `  ${source}: ${text}`);
        reject(
          new Error(`Waited ${timeoutMs / 1000} s in vain for ${what}. Last lines:\n${last.join("\n")}`),
        );
      }, timeoutMs);
      this.#watchers.add(watcher);
      watcher();
    });
  }

  /** Waits for a line, from position `from` on. @throws {Error} If it does not come in time. */
  line(source: string, pattern: RegExp, from: number, timeoutMs: number): Promise<Found> {
    let next = from;
    return this.until(`"${pattern.source}" from ${source}`, timeoutMs, () => {
      for (; next < this.lines.length; next++) {
        const line = this.lines[next];
        const match = line.source === source ? pattern.exec(line.text) : null;
        if (match !== null) return { line, match };
      }
      return null;
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => this.#file.end(() => resolve()));
  }
}
