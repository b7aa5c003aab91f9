// npm run gpu-check
/**
 * Checks the GPU engines where there is a GPU: their gradients, by the
 * conformance suite, and their speed beside PyTorch on the same GPU. Without
 * a GPU it says so, and checks in software what can be checked so.
 *
 * @module
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Options } from "yargs";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { nvidiaGpus } from "../coordinator/gpus.ts";
import type { EngineName } from "../shared/config.ts";
import { describeError, UsageError } from "../shared/errors.ts";
import { engineEnvironment } from "../worker/engine/environment.ts";
import { describeSurroundings, surroundings } from "./bench/machine.ts";
import type { Peer } from "./bench/peer.ts";
import { findPeer, NO_PEER } from "./bench/peer.ts";
import type { Cell, Row, SectionReport } from "./bench/section.ts";
import { ratioOfRounds, summarize } from "./bench/statistics.ts";
import { markdownOf } from "./bench/table.ts";
import { ourStepMs } from "./bench/throughput.ts";
import { probeEngines } from "./commands/engines.ts";
import type { ProbeResult } from "./commands/probe.ts";
import { PLAIN_PARSING, plainWords } from "./plain-words.ts";

const GPU_ENGINES = ["tensorflow", "webgpu"] as const satisfies readonly EngineName[];

const CONFORMANCE = fileURLToPath(new URL("../test/conformance/run.js", import.meta.url));
const SETUP = fileURLToPath(new URL("./setup-tensorflow.js", import.meta.url));

interface Measuring {
  readonly rounds: number;
  readonly stepsPerBlock: number;
  readonly blocks: number;
  readonly warmupSteps: number;
  readonly dataDir: string | null;
  readonly scratchDir: string;
}

const GPU_CHECK_OPTIONS = {
  batch: {
    type: "string",
    default: "64,256,1024,4096",
    describe: "Batch sizes to measure on a GPU [images per step]",
  },
  rounds: { type: "number", default: 3, describe: "Rounds, in each of which all are measured in turn" },
  setup: {
    type: "boolean",
    default: true,
    describe: "Set up TensorFlow with CUDA first, where nvidia-smi answers and it is missing",
  },
  "data-dir": {
    type: "string",
    normalize: true,
    describe: "Folder with MNIST's IDX files, for both sides",
  },
  python: { type: "string", describe: "Python interpreter with PyTorch for CUDA" },
  out: {
    type: "string",
    normalize: true,
    default: "runs/gpu-check.json",
    describe: "JSON file with the results",
  },
} as const satisfies Record<string, Options>;

const parser = yargs()
  .scriptName("npm run gpu-check --")
  .usage(
    "$0 [flags]\n\nChecks the GPU engines: gradients by the conformance suite, speed beside PyTorch on the same GPU.",
  )
  .options(GPU_CHECK_OPTIONS)
  .parserConfiguration(PLAIN_PARSING)
  .strict()
  .version(false)
  .help()
  .exitProcess(false)
  .fail((message, error) => {
    throw error ?? new UsageError(`${message}\nSee npm run gpu-check -- --help`);
  });

const scratchDir = mkdtempSync(join(tmpdir(), "lockstep-gpu-check-"));
process.once("exit", () => rmSync(scratchDir, { recursive: true, force: true }));

try {
  const flags = await parser.parseAsync(plainWords(hideBin(process.argv), GPU_CHECK_OPTIONS));
  if (flags.help !== true) process.exitCode = await check(flags);
} catch (error) {
  console.error(`gpu-check: ${describeError(error)}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

type Flags = Awaited<ReturnType<typeof parser.parseAsync>>;

/** @returns The exit code: 1 if an engine's gradients are wrong. */
async function check({ batch, rounds, setup, dataDir, python, out }: Flags): Promise<number> {
  const batchSizes = batch.split(",").map((size) => positiveInteger("batch", Number(size)));
  const peer = await findPeer(python ?? null);
  const about = surroundings(peer?.version ?? null);
  console.log(describeSurroundings(about));
  const nvidia = nvidiaGpus();
  for (const { index, name, memoryMiB, driver } of nvidia) {
    console.log(`GPU ${index}: ${name}, ${memoryMiB} MiB, driver ${driver}`);
  }
  if (setup && nvidia.length > 0) runHere([SETUP, "--cuda"]);
  const statuses = await probeEngines(GPU_ENGINES, { batchSize: 64, shards: 1, runtime: "auto", speedMs: 0 });
  for (const { engine, usable, description, reason, fix } of statuses) {
    console.log(usable ? `${engine}: ${description}` : `${engine} cannot be used: ${reason}. ${fix ?? ""}`);
  }
  const onGpu = statuses.filter(({ usable, gpus }) => usable && gpus.length > 0);
  if (onGpu.length === 0) {
    console.log("No engine finds a GPU here: gradients are checked in software, and speed is not measured.");
  }
  const wrong = statuses.filter(({ usable }) => usable).filter(({ engine }) => !conforms(engine));
  let report: SectionReport | null = null;
  if (onGpu.length > 0) {
    const measuring: Measuring = {
      rounds: positiveInteger("rounds", rounds),
      ...{ stepsPerBlock: 20, blocks: 5, warmupSteps: 20, dataDir: dataDir ?? null, scratchDir },
    };
    report = await speeds(onGpu, batchSizes, (await peer?.hasCuda()) === true ? peer : null, measuring);
    console.log(`\n${markdownOf(report)}\n`);
  }
  mkdirSync(dirname(out), { recursive: true });
  const failed = wrong.map(({ engine }) => engine);
  writeFileSync(out, `${JSON.stringify({ about, nvidia, statuses, failed, report }, null, 2)}\n`);
  console.log(`Written to ${out}`);
  if (failed.length > 0) console.error(`Gradients are wrong on: ${failed.join(", ")}`);
  return failed.length === 0 ? 0 : 1;
}

