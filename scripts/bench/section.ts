/**
 * A section of the benchmark: what it is asked for, and what it gives back.
 *
 * @module
 */
import type { EngineName } from "../../shared/config.ts";
import type { Peer } from "./peer.ts";
import type { Summary } from "./statistics.ts";

export interface BenchOptions {
  readonly engine: EngineName;
  readonly rounds: number;
  /** Steps of a block; its duration is measured. */
  readonly stepsPerBlock: number;
  /** Blocks of a run. */
  readonly blocks: number;
  /** Steps before the first block. */
  readonly warmupSteps: number;
  /** Images per step and worker. */
  readonly batchSizes: readonly number[];
  /** Sums of a round of the all-reduce, and repetitions of a matrix product. */
  readonly repetitions: number;
  readonly memorySteps: number;
  /** Folder with MNIST, or null for synthetic digits (and random pixels for the peer). */
  readonly dataDir: string | null;
  /** Folder of another version, built, or null. */
  readonly versus: string | null;
  /** PyTorch, or null where there is none. */
  readonly peer: Peer | null;
  /** Folder for what is thrown away afterwards. */
  readonly scratchDir: string;
  /** Says what happens now. */
  readonly progress: (text: string) => void;
}

/** One line of a section's table: its name, then a cell for each column. */
export interface Row {
  readonly name: string;
  readonly cells: readonly Cell[];
}

/** A measured value, words, or null where nothing was measured. */
export type Cell = Summary | number | string | null;

export interface SectionReport {
  readonly title: string;
  /** How it was measured, and what the numbers do not say. */
  readonly notes: readonly string[];
  /** Names of the columns, that of the rows' names first. */
  readonly columns: readonly string[];
  readonly rows: readonly Row[];
}

export type Section = (options: BenchOptions) => Promise<SectionReport>;
