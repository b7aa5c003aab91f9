/**
 * What a run of the tests says at its end: how many passed, failed and were skipped, which failed, and why some were
 * skipped. It is read from the TAP that tap writes, so that it does not depend on what tap shows.
 *
 * @module
 */

export interface TestSummary {
  readonly numPassed: number;
  readonly numFailed: number;
  readonly numSkipped: number;
  /** Names of what failed, each behind the names of the tests that hold it. */
  readonly failures: readonly string[];
  /** How many were skipped for which reason. */
  readonly skips: ReadonlyMap<string, number>;
}

/** A line of TAP that reports a test: indented by four spaces for each test that holds it. */
const TEST_POINT = /^( *)(not )?ok \d+ - (.*?)(?: # (SKIP|TODO)\b ?(.*))?(?: # time=[\d.]+m?s)?(?: \{)?$/;

/** The comment with tap's counts of assertions; zero counts are left out. */
const COUNTS = /^# \{ total: \d+.*\}$/;

/** @param tap Whole output in the format TAP 14, as tap writes it to its `--output-file`. */
export function summarizeTap(tap: string): TestSummary {
  const skips = new Map<string, number>();
  const failures: string[] = [];
  /** Names of the tests that are open, by depth. */
  const open: string[] = [];
  /** The depth of the test that ended last: one that is less deep holds it. */
  let lastDepth = 0;
  let counts = "";
  /** Indentation of the diagnostics that are being read, which may quote anything. */
  let diagnostics: string | null = null;
  for (const line of tap.split("\n")) {
    if (diagnostics !== null) {
      if (line === `${diagnostics}...`) diagnostics = null;
      continue;
    }
    if (/^ +---$/.test(line)) {
      diagnostics = line.slice(0, -3);
      continue;
    }
    if (COUNTS.test(line)) counts = line;
    const subtest = /^( *)# Subtest: (.*)$/.exec(line);
    if (subtest !== null) open[subtest[1].length / 4] = subtest[2];
    const point = TEST_POINT.exec(line);
    if (point === null) continue;
    const [, indent, isFailure, name, directive, reason] = point;
    const depth = indent.length / 4;
    const holdsOthers = lastDepth > depth;
    lastDepth = depth;
    if (directive === "SKIP") {
      const why = reason.trim() || "no reason given";
      skips.set(why, (skips.get(why) ?? 0) + 1);
    } else if (isFailure !== undefined && directive === undefined && !holdsOthers) {
      failures.push([...open.slice(0, depth), name].join(" > "));
    }
  }
  const count = (kind: string): number => Number(new RegExp(`\\b${kind}: (\\d+)`).exec(counts)?.[1] ?? 0);
  return { numPassed: count("pass"), numFailed: count("fail"), numSkipped: count("skip"), failures, skips };
}

/** One summary of several runs. */
export function joinSummaries(summaries: readonly TestSummary[]): TestSummary {
  const skips = new Map<string, number>();
  for (const [reason, count] of summaries.flatMap((summary) => [...summary.skips])) {
    skips.set(reason, (skips.get(reason) ?? 0) + count);
  }
  const sum = (numberOf: (summary: TestSummary) => number): number =>
    summaries.reduce((total, summary) => total + numberOf(summary), 0);
  return {
    numPassed: sum(({ numPassed }) => numPassed),
    numFailed: sum(({ numFailed }) => numFailed),
    numSkipped: sum(({ numSkipped }) => numSkipped),
    failures: summaries.flatMap(({ failures }) => failures),
    skips,
  };
}

/** Lines for people; the last one holds the counts. */
export function describeSummary({
  numPassed,
  numFailed,
  numSkipped,
  failures,
  skips,
}: TestSummary): readonly string[] {
  return [
    ...failures.map((name) => `failed: ${name}`),
    ...[...skips]
      .sort(([one], [other]) => (one < other ? -1 : 1))
      .map(([reason, count]) => `${count} skipped: ${reason}`),
    ...(numPassed + numFailed === 0 ? ["no test was executed"] : []),
    `${numPassed} passed, ${numFailed} failed, ${numSkipped} skipped`,
  ];
}
