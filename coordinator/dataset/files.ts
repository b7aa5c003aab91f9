/**
 * Finds and reads the two training files of a published data set on this machine.
 *
 * @module
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { DatasetError } from "../../shared/errors.ts";
import { explainError } from "../../shared/system-errors.ts";
import { MAX_UNPACKED_BYTES } from "./idx.ts";
import { acceptedNames, trainFiles } from "./sources.ts";
import type { PublishedDataset } from "./sources.ts";

export interface TrainPaths {
  readonly images: string;
  /** Null for data of the user's own that have none. */
  readonly labels: string | null;
}

/** The files, or what is missing in each folder. */
export type Search =
  | { readonly type: "found"; readonly paths: TrainPaths }
  | { readonly type: "missing"; readonly text: string };

/** The first of `names` that is a file in `directory`, as a path. */
async function firstFile(directory: string, names: readonly string[]): Promise<string | null> {
  for (const name of names) {
    const path = join(directory, name);
    try {
      if ((await stat(path)).isFile()) return path;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "ENOENT" && code !== "ENOTDIR") {
        throw new DatasetError(`Cannot look for ${path}: ${explainError(error)}`, { cause: error });
      }
    }
  }
  return null;
}

/**
 * Looks in `directory`, in its subfolder named after the data set, and where torchvision puts its files. All must lie in
 * the same folder: MNIST and Fashion-MNIST name their files alike, and images of one with labels of the other would go
 * unnoticed.
 *
 * @param needsLabels Whether images alone will not do.
 */
export async function findTrainFiles(
  directory: string,
  dataset: PublishedDataset,
  needsLabels: boolean,
): Promise<Search> {
  const { images, labels } = trainFiles(dataset);
  const missing: string[] = [];
  for (const subfolder of ["", dataset.name, dataset.torchvisionFolder, "raw"]) {
    const folder = join(directory, subfolder);
    if (subfolder !== "" && !(await exists(folder))) continue;
    const imagesPath = await firstFile(folder, acceptedNames(images));
    const labelsPath = await firstFile(folder, acceptedNames(labels));
    if (imagesPath !== null && (labelsPath !== null || !needsLabels)) {
      return { type: "found", paths: { images: imagesPath, labels: labelsPath } };
    }
    const absent = [
      ...(imagesPath === null ? [images.archiveName] : []),
      ...(labelsPath === null && needsLabels ? [labels.archiveName] : []),
    ];
    missing.push(`no ${absent.join(" and no ")} in ${folder}`);
  }
  return { type: "missing", text: missing.join("; ") };
}

/** Whether anything has this path. */
export async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null)) !== null;
}

/** @throws {DatasetError} If the file cannot be read or is absurdly large. */
export async function readBytes(path: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(path);
    if (size > MAX_UNPACKED_BYTES) {
      throw new DatasetError(
        `Cannot read ${path} as a data file has at most ${MAX_UNPACKED_BYTES} bytes: got ${size}`,
      );
    }
    return await readFile(path);
  } catch (error) {
    if (error instanceof DatasetError) throw error;
    throw new DatasetError(`Cannot read ${path}: ${explainError(error)}`, { cause: error });
  }
}
