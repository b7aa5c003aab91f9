/**
 * The lock of a run as a file: who holds it, and a sign of life that its holder
 * renews. Whether that sign still changes can be seen from any process, host or
 * container that sees the file, without trust in process ids, host names or
 * clocks, and on file systems that know neither links nor locks.
 *
 * @module
 */
import { closeSync, fstatSync, futimesSync, openSync, readFileSync, readlinkSync, writeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { z } from "zod";
import { checked } from "../shared/checked.ts";

/** A coordinator keeps others out; a rescue is a worker that saves the state of a run whose coordinator is gone. */
export type LockRole = "coordinator" | "rescue";

const HolderSchema = z.object({
  /** Made for this hold of the lock, so that nobody takes another's for its own. */
  nonce: z.string(),
  role: z.enum(["coordinator", "rescue"]),
  pid: z.int(),
  host: z.string(),
  /** The kernel that runs, the namespace in which `pid` is one, and when that process began in clock ticks; null where the system does not tell. */
  boot: z.string().nullable(),
  pidNamespace: z.string().nullable(),
  started: z.string().nullable(),
});
export type Holder = z.infer<typeof HolderSchema>;

/** A lock at one moment. */
export interface Look {
  /** Null for what no holder has written whole. */
  readonly holder: Holder | null;
  readonly text: string;
  /** Changes whenever the holder gives a sign of life. */
  readonly sign: string;
}

/** Digits of the counter, where a holder cannot change the file's times. */
const BEAT_DIGITS = 12;
const BEAT_END = '"}\n';

/** This process as the holder of a lock. */
export function holderHere(nonce: string, role: LockRole): Holder {
  return {
    ...{ nonce, role, pid: process.pid, host: hostname() },
    ...{ boot: bootId(), pidNamespace: pidNamespace(), started: processOf(process.pid)?.started ?? null },
  };
}

/** The file's contents; the counter is last, and of one length, so that it can be changed in place. */
export function lockText(holder: Holder): string {
  return `${JSON.stringify(holder).slice(0, -1)},"beat":"${"0".repeat(BEAT_DIGITS)}${BEAT_END}`;
}

/**
 * Opens the file anew, as file systems over a network promise fresh contents and times only then.
 *
 * @returns Null if there is none.
 * @throws {Error} If it cannot be read.
 */
export function look(lock: string): Look | null {
  const file = openLock(lock);
  if (file === null) return null;
  try {
    const text = readFileSync(file, "utf8");
    return { text, holder: parseHolder(text), sign: `${text}${fstatSync(file, { bigint: true }).mtimeNs}` };
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  } finally {
    closeSync(file);
  }
}

/**
 * Who holds the lock now, read without keeping the event loop; null for what no holder has written whole.
 *
 * @throws {Error} If it cannot be read.
 */
export async function holderOf(lock: string): Promise<Holder | null | "nobody"> {
  try {
    return parseHolder(await readFile(lock, "utf8"));
  } catch (error) {
    if (isMissing(error)) return "nobody";
    throw error;
  }
}

/** Whether the lock is held with the nonce, also by one who gives no sign of life. */
export async function isHeldBy(lock: string, nonce: string): Promise<boolean> {
  const holder = await holderOf(lock);
  return holder !== null && holder !== "nobody" && holder.nonce === nonce;
}

/**
 * Gives a sign of life.
 *
 * @returns Whether the lock is still that of the nonce; null if there is none.
 * @throws {Error} If that cannot be told now.
 */
export function renew(lock: string, nonce: string): boolean | null {
  const file = openLock(lock);
  if (file === null) return null;
  try {
    const text = readFileSync(file, "utf8");
    if (parseHolder(text)?.nonce !== nonce) return false;
    // Times take no room, so that a full disk does not matter. What they are does not either.
    const now = new Date();
    try {
      futimesSync(file, now, now);
    } catch {
      count(lock, text);
    }
    return true;
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  } finally {
    closeSync(file);
  }
}

/** Changes the counter in place, on file systems where times are not ours to change. */
function count(lock: string, text: string): void {
  const start = text.length - BEAT_END.length - BEAT_DIGITS;
  const beat = Number(text.slice(start, start + BEAT_DIGITS)) + 1;
  const file = openSync(lock, "r+");
  try {
    writeSync(file, String(beat).padStart(BEAT_DIGITS, "0"), Buffer.byteLength(text.slice(0, start)));
  } finally {
    closeSync(file);
  }
}

/** Whether the holder can be seen to have ended: only from the same kernel and process namespace. */
export function isGone({ pid, boot, pidNamespace: namespace, started }: Holder): boolean {
  if (boot === null || namespace === null || started === null) return false;
  if (boot !== bootId() || namespace !== pidNamespace()) return false;
  const found = processOf(pid);
  if (found !== null) return found.started !== started || found.isDead;
  try {
    // A system may hide the processes of others from /proc.
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

export function describeHolder(holder: Holder | null): string {
  return holder === null ? "unknown" : `process ${holder.pid} on ${holder.host}`;
}

/** @returns Null if there is none, also where a server has forgotten the folder that it was in. */
function openLock(lock: string): number | null {
  try {
    return openSync(lock, "r");
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return ["ENOENT", "ESTALE"].includes(String((error as NodeJS.ErrnoException).code));
}

function parseHolder(text: string): Holder | null {
  try {
    const result = checked(HolderSchema, JSON.parse(text));
    return result.ok ? result.value : null;
  } catch {
    return null;
  }
}

function bootId(): string | null {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return null;
  }
}

function pidNamespace(): string | null {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return null;
  }
}

/** Null if there is none, or the system does not tell. */
function processOf(pid: number): { readonly started: string; readonly isDead: boolean } | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name before the last parenthesis may hold anything; the start is the 20th field behind it.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { started: fields[19], isDead: fields[0] === "Z" || fields[0] === "X" };
  } catch {
    return null;
  }
}
