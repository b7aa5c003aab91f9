/**
 * `lockstep inspect`: what a run holds.
 *
 * @module
 */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { listCheckpoints, loadCheckpoint } from "../../coordinator/checkpoint-store.ts";
import { runPaths } from "../../coordinator/run-directory.ts";
import { STATE_FILES, tensorsSha256 } from "../../shared/checkpoint.ts";
import { describeError } from "../../shared/errors.ts";
import { decodeSafetensors } from "../../shared/safetensors.ts";
import { checkpointOf } from "./checkpoint-of.ts";

interface CheckpointSummary {
  readonly globalStep: number;
  readonly path: string;
  readonly bytes: number;
  /** Why it cannot be used, or null. */
  readonly damage: string | null;
}

/** @param json Whether to print JSON instead of text. */
export async function inspect(run: string, json: boolean): Promise<void> {
  const { manifest, files, path } = await checkpointOf(run);
  const network = (name: "generator" | "discriminator"): object => {
    const file = files.get(`${name}.safetensors`) as Uint8Array;
    const { description, numParameters } = manifest.networks[name];
    return { description, numParameters, parametersSha256: tensorsSha256(decodeSafetensors(file)) };
  };
  const { generator, discriminator } = manifest.networks;
  const summary = {
    checkpoint: path,
    globalStep: manifest.globalStep,
    dataPosition: manifest.dataPosition,
    dataset: manifest.dataset,
    numParameters: generator.numParameters + discriminator.numParameters,
    networks: { generator: network("generator"), discriminator: network("discriminator") },
    checkpoints: await summaries(runPaths(run).checkpoints),
    config: manifest.config,
  };
  if (json) {
    console.log(JSON.stringify(summary, null, 2));
    return;
  }
  printText(summary, "");
}

/** The value as indented "name: value" lines. */
function printText(value: object, indent: string): void {
  for (const [name, entry] of Object.entries(value) as [string, unknown][]) {
    if (typeof entry === "object" && entry !== null) {
      console.log(`${indent}${name}:`);
      printText(entry, `${indent}  `);
    } else {
      console.log(`${indent}${name}: ${String(entry)}`);
    }
  }
}

async function summaries(directory: string): Promise<readonly CheckpointSummary[]> {
  const stored = await listCheckpoints(directory);
  const found = await Promise.all(
    stored.map(async ({ globalStep, path }) => {
      const damage = await loadCheckpoint(path, STATE_FILES).then(
        () => null,
        (error: unknown) => describeError(error),
      );
      const bytes = await folderBytes(path);
      return bytes === null ? [] : [{ globalStep, path, bytes, damage }];
    }),
  );
  return found.flat();
}

/** Null if the folder is gone: a run that trains meanwhile removes its older checkpoints. */
async function folderBytes(path: string): Promise<number | null> {
  try {
    const sizes = await Promise.all(
      (await readdir(path)).map(async (name) => (await stat(join(path, name))).size),
    );
    return sizes.reduce((sum, size) => sum + size, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
