/**
 * What a run tells its user: log lines, workers' output, progress. Lines also
 * go to the run's log file, so that nothing is lost when a terminal is.
 *
 * @module
 */
import { clearLine, cursorTo } from "node:readline";
import type { StepMetrics } from "../shared/protocol.ts";
import { columnsOf, plainLine } from "../shared/text.ts";
import type { MayWrite } from "./line-file.ts";
import { LineFile } from "./line-file.ts";

export type LogFormat = "text" | "json";
export type LogLevel = "info" | "warn" | "error";

export interface Progress {
  readonly globalStep: number;
  readonly endStep: number;
  /** Passes over the data so far, with fraction. */
  readonly epoch: number;
  readonly numEpochs: number;
  readonly metrics: StepMetrics;
  readonly imagesPerSecond: number;
  readonly secondsLeft: number;
}

/** Milliseconds between two progress lines where there is no terminal. */
const LINE_INTERVAL_MS = 5000;
/** Milliseconds between two drawings of the bar. */
const BAR_INTERVAL_MS = 100;
const BAR_WIDTH = 20;
/** Columns below which there is no bar, as the numbers say more. */
const NARROW = 60;
/** Columns below which only the percentage is shown. */
const VERY_NARROW = 20;

export class Reporter {
  readonly #format: LogFormat;
  readonly #out: NodeJS.WriteStream;
  readonly #now: () => number;
  #file: LineFile | null = null;
  #bar: string | null = null;
  #shownMs = -Infinity;

  constructor(
    format: LogFormat,
    out: NodeJS.WriteStream = process.stdout,
    now: () => number = () => performance.now(),
  ) {
    this.#format = format;
    this.#out = out;
    this.#now = now;
    // A closed pipe must not end a run; the log file has every line.
    out.on("error", () => undefined);
  }

  /** Copies every line to a file, appending. */
  openFile(path: string, mayWrite: MayWrite): void {
    this.#file = new LineFile(path, mayWrite, (text) => this.log("warn", text));
  }

  log(level: LogLevel, text: string): void {
    if (this.#format === "json") this.#line(JSON.stringify({ time: new Date().toISOString(), level, text }));
    else this.#line(level === "info" ? text : `${level.toUpperCase()}: ${text}`);
  }

  /** One line that a worker printed. */
  worker(workerId: string, line: string): void {
    const text = plainLine(line);
    if (this.#format === "json")
      this.#line(JSON.stringify({ time: new Date().toISOString(), worker: workerId, text }));
    else this.#line(`[${workerId}] ${text}`);
  }

  progress(progress: Progress): void {
    const nowMs = this.#now();
    const { globalStep, endStep } = progress;
    if (this.#format === "text" && this.#out.isTTY) {
      if (nowMs - this.#shownMs < BAR_INTERVAL_MS && globalStep < endStep) return;
      this.#shownMs = nowMs;
      this.#bar = barOf(progress, columnsOf(this.#out));
      this.#drawBar();
      return;
    }
    if (nowMs - this.#shownMs < LINE_INTERVAL_MS && globalStep < endStep) return;
    this.#shownMs = nowMs;
    if (this.#format === "json") {
      this.#line(
        JSON.stringify({ time: new Date().toISOString(), level: "info", event: "progress", ...progress }),
      );
    } else {
      this.#line(textOf(progress));
    }
  }

  /** Ends the bar's line and the file. */
  async close(): Promise<void> {
    if (this.#bar !== null) this.#out.write("\n");
    this.#bar = null;
    const file = this.#file;
    this.#file = null;
    await file?.close();
  }

  #line(line: string): void {
    if (this.#bar !== null) {
      clearLine(this.#out, 0);
      cursorTo(this.#out, 0);
    }
    this.#out.write(`${line}\n`);
    this.#file?.append(line);
    if (this.#bar !== null) this.#drawBar();
  }

  #drawBar(): void {
    cursorTo(this.#out, 0);
    this.#out.write(this.#bar ?? "");
    clearLine(this.#out, 1);
  }
}

function textOf(progress: Progress): string {
  const { globalStep, endStep, epoch, numEpochs, metrics, imagesPerSecond, secondsLeft } = progress;
  return [
    `step ${globalStep}/${endStep}`,
    `epoch ${epoch.toFixed(2)}/${numEpochs.toFixed(2)}`,
    `D ${metrics.discriminatorLoss.toFixed(3)}`,
    `G ${metrics.generatorLoss.toFixed(3)}`,
    `D(x) ${metrics.realProbability.toFixed(2)}`,
    `D(G(z)) ${metrics.fakeProbability.toFixed(2)}`,
    `${imagesPerSecond.toFixed(0)} img/s`,
    `${formatSeconds(secondsLeft)} left`,
  ].join("  ");
}

/** One line of a terminal: never so long that it is broken into two, which could not be drawn over. */
function barOf(progress: Progress, columns: number): string {
  const { globalStep, endStep } = progress;
  const share = globalStep / Math.max(1, endStep);
  const filled = Math.round(BAR_WIDTH * share);
  const bar = columns < NARROW ? "" : `[${"#".repeat(filled)}${"-".repeat(BAR_WIDTH - filled)}] `;
  const text = columns < VERY_NARROW ? `${Math.floor(100 * share)}%` : textOf(progress);
  return `${bar}${text}`.slice(0, Math.max(1, columns - 1));
}

/** Seconds as "1h02m", "3m07s" or "12s". */
export function formatSeconds(seconds: number): string {
  const s = Math.round(seconds);
  if (s >= 3600) return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  return s >= 60 ? `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s` : `${s}s`;
}
