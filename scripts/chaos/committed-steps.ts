/**
 * Follows metrics.jsonl of a run for the steps that are committed, also across
 * resumes, rewinds, which cut it, and folders that are made anew.
 *
 * @module
 */
import { statSync } from "node:fs";
import { AppendedLines } from "../bench/appended-lines.ts";

const LOOK_MS = 5;

export class CommittedSteps {
  readonly #path: string;
  readonly #onStep: (globalStep: number, atMs: number) => void;
  readonly #timer: NodeJS.Timeout;
  #lines: AppendedLines | null = null;

  /** @param onStep Told of each step when its line is there; after a rewind, of steps that it knows already. */
  constructor(path: string, onStep: (globalStep: number, atMs: number) => void) {
    this.#path = path;
    this.#onStep = onStep;
    this.#timer = setInterval(() => this.look(), LOOK_MS);
  }

  /** Reads what is there now. */
  look(): void {
    const inode = statSync(this.#path, { throwIfNoEntry: false })?.ino ?? null;
    if (inode !== null && (inode !== this.#lines?.inode || this.#lines.isCut())) this.#open();
    for (const line of this.#lines?.read() ?? []) {
      const { globalStep } = JSON.parse(line) as { readonly globalStep: number };
      this.#onStep(globalStep, performance.now());
    }
  }

  close(): void {
    clearInterval(this.#timer);
    this.#lines?.close();
    this.#lines = null;
  }

  #open(): void {
    const isFirst = this.#lines === null;
    this.#lines?.close();
    this.#lines = new AppendedLines(this.#path);
    // What is left of it after the cut is no news.
    if (!isFirst) this.#lines.read();
  }
}
