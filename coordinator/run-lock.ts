/**
 * Keeps a second coordinator out of a run's folder, wherever it runs. The lock
 * is a lease (see lease.ts): who wants it and cannot see that its holder has
 * ended watches whether the holder still renews it. A holder that was stopped
 * and overtaken finds that out before it writes the next time.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { renameSync } from "node:fs";
import { link, mkdir, open, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker as Thread } from "node:worker_threads";
import { shellCommand } from "../shared/command-line.ts";
import { describeError, UsageError } from "../shared/errors.ts";
import { seconds } from "../shared/text.ts";
import type { LeaseData, LeaseNews } from "./lease-thread.ts";
import type { Look, LockRole } from "./lease.ts";
import { describeHolder, holderHere, holderOf, isGone, lockText, look, renew } from "./lease.ts";
import type { RunPaths } from "./run-directory.ts";

/** Between two signs of life, in milliseconds. */
const RENEW_MS = 1000;
/** Between two looks at the lock of somebody else, in milliseconds. */
const LOOK_MS = 250;
/** So many looks without a sign of life, and the holder counts as gone: 10 s. Looks, as a clock also goes on for one who is stopped. */
const MAX_SILENT_LOOKS = 40;
/** A wait of so many looks is said. */
const SAY_LOOKS = 8;
/** How often others may be faster before this is taken for a fault. */
const MAX_ATTEMPTS = 100;
/** No thread takes as long to end, in milliseconds. */
const END_MS = 2000;

export interface LockOptions {
  readonly role: LockRole;
  /** Told why it takes long, and of a lock that was taken over. */
  readonly say: (text: string) => void;
  readonly renewMs?: number;
  readonly lookMs?: number;
}

/** What {@linkcode RunLock} tells its holder. */
export interface LockEvents {
  /** The lock is missing: whether nobody else has had the run since. */
  readonly mayMakeAgain: () => Promise<boolean>;
  /** The folder was deleted, and is there again with nothing but the lock. */
  readonly onMadeAgain: () => Promise<void>;
  /** The run is another process's from now on. */
  readonly onLost: (reason: string) => void;
}

/**
 * Takes the lock, and renews it until released.
 *
 * @throws {UsageError} If a living process holds it; names it.
 */
export async function lockRun(paths: RunPaths, options: LockOptions): Promise<RunLock> {
  const { role, say, renewMs = RENEW_MS, lookMs = LOOK_MS } = options;
  const nonce = randomUUID();
  const contents = lockText(holderHere(nonce, role));
  let before: Look | null = null;
  let numSilent = 0;
  let numLooks = 0;
  for (let numAttempts = 0; ;) {
    const found = look(paths.lock);
    if (found === null || (found.holder !== null && isGone(found.holder))) {
      if (found !== null) await remove(paths.lock, found, nonce);
      if (await create(paths.lock, contents, nonce)) return new RunLock(paths, contents, nonce, renewMs);
      if ((numAttempts += 1) > MAX_ATTEMPTS) throw new Error(`Cannot make ${paths.lock}`);
      continue;
    }
    const isSameHolder = before !== null && before.holder?.nonce === found.holder?.nonce;
    if (isSameHolder && before?.sign === found.sign) numSilent += 1;
    else {
      if (isSameHolder && found.holder?.role === "coordinator") throw heldBy(paths, found);
      numSilent = 0;
    }
    before = found;
    numLooks += 1;
    const who = describeHolder(found.holder);
    if (numSilent >= MAX_SILENT_LOOKS) {
      say(
        `Taking over ${paths.root}: its holder (${who}) gave no sign of life for ${seconds(numSilent * lookMs)}`,
      );
      await remove(paths.lock, found, nonce);
      before = null;
      continue;
    }
    if (numLooks === SAY_LOOKS) {
      say(
        found.holder?.role === "rescue"
          ? `Waiting for a worker (${who}) that saves the state of ${paths.root}`
          : `Watching the lock of ${paths.root} (${who}): it is free after ${seconds(MAX_SILENT_LOOKS * lookMs)} without a sign of life`,
      );
    }
    await sleep(lookMs);
  }
}

function heldBy(paths: RunPaths, { holder }: Look): UsageError {
  return new UsageError(
    `Cannot use ${paths.root} as another coordinator does (${describeHolder(holder)}): end it first, with ${shellCommand(["lockstep", "stop", paths.root])}`,
  );
}

