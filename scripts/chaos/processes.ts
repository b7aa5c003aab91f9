/**
 * Starts the real command line in real processes, and looks at what it leaves.
 *
 * @module
 */
import type { ChildProcess, SpawnOptions } from "node:child_process";
import { execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { linesOf } from "../../shared/lines-of.ts";

export const CLI = fileURLToPath(new URL("../lockstep.js", import.meta.url));

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Standard output and error, in order of arrival. */
  readonly output: string;
}

export class Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  output = "";
  isEnded = false;
  readonly #watchers = new Set<() => void>();

  constructor(command: string, args: readonly string[], options: SpawnOptions = {}) {
    this.child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output += text;
        for (const watcher of this.#watchers) watcher();
      });
    }
    this.finished = new Promise((resolve) =>
      this.child.once("close", (code, signal) => {
        this.isEnded = true;
        resolve({ code, signal, output: this.output });
        for (const watcher of this.#watchers) watcher();
      }),
    );
  }

  /** Resolves when the output matches. @throws {Error} If the process ends before. */
  async until(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.output);
      if (match !== null) return match;
      if (this.isEnded) throw new Error(`Ended before ${String(pattern)}:\n${this.output}`);
      await new Promise<void>((resolve) => {
        const watcher = (): void => {
          this.#watchers.delete(watcher);
          resolve();
        };
        this.#watchers.add(watcher);
      });
    }
  }
}

export function start(args: readonly string[], options: SpawnOptions = {}): Running {
  return new Running(process.execPath, [CLI, ...args], options);
}

export function run(args: readonly string[], options: SpawnOptions = {}): Promise<Finished> {
  return start(args, options).finished;
}

export interface Inspected {
  readonly globalStep: number;
  readonly networks: Readonly<Record<"generator" | "discriminator", { readonly parametersSha256: string }>>;
  readonly checkpoints: readonly { readonly globalStep: number; readonly damage: string | null }[];
}

export function inspect(runDir: string): Inspected {
  return JSON.parse(
    execFileSync(process.execPath, [CLI, "inspect", runDir, "--json"], { encoding: "utf8" }),
  ) as Inspected;
}

/** Step and parameter hashes: what "the same bits" means. */
export function bits(runDir: string): string {
  const { globalStep, networks } = inspect(runDir);
  return `${globalStep} ${networks.generator.parametersSha256} ${networks.discriminator.parametersSha256}`;
}

export interface MetricsLine {
  readonly globalStep: number;
  readonly workers: Readonly<Record<string, unknown>>;
  readonly [name: string]: unknown;
}

export function metricsOf(runDir: string): readonly MetricsLine[] {
  return Array.from(linesOf(join(runDir, "metrics.jsonl")), (line) => JSON.parse(line) as MetricsLine);
}

/** Bits of the parameters, and the lines of metrics without what depends on speed: equal for equal runs. */
export function traceLines(runDir: string): readonly string[] {
  const lines = metricsOf(runDir).map(({ workers: _workers, imagesPerSecond: _speed, ...line }) =>
    JSON.stringify(line),
  );
  return [bits(runDir), ...lines];
}

/** The same of a short run, as one text. */
export function traceOf(runDir: string): string {
  return traceLines(runDir).join("\n");
}

/** Ids of living processes whose command line contains the text. */
export function processesWith(text: string): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").includes(text);
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Waits until no process has the text in its command line, but not for ever. @returns Those that remain. */
export async function goneProcesses(text: string, timeoutMs = 10_000): Promise<readonly number[]> {
  for (let i = 0; i < timeoutMs / 100; i++) {
    if (processesWith(text).length === 0) return [];
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return processesWith(text);
}
