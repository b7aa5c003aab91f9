/**
 * A file of lines that only grows: metrics, and the log. Whatever the disk
 * does, the process goes on: lines that cannot be written are kept, and
 * written before the next one. The file is opened anew for every write, so
 * that a folder which was deleted, or is another's by now, is noticed.
 *
 * @module
 */
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError } from "../shared/errors.ts";
import { syncDirectory, syncFile } from "./durable-file.ts";

/** Lines that are kept at most, in bytes: some hundred thousand steps. */
const MAX_KEPT_BYTES = 64 * 2 ** 20;
/** Pauses before the last tries, in milliseconds. */
const LAST_RETRIES_MS = [0, 200, 800];

interface Line {
  readonly bytes: Buffer;
  readonly onWritten: () => void;
}

/** A change of the file's contents, between the lines before and after it. */
type Edit = () => Promise<void>;

/**
 * Asked before every write: whether the file's folder is there, and this process's to write to. Once false it stays so.
 * It may throw where that cannot be found out now.
 */
export type MayWrite = () => Promise<boolean>;

export class LineFile {
  readonly #path: string;
  readonly #mayWrite: MayWrite;
  readonly #onProblem: (text: string) => void;
  /** What is not in the file, or not whole, oldest first. */
  #kept: (Line | Edit)[] = [];
  #keptBytes = 0;
  /** Bytes of the oldest of them that are in the file: a disk that fills up takes a part of a line. */
  #numTorn = 0;
  #numLost = 0;
  /** What went wrong last, so that it is said once. */
  #problem: string | null = null;
  #writing: Promise<void> | null = null;

  /** @param onProblem Told once when lines cannot be written, and once when they can be again. */
  constructor(path: string, mayWrite: MayWrite, onProblem: (text: string) => void) {
    this.#path = path;
    this.#mayWrite = mayWrite;
    this.#onProblem = onProblem;
  }

  /** Adds a line. Never throws. @param onWritten Told when it is in the file. */
  append(line: string, onWritten: () => void = () => undefined): void {
    const bytes = Buffer.from(`${line}\n`);
    if (this.#keptBytes + bytes.byteLength > MAX_KEPT_BYTES) {
      this.#numLost += 1;
      return;
    }
    this.#kept.push({ bytes, onWritten });
    this.#keptBytes += bytes.byteLength;
    this.#writing ??= this.#drain();
  }

  /**
   * Changes the file once all lines so far are in it; later ones wait. Never throws.
   *
   * @param edit Also removes a torn last line. Tried again before the next line if it throws.
   */
  change(edit: Edit): void {
    this.#kept.push(edit);
    this.#writing ??= this.#drain();
  }

  /** Resolves when all is written that can be. */
  async flush(): Promise<void> {
    while (this.#writing !== null) await this.#writing;
  }

  /** Brings the lines so far to the medium, as far as they can be written at all: what counts on them is written next. */
  async sync(): Promise<void> {
    await this.flush();
    try {
      await syncFile(this.#path);
      await syncDirectory(dirname(this.#path));
    } catch (error) {
      // A file that cannot be written was told of, and there is none before the first line.
      if (this.#problem === null && (error as NodeJS.ErrnoException).code !== "ENOENT") {
        this.#onProblem(`Cannot sync ${this.#path}: ${describeError(error)}`);
      }
    }
  }

  /** Tries for the last time, and says what is lost. */
  async close(): Promise<void> {
    await this.flush();
    for (const delayMs of LAST_RETRIES_MS) {
      if (this.#kept.length === 0) return;
      await sleep(delayMs);
      this.#writing ??= this.#drain();
      await this.flush();
    }
    if (this.#kept.length === 0) return;
    const numLost = this.#kept.filter((entry) => typeof entry !== "function").length + this.#numLost;
    this.#onProblem(`The last ${numLost} lines for ${this.#path} are lost: ${this.#problem}`);
  }

  async #drain(): Promise<void> {
    try {
      while (this.#kept.length > 0) {
        if (!(await this.#mayWrite())) this.#forget();
        const next = this.#kept.at(0);
        if (next === undefined) break;
        if (typeof next === "function") {
          await next();
          this.#kept.shift();
          this.#numTorn = 0;
        } else await this.#write();
      }
      if (this.#problem !== null) {
        this.#problem = null;
        const lost = this.#numLost === 0 ? "no line is lost" : `${this.#numLost} lines are lost`;
        this.#onProblem(`${this.#path} can be written again; ${lost}`);
      }
      this.#numLost = 0;
    } catch (error) {
      const problem = describeError(error);
      if (problem !== this.#problem) {
        this.#problem = problem;
        this.#onProblem(`Cannot write ${this.#path}: ${problem}. Its lines are kept until it can be written`);
      }
    } finally {
      this.#writing = null;
    }
  }

  /** The folder is another's: what it has not got from here, nobody misses. */
  #forget(): void {
    this.#kept = [];
    this.#keptBytes = 0;
  }

  /** Writes the lines up to the next edit. */
  async #write(): Promise<void> {
    const end = this.#kept.findIndex((entry) => typeof entry === "function");
    const lines = this.#kept.slice(0, end < 0 ? undefined : end) as Line[];
    const file = await open(this.#path, "a");
    try {
      const bytes = Buffer.concat(lines.map((line) => line.bytes)).subarray(this.#numTorn);
      const { bytesWritten } = await file.write(bytes);
      this.#numTorn += bytesWritten;
    } finally {
      await file.close();
    }
    for (const { bytes, onWritten } of lines) {
      if (this.#numTorn < bytes.byteLength) break;
      this.#numTorn -= bytes.byteLength;
      this.#keptBytes -= bytes.byteLength;
      this.#kept.shift();
      onWritten();
    }
  }
}
