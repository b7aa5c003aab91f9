/**
 * Where the published data sets come from and what their files must hash to.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { DatasetError } from "../../shared/errors.ts";
import { gunzipIfPacked, isGzip, parseIdx } from "./idx.ts";
import type { IdxArray, IdxKind } from "./idx.ts";

export type PublishedName = "mnist" | "fashion-mnist";

/**
 * A SHA-256 (hex), tagged by what was hashed: the IDX file itself, which holds for any packing of it, or
 * the .gz archive as published. With the latter a file that the user unpacked can only be checked for form.
 */
export type PublishedHash =
  | { readonly type: "unpacked"; readonly sha256: string }
  | { readonly type: "archive"; readonly sha256: string };

export interface DataFile {
  /** Name on the mirrors: a gzip archive. */
  readonly archiveName: string;
  readonly kind: IdxKind;
  readonly split: "train" | "test";
  readonly hash: PublishedHash;
}

export interface PublishedDataset {
  readonly name: PublishedName;
  /** Base URLs, each ending in a slash, in the order of trying. */
  readonly mirrors: readonly string[];
  readonly files: readonly DataFile[];
}

const unpacked = (sha256: string): PublishedHash => ({ type: "unpacked", sha256 });
const archive = (sha256: string): PublishedHash => ({ type: "archive", sha256 });

function fourFiles(
  trainImages: PublishedHash,
  trainLabels: PublishedHash,
  testImages: PublishedHash,
  testLabels: PublishedHash,
): readonly DataFile[] {
  return [
    { archiveName: "train-images-idx3-ubyte.gz", kind: "images", split: "train", hash: trainImages },
    { archiveName: "train-labels-idx1-ubyte.gz", kind: "labels", split: "train", hash: trainLabels },
    { archiveName: "t10k-images-idx3-ubyte.gz", kind: "images", split: "test", hash: testImages },
    { archiveName: "t10k-labels-idx1-ubyte.gz", kind: "labels", split: "test", hash: testLabels },
  ];
}

export const PUBLISHED_DATASETS: Readonly<Record<PublishedName, PublishedDataset>> = {
  mnist: {
    name: "mnist",
    mirrors: [
      "https://ossci-datasets.s3.amazonaws.com/mnist/",
      "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ],
    files: fourFiles(
      unpacked("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
      unpacked("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
      unpacked("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
      unpacked("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
  },
  "fashion-mnist": {
    name: "fashion-mnist",
    // The first mirror has no TLS; what it sends is believed only as far as its hash.
    mirrors: [
      "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
      "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ],
    // Source: the checksums of TensorFlow Datasets, which are of the archives.
    files: fourFiles(
      archive("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
      archive("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
      archive("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
      archive("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
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

/** The published data set that holds a file of this unpacked hash, if any is known. */
function ownerOfUnpacked(sha256: string): PublishedName | null {
  for (const dataset of Object.values(PUBLISHED_DATASETS)) {
    if (dataset.files.some(({ hash }) => hash.type === "unpacked" && hash.sha256 === sha256))
      return dataset.name;
  }
  return null;
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
  const expected = { kind: file.kind, file: path, advice: advice?.malformed ?? "" };
  const content = gunzipIfPacked(bytes, expected);
  const array = parseIdx(content, expected);
  if (!verify) return array;
  const refuse = (rule: string, got: string): DatasetError =>
    new DatasetError(
      `Cannot use ${path} as ${rule}: got ${got}${advice === null ? "" : `; ${advice.mismatch}`}`,
    );
  const contentHash = sha256Hex(content);
  if (file.hash.type === "unpacked") {
    if (contentHash !== file.hash.sha256) {
      throw refuse(`its unpacked bytes must have SHA-256 ${file.hash.sha256}`, contentHash);
    }
  } else if (isGzip(bytes)) {
    const archiveHash = sha256Hex(bytes);
    if (archiveHash !== file.hash.sha256) {
      throw refuse(`the archive must have SHA-256 ${file.hash.sha256}`, archiveHash);
    }
  } else {
    // Only form can be checked here; but the likeliest mix-up, a file of the other data set, is known by its hash.
    const owner = ownerOfUnpacked(contentHash);
    if (owner !== null) throw refuse("it must belong to the data set asked for", `a file of ${owner}`);
  }
  return array;
}
