// npm run chaos -- --minutes 5 --seed 1
/**
 * Real training under random faults, from a seed. Every fault must prove that
 * it fired; at the end parameters and metrics must equal, bit for bit, those
 * of a run without faults. See docs/reliability.md.
 *
 * @module
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { describeError, UsageError } from "../shared/errors.ts";
import { describeSurroundings, surroundings } from "./bench/machine.ts";
import type { ChaosReport } from "./chaos/chaos-run.ts";
import { chaosRun } from "./chaos/chaos-run.ts";
import { chaosTable, summarizeKinds } from "./chaos/chaos-table.ts";
import type { ClusterName } from "./chaos/cluster.ts";
import { CLUSTERS } from "./chaos/cluster.ts";
import { CHAOS_OPTIONS } from "./chaos/options.ts";
import type { FaultKind, FaultKindInfo } from "./chaos/plan.ts";
import { whyNoSmallDisk } from "./chaos/small-disk.ts";
import { FAULT_KIND_NAMES, FAULT_KINDS } from "./chaos/plan.ts";
import { whyNoNamespaces } from "./simulate/emulated-network.ts";
import { PLAIN_PARSING, plainWords } from "./plain-words.ts";
import { columnsOf } from "../shared/text.ts";

const DEFAULT_MINUTES = 5;
const RECOVERY_KILLS = 12;
const RECOVERY_PARTITIONS = 6;

const parser = yargs()
  .scriptName("npm run chaos --")
  .usage("$0 [flags]\n\nTrains in real processes under random faults, and compares with a calm run.")
  .options(CHAOS_OPTIONS)
  .parserConfiguration(PLAIN_PARSING)
  .strict()
  .version(false)
  .help()
  .wrap(Math.min(110, columnsOf(process.stdout, 110)))
  .exitProcess(false)
  .fail((message, error) => {
    throw error ?? new UsageError(`${message}\nSee npm run chaos -- --help`);
  });

type Flags = Awaited<ReturnType<typeof parser.parseAsync>>;

/** What is run under faults: a part of a command's work. */
interface Part {
  readonly name: string;
  readonly cluster: ClusterName;
  readonly workers: number;
  readonly kinds: readonly FaultKind[];
  readonly maxFaults: number;
}

async function chaos(flags: Flags): Promise<boolean> {
  const seed = flags.seed ?? Date.now() % 1_000_000;
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new UsageError(`Cannot use --seed as it must be a whole number, 0 or more: got ${seed}`);
  }
  const about = surroundings(null);
  const out = resolve(flags.out ?? join("runs", "chaos", about.date.replaceAll(":", "")));
  mkdirSync(out, { recursive: true });
  console.log(`${describeSurroundings(about)}\nSeed ${seed}, results in ${out}`);
  const reports: (ChaosReport & { readonly name: string })[] = [];
  for (const part of flags.recovery === true ? recoveryParts() : chaosParts(flags)) {
    const { name, cluster, workers, kinds, maxFaults } = part;
    console.log(`\n${name}: ${workers} workers, ${kinds.join(", ")}`);
    const report = await chaosRun({
      ...{ cluster, kinds, seed, workers, maxFaults },
      failureTimeoutMs: 1000 * positive("failure-timeout", flags.failureTimeout),
      dataDir: flags.dataDir ?? null,
      maxMs: 60_000 * minutesOf(flags),
      dir: join(out, name),
      log: (text) => console.log(`  ${text}`),
    });
    reports.push({ ...report, name });
    const { faults, steps, generations, numGoneBack, problems } = report;
    console.log(`\n${chaosTable(faults)}\n`);
    console.log(`${steps} steps, ${generations} generations, ${numGoneBack} times back to a checkpoint`);
    for (const problem of problems) console.log(`PROBLEM: ${problem}`);
    const parts = reports.map((r) => ({ ...r, kinds: summarizeKinds(r.faults) }));
    writeFileSync(join(out, "chaos.json"), `${JSON.stringify({ about, seed, parts }, null, 2)}\n`);
  }
  const ok = reports.every(({ problems }) => problems.length === 0);
  const all = reports.flatMap(({ faults }) => faults);
  if (reports.length > 1 && flags.recovery !== true) console.log(`\nAll together\n\n${chaosTable(all)}\n`);
  console.log(
    ok
      ? `All ${all.length} faults fired; parameters and metrics are those of runs without faults`
      : `Something is wrong: see PROBLEM above, and ${out}. The same faults again: --seed ${seed}`,
  );
  return ok;
}

function minutesOf({ minutes, faults, recovery }: Flags): number {
  if (minutes !== undefined) return positive("minutes", minutes);
  return recovery === true || faults !== undefined ? Infinity : DEFAULT_MINUTES;
}

function chaosParts(flags: Flags): readonly Part[] {
  const { workers } = flags;
  if (!Number.isInteger(workers) || workers < 2) {
    throw new UsageError(`Cannot use --workers as it must be a whole number above 1: got ${workers}`);
  }
  const wanted = flags.kinds?.split(",").map((kind) => kind.trim()) ?? FAULT_KIND_NAMES;
  for (const kind of wanted) {
    if (kind in FAULT_KINDS) continue;
    throw new UsageError(`Cannot use --kinds as there are ${FAULT_KIND_NAMES.join(", ")}: got "${kind}"`);
  }
  const missing = { network: whyNoNamespaces(), tmpfs: whyNoSmallDisk() };
  const clusters = flags.cluster === "both" ? CLUSTERS : [flags.cluster];
  return clusters.flatMap((cluster) => {
    if (cluster === "hosts" && missing.network !== null) {
      console.log(`SKIPPED: cluster hosts, as ${missing.network}`);
      return [];
    }
    const kinds = FAULT_KIND_NAMES.filter((kind) => {
      const { needs }: FaultKindInfo = FAULT_KINDS[kind];
      const reason =
        needs === "network" && cluster === "host" ? "it needs cluster hosts" : needs && missing[needs];
      if (!wanted.includes(kind) || reason === null) return wanted.includes(kind);
      console.log(`SKIPPED: ${kind} on cluster ${cluster}, as ${reason}`);
      return false;
    });
    if (kinds.length === 0) return [];
    return [{ name: cluster, cluster, workers, kinds, maxFaults: flags.faults ?? Infinity }];
  });
}

/** How fast a run goes on: after the loss of one of 2 to 4 processes, and of a worker that cannot be reached. */
function recoveryParts(): readonly Part[] {
  const kills = [2, 3, 4].map((workers): Part => ({
    ...{ name: `kill-1-of-${workers}`, cluster: "host", workers },
    ...{ kinds: ["kill-worker"], maxFaults: RECOVERY_KILLS },
  }));
  const why = whyNoNamespaces();
  if (why !== null) {
    console.log(`SKIPPED: partitions, as ${why}`);
    return kills;
  }
  return [
    ...kills,
    {
      ...{ name: "silent-partition", cluster: "hosts", workers: 3 },
      ...{ kinds: ["partition"], maxFaults: RECOVERY_PARTITIONS },
    },
  ];
}

function positive(flag: string, value: number): number {
  if (value > 0 && Number.isFinite(value)) return value;
  throw new UsageError(`Cannot use --${flag} as it must be a number above 0: got ${value}`);
}

try {
  const flags = await parser.parseAsync(plainWords(hideBin(process.argv), CHAOS_OPTIONS));
  if (flags.help !== true && !(await chaos(flags))) process.exitCode = 1;
} catch (error) {
  console.error(`chaos: ${error instanceof UsageError ? error.message : describeError(error)}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
