// npm test; npm run test:long; npm run test:all (more flags go to tap: npm test -- --grep=seed)
/**
 * Runs the tests that are built, and says at the end how many passed, failed and were skipped, and why. Files called
 * *.long.test.ts are the long ones, all others the quick ones.
 *
 * node dist/scripts/test.js report FILE... says the same of runs before, whose TAP was kept with --output-file=FILE.
 *
 * @module
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describeSummary, joinSummaries, summarizeTap } from "./test/summary.ts";

const TESTS = "test";
const BUILT_TESTS = "dist/test";

const isLong = (file: string): boolean => file.endsWith(".long.test.js");

/** Which files each set takes. */
const SETS: Readonly<Record<string, (file: string) => boolean>> = {
  quick: (file) => !isLong(file),
  long: isLong,
  all: () => true,
};

/** Says what the runs gave that have left these files. @returns Whether all went well. */
function report(resultFiles: readonly string[]): boolean {
  const summary = joinSummaries(resultFiles.map((file) => summarizeTap(readFileSync(file, "utf8"))));
  console.log(describeSummary(summary).join("\n"));
  return summary.numFailed === 0 && summary.numPassed > 0;
}

/** @param flags For tap; files among them are taken in place of the set. */
function runTests(isTaken: (file: string) => boolean, flags: readonly string[]): boolean {
  // By source: what a build before has left behind of a file that is gone or renamed is no test any more.
  const files = readdirSync(TESTS, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.ts"))
    .map((file) => join(BUILT_TESTS, file.replace(/\.ts$/, ".js")))
    .filter(isTaken)
    .sort();
  const isChosen = flags.some((flag) => flag.endsWith(".test.js"));
  const kept = /^--output-file=(.+)$/.exec(flags.findLast((flag) => flag.startsWith("--output-file=")) ?? "");
  const scratch = mkdtempSync(join(tmpdir(), "lockstep-test-"));
  const results = kept?.[1] ?? join(scratch, "results.tap");
  const tap = join(dirname(createRequire(import.meta.url).resolve("tap/package.json")), "dist/esm/run.mjs");
  const command = [tap, `--output-file=${results}`, ...flags, ...(isChosen ? [] : files)];
  try {
    const { status } = spawnSync(process.execPath, command, { stdio: "inherit" });
    return report([results]) && status === 0;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

const [what = "quick", ...flags] = process.argv.slice(2);
const isWell = what === "report" ? report(flags) : runTests(SETS[what] ?? SETS.quick, flags);
process.exitCode = isWell ? 0 : 1;
