#!/usr/bin/env node
// node dist/scripts/lockstep.js --help
/**
 * The command line, which is loaded only here: that itself may fail, where a process may open few files.
 *
 * @module
 */
import { signals } from "./commands/signals.ts";
import { failureOf } from "./failure.ts";

/** Open files with which everything loads and trains. */
const ENOUGH_FILES = 128;

signals.install();

try {
  await import("./command-line.ts");
} catch (error) {
  const limit = filesLimit();
  const isShort = limit < ENOUGH_FILES && ["EMFILE", "ERR_MODULE_NOT_FOUND"].includes(codeOf(error));
  const { text, exitCode } = isShort
    ? {
        text: `Cannot load as this process may open too few files: got a limit of ${limit}; raise it (ulimit -n 4096)`,
        exitCode: 1,
      }
    : failureOf(error, [], {});
  console.error(`lockstep: ${text}`);
  process.exit(exitCode);
}

/** How many files this process may open; infinite where the runtime does not tell. */
function filesLimit(): number {
  const report = process.report?.getReport() as
    { readonly userLimits?: { readonly open_files?: { readonly soft: unknown } } } | undefined;
  const soft = Number(report?.userLimits?.open_files?.soft);
  return Number.isNaN(soft) ? Infinity : soft;
}

/** Node takes a module that it cannot open for one that is missing. */
function codeOf(error: unknown): string {
  return String((error as NodeJS.ErrnoException).code);
}
