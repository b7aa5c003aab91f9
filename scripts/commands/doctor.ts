/**
 * `lockstep doctor`: what this machine can train with, and what to do where
 * something is missing.
 *
 * @module
 */
import { availableParallelism, cpus, totalmem } from "node:os";
import type { NvidiaGpu } from "../../coordinator/gpus.ts";
import { nvidiaGpus } from "../../coordinator/gpus.ts";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { PACKAGE_VERSION } from "../../shared/version.ts";
import { fastest, probeEngines, SPEED_TEST_MS } from "./engines.ts";
import type { ProbeResult } from "./probe.ts";

interface Machine {
  readonly platform: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
}

interface Diagnosis {
  readonly lockstep: string;
  readonly machine: Machine;
  readonly engines: readonly ProbeResult[];
  /** The engine that `--engine auto` takes. */
  readonly auto: string | null;
  readonly nvidiaGpus: readonly NvidiaGpu[];
}

/** The speed test has the batch of a default run with one worker. */
const PROBING = { batchSize: 64, shards: 4, runtime: "auto", speedMs: SPEED_TEST_MS } as const;
/** cpu would take many seconds for a batch of the others. */
const CPU_PROBING = { ...PROBING, batchSize: 4 };

/** @returns The exit code: 1 if no engine can be used. */
export async function doctor(json: boolean): Promise<number> {
  const engines = await probeEngines(
    ENGINE_NAMES.filter((name) => name !== "cpu"),
    PROBING,
  );
  const cpu = await probeEngines(["cpu"], CPU_PROBING);
  const diagnosis: Diagnosis = {
    lockstep: PACKAGE_VERSION,
    machine: {
      platform: `${process.platform} ${process.arch}`,
      cpu: cpus().at(0)?.model.trim() ?? "unknown",
      cores: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
    },
    engines: [...engines, ...cpu],
    auto: fastest(engines)?.engine ?? null,
    nvidiaGpus: nvidiaGpus(),
  };
  console.log(json ? JSON.stringify(diagnosis, null, 2) : describe(diagnosis));
  return diagnosis.engines.some(({ usable }) => usable) ? 0 : 1;
}

function describe({ lockstep, machine, engines, auto, nvidiaGpus: gpus }: Diagnosis): string {
  const { platform, cpu, cores, memoryGiB } = machine;
  return [
    `Lockstep ${lockstep} on ${platform}: ${cpu}, ${cores} cores, ${memoryGiB} GiB`,
    "",
    "Engines, with images/s of one worker in a short test (without all-reduce):",
    ...engines.flatMap(describeEngine),
    `  --engine auto takes ${auto ?? "none"}`,
    "",
    "NVIDIA GPUs:",
    ...(gpus.length === 0
      ? ["  none (nvidia-smi does not answer)"]
      : gpus.map(
          ({ index, name, memoryMiB, driver }) => `  ${index}  ${name}, ${memoryMiB} MiB, driver ${driver}`,
        )),
  ].join("\n");
}

function describeEngine(result: ProbeResult): readonly string[] {
  const { engine, usable, description, reason, fix, gpus, software, imagesPerSecond, runtime } = result;
  const name = `  ${engine.padEnd(10)}  `;
  const indent = " ".repeat(name.length);
  if (!usable) return [`${name}no: ${reason}`, ...(fix === null ? [] : [`${indent}${fix}`])];
  const speed = imagesPerSecond === null ? "" : `, ${Math.round(imagesPerSecond)} img/s`;
  const note = software ? "; a software adapter, which auto does not take" : "";
  return [
    `${name}yes: ${description}${runtime === null ? "" : ` on ${runtime}`}${speed}${note}`,
    ...gpus.map((gpu, i) => `${indent}GPU ${i}: ${gpu}`),
  ];
}
