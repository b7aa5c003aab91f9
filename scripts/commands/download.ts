/**
 * `lockstep download`: fetches a data set.
 *
 * @module
 */
import { join } from "node:path";
import { downloadDataset } from "../../coordinator/dataset/dataset.ts";
import { defaultCacheDir } from "../../shared/cache-folder.ts";

export interface DownloadOptions {
  readonly dataset: "mnist" | "fashion-mnist";
  /** Folder for the files, or null for the cache. */
  readonly dataDir: string | null;
  /** Base URLs to use in place of the published mirrors; empty for those. */
  readonly mirrors: readonly string[];
}

export async function download({ dataset, dataDir, mirrors }: DownloadOptions): Promise<void> {
  // The data sets name their files alike, so each has its own folder.
  const directory = join(dataDir ?? defaultCacheDir(), dataset);
  let shown = "";
  const files = await downloadDataset({
    dataset,
    directory,
    ...(mirrors.length > 0 ? { mirrors } : {}),
    onLog: (level, text) => (level === "warn" ? console.error(`WARN: ${text}`) : console.log(text)),
    onProgress: ({ file, receivedBytes, totalBytes }) => {
      const share = totalBytes === null ? "" : ` (${Math.floor((10 * receivedBytes) / totalBytes) * 10} %)`;
      const line =
        totalBytes === null ? `${file}: ${Math.floor(receivedBytes / 1e6)} MB` : `${file}:${share}`;
      if (line !== shown) console.log(line);
      shown = line;
    },
  });
  for (const { path, downloaded } of files)
    console.log(`${path}: ${downloaded ? "downloaded" : "already here"}, verified`);
}
