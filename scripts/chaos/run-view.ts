/**
 * What a chaos run knows of the training under way, from the coordinator's
 * lines and the committed steps; it also checks that no committed step is lost
 * while one replica lives.
 *
 * @module
 */
import { join } from "node:path";
import { CommittedSteps } from "./committed-steps.ts";
import type { Journal, JournalLine } from "./journal.ts";

const JOINED = /^Worker "([^"]+)" joined \(pid (\d+) on /;
const LOST = /Lost worker "([^"]+)" \((?:rank \d+, )?pid (\d+) on /g;
const LEAVES = /^("[^:]*) (?:leaves|leave): scaled to \d+ workers/;
const TOLD = /^("[^:]*): told to leave, let go after step \d+/;
const GENERATION = /^Generation (\d+): (\d+) workers hold the same state .* at step (\d+)/;
const GOING_BACK = /^Every worker that held the state is gone: going back \d+ steps to (.*)/;

export interface Generation {
  readonly generation: number;
  readonly worldSize: number;
  readonly startStep: number;
  readonly atMs: number;
  /** Position of its line in the journal. */
  readonly index: number;
}

export class RunView {
  readonly #journal: Journal;
  readonly #committed: CommittedSteps;
  readonly #workers = new Map<string, number>();
  /** Workers that hold the newest committed state, as far as one can tell from outside. */
  #holders = new Set<string>();
  #numRead = 0;
  #isReading = false;
  #floor = 0;
  #mayGoBack = false;
  /** The newest generation that trains. Null until one does, and from a loss or a join until the next. */
  generation: Generation | null = null;
  readonly generations: Generation[] = [];
  readonly steps: { readonly globalStep: number; readonly atMs: number }[] = [];
  /** What must never happen, and did. */
  readonly violations: string[] = [];
  /** How often all replicas were gone and the run went back to what was on disk. */
  numGoneBack = 0;

  constructor(journal: Journal, runDir: string) {
    this.#journal = journal;
    this.#committed = new CommittedSteps(join(runDir, "metrics.jsonl"), (globalStep, atMs) => {
      this.steps.push({ globalStep, atMs });
      this.#floor = Math.max(this.#floor, globalStep);
      journal.changed();
    });
    journal.watch(() => this.#read());
  }

  /** Steps committed for good. */
  get globalStep(): number {
    return this.#floor;
  }

  /** Ids and process ids of the workers that the coordinator knows, sorted by id. */
  get workers(): readonly (readonly [id: string, pid: number])[] {
    return [...this.#workers].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  /** The coordinator is another process from now on, and knows nobody. */
  coordinatorGone(): void {
    this.#workers.clear();
    this.generation = null;
  }

  /** Resolves when the first step after a generation's start that came after a line of the journal is committed. */
  async stepAfterGeneration(from: number, timeoutMs: number): Promise<{ globalStep: number; atMs: number }> {
    const generation = await this.#journal.until("the next generation", timeoutMs, () => {
      return this.generations.find(({ index }) => index >= from) ?? null;
    });
    return this.stepAfter(generation.atMs, timeoutMs);
  }

  /** Resolves when a step is committed after a time. */
  stepAfter(afterMs: number, timeoutMs: number): Promise<{ globalStep: number; atMs: number }> {
    return this.#journal.until("the next committed step", timeoutMs, () => {
      const last = this.steps.at(-1);
      return last !== undefined && last.atMs > afterMs
        ? (this.steps.find(({ atMs }) => atMs > afterMs) ?? null)
        : null;
    });
  }

  /** Resolves when so many workers train together and have committed a step. */
  async fullStrength(wanted: () => number, timeoutMs: number): Promise<void> {
    await this.#journal.until("all workers in training", timeoutMs, () => {
      const { generation } = this;
      const worldSize = wanted();
      if (generation?.worldSize !== worldSize || this.#workers.size !== worldSize) return null;
      return (this.steps.at(-1)?.atMs ?? 0) > generation.atMs ? true : null;
    });
  }

  close(): void {
    this.#committed.look();
    this.#committed.close();
    this.#read();
  }

  #read(): void {
    // Reading a line looks for steps, which lets everyone look again.
    if (this.#isReading) return;
    this.#isReading = true;
    for (; this.#numRead < this.#journal.lines.length; this.#numRead++) {
      const line = this.#journal.lines[this.#numRead];
      if (line.source === "coordinator") this.#readLine(line, this.#numRead);
    }
    this.#isReading = false;
  }

  #readLine({ text, atMs }: JournalLine, index: number): void {
    const joined = JOINED.exec(text);
    if (joined !== null) {
      this.#workers.set(joined[1], Number(joined[2]));
      this.generation = null;
    }
    for (const [, id] of text.matchAll(LOST)) {
      this.#workers.delete(id);
      this.#holders.delete(id);
      this.generation = null;
    }
    const leaves = LEAVES.exec(text) ?? TOLD.exec(text);
    for (const [, id] of leaves?.[1].matchAll(/"([^"]+)"/g) ?? []) {
      this.#workers.delete(id);
      this.#holders.delete(id);
      this.generation = null;
    }
    if (GOING_BACK.test(text)) {
      if (this.#holders.size > 0) {
        this.violations.push(`Went back although ${[...this.#holders].join(", ")} held the state: ${text}`);
      }
      this.numGoneBack += 1;
      this.#mayGoBack = true;
    }
    const began = GENERATION.exec(text);
    if (began !== null) this.#began(began, atMs, index);
  }

  #began(match: RegExpExecArray, atMs: number, index: number): void {
    const [generation, worldSize, startStep] = match.slice(1, 4).map(Number);
    if (!this.#mayGoBack) {
      // What is committed may stand in the file before this line was read.
      this.#committed.look();
      if (startStep < this.#floor) {
        this.violations.push(
          `Lost committed steps: generation ${generation} begins at step ${startStep} after ${this.#floor}`,
        );
      }
    }
    this.#mayGoBack = false;
    this.#floor = startStep;
    this.#holders = new Set(this.#workers.keys());
    this.generation = { generation, worldSize, startStep, atMs, index };
    this.generations.push(this.generation);
  }
}
