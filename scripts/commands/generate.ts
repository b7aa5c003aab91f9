/**
 * `lockstep generate`: images from a trained generator.
 *
 * @module
 */
import { writeFile } from "node:fs/promises";
import { encodeIdx } from "../../coordinator/dataset/idx.ts";
import { gridPng } from "../../coordinator/picture.ts";
import { checkNetworks, decodeParameters } from "../../shared/checkpoint.ts";
import type { EngineName, RunConfig } from "../../shared/config.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";
import { IMAGE_PIXELS, IMAGE_SIDE } from "../../shared/image.ts";
import { MODELS } from "../../shared/nn/models.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import { sampleNoise, toPixels } from "../../shared/samples.ts";
import { loadEngine } from "../../worker/engine/engine.ts";
import { engineStatus } from "../../worker/engine/engine-status.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import { checkpointOf } from "./checkpoint-of.ts";
import { checkWhole } from "./options.ts";

export interface GenerateOptions {
  /** Folder of a run or of a checkpoint. */
  readonly run: string;
  readonly count: number;
  readonly seed: number;
  readonly out: string;
  /** Null for the engine of the run, or wasm where that cannot be used. */
  readonly engine: EngineName | null;
}

const MAX_COUNT = 1_000_000;
/** Images per pass through the generator. */
const CHUNK = 1000;

export async function generate({ run, count, seed, out, engine: wanted }: GenerateOptions): Promise<void> {
  checkWhole("count", count, 1, MAX_COUNT);
  checkWhole("seed", seed, 0, Number.MAX_SAFE_INTEGER);
  const isIdx = /idx3-ubyte$|\.idx$/i.test(out);
  if (!isIdx && !/\.png$/i.test(out)) {
    throw new UsageError(`Cannot generate as --out must end in .png, .idx or idx3-ubyte: got "${out}"`);
  }
  const { manifest, files, path } = await checkpointOf(run, ["generator.safetensors"]);
  const config = parseRunConfig(manifest.config);
  const model = MODELS[config.model]({ latentDim: config.latentDim, imagePixels: IMAGE_PIXELS });
  checkNetworks(manifest, model);
  const name = wanted ?? (await engineFor(config));
  const { engine, memory } = await loadEngine(
    { ...config, engine: name, deterministicKernels: config.deterministicKernels || !fusesMultiplyAdd() },
    { model, objective: OBJECTIVES[config.objective], maxSamples: Math.min(count, CHUNK), device: null },
    [model.generator.numParameters],
  );
  const parameters = memory.allocate(model.generator.numParameters);
  const file = files.get("generator.safetensors") as Uint8Array;
  engine.order.toEngine(model.generator, decodeParameters(model.generator, file), parameters);
  engine.setParameters("generator", parameters);
  const noise = sampleNoise(seed, count, config.latentDim);
  const pixels = new Uint8Array(count * IMAGE_PIXELS);
  for (let start = 0; start < count; start += CHUNK) {
    const end = Math.min(start + CHUNK, count);
    const part = noise.slice(start * config.latentDim, end * config.latentDim);
    pixels.set(toPixels(await engine.generate(part, end - start)), start * IMAGE_PIXELS);
  }
  engine.dispose();
  await writeFile(
    out,
    isIdx ? encodeIdx([count, IMAGE_SIDE, IMAGE_SIDE], pixels) : gridPng(pixels, IMAGE_SIDE),
  );
  console.log(`${count} images of step ${manifest.globalStep} (${path}): ${out}`);
}

/** The engine of the run, whose pictures then have the same bits, if this machine has it. */
async function engineFor({ engine }: RunConfig): Promise<EngineName> {
  const { usable, reason } = await engineStatus(engine);
  if (usable) return engine;
  console.error(`Drawing with engine wasm, as ${engine} of this run cannot be used here: ${reason}`);
  return "wasm";
}
