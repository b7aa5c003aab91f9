/**
 * The data that a run trains on: found in a folder, downloaded, or drawn.
 * A corrupt or foreign file is an error, never a reason to train on something
 * else; only `auto` without any MNIST within reach falls back, and says so loudly.
 *
 * @module
 */
import { delimiter, join } from "node:path";
import { defaultCacheDir } from "../../shared/cache-folder.ts";
import type { DatasetChoice } from "../../shared/config.ts";
import { shellCommand } from "../../shared/command-line.ts";
import { DatasetError, UsageError } from "../../shared/errors.ts";
import { IMAGE_PIXELS } from "../../shared/image.ts";
import { downloadDataFile, parseMirror } from "./download-dataset.ts";
import type { MirrorOptions } from "./download-dataset.ts";
import { exists, findTrainFiles, readBytes } from "./files.ts";
import type { TrainPaths } from "./files.ts";
import type { IdxArray } from "./idx.ts";
import { PUBLISHED_DATASETS, readDataFile, sha256Hex, trainFiles } from "./sources.ts";
import type { Advice, PublishedDataset } from "./sources.ts";
import { syntheticDigits } from "./synthetic.ts";

export { downloadDataset } from "./download-dataset.ts";
export type { DownloadDatasetOptions, DownloadedFile, DownloadProgress } from "./download-dataset.ts";

export interface Dataset {
  readonly name: "mnist" | "fashion-mnist" | "synthetic";
  readonly numImages: number;
  /** 784. */
  readonly imagePixels: number;
  /** (numImages, 784) uint8, row-major, over a SharedArrayBuffer so that a thread pool reads it without a copy. */
  readonly pixels: Uint8Array<SharedArrayBuffer>;
  /** (numImages,) uint8 as the file has them, or null for data without: training uses none. Who uses them checks their range. */
  readonly labels: Uint8Array | null;
  /** SHA-256 (hex) of pixels: a resumed run must see the same data. */
  readonly sha256: string;
  /** Where it came from, for the log. */
  readonly source: string;
}

export interface LoadOptions extends MirrorOptions {
  readonly dataset: DatasetChoice;
  /** Folder of the user's files, or null to use the cache. Nothing is ever downloaded into it by loading. */
  readonly dataDir: string | null;
  /** Folder that holds one folder per data set; default defaultCacheDir(). */
  readonly cacheDir?: string;
  /**
   * Whether files in dataDir must have the published SHA-256; default true. Files of the system and in the cache always
   * must. Data that need not may be without labels.
   */
  readonly verify?: boolean;
}

/** The synthetic data set is a constant, like MNIST; the seed of a run only shuffles it. */
const SYNTHETIC_SEED = 0;
const SYNTHETIC_COUNT = 60_000;

/**
 * Loads the training images and labels.
 *
 * @throws {DatasetError} If the data set is missing and cannot be downloaded (`auto` then warns and draws digits
 *   instead), or if a file is corrupt, malformed or not the published one. The message says what to do.
 * @throws The signal's reason, if it is aborted during a download.
 */
export async function loadDataset(options: LoadOptions): Promise<Dataset> {
  options.signal?.throwIfAborted();
  // Here, so that a mistyped mirror is an error under `auto` too.
  options.mirrors?.forEach(parseMirror);
  switch (options.dataset) {
    case "synthetic":
      return drawSynthetic();
    case "mnist":
    case "fashion-mnist": {
      const dataset = PUBLISHED_DATASETS[options.dataset];
      if (options.dataDir === null) {
        return readPublished(dataset, await providePublished(dataset, options));
      }
      const search = await findTrainFiles(options.dataDir, dataset, verifies(options));
      if (search.type === "found") return readFromDataDir(dataset, search.paths, options);
      throw new DatasetError(
        `Cannot load ${dataset.name} from ${options.dataDir} as it must hold ${trainFileNames(dataset, options)}, packed or not: ` +
          `got ${search.text}; copy them there, or run ` +
          `\`${shellCommand(["lockstep", "download", "--dataset", dataset.name, "--data-dir", options.dataDir])}\``,
      );
    }
    case "auto":
      return loadAuto(options);
  }
}

/** MNIST from dataDir, from the system, from the cache or from a mirror; synthetic digits if it is nowhere. */
async function loadAuto(options: LoadOptions): Promise<Dataset> {
  const dataset = PUBLISHED_DATASETS.mnist;
  if (options.dataDir !== null) {
    const search = await findTrainFiles(options.dataDir, dataset, verifies(options));
    if (search.type === "found") return readFromDataDir(dataset, search.paths, options);
    options.onLog("warn", `--data-dir does not hold MNIST (${search.text}): looking in the cache`);
  }
  let paths: TrainPaths;
  try {
    // The warning below has its own advice.
    paths = await providePublished(dataset, { ...options, advice: "" });
  } catch (error) {
    // A user may have no folder for a cache.
    if (!(error instanceof DatasetError || error instanceof UsageError)) throw error;
    options.onLog("warn", fallbackWarning(error));
    return drawSynthetic();
  }
  // Outside of the try: a corrupt file is an error.
  return readPublished(dataset, paths);
}

