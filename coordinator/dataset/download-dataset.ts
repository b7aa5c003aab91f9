/**
 * Downloads the files of a published data set, from its mirrors or the user's.
 *
 * @module
 */
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { DatasetError } from "../../shared/errors.ts";
import { downloadFile } from "./download.ts";
import type { DownloadOptions } from "./download.ts";
import { exists, readBytes } from "./files.ts";
import { PUBLISHED_DATASETS, readDataFile } from "./sources.ts";
import type { DataFile, PublishedDataset, PublishedName } from "./sources.ts";

export interface DownloadProgress {
  /** Name of the archive. */
  readonly file: string;
  readonly receivedBytes: number;
  /** Null where the server does not say. */
  readonly totalBytes: number | null;
}

export interface MirrorOptions {
  /** Base URLs instead of the published ones, http or https. What they send must still have the published hash. */
  readonly mirrors?: readonly string[];
  onLog(level: "info" | "warn", text: string): void;
  onProgress?(progress: DownloadProgress): void;
  readonly signal?: AbortSignal;
  /** Time to the head of an answer; default 5,000. */
  readonly connectTimeoutMs?: number;
  /** Time without bytes after which the next mirror is asked; default 15,000. */
  readonly idleTimeoutMs?: number;
}

export interface DownloadDatasetOptions extends MirrorOptions {
  readonly dataset: PublishedName;
  /** Folder for the files themselves. The data sets name their files alike, so give each its own. */
  readonly directory: string;
}

export interface DownloadedFile {
  readonly path: string;
  /** False if the file was already there, whole and verified. */
  readonly downloaded: boolean;
}

/**
 * Downloads all four files of a data set. A whole, verified file already there is kept; any other is set
 * aside as `<name>.unverified` first, as it may be the user's own.
 *
 * @throws {DatasetError} If a file cannot be had from any mirror, or cannot be written.
 */
export async function downloadDataset(options: DownloadDatasetOptions): Promise<readonly DownloadedFile[]> {
  const dataset = PUBLISHED_DATASETS[options.dataset];
  const results: DownloadedFile[] = [];
  for (const file of dataset.files) {
    const path = join(options.directory, file.archiveName);
    const state = await stateOf(path, file);
    if (state.type === "foreign")
      options.onLog("warn", `${state.reason}; set aside as ${await setAside(path)}`);
    if (state.type !== "whole") await downloadDataFile(dataset, file, path, options);
    options.onLog(
      "info",
      `${path}: ${state.type === "whole" ? "already there, verified" : "downloaded, verified"}`,
    );
    results.push({ path, downloaded: state.type !== "whole" });
  }
  return results;
}

/** Renames a file to the first free name after it. */
async function setAside(path: string): Promise<string> {
  for (let i = 1; ; i++) {
    const aside = i === 1 ? `${path}.unverified` : `${path}.unverified-${i}`;
    if (await exists(aside)) continue;
    await rename(path, aside);
    return aside;
  }
}

type FileState = { type: "absent" } | { type: "whole" } | { type: "foreign"; reason: string };

async function stateOf(path: string, file: DataFile): Promise<FileState> {
  if (!(await exists(path))) return { type: "absent" };
  const bytes = await readBytes(path);
  try {
    readDataFile(bytes, file, { path, verify: true, advice: null });
    return { type: "whole" };
  } catch (error) {
    if (!(error instanceof DatasetError)) throw error;
    return { type: "foreign", reason: error.message };
  }
}

/** Downloads one file of a data set. @throws {DatasetError} As downloadFile() does. */
export async function downloadDataFile(
  dataset: PublishedDataset,
  file: DataFile,
  destination: string,
  options: MirrorOptions & Pick<DownloadOptions, "advice">,
): Promise<void> {
  const name = file.archiveName;
  await downloadFile({
    urls: (options.mirrors ?? dataset.mirrors).map((base) => new URL(name, parseMirror(base)).href),
    destination,
    verify: (bytes) => void readDataFile(bytes, file, { path: "the file", verify: true, advice: null }),
    onProgress: (receivedBytes, totalBytes) =>
      options.onProgress?.({ file: name, receivedBytes, totalBytes }),
    signal: options.signal,
    ...(options.connectTimeoutMs === undefined ? {} : { connectTimeoutMs: options.connectTimeoutMs }),
    ...(options.advice === undefined ? {} : { advice: options.advice }),
    ...(options.idleTimeoutMs === undefined ? {} : { idleTimeoutMs: options.idleTimeoutMs }),
  });
}

/** A base URL, ending in a slash. @throws {DatasetError} If it is no http or https URL. */
export function parseMirror(base: string): URL {
  const text = base.endsWith("/") ? base : `${base}/`;
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new DatasetError(`Cannot download from a mirror as it must be an http or https URL: got ${base}`);
  }
  return url;
}
