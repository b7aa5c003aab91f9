/**
 * Where the published data sets come from and what their files must hash to.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { DatasetError } from "../../shared/errors.ts";
import { IMAGE_PIXELS } from "../../shared/image.ts";
import { gunzipIfPacked, parseIdx } from "./idx.ts";
import type { IdxArray, IdxExpectation, IdxKind } from "./idx.ts";

export type PublishedName = "mnist" | "fashion-mnist";

export interface DataFile {
  /** Name on the mirrors: a gzip archive. */
  readonly archiveName: string;
  readonly kind: IdxKind;
  readonly split: "train" | "test";
  /** In hex, of the IDX file itself: it holds for any packing of it. */
  readonly sha256: string;
  /** Of the IDX file itself. */
  readonly numBytes: number;
}

export interface PublishedDataset {
  readonly name: PublishedName;
  /** Folder into which torchvision unpacks it, below the one that it is given. */
  readonly torchvisionFolder: string;
  /** Base URLs, each ending in a slash, in the order of trying. */
  readonly mirrors: readonly string[];
  readonly files: readonly DataFile[];
}

function fourFiles(
  trainImages: string,
  trainLabels: string,
  testImages: string,
  testLabels: string,
): readonly DataFile[] {
  const images = (split: DataFile["split"], count: number) =>
    ({ kind: "images", split, numBytes: 16 + count * IMAGE_PIXELS }) as const;
  const labels = (split: DataFile["split"], count: number) =>
    ({ kind: "labels", split, numBytes: 8 + count }) as const;
  return [
    { archiveName: "train-images-idx3-ubyte.gz", ...images("train", 60_000), sha256: trainImages },
    { archiveName: "train-labels-idx1-ubyte.gz", ...labels("train", 60_000), sha256: trainLabels },
    { archiveName: "t10k-images-idx3-ubyte.gz", ...images("test", 10_000), sha256: testImages },
    { archiveName: "t10k-labels-idx1-ubyte.gz", ...labels("test", 10_000), sha256: testLabels },
  ];
}

export const PUBLISHED_DATASETS: Readonly<Record<PublishedName, PublishedDataset>> = {
  mnist: {
    name: "mnist",
    torchvisionFolder: "MNIST/raw",
    mirrors: [
      "https://ossci-datasets.s3.amazonaws.com/mnist/",
      "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ],
    files: fourFiles(
      "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
      "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
      "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
      "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
  },
  "fashion-mnist": {
    name: "fashion-mnist",
    torchvisionFolder: "FashionMNIST/raw",
    // The first mirror has no TLS; what it sends is believed only as far as its hash.
    mirrors: [
      "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
      "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ],
    // Source: the files of Debian's package dataset-fashion-mnist, unpacked; those of the mirrors unpack to the same.
    files: fourFiles(
      "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
      "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
      "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
      "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
  },
};

/** The two files that training reads. */
export function trainFiles(dataset: PublishedDataset): { images: DataFile; labels: DataFile } {
  const [images, labels] = dataset.files;
  return { images, labels };
}

/** Names under which a user may keep the file, packed or not: with a dash or with a dot before the type. */
export function acceptedNames(file: DataFile): readonly string[] {
  const raw = file.archiveName.replace(/\.gz$/, "");
  const dotted = raw.replace("-idx", ".idx");
  return [file.archiveName, raw, `${dotted}.gz`, dotted];
}

/** SHA-256 in hex. */
export function sha256Hex(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The published data set that holds a file of this hash, if any does. */
function ownerOf(sha256: string): PublishedName | null {
  const owner = Object.values(PUBLISHED_DATASETS).find(({ files }) =>
    files.some((file) => file.sha256 === sha256),
  );
  return owner?.name ?? null;
}

/** Ends of error messages: what the user can do about a bad file. */
export interface Advice {
  /** The file is damaged or of another format. */
  readonly malformed: string;
  /** The file is well-formed, but not the published one. */
  readonly mismatch: string;
}

/**
 * Parses a file of a published data set, and with `verify` holds it against its published hash.
 *
 * @param path For messages.
 * @throws {DatasetError} If the file is malformed, or well-formed but not the published one.
 */
export function readDataFile(
  bytes: Uint8Array,
  file: DataFile,
  options: { readonly path: string; readonly verify: boolean; readonly advice: Advice | null },
): IdxArray {
  const { path, verify, advice } = options;
  const expected: IdxExpectation = {
    ...{ kind: file.kind, file: path, advice: advice?.malformed ?? "" },
    ...(verify ? { maxUnpackedBytes: file.numBytes, adviceIfLarger: advice?.mismatch ?? "" } : {}),
  };
  const content = gunzipIfPacked(bytes, expected);
  const array = parseIdx(content, expected);
  if (!verify) return array;
  const found = sha256Hex(content);
  if (found !== file.sha256) {
    const owner = ownerOf(found);
    const got = owner === null ? found : `${found}, a file of ${owner}`;
    throw new DatasetError(
      `Cannot use ${path} as its unpacked bytes must have SHA-256 ${file.sha256}: got ${got}${advice === null ? "" : `; ${advice.mismatch}`}`,
    );
  }
  return array;
}
