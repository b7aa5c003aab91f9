/**
 * One run under faults, and the comparison of what it leaves with a calm run
 * of as many steps.
 *
 * @module
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError } from "../../shared/errors.ts";
import type { ClusterName } from "./cluster.ts";
import { Cluster, PATIENCE_MS } from "./cluster.ts";
import type { FiredFault } from "./faults.ts";
import { FAULTS } from "./faults.ts";
import type { FaultKind } from "./plan.ts";
import { drawOf, plan } from "./plan.ts";
import { run, traceLines } from "./processes.ts";
import { SmallDisk } from "./small-disk.ts";

/** Room for the checkpoints that are kept, one that is written, and one saved by a worker. */
const DISK_MEGABYTES = 200;
/** Longest pause between a recovery and the next fault, in milliseconds. */
const MAX_PAUSE_MS = 1500;

export interface ChaosRunOptions {
  readonly cluster: ClusterName;
  readonly kinds: readonly FaultKind[];
  readonly seed: number;
  readonly workers: number;
  readonly failureTimeoutMs: number;
  /** Folder with MNIST, or null for synthetic digits. */
  readonly dataDir: string | null;
  readonly maxFaults: number;
  readonly maxMs: number;
  /** Empty folder, for this run alone. */
  readonly dir: string;
  readonly log: (text: string) => void;
}

export interface FaultRecord {
  readonly index: number;
  readonly kind: FaultKind;
  /** Null if it did not fire, or the run did not recover. */
  readonly fired: FiredFault | null;
  readonly error: string | null;
}

export interface ChaosReport {
  readonly cluster: ClusterName;
  readonly workers: number;
  readonly faults: readonly FaultRecord[];
  readonly steps: number;
  /** Changes of members that trained. */
  readonly generations: number;
  /** How often no replica was left. */
  readonly numGoneBack: number;
  /** All that was not as it must be. */
  readonly problems: readonly string[];
}

/** Never rejects: what goes wrong is among the problems. */
export async function chaosRun(options: ChaosRunOptions): Promise<ChaosReport> {
  const { cluster: name, dir, failureTimeoutMs, kinds, log, seed, workers } = options;
  mkdirSync(dir, { recursive: true });
  const data = options.dataDir === null ? ["synthetic"] : ["mnist", "--data-dir", options.dataDir];
  const maxWorkers = workers + 1;
  const training = [
    ...["--engine", "wasm", "--dataset", ...data, "--seed", `${seed}`],
    ...["--global-batch-size", "16", "--shards", `${maxWorkers}`],
  ];
  const disk = kinds.includes("disk-full")
    ? new SmallDisk(DISK_MEGABYTES, join(dir, "run", "checkpoints"))
    : null;
  const delays = drawOf(seed, -1);
  let numRestarts = 0;
  const cluster = new Cluster({
    ...{ name, dir, workers, maxWorkers, failureTimeoutMs },
    flags: [
      ...[...training, "--checkpoint-every", "60", "--keep-checkpoints", "2"],
      ...["--failure-timeout", `${failureTimeoutMs / 1000}`, "--straggler-timeout", "4"],
      ...["--max-restarts", "1000", "--max-checkpoint-failures", "1000"],
      // Hosts share none, but namespaces of one machine would.
      ...(name === "hosts" ? ["--no-shared-memory"] : []),
    ],
    restartDelayMs: () => 1.5 * failureTimeoutMs * delays(`restart ${numRestarts++}`),
  });
  const faults: FaultRecord[] = [];
  const problems: string[] = [];
  try {
    await cluster.start();
    await injectFaults(options, cluster, disk, faults);
    await cluster.finish();
    log(`${cluster.view.globalStep} steps under faults; now as many without`);
    problems.push(...(await compareWithCalm(dir, training)));
  } catch (error) {
    problems.push(describeError(error));
  }
  await cluster.close();
  disk?.remove();
  const { generations, globalStep, numGoneBack, violations } = cluster.view;
  for (const { error, index, kind } of faults) {
    if (error !== null) problems.push(`Fault ${index}, ${kind}: ${error}`);
  }
  problems.push(...violations);
  if (problems.length === 0) rmSync(join(dir, "run", "checkpoints"), { recursive: true, force: true });
  return {
    ...{ cluster: name, workers, faults, steps: globalStep },
    ...{ generations: generations.length, numGoneBack, problems },
  };
}

async function injectFaults(
  { kinds, log, maxFaults, maxMs, seed }: ChaosRunOptions,
  cluster: Cluster,
  disk: SmallDisk | null,
  faults: FaultRecord[],
): Promise<void> {
  const endMs = performance.now() + maxMs;
  for (const { index, kind, draw } of plan(seed, kinds)) {
    await sleep(draw("pause") * MAX_PAUSE_MS);
    if (faults.length === maxFaults || performance.now() > endMs) return;
    cluster.journal.add("chaos", `Fault ${index}: ${kind}`);
    try {
      const fired = await FAULTS[kind]({ cluster, disk, draw });
      faults.push({ index, kind, fired, error: null });
      const took = `${Math.round(fired.recoveredMs)} ms to the next step`;
      log(`${index} ${kind} at step ${fired.atStep}: ${fired.target}, ${took}`);
      for (const text of fired.evidence) cluster.journal.add("chaos", `Evidence: ${text}`);
    } catch (error) {
      faults.push({ index, kind, fired: null, error: describeError(error) });
      log(`${index} ${kind} FAILED: ${describeError(error)}`);
    }
    await cluster.view.fullStrength(() => cluster.targetSize, PATIENCE_MS);
  }
}

/** Trains as many steps without faults, with another number of workers. @returns What differs. */
async function compareWithCalm(dir: string, training: readonly string[]): Promise<readonly string[]> {
  const [underFaults, calm] = [join(dir, "run"), join(dir, "calm")];
  const trace = traceLines(underFaults);
  const steps = trace[0].split(" ")[0];
  const length = ["--max-steps", steps, "--checkpoint-every", "1000000"];
  const flags = ["--workers", "2", ...length, "--run-dir", calm];
  const { code, output } = await run(["train", ...training, ...flags]);
  if (code !== 0) return [`The run without faults ended with code ${code}: ${output.slice(-2000)}`];
  const expected = traceLines(calm);
  rmSync(join(calm, "checkpoints"), { recursive: true });
  const first = expected.findIndex((line, i) => line !== trace[i]);
  if (first < 0 && trace.length === expected.length) return [];
  const [got, wanted] = [trace[first] ?? "nothing", expected[first] ?? "nothing"];
  return [
    `Not the same as without faults: ${trace.length - 1} lines of metrics and ${expected.length - 1}; first ${got}, must be ${wanted}`,
  ];
}
