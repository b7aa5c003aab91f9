// npm run bench
/**
 * Measures Lockstep beside PyTorch, on one machine in one run, and writes
 * tables and JSON. LOG.md in bench/ keeps what was measured before.
 *
 * @module
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { describeError, UsageError } from "../shared/errors.ts";
import { allReduce } from "./bench/all-reduce.ts";
import { checkpointCost } from "./bench/checkpoint-cost.ts";
import { gemm } from "./bench/gemm.ts";
import { keyCost } from "./bench/key-cost.ts";
import { describeSurroundings, surroundings } from "./bench/machine.ts";
import { memory } from "./bench/memory.ts";
import { BENCH_OPTIONS, measuring } from "./bench/options.ts";
import { findPeer, NO_PEER, NO_PEER_CELL } from "./bench/peer.ts";
import { profileWorker } from "./bench/profile.ts";
import type { BenchOptions, Section, SectionReport } from "./bench/section.ts";
import { stepTime } from "./bench/step-time.ts";
import { markdownOf } from "./bench/table.ts";
import { oneWorker, twoWorkers } from "./bench/throughput.ts";
import { versus } from "./bench/versus.ts";
import { PLAIN_PARSING, plainWords } from "./plain-words.ts";
import { columnsOf } from "../shared/text.ts";

const SECTIONS: Readonly<Record<string, Section>> = {
  a: oneWorker,
  b: twoWorkers,
  c: allReduce,
  d: gemm,
  e: stepTime,
  f: memory,
  g: checkpointCost,
  h: versus,
  i: keyCost,
};

/** Sections that take long, and are measured only on demand. */
const ON_DEMAND = ["f", "g", "i"];

const parser = yargs()
  .scriptName("npm run bench --")
  .usage(
    "$0 [flags]\n\nMeasures Lockstep beside PyTorch on this machine:\n  a  one worker and PyTorch on one thread\n  b  two workers and DistributedDataParallel over gloo\n  c  all-reduce and gloo\n  d  matrix products and torch.mm\n  e  where the time of a step goes\n  f  resident memory of the workers (on demand)\n  g  what checkpoints cost (on demand)\n  h  another version of Lockstep (with --versus)\n  i  what a key costs (on demand)",
  )
  .options(BENCH_OPTIONS)
  .example("$0 --quick", "A first look")
  .example("$0 --only a,b --data-dir ~/mnist", "The whole product, on MNIST")
  .example("$0 --profile", "Where a worker spends its time")
  .parserConfiguration(PLAIN_PARSING)
  .strict()
  .version(false)
  .help()
  .alias("help", "h")
  .wrap(Math.min(110, columnsOf(process.stdout, 110)))
  .exitProcess(false)
  .fail((message, error) => {
    throw error ?? new UsageError(`${message}\nSee npm run bench -- --help`);
  });

const scratchDir = mkdtempSync(join(tmpdir(), "lockstep-bench-"));
process.once("SIGINT", () => process.exit(130));
process.once("exit", () => rmSync(scratchDir, { recursive: true, force: true }));

try {
  const flags = await parser.parseAsync(plainWords(hideBin(process.argv), BENCH_OPTIONS));
  if (flags.help !== true) await bench(flags);
} catch (error) {
  console.error(`bench: ${error instanceof UsageError ? error.message : describeError(error)}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

type Flags = Awaited<ReturnType<typeof parser.parseAsync>>;

async function bench(flags: Flags): Promise<void> {
  const asked = measuring(flags);
  const names = wantedSections(flags);
  const peer = flags.peer ? await findPeer(flags.python ?? null) : null;
  const about = surroundings(peer?.version ?? null);
  console.log(`${describeSurroundings(about)}\n`);
  const absence = flags.peer ? NO_PEER : "PyTorch is not measured, as --no-peer asks.";
  const options: Omit<BenchOptions, "progress"> = { ...asked, peer, scratchDir };
  const out = flags.out ?? join("runs", "bench", `${about.date.replaceAll(":", "")}.json`);
  if (flags.profile === true) {
    const progress = (): void => undefined;
    console.log(await profileWorker({ ...options, progress }, dirname(out)));
    return;
  }
  const sections: Record<string, SectionReport> = {};
  for (const name of names) {
    const progress = (text: string): void => console.error(`(${name}) ${text}`);
    const report = noting(absence, await SECTIONS[name]({ ...options, progress }));
    sections[name] = report;
    console.log(`\n${markdownOf(report)}\n`);
    // After each section, so that an interrupted run leaves what it has.
    mkdirSync(dirname(out), { recursive: true });
    writeFileSync(out, `${JSON.stringify({ about, measuring: asked, sections }, null, 2)}\n`);
  }
  console.log(`Written to ${out}`);
}

/** Says why the peer's columns are empty, if they are. */
function noting(absence: string, report: SectionReport): SectionReport {
  const empty = report.rows.some(({ cells }) => cells.includes(NO_PEER_CELL));
  return empty ? { ...report, notes: [...report.notes, absence] } : report;
}

function wantedSections({ only, all, versus: other }: Flags): readonly string[] {
  if (only === undefined) {
    return Object.keys(SECTIONS).filter((name) =>
      name === "h" ? other !== undefined : all === true || !ON_DEMAND.includes(name),
    );
  }
  const names = only.split(",").map((name) => name.trim());
  for (const name of names) {
    if (name in SECTIONS) continue;
    throw new UsageError(
      `Cannot use --only as sections are ${Object.keys(SECTIONS).join(", ")}: got "${name}"`,
    );
  }
  return names;
}
