/**
 * How a command ends that could not do what it was asked for: one line for what a user can mend, a stack for the rest.
 *
 * @module
 */
import { resolve, sep } from "node:path";
import { CheckpointError, DatasetError, describeError, RunLostError, UsageError } from "../shared/errors.ts";
import { explainError, isSystemError } from "../shared/system-errors.ts";
import { PACKAGE_VERSION } from "../shared/version.ts";
import type { Flags } from "./plain-words.ts";

/** Besides wrong usage: their messages are for users. */
const EXPECTED = [DatasetError, CheckpointError, RunLostError] as const;

export interface Failure {
  /** For standard error. */
  readonly text: string;
  readonly exitCode: number;
}

/**
 * @param words What was typed, made plain.
 * @param flags Those that the command knows.
 */
export function failureOf(error: unknown, words: readonly string[], flags: Flags): Failure {
  if (error instanceof UsageError) return { text: describeError(error), exitCode: 2 };
  if (EXPECTED.some((type) => error instanceof type)) return { text: describeError(error), exitCode: 1 };
  if (isSystemError(error)) {
    const given = error.path === undefined ? null : flagOf(error.path, words, flags);
    return { text: `${given === null ? "" : `Cannot use ${given}: `}${explainError(error)}`, exitCode: 1 };
  }
  const where = `lockstep ${PACKAGE_VERSION}, node ${process.versions.node}, ${process.platform} ${process.arch}`;
  const stack = error instanceof Error ? (error.stack ?? String(error)) : String(error);
  return {
    text: `${stack}\nThis is a fault of lockstep itself: please report it to its maintainers, with these lines (${where})`,
    exitCode: 1,
  };
}

/** The flag, typed or by default, below whose value a path lies. */
function flagOf(path: string, words: readonly string[], flags: Flags): string | null {
  const holds = (value: string): boolean => `${resolve(path)}${sep}`.startsWith(`${resolve(value)}${sep}`);
  for (const [name, option] of Object.entries(flags)) {
    if (option.type !== "string") continue;
    const typed = words.filter((word) => word.startsWith(`--${name}=`)).at(-1);
    const value = typed?.slice(`--${name}=`.length) ?? (option.default as string | undefined);
    if (value !== undefined && holds(value)) return `--${name} ${value}`;
  }
  // Where runs are unless told.
  return Object.hasOwn(flags, "run-dir") && holds("runs") ? `runs (for another folder: --run-dir)` : null;
}
