// npm run setup:tensorflow
/**
 * Sets up engine tensorflow for this user: fetches TensorFlow's libraries with
 * pip, builds the binding of tfjs-node against them, and keeps both in the
 * cache folder. Either all of it is done or nothing.
 *
 * @module
 */
import { rmSync } from "node:fs";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { describeError, UsageError } from "../shared/errors.ts";
import type { Variant } from "../worker/engine/tensorflow-installation.ts";
import {
  findInstallation,
  installationFolder,
  readInstallation,
} from "../worker/engine/tensorflow-installation.ts";
import { nvidiaGpus } from "../coordinator/gpus.ts";
import { checkTensorflow } from "../worker/engine/tensorflow-probe.ts";
import { install } from "./setup-tensorflow/install.ts";

const parser = yargs(hideBin(process.argv))
  .scriptName("npm run setup:tensorflow --")
  .usage("$0 [flags]\n\nSets up engine tensorflow. Run again, it only checks that it works.")
  .options({
    cuda: {
      type: "boolean",
      conflicts: "cpu",
      defaultDescription: "where nvidia-smi names a GPU",
      describe: "TensorFlow for NVIDIA GPUs, with CUDA's libraries",
    },
    cpu: { type: "boolean", describe: "TensorFlow for the processor alone" },
    remove: { type: "boolean", default: false, describe: "Undo the set-up" },
  })
  .parserConfiguration({ "boolean-negation": false, "duplicate-arguments-array": false })
  .strict()
  .version(false)
  .help()
  .alias("help", "h")
  .exitProcess(false)
  .fail((message, error) => {
    throw error ?? new UsageError(`${message}\nSee npm run setup:tensorflow -- --help`);
  });

process.once("SIGINT", () => process.exit(130));
process.once("SIGTERM", () => process.exit(143));

try {
  const flags = parser.parseSync();
  // yargs has then printed its help.
  if (!("help" in flags && flags["help"] === true)) {
    const asked: Variant | null = flags.cuda === true ? "cuda" : flags.cpu === true ? "cpu" : null;
    if (flags.remove) remove(asked);
    else await setUp(asked ?? (nvidiaGpus().length > 0 ? "cuda" : "cpu"));
  }
} catch (error) {
  console.error(error instanceof UsageError ? error.message : describeError(error));
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

async function setUp(variant: Variant): Promise<void> {
  const published = findInstallation();
  if (published !== null && published.record === null) {
    const { tensorflow } = await checkTensorflow(published.binding);
    console.log(`Nothing to do: ${published.package} works by itself, with TensorFlow ${tensorflow}`);
    return;
  }
  const existing = readInstallation(variant);
  if (existing !== null) {
    try {
      console.log(`Nothing to do: ${describe(await checkTensorflow(existing.binding))} works`);
      console.log(`It lies in ${installationFolder(variant)}; --remove removes it`);
      return;
    } catch (error) {
      console.log(`What is set up does not work, so it is built anew: ${describeError(error)}`);
    }
  }
  const startMs = performance.now();
  const { folder, record, found } = await install(variant, (text) => console.log(text));
  const seconds = Math.round((performance.now() - startMs) / 1000);
  console.log(`${describe(found)} works: ${gigabytes(record.bytes)} in ${folder}, set up in ${seconds} s`);
  if (variant === "cuda" && !found.cuda) {
    console.log("TensorFlow found no GPU that it can use, and will compute on the processor");
  }
}

function remove(asked: Variant | null): void {
  const variants: readonly Variant[] = asked === null ? ["cuda", "cpu"] : [asked];
  const present = variants.filter((variant) => readInstallation(variant) !== null);
  if (present.length === 0) console.log("Nothing to remove");
  for (const variant of present) {
    rmSync(installationFolder(variant), { recursive: true });
    console.log(`Removed ${installationFolder(variant)}`);
  }
}

function describe({ tensorflow, cuda }: { readonly tensorflow: string; readonly cuda: boolean }): string {
  return `TensorFlow ${tensorflow} (${cuda ? "CUDA" : "CPU"})`;
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