/** Whether an engine passes the conformance suite, in a process of its own. */
function conforms(engine: EngineName): boolean {
  console.log(`\nConformance of ${engine}:`);
  return runHere([CONFORMANCE, "--engine", engine], engineEnvironment(engine, { device: null }));
}

/** @returns Whether it succeeds. */
function runHere(args: readonly string[], environment: Readonly<Record<string, string>> = {}): boolean {
  const { status } = spawnSync(process.execPath, args, {
    stdio: "inherit",
    env: { ...process.env, ...environment },
  });
  return status === 0;
}

async function speeds(
  engines: readonly ProbeResult[],
  batchSizes: readonly number[],
  peer: Peer | null,
  measuring: Measuring,
): Promise<SectionReport> {
  const names = engines.map(({ engine }) => engine);
  const rows: Row[] = [];
  for (const batchSize of batchSizes) {
    const ours = names.map((): number[] => []);
    const theirs: Record<"eager" | "graph", number[]> = { eager: [], graph: [] };
    const imagesPerSecond = (ms: number): number => (1000 * batchSize) / ms;
    for (let round = 0; round < measuring.rounds; round++) {
      console.error(`batch ${batchSize}, round ${round + 1} of ${measuring.rounds}`);
      for (const [i, engine] of names.entries()) {
        ours[i].push(imagesPerSecond(await ourStepMs({ ...measuring, engine }, 1, batchSize)));
      }
      if (peer === null) continue;
      const request = { batchSize, processes: 1, lean: true, device: "cuda" } as const;
      theirs.eager.push(imagesPerSecond(await peer.stepMs(request, measuring)));
      theirs.graph.push(imagesPerSecond(await peer.stepMs({ ...request, graph: true }, measuring)));
    }
    const cells: Cell[] = [
      ...ours.map(summarize),
      ...(peer === null ? ["no PyTorch", "no PyTorch"] : [summarize(theirs.eager), summarize(theirs.graph)]),
      ...ours.map((values) => (peer === null ? null : ratioOfRounds(values, theirs.eager))),
    ];
    rows.push({ name: `${batchSize}`, cells });
  }
  return {
    title: "One worker and PyTorch on the same GPU [images/s]",
    notes: [
      "Lockstep: `lockstep train` with one worker, coordinator and all. PyTorch: its data on the GPU, the fake images detached, eager and as one CUDA graph.",
      ...(peer === null ? [NO_PEER] : []),
    ],
    columns: [
      ...["batch", ...names, "PyTorch eager", "PyTorch graph"],
      ...names.map((name) => `${name} to eager`),
    ],
    rows,
  };
}

function positiveInteger(flag: string, value: number): number {
  if (Number.isInteger(value) && value >= 1) return value;
  throw new UsageError(`Cannot use --${flag} as it must be a whole number above 0: got ${value}`);
}