function fallbackWarning(error: Error): string {
  return [
    "TRAINING ON SYNTHETIC DIGITS, NOT ON MNIST: losses and pictures cannot be compared with those of MNIST",
    "Why MNIST could not be had:",
    ...error.message.split("\n").map((line) => `  ${line}`),
    "How to train on MNIST:",
    "  npx lockstep download                # on a machine with a network; or copy its files into a folder",
    "  npx lockstep train --dataset mnist   # with --data-dir, if they are in a folder of yours",
    "To train on synthetic digits without this warning: --dataset synthetic",
  ].join("\n");
}

function verifies({ verify = true }: LoadOptions): boolean {
  return verify;
}

function trainFileNames(dataset: PublishedDataset, options: LoadOptions): string {
  const { images, labels } = trainFiles(dataset);
  return verifies(options) ? `${images.archiveName} and ${labels.archiveName}` : images.archiveName;
}

/** Where packages of the system put data sets, as Debian's dataset-fashion-mnist does (XDG Base Directory Specification). */
function systemFolders(dataset: PublishedDataset): readonly string[] {
  const folders = process.env["XDG_DATA_DIRS"] || "/usr/local/share:/usr/share";
  return folders.split(delimiter).map((folder) => join(folder, "datasets", dataset.name));
}

/**
 * The training files of the system or in the cache, into which what it lacks is downloaded. A file already there is not
 * looked into.
 *
 * @throws {DatasetError} If no mirror gives one.
 * @throws {UsageError} If there is no folder for a cache.
 */
async function providePublished(
  dataset: PublishedDataset,
  options: LoadOptions & { readonly advice?: string },
): Promise<TrainPaths> {
  for (const folder of systemFolders(dataset)) {
    const search = await findTrainFiles(folder, dataset, true);
    if (search.type === "found") return search.paths;
  }
  const folder = join(options.cacheDir ?? defaultCacheDir(), dataset.name);
  const search = await findTrainFiles(folder, dataset, true);
  if (search.type === "found") return search.paths;
  const { images, labels } = trainFiles(dataset);
  const paths = { images: join(folder, images.archiveName), labels: join(folder, labels.archiveName) };
  options.onLog("info", `Downloading the training files of ${dataset.name} into ${folder}`);
  for (const kind of ["images", "labels"] as const) {
    // An earlier try may have got one of them.
    if (!(await exists(paths[kind]))) {
      await downloadDataFile(dataset, trainFiles(dataset)[kind], paths[kind], options);
    }
  }
  return paths;
}

function readPublished(dataset: PublishedDataset, paths: TrainPaths): Promise<Dataset> {
  const again = `run \`${shellCommand(["lockstep", "download", "--dataset", dataset.name])}\` to fetch it again, or give --data-dir`;
  return readTrainFiles(dataset, paths, true, { malformed: again, mismatch: again });
}

async function readFromDataDir(
  dataset: PublishedDataset,
  paths: TrainPaths,
  options: LoadOptions,
): Promise<Dataset> {
  const replace = `replace it with the published file, or leave --data-dir out to use the download cache`;
  return readTrainFiles(dataset, paths, verifies(options), {
    malformed: replace,
    mismatch: `${replace}, or pass --no-verify-data for data of your own`,
  });
}

async function readTrainFiles(
  dataset: PublishedDataset,
  paths: TrainPaths,
  verify: boolean,
  advice: Advice,
): Promise<Dataset> {
  const files = trainFiles(dataset);
  const read = async (kind: "images" | "labels", path: string): Promise<IdxArray> =>
    readDataFile(await readBytes(path), files[kind], { path, verify, advice });
  const images = await read("images", paths.images);
  const labels = paths.labels === null ? null : await read("labels", paths.labels);
  const numImages = images.shape[0];
  if (labels !== null && labels.shape[0] !== numImages) {
    throw new DatasetError(
      `Cannot use ${paths.labels} as it must have one label for each of ${numImages} images: got ${labels.shape[0]}`,
    );
  }
  return shareDataset(dataset.name, images.data, labels?.data ?? null, paths.images);
}

function drawSynthetic(): Dataset {
  const { pixels, labels } = syntheticDigits({ seed: SYNTHETIC_SEED, count: SYNTHETIC_COUNT });
  return shareDataset(
    "synthetic",
    pixels,
    labels,
    `${SYNTHETIC_COUNT} digits drawn with seed ${SYNTHETIC_SEED}`,
  );
}

function shareDataset(
  name: Dataset["name"],
  pixels: Uint8Array,
  labels: Uint8Array | null,
  source: string,
): Dataset {
  const shared = new Uint8Array(new SharedArrayBuffer(pixels.length));
  shared.set(pixels);
  return {
    name,
    numImages: pixels.length / IMAGE_PIXELS,
    imagePixels: IMAGE_PIXELS,
    pixels: shared,
    // A copy, as a view would keep the whole file in memory.
    labels: labels === null ? null : Uint8Array.from(labels),
    sha256: sha256Hex(pixels),
    source,
  };
}
