/**
 * One HTTP request that continues a file: asks for what lies behind the bytes
 * already there, and copes with servers that ignore or refuse that. Bounded in
 * time: no answer, or no bytes for a while, is a failure of the mirror.
 *
 * Bytes are written at their own position in the file, so two processes that
 * fetch the same file into the same place do not spoil each other's work.
 *
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { proxiedFetch } from "./proxied-fetch.ts";

/** A mirror did not give the file. Any other error of a download is one of this machine. */
export class MirrorFailure extends Error {
  override name = "MirrorFailure";
  /** Whether the connection broke after it gave bytes, so that asking again may continue. */
  readonly canContinue: boolean;

  constructor(message: string, options: { canContinue?: boolean; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.canContinue = options.canContinue ?? false;
  }
}

export interface FetchRestOptions {
  readonly url: string;
  /** Open for reading and writing; what it holds is taken for the beginning of the file. */
  readonly handle: FileHandle;
  /** Time until the head of the answer. */
  readonly connectTimeoutMs: number;
  /** Time between two pieces of the body. */
  readonly idleTimeoutMs: number;
  /** Speed below which a mirror is given up, and the time of waiting for it over which that is measured. */
  readonly minBytesPerSecond: number;
  readonly speedWindowMs: number;
  /** Size above which the mirror is not believed. */
  readonly maxBytes: number;
  readonly onProgress?: ((receivedBytes: number, totalBytes: number | null) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a fetch failed of; `fetch` itself says only "fetch failed" and hides the reason in a cause. */
function networkReason(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return networkReason(error.errors[0]);
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : networkReason(error.cause);
}

/** Parses `bytes 0-99/1234` and `bytes *\/1234`; null for what is missing or unknown. */
function parseContentRange(value: string | null): { start: number | null; totalBytes: number | null } {
  const match = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(value?.trim() ?? "");
  const number = (text: string | undefined): number | null =>
    text === undefined || text === "*" ? null : Number(text);
  return { start: number(match?.[1]), totalBytes: number(match?.[2]) };
}

/**
 * Fetches what the file lacks.
 *
 * @returns Whether the file now holds bytes that were there before, perhaps of another mirror.
 * @throws {MirrorFailure} If the mirror refuses, breaks off, stalls or sends too much. The bytes so far stay.
 * @throws The signal's reason, if it is aborted; an error of node:fs, if the file cannot be written.
 */
export async function fetchRest(options: FetchRestOptions): Promise<{ resumed: boolean }> {
  const { url, handle, connectTimeoutMs, idleTimeoutMs, maxBytes, signal } = options;
  signal?.throwIfAborted();
  const controller = new AbortController();
  const forward = (): void => controller.abort(signal?.reason);
  signal?.addEventListener("abort", forward);
  let timer: NodeJS.Timeout | undefined;
  let receivedBytes = 0;

  const watch = (timeoutMs: number, what: string): void => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      controller.abort(new MirrorFailure(`no ${what} within ${timeoutMs} ms`));
    }, timeoutMs);
  };
  /** Tells the user's abort, our time-outs and the network's own failures apart. */
  const network = async <T>(operation: Promise<T>): Promise<T> => {
    try {
      return await operation;
    } catch (error) {
      signal?.throwIfAborted();
      if (controller.signal.reason instanceof MirrorFailure) throw controller.signal.reason;
      throw new MirrorFailure(networkReason(error), { canContinue: receivedBytes > 0, cause: error });
    }
  };
  const ask = (offset: number): Promise<Response> => {
    watch(connectTimeoutMs, "answer");
    // Without this a server may pack the archive once more, and positions would no longer be those of the file.
    const headers: Record<string, string> = { "accept-encoding": "identity" };
    if (offset > 0) headers["range"] = `bytes=${offset}-`;
    return network(proxiedFetch(url, { headers, signal: controller.signal }));
  };

  try {
    let size = (await handle.stat()).size;
    let response = await ask(size);
    let range = parseContentRange(response.headers.get("content-range"));
    if (size > 0 && response.status === 416 && range.totalBytes === size) {
      await response.body?.cancel();
      return { resumed: true };
    }
    const packed = (response.headers.get("content-encoding") ?? "identity") !== "identity";
    const wrongRange = response.status === 206 && (range.start !== size || packed);
    if (size > 0 && (response.status === 416 || wrongRange)) {
      // The file there is longer than the mirror's, or the mirror does not understand ranges.
      await response.body?.cancel();
      await handle.truncate(0);
      size = 0;
      response = await ask(0);
      range = parseContentRange(response.headers.get("content-range"));
    }
    const resumed = size > 0 && response.status === 206;
    if (!resumed && response.status !== 200) throw new MirrorFailure(`HTTP ${response.status}`);
    if (!resumed) {
      await handle.truncate(0);
      size = 0;
    }
    const length = response.headers.get("content-length");
    const totalBytes = resumed ? range.totalBytes : length === null || packed ? null : Number(length);
    if (totalBytes !== null && totalBytes > maxBytes) {
      throw new MirrorFailure(`a file of ${totalBytes} bytes, more than ${maxBytes}`);
    }
    if (response.body === null) throw new MirrorFailure("an answer without a body");
    options.onProgress?.(size, totalBytes);
    const reader = response.body.getReader();
    const isTooSlow = slowness(options);
    for (;;) {
      watch(idleTimeoutMs, "bytes");
      const askedMs = performance.now();
      const { done, value } = await network(reader.read());
      // Not while the disk is slow: that is no fault of the mirror.
      clearTimeout(timer);
      if (done) break;
      if (isTooSlow(value.length, performance.now() - askedMs)) {
        throw new MirrorFailure(`slower than ${options.minBytesPerSecond} bytes a second`);
      }
      if (size + value.length > maxBytes) throw new MirrorFailure(`more than ${maxBytes} bytes`);
      await writeWhole(handle, value, size);
      size += value.length;
      receivedBytes += value.length;
      options.onProgress?.(size, totalBytes);
    }
    if (totalBytes !== null && size !== totalBytes) {
      throw new MirrorFailure(`${size} bytes of ${totalBytes}`, { canContinue: receivedBytes > 0 });
    }
    return { resumed };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", forward);
    // Frees the connection where the body was not read to its end.
    controller.abort();
  }
}

/** Says of every piece of the body whether the mirror has become too slow. */
function slowness({
  minBytesPerSecond,
  speedWindowMs,
}: FetchRestOptions): (numBytes: number, waitedMs: number) => boolean {
  let bytes = 0;
  let ms = 0;
  return (numBytes, waitedMs) => {
    bytes += numBytes;
    ms += waitedMs;
    if (ms < speedWindowMs) return false;
    const isTooSlow = bytes * 1000 < minBytesPerSecond * ms;
    bytes = ms = 0;
    return isTooSlow;
  };
}

async function writeWhole(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const result = await handle.write(bytes, written, bytes.length - written, position + written);
    written += result.bytesWritten;
  }
}
