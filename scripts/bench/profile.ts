/**
 * A CPU profile of one worker of a real run, and the functions in which it
 * spent its time. The coordinator gives the flags of Node that it was
 * started with to the workers, so all of them write profiles; the worker's file
 * is the one with its process id in its name.
 *
 * @module
 */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { kernelNames } from "./kernel-names.ts";
import { productRun } from "./product-run.ts";
import type { BenchOptions } from "./section.ts";

const NUM_FUNCTIONS = 25;

const WORKERS = 2;

const Profile = z.object({
  nodes: z.array(
    z.object({
      id: z.int(),
      callFrame: z.object({ functionName: z.string(), url: z.string(), lineNumber: z.int() }),
    }),
  ),
  /** Ids of nodes. */
  samples: z.array(z.int()),
  /** Microseconds before each sample. */
  timeDeltas: z.array(z.number()),
});
export type Profile = z.infer<typeof Profile>;

/**
 * Profiles worker 0 of two.
 *
 * @param directory Where the profile is kept.
 * @returns What to print.
 */
export async function profileWorker(options: BenchOptions, directory: string): Promise<string> {
  const { engine, batchSizes, blocks, stepsPerBlock, warmupSteps, dataDir, scratchDir } = options;
  const written = mkdtempSync(join(scratchDir, "profile-"));
  const globalBatchSize = WORKERS * batchSizes[0];
  const maxSteps = warmupSteps + blocks * stepsPerBlock;
  const { workerPids } = await productRun({
    ...{ engine, workers: WORKERS, globalBatchSize, maxSteps, dataDir, scratchDir },
    nodeFlags: ["--cpu-prof", `--cpu-prof-dir=${written}`],
  });
  // CPU.<date>.<time>.<process>.<thread>.<number>.cpuprofile
  const ofWorker = new RegExp(`\\.${workerPids[0]}\\.0\\.\\d+\\.cpuprofile$`);
  const file = readdirSync(written).find((name) => ofWorker.test(name));
  if (file === undefined) throw new Error("Cannot find the worker's profile as it wrote none");
  mkdirSync(directory, { recursive: true });
  const kept = join(directory, file);
  copyFileSync(join(written, file), kept);
  const functions = selfTimes(Profile.parse(JSON.parse(readFileSync(kept, "utf8"))), await kernelNames());
  const totalMs = functions.reduce((sum, { selfMs }) => sum + selfMs, 0);
  const lines = functions
    .slice(0, NUM_FUNCTIONS)
    .map(
      ({ name, selfMs }) =>
        `${selfMs.toFixed(0).padStart(9)}  ${((100 * selfMs) / totalMs).toFixed(1).padStart(5)}  ${name}`,
    );
  return [
    `Worker 0 of ${WORKERS}, ${maxSteps} steps of ${globalBatchSize} images, start and end included`,
    `Profile (open in Chrome's developer tools): ${kept}`,
    "  self ms      %  function",
    ...lines,
  ].join("\n");
}

/**
 * Time spent in each function itself, largest first.
 *
 * @param kernels Names of functions of WebAssembly by number; others are internal to them.
 */
export function selfTimes(
  { nodes, samples, timeDeltas }: Profile,
  kernels: ReadonlyMap<number, string>,
): readonly { readonly name: string; readonly selfMs: number }[] {
  const names = new Map(nodes.map(({ id, callFrame }) => [id, nameOf(callFrame, kernels)]));
  const totals = new Map<string, number>();
  for (const [i, id] of samples.entries()) {
    const name = names.get(id) ?? "unknown";
    totals.set(name, (totals.get(name) ?? 0) + timeDeltas[i] / 1000);
  }
  return [...totals].map(([name, selfMs]) => ({ name, selfMs })).sort((a, b) => b.selfMs - a.selfMs);
}

function nameOf(
  { functionName, url, lineNumber }: Profile["nodes"][number]["callFrame"],
  kernels: ReadonlyMap<number, string>,
): string {
  const number = /^wasm-function\[(\d+)\]$/.exec(functionName)?.[1];
  if (number !== undefined) return `${kernels.get(Number(number)) ?? `internal ${number}`}  (kernels)`;
  const name = functionName === "" ? "(anonymous)" : functionName;
  return url === "" ? name : `${name}  ${basename(url)}:${lineNumber + 1}`;
}
