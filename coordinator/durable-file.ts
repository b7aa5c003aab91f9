/**
 * Files that a power cut leaves as they were before or after, never as a part.
 *
 * @module
 */
import { open, rename, rm, writeFile } from "node:fs/promises";

/** Writes a file so that a crash leaves the old or the new one, never a part. */
export async function replaceFile(path: string, contents: string | Uint8Array): Promise<void> {
  const temporary = `${path}.tmp-${process.pid}`;
  try {
    await writeFile(temporary, contents, { flush: true });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** Brings what was written of a file to the medium. */
export async function syncFile(path: string): Promise<void> {
  // Windows syncs only what could be written.
  const handle = await open(path, process.platform === "win32" ? "r+" : "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Brings the names in a folder to the medium. Windows cannot open a folder; its file system orders renames itself. */
export async function syncDirectory(directory: string): Promise<void> {
  if (process.platform !== "win32") await syncFile(directory);
}
