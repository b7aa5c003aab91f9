/**
 * Downloads one file from the first mirror that gives it whole. The bytes
 * gather in `<destination>.partial`, which a later try continues; the final
 * name appears only once they are verified and on the disk.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { DatasetError } from "../../shared/errors.ts";
import { explainError } from "../../shared/system-errors.ts";
import { fetchRest, MirrorFailure } from "./http-resume.ts";

/** Connections to one mirror that may break after they gave bytes, before the next mirror is asked. */
const MAX_BROKEN_CONNECTIONS = 3;

export interface DownloadOptions {
  /** The same file on each mirror, in the order of trying. */
  readonly urls: readonly string[];
  /** Final path. Its folder is made where missing; a file already there is replaced. */
  readonly destination: string;
  /** Throws a DatasetError if these are not the file's bytes. */
  verify(bytes: Uint8Array): void;
  readonly onProgress?: ((receivedBytes: number, totalBytes: number | null) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Time to the head of an answer; default 5,000. */
  readonly connectTimeoutMs?: number;
  /** Time without bytes after which the next mirror is asked; default 15,000. */
  readonly idleTimeoutMs?: number;
  /** A mirror that is slower is given up, as one that sends a byte a second is; default 1,000. */
  readonly minBytesPerSecond?: number;
  /** Time of waiting over which the speed is measured; default 30,000. */
  readonly speedWindowMs?: number;
  /** Default 256 MiB. */
  readonly maxBytes?: number;
  /** Last lines of the error when all mirrors fail: what the user can do. */
  readonly advice?: string;
}

const DEFAULT_ADVICE = [
  "Try again later with `npx lockstep download`, or copy the files into a folder by hand and pass it with",
  "--data-dir, or train on the built-in digits with --dataset synthetic",
].join("\n");

/**
 * Downloads, verifies, flushes, renames.
 *
 * @throws {DatasetError} If no mirror gave the file, with the reason of each; or if it cannot be written.
 * @throws The signal's reason, if it is aborted; a later call continues.
 */
export async function downloadFile(options: DownloadOptions): Promise<void> {
  const { urls, destination, signal } = options;
  const partial = `${destination}.partial`;
  const reasons: string[] = [];
  signal?.throwIfAborted();
  try {
    await mkdir(dirname(destination), { recursive: true });
    const handle = await open(partial, constants.O_RDWR | constants.O_CREAT);
    let published = false;
    try {
      for (const url of urls) {
        try {
          const bytes = await downloadFrom(url, handle, options);
          await publish(bytes, destination);
          published = true;
          return;
        } catch (error) {
          if (!(error instanceof MirrorFailure)) throw error;
          reasons.push(`  ${url}: ${error.message}`);
        }
      }
    } finally {
      const { size } = await handle.stat();
      await handle.close();
      if (published || size === 0) await rm(partial, { force: true });
    }
  } catch (error) {
    // An abort, or a bug of verify(), is not an error of the file system.
    if (!(error instanceof Error) || !("syscall" in error)) throw error;
    throw new DatasetError(`Cannot write ${destination}: ${explainError(error)}`, { cause: error });
  }
  const advice = options.advice ?? DEFAULT_ADVICE;
  throw new DatasetError(
    [
      `Cannot download ${basename(destination)} as no mirror gave it whole:`,
      ...reasons,
      ...(advice === "" ? [] : [advice]),
    ].join("\n"),
  );
}

/** The verified bytes of one mirror. @throws {MirrorFailure} If it does not give them. */
async function downloadFrom(url: string, handle: FileHandle, options: DownloadOptions): Promise<Uint8Array> {
  let numBroken = 0;
  let startedOver = false;
  for (;;) {
    try {
      const { resumed } = await fetchRest({
        url,
        handle,
        connectTimeoutMs: options.connectTimeoutMs ?? 5_000,
        idleTimeoutMs: options.idleTimeoutMs ?? 15_000,
        minBytesPerSecond: options.minBytesPerSecond ?? 1000,
        speedWindowMs: options.speedWindowMs ?? 30_000,
        maxBytes: options.maxBytes ?? 256 * 2 ** 20,
        onProgress: options.onProgress,
        signal: options.signal,
      });
      const bytes = await readWhole(handle);
      const reason = reasonAgainst(bytes, options);
      if (reason === null) return bytes;
      await handle.truncate(0);
      if (!resumed || startedOver) throw new MirrorFailure(reason);
      // The old bytes may have been the bad ones: once more, without them.
      startedOver = true;
    } catch (error) {
      if (!(error instanceof MirrorFailure) || !error.canContinue) throw error;
      numBroken++;
      if (numBroken >= MAX_BROKEN_CONNECTIONS) throw error;
    }
  }
}

function reasonAgainst(bytes: Uint8Array, options: DownloadOptions): string | null {
  try {
    options.verify(bytes);
    return null;
  } catch (error) {
    if (!(error instanceof DatasetError)) throw error;
    return error.message;
  }
}

async function readWhole(handle: FileHandle): Promise<Uint8Array> {
  const bytes = new Uint8Array((await handle.stat()).size);
  let numRead = 0;
  while (numRead < bytes.length) {
    const result = await handle.read(bytes, numRead, bytes.length - numRead, numRead);
    if (result.bytesRead === 0) break;
    numRead += result.bytesRead;
  }
  return bytes.subarray(0, numRead);
}

/**
 * Puts verified bytes under the final name. They are written anew from memory: another process may still
 * be writing to the partial file, and must not be able to change what was verified.
 */
async function publish(bytes: Uint8Array, destination: string): Promise<void> {
  const temporary = `${destination}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, "wx");
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, destination);
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDirectory(dirname(destination));
}

/** Makes the rename last through a power cut, where the system can flush a folder (Windows cannot). */
async function syncDirectory(directory: string): Promise<void> {
  try {
    const handle = await open(directory, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // The file itself is on the disk, and a lost name only means another download.
  }
}
