/**
 * Keeps a second coordinator out of a run's folder. A lock says which process
 * holds it, and since when that process runs, as ids of processes are used
 * again; it appears with its contents or not at all.
 *
 * @module
 */
import { link, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { UsageError } from "../shared/errors.ts";
import type { RunPaths } from "./run-directory.ts";

/** How often others may be faster before this is taken for a fault. */
const MAX_ATTEMPTS = 10;

/**
 * Keeps other coordinators out of the run until released.
 *
 * @throws {UsageError} If a living process holds the lock; names it.
 */
export async function lockRun(paths: RunPaths): Promise<() => Promise<void>> {
  const mine = JSON.stringify({
    pid: process.pid,
    host: hostname(),
    started: startOf(process.pid),
  });
  for (let attempt = 0; ; attempt++) {
    if (await create(paths.lock, mine)) break;
    const holder = await readFile(paths.lock, "utf8").catch(() => "");
    if (isAlive(holder) || attempt === MAX_ATTEMPTS) {
      throw new UsageError(
        `Cannot use ${paths.root} as another coordinator does (${holder}): stop it, or if it is gone remove ${paths.lock}`,
      );
    }
    await remove(paths.lock, holder);
  }
  // What cannot be removed is known to be left by a process that has ended.
  return async () => {
    await rm(paths.endpoint, { force: true }).catch(() => undefined);
    await rm(paths.lock, { force: true }).catch(() => undefined);
  };
}

/** @returns Whether the lock was free, and is now this process's. */
async function create(lock: string, contents: string): Promise<boolean> {
  const temporary = `${lock}.${process.pid}`;
  await writeFile(temporary, contents);
  try {
    await link(temporary, lock);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    if (code === "ENOENT") throw error;
    return await createWithoutLinks(lock, contents);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Some file systems have no links. A crash between the two calls leaves an empty lock, which is nobody's. */
async function createWithoutLinks(lock: string, contents: string): Promise<boolean> {
  try {
    const file = await open(lock, "wx");
    try {
      await file.writeFile(contents);
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** Removes the lock of a process that has ended, and no other that may have taken its place meanwhile. */
async function remove(lock: string, holder: string): Promise<void> {
  const aside = `${lock}.${process.pid}.old`;
  try {
    await rename(lock, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  if ((await readFile(aside, "utf8")) !== holder) await link(aside, lock).catch(() => undefined);
  await rm(aside, { force: true });
}

/** A lock of another host cannot be checked, so it counts as held; a torn or empty one is nobody's. */
function isAlive(holder: string): boolean {
  let lock: { readonly pid?: unknown; readonly host?: unknown; readonly started?: unknown } | null;
  try {
    lock = JSON.parse(holder) as typeof lock;
  } catch {
    return false;
  }
  if (lock === null || typeof lock !== "object") return false;
  if (lock.host !== hostname()) return true;
  if (typeof lock.pid !== "number" || lock.pid === process.pid) return false;
  try {
    process.kill(lock.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const started = startOf(lock.pid);
  return started === null || typeof lock.started !== "string" || started === lock.started;
}

/** When a process of this machine began: boot and ticks since then. Null where the system does not tell. */
function startOf(pid: number): string | null {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name before the last parenthesis may hold anything; the start is the 20th field behind it.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return `${boot}/${fields[19]}`;
  } catch {
    return null;
  }
}