/** A lock that this process holds, or has held. */
export class RunLock {
  /** Tells this hold of the run from those before and after it. */
  readonly nonce: string;
  /** Null for a holder that has no use for a folder which was deleted. */
  events: LockEvents | null = null;
  readonly #paths: RunPaths;
  readonly #contents: string;
  readonly #timer: NodeJS.Timeout;
  readonly #thread: Thread;
  readonly #ended: Promise<void>;
  #isLost = false;
  #isReleased = false;
  #making: Promise<void> | null = null;

  constructor(paths: RunPaths, contents: string, nonce: string, renewMs: number) {
    this.#paths = paths;
    this.#contents = contents;
    this.nonce = nonce;
    const workerData: LeaseData = { lock: paths.lock, nonce, renewMs };
    // Until the thread has loaded, and where it cannot, the event loop renews the lock.
    this.#timer = setInterval(() => void this.#renew(), renewMs);
    this.#timer.unref();
    this.#thread = new Thread(new URL("./lease-thread.js", import.meta.url), { workerData, execArgv: [] });
    this.#thread.on("message", (what: LeaseNews) => {
      if (what === "renews") clearInterval(this.#timer);
      else void this.isHeld().catch(() => undefined);
    });
    this.#thread.on("error", () => undefined);
    this.#ended = new Promise((resolve) => this.#thread.once("exit", () => resolve()));
    this.#thread.unref();
  }

  /**
   * Whether the run is still this process's: to be asked before each write, as a process may be stopped for any time
   * between two of its instructions. Where the folder was deleted it is made again, with the lock first.
   *
   * @returns False once it is another's, and for ever.
   * @throws {Error} If that cannot be told now.
   */
  async isHeld(): Promise<boolean> {
    if (this.#isLost || this.#isReleased) return false;
    let holder = await holderOf(this.#paths.lock);
    if (holder === "nobody" && this.events !== null) {
      this.#making ??= this.#makeAgain().finally(() => (this.#making = null));
      await this.#making;
      holder = await holderOf(this.#paths.lock);
    }
    if (this.#isReleased) return false;
    const other = holder === "nobody" ? null : holder;
    if (other?.nonce === this.nonce) return true;
    if (!this.#isLost) {
      this.#isLost = true;
      const who = other === null ? "" : ` (${describeHolder(other)})`;
      this.events?.onLost(
        `Nothing more is written to ${this.#paths.root} as another process has taken it over${who} while this one was stopped or its folder was gone`,
      );
    }
    return false;
  }

  #renew(): void {
    try {
      if (renew(this.#paths.lock, this.nonce) !== true) void this.isHeld().catch(() => undefined);
    } catch {
      // A disk that fails for a while is told of by who writes to it.
    }
  }

  async #makeAgain(): Promise<void> {
    if (!(await this.events?.mayMakeAgain())) return;
    await mkdir(dirname(this.#paths.lock), { recursive: true });
    if (await create(this.#paths.lock, this.#contents, this.nonce)) await this.events?.onMadeAgain();
  }

  /** Lets others have the run. What cannot be removed is known to be left by a process that has ended. */
  async release(): Promise<void> {
    if (this.#isReleased) return;
    this.#isReleased = true;
    clearInterval(this.#timer);
    this.#thread.ref();
    this.#thread.postMessage("end");
    await Promise.race([this.#ended, sleep(END_MS, undefined, { ref: false })]);
    try {
      if (look(this.#paths.lock)?.holder?.nonce !== this.nonce) return;
      await rm(this.#paths.endpoint, { force: true });
      await rm(this.#paths.lock, { force: true });
    } catch {
      // See above.
    }
  }
}

/** @returns Whether the lock was free, and is now this process's. */
async function create(lock: string, contents: string, nonce: string): Promise<boolean> {
  const temporary = `${lock}.${nonce}`;
  try {
    await writeFile(temporary, contents);
    await link(temporary, lock);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    if (["ENOENT", "ENOSPC", "EROFS", "EACCES"].includes(String(code))) {
      throw new UsageError(`Cannot make ${lock}: ${describeError(error)}`);
    }
    return await createWithoutLinks(lock, contents);
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}

/** Some file systems have no links. A crash between the two calls leaves an empty lock, whose holder shows no life. */
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

/** Removes the lock that was looked at, and no other that may have taken its place, or shown life, meanwhile. */
async function remove(lock: string, found: Look, nonce: string): Promise<void> {
  const aside = `${lock}.${nonce}.old`;
  // Several may have seen the same: with no wait between, only the first of them finds what it has seen.
  if (look(lock)?.sign !== found.sign) return;
  try {
    renameSync(lock, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  const moved = look(aside);
  if (moved !== null && moved.sign !== found.sign) {
    await link(aside, lock).catch(() => createWithoutLinks(lock, moved.text).catch(() => false));
  }
  await rm(aside, { force: true });
}
