/**
 * Short real runs of the command line, for comparing with the simulation.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { EmulatedNetwork } from "./emulated-network.ts";
import type { MeasuredStep } from "./run-metrics.ts";
import { median, readSteps } from "./run-metrics.ts";

const CLI = fileURLToPath(new URL("../lockstep.js", import.meta.url));

export interface RunCase {
  /** Name of the folder of the run. */
  readonly name: string;
  readonly workers: number;
  readonly localBatchSize: number;
  readonly numSteps: number;
  /** Folder of the runs. */
  readonly out: string;
}

/** Medians over the steps of a run. */
export interface RunTimes {
  /** Mean over workers. */
  readonly computeMs: number;
  /** Of the worker that waits least: the others wait for a slower one. */
  readonly leastAllReduceMs: number;
  readonly applyMs: number;
  /** Of the slowest worker. */
  readonly stepMs: number;
  /** Each step, not its median. */
  readonly steps: readonly MeasuredStep[];
}

/** All workers on this host, over loopback. */
export async function runLocally(runCase: RunCase): Promise<RunTimes> {
  const child = spawn(process.execPath, [CLI, "train", ...flagsOf(runCase)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  await succeeded(child, runCase.name);
  return timesOf(runCase);
}

/** One worker per emulated host. */
export async function runOverNetwork(
  runCase: RunCase,
  linkMbit: number,
  latencyMs: number,
): Promise<RunTimes> {
  const network = new EmulatedNetwork(runCase.workers, linkMbit, latencyMs);
  const children: ChildProcess[] = [];
  try {
    const { endpoint } = network;
    const flags = [...flagsOf(runCase), "--bind", endpoint, "--insecure", "--failure-timeout", "30"];
    const coordinator = network.startCoordinator([CLI, "coordinator", ...flags]);
    children.push(coordinator);
    for (let i = 0; i < runCase.workers; i++)
      children.push(network.startWorker(i, [CLI, "worker", "--coordinator", endpoint, "--insecure"]));
    for (const child of children.slice(1)) {
      child.stdout?.resume();
      child.stderr?.resume();
    }
    const finished = succeeded(coordinator, runCase.name);
    await Promise.race([network.connectWorkers(), finished]);
    await finished;
    return timesOf(runCase);
  } finally {
    for (const child of children) child.kill("SIGKILL");
    network.close();
  }
}

function flagsOf({ name, workers, localBatchSize, numSteps, out }: RunCase): readonly string[] {
  rmSync(runDirOf({ name, out }), { recursive: true, force: true });
  return [
    ...[
      "--engine",
      "wasm",
      "--dataset",
      "synthetic",
      "--max-steps",
      String(numSteps),
      "--workers",
      String(workers),
    ],
    ...["--local-batch-size", String(localBatchSize), "--shards", String(workers)],
    // The model is of messages, also between the workers of one host.
    ...["--run-dir", runDirOf({ name, out }), "--no-shared-memory"],
  ];
}

function runDirOf({ name, out }: Pick<RunCase, "name" | "out">): string {
  return join(out, name);
}

function timesOf(runCase: RunCase): RunTimes {
  const steps = readSteps(runDirOf(runCase));
  const over = (value: (step: MeasuredStep) => number): number => median(steps.map(value));
  return {
    computeMs: over(
      ({ workers }) => workers.reduce((sum, { computeMs }) => sum + computeMs, 0) / workers.length,
    ),
    leastAllReduceMs: over(({ workers }) => Math.min(...workers.map((w) => w.allReduceMs))),
    applyMs: over(({ workers }) => median(workers.map((w) => w.applyMs))),
    stepMs: over(({ workers }) =>
      Math.max(...workers.map((w) => w.computeMs + w.allReduceMs + w.applyMs + w.waitMs)),
    ),
    steps,
  };
}

async function succeeded(child: ChildProcess, name: string): Promise<void> {
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => (output += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (code !== 0) throw new Error(`Run ${name} ended with code ${code}:\n${output}`);
}
