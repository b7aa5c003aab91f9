/**
 * Whether an engine can be used on this machine, and how fast it is.
 *
 * @module
 */
import { hasTrapHandler, NO_TRAP_HANDLER, wasmMemory } from "../../shared/address-space.ts";
import type { EngineName } from "../../shared/config.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { describeError } from "../../shared/errors.ts";
import { IMAGE_PIXELS } from "../../shared/image.ts";
import { MODELS } from "../../shared/nn/models.ts";
import { initialParameters } from "../../shared/nn/network.ts";
import type { NetworkName } from "../../shared/nn/network.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import { fillNormal, streamKey } from "../../shared/random.ts";
import { shardSamples } from "../../shared/sharding.ts";
import { chooseKernels } from "../kernels/kernel-builds.ts";
import { fusesMultiplyAdd } from "../kernels/kernels.ts";
import { vectorLength } from "../train-step.ts";
import { loadEngine } from "./engine.ts";

export interface EngineStatus {
  readonly engine: EngineName;
  readonly usable: boolean;
  /** What computes, or would. */
  readonly description: string;
  /** Why it cannot be used, or null. */
  readonly reason: string | null;
  /** What the user can do so that it can be used, or null. */
  readonly fix: string | null;
  /** Names of the GPUs that it can use; a worker's device is an index into them. */
  readonly gpus: readonly string[];
  /** Whether it imitates a GPU in software: for tests, never chosen by itself. */
  readonly software: boolean;
}

const EMBEDDED = { usable: true, reason: null, fix: null, gpus: [], software: false } as const;

/** Quick: computes for some milliseconds at most. May load native libraries, so a crash of theirs would be this process's. */
export async function engineStatus(engine: EngineName): Promise<EngineStatus> {
  switch (engine) {
    case "wasm": {
      const fused = fusesMultiplyAdd();
      const { wide, reason } = await chooseKernels(fused);
      wasmMemory({ initial: 1 });
      const bounds = hasTrapHandler() ? "" : `; bounds checked in software (${NO_TRAP_HANDLER})`;
      const vectors = wide ? "vectors of 256 bits" : `vectors of 128 bits (${reason})`;
      return {
        ...EMBEDDED,
        engine,
        description: `${fused ? "fused" : "plain"} SIMD kernels, one thread a worker, ${vectors}${bounds}`,
      };
    }
    case "cpu":
      return { ...EMBEDDED, engine, description: "tfjs's reference in JavaScript, for tests" };
    case "tensorflow": {
      const status = await (await import("./tensorflow-probe.ts")).probeTensorflow();
      return { engine, ...status, software: false };
    }
    case "webgpu":
      return webgpuStatus();
  }
}

async function webgpuStatus(): Promise<EngineStatus> {
  const { listAdapters, probeWebgpu } = await import("./webgpu-device.ts");
  const status = await probeWebgpu();
  // GPUs come first in the list, so that their place here is their index there.
  const gpus = status.usable ? (await listAdapters()).filter(({ software }) => !software) : [];
  return { engine: "webgpu", ...status, gpus: gpus.map(({ name }) => name) };
}

export interface SpeedTest {
  readonly engine: EngineName;
  /** Images per update. */
  readonly batchSize: number;
  /** Into how many shards they are cut: some engines compute one after the other. */
  readonly shards: number;
  /** At least this long, and at least one step, after one step to warm up; in milliseconds. */
  readonly minMs: number;
  readonly device: number | null;
}

/**
 * Gradients of the reference model's discriminator and generator, without optimizer and all-reduce.
 *
 * @returns Images per second.
 * @throws {Error} If the engine cannot be used.
 */
export async function imagesPerSecond({
  engine: name,
  batchSize,
  shards,
  minMs,
  device,
}: SpeedTest): Promise<number> {
  const config = parseRunConfig({
    ...{ workers: 1, shards, engine: name, globalBatchSize: batchSize },
    deterministicKernels: !fusesMultiplyAdd(),
  });
  const model = MODELS[config.model]({ latentDim: config.latentDim, imagePixels: IMAGE_PIXELS });
  const networks = ["generator", "discriminator"] as const satisfies readonly NetworkName[];
  const { engine, memory } = await loadEngine(
    config,
    { model, objective: OBJECTIVES[config.objective], maxSamples: batchSize, device },
    networks.flatMap((network) => [model[network].numParameters, vectorLength(model, network)]),
  );
  const [generatorOut, discriminatorOut] = networks.map((network) => {
    const parameters = memory.allocate(model[network].numParameters);
    engine.order.toEngine(model[network], initialParameters(model[network], 0), parameters);
    engine.setParameters(network, parameters);
    return memory.allocate(vectorLength(model, network));
  });
  const noise = new Float32Array(batchSize * config.latentDim);
  fillNormal(noise, streamKey(0, "noise"), 0, 0, 0, 0, noise.length);
  const pixels = new Uint8Array(batchSize * IMAGE_PIXELS).map((_, i) => (i * 37) % 256);
  const shardSizes = Array.from({ length: shards }, (_, shard) => {
    const { start, end } = shardSamples(batchSize, shards, shard);
    return end - start;
  });
  const batch = { shardSizes, globalBatchSize: batchSize, noise };
  const step = async (): Promise<void> => {
    await engine.discriminatorGradient({ ...batch, pixels }, discriminatorOut);
    await engine.generatorGradient(batch, generatorOut);
  };
  try {
    await step();
    const start = performance.now();
    let numSteps = 0;
    do {
      await step();
      numSteps += 1;
    } while (performance.now() - start < minMs);
    return (1000 * numSteps * batchSize) / (performance.now() - start);
  } finally {
    engine.dispose();
  }
}

/** The status of an engine that does not start. */
export function unusable(engine: EngineName, error: unknown): EngineStatus {
  const reason = describeError(error);
  return {
    ...{ engine, usable: false, description: "does not start", reason },
    fix: null,
    gpus: [],
    software: false,
  };
}
