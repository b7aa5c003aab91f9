/**
 * Whether engine tensorflow can be used here, found out in another process.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { z } from "zod";
import { nvidiaGpus } from "../../coordinator/gpus.ts";
import { findInstallation, SETUP_COMMAND, unusedPackage } from "./tensorflow-installation.ts";

const execute = promisify(execFile);

const CHECK = fileURLToPath(new URL("./tensorflow-check.js", import.meta.url));

const Found = z.object({ tensorflow: z.string(), cuda: z.boolean() });
export type FoundTensorflow = z.infer<typeof Found>;

export interface TensorflowProbe {
  readonly usable: boolean;
  /** "TensorFlow 2.21.0, CPU", or what is missing. */
  readonly description: string;
  /** Why it cannot be used, or null. */
  readonly reason: string | null;
  /** The command that makes it usable, or null. */
  readonly fix: string | null;
  /** Names of the GPUs that it computes on. */
  readonly gpus: readonly string[];
}

export async function probeTensorflow(): Promise<TensorflowProbe> {
  const installation = findInstallation();
  if (installation === null) {
    const unused = unusedPackage();
    const reason = `TensorFlow is not set up${unused === null ? "" : `, and ${unused}`}`;
    return { usable: false, description: "TensorFlow", reason, fix: SETUP_COMMAND, gpus: [] };
  }
  try {
    const { tensorflow, cuda } = await checkTensorflow(installation.binding);
    const gpus = cuda ? nvidiaGpus().map(({ name }) => name) : [];
    const device = cuda ? `CUDA (${gpus.join(", ") || "unnamed GPU"})` : "CPU";
    return {
      usable: true,
      description: `TensorFlow ${tensorflow}, ${device}`,
      reason: null,
      fix: null,
      gpus,
    };
  } catch (error) {
    return {
      usable: false,
      description: "TensorFlow",
      reason: (error as Error).message,
      fix:
        installation.record === null
          ? `Mend or remove the package in ${installation.package}`
          : `${SETUP_COMMAND} -- --remove && ${SETUP_COMMAND}`,
      gpus: [],
    };
  }
}

/** Loads a binding in a process of its own and computes with it. @throws {Error} If that fails. */
export async function checkTensorflow(binding: string): Promise<FoundTensorflow> {
  try {
    const { stdout } = await execute(process.execPath, [CHECK, binding]);
    return Found.parse(JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? ""));
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    const line = stderr?.split("\n").find((text) => /^\w*Error: /.test(text));
    throw new Error(line ?? `TensorFlow does not start: ${(error as Error).message}`, { cause: error });
  }
}
