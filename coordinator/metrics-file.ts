/**
 * metrics.jsonl: one line per step, in order. A long run's file is larger than
 * a string can be, and what a run asks of it stands at its end: so it is read
 * backwards in pieces, and cut in place.
 *
 * @module
 */
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open } from "node:fs/promises";

const CHUNK_BYTES = 1 << 18;
/** What is longer is no line of ours, and is not kept in memory to be looked at. */
const MAX_LINE_BYTES = 16 * 2 ** 20;
const NEWLINE = 10;

interface Line {
  readonly globalStep: number;
  /** Offset behind its line break. */
  readonly end: number;
}

/** Where a file without any line ends. */
const NO_LINE: Line = { globalStep: 0, end: 0 };

/** The last step that is recorded, 0 if none is. @throws {Error} If the file cannot be read. */
export async function lastRecordedStep(path: string, chunkBytes = CHUNK_BYTES): Promise<number> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
  try {
    return (await lastLine(file, Infinity, chunkBytes)).globalStep;
  } finally {
    await file.close();
  }
}

/**
 * Drops a torn last line, and lines of steps after `globalStep`: the run writes them again.
 *
 * @returns The last step that is left, 0 if none is.
 */
export async function trimMetrics(
  path: string,
  globalStep = Infinity,
  chunkBytes = CHUNK_BYTES,
): Promise<number> {
  const file = await openToChange(path);
  try {
    return (await cutBehind(file, globalStep, chunkBytes)).globalStep;
  } finally {
    await file.close();
  }
}

/** Adds lines of steps after the last one that is there, and drops a torn last line. They are on the medium then. */
export async function addMetrics(
  path: string,
  lines: readonly { readonly globalStep: number }[],
  chunkBytes = CHUNK_BYTES,
): Promise<void> {
  const file = await openToChange(path);
  try {
    const last = await cutBehind(file, Infinity, chunkBytes);
    const added = lines.filter(({ globalStep }) => globalStep > last.globalStep);
    const text = added.map((line) => `${JSON.stringify(line)}\n`).join("");
    await file.write(text, last.end);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Neither cuts what is there nor asks for a file that is. */
function openToChange(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDWR | constants.O_CREAT);
}

async function cutBehind(file: FileHandle, globalStep: number, chunkBytes: number): Promise<Line> {
  const line = globalStep <= 0 ? NO_LINE : await lastLine(file, globalStep, chunkBytes);
  const { size } = await file.stat();
  if (size > line.end) {
    await file.truncate(line.end);
    // What is written behind the cut must not come before it on the medium.
    await file.sync();
  }
  return line;
}

/** The last whole line of a step up to `globalStep`. What is no line of a step is passed over. */
async function lastLine(file: FileHandle, globalStep: number, chunkBytes: number): Promise<Line> {
  /** Offset behind the line break of the line that is being put together; null for what has none, at the end. */
  let end: number | null = null;
  /** The later pieces of that line, or null if it is too long. */
  let pieces: Buffer[] | null = [];
  const add = (piece: Buffer): void => {
    const numBytes = pieces?.reduce((sum, { byteLength }) => sum + byteLength, piece.byteLength);
    if (numBytes === undefined || numBytes > MAX_LINE_BYTES) pieces = null;
    // A copy: the chunk is read into again.
    else pieces?.unshift(Buffer.from(piece));
  };
  const found = (): Line | null => {
    const step = pieces === null || end === null ? null : stepOf(Buffer.concat(pieces).toString());
    return step === null || end === null || step > globalStep ? null : { globalStep: step, end };
  };
  const chunk = Buffer.alloc(chunkBytes);
  for (let position = (await file.stat()).size; position > 0;) {
    const numBytes = Math.min(chunkBytes, position);
    position -= numBytes;
    const { bytesRead } = await file.read(chunk, 0, numBytes, position);
    // Cut by another process meanwhile, which a lock rules out.
    if (bytesRead < numBytes) throw new Error(`Cannot read ${numBytes} bytes at ${position}`);
    let pieceEnd = numBytes;
    for (let at = numBytes - 1; at >= 0; at--) {
      at = chunk.subarray(0, at + 1).lastIndexOf(NEWLINE);
      if (at < 0) break;
      add(chunk.subarray(at + 1, pieceEnd));
      const line = found();
      if (line !== null) return line;
      end = position + at + 1;
      pieces = [];
      pieceEnd = at;
    }
    add(chunk.subarray(0, pieceEnd));
  }
  return found() ?? NO_LINE;
}

function stepOf(line: string): number | null {
  try {
    const { globalStep } = JSON.parse(line) as { readonly globalStep?: unknown };
    return typeof globalStep === "number" ? globalStep : null;
  } catch {
    return null;
  }
}
