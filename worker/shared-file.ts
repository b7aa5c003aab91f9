/**
 * Shared memory between workers of one host: a file in tmpfs per worker, which
 * it alone writes and its peers read, each byte copied once on either side.
 * The file has no name: it is unlinked at once and opened by peers through
 * /proc, so nothing is left behind however a worker ends.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { bytesOf } from "../shared/frames.ts";
import type { SharedFileAddress } from "../shared/protocol.ts";
import { SHARED_FILE_PATH, SHARED_FILE_TOKEN } from "../shared/protocol.ts";

/** Where Linux has memory that processes share. */
const SHARED_MEMORY = "/dev/shm";
/** File system type of tmpfs (linux/magic.h). */
const TMPFS_MAGIC = 0x01021994;

const PAGE_BYTES = 4096;
/** Distance of the two halves. The file is sparse: only what is written takes memory. */
const HALF_BYTES = 2 ** 36;

export class SharedFile {
  readonly address: SharedFileAddress;
  readonly #fd: number;
  #half = 0;
  #next = PAGE_BYTES;

  /** @returns Null where there is no shared memory, as outside of Linux. */
  static create(): SharedFile | null {
    try {
      if (statfsSync(SHARED_MEMORY).type !== TMPFS_MAGIC) return null;
      return new SharedFile();
    } catch {
      return null;
    }
  }

  private constructor() {
    const token = randomBytes(16).toString("hex");
    const name = join(SHARED_MEMORY, `lockstep-${token}`);
    this.#fd = openSync(name, "wx+", 0o600);
    unlinkSync(name);
    writeSync(this.#fd, token, 0);
    this.address = { path: `/proc/${process.pid}/fd/${this.#fd}`, token };
  }

  /** Begins to overwrite what was written before the last turn. */
  turn(): void {
    this.#half = 1 - this.#half;
    this.#next = PAGE_BYTES + this.#half * HALF_BYTES;
  }

  /** @returns Where the values are, in bytes. @throws {Error} If the shared memory is full. */
  write(values: Float32Array): number {
    const at = this.#next;
    const bytes = bytesOf(values);
    for (let done = 0; done < bytes.length;) {
      done += writeSync(this.#fd, bytes, done, bytes.length - done, at + done);
    }
    this.#next += Math.ceil(bytes.length / PAGE_BYTES) * PAGE_BYTES;
    return at;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Another worker's file. */
export class PeerFile {
  readonly #fd: number;

  /**
   * The path may lead to anything: on another host, or in another container, it is what some other process has open there.
   *
   * @returns Null if the worker is not on this host, or its file may not be read: then its values come by tcp.
   */
  static open({ path, token }: SharedFileAddress): PeerFile | null {
    if (!SHARED_FILE_PATH.test(path) || !SHARED_FILE_TOKEN.test(token)) return null;
    let fd: number | null = null;
    try {
      // A pipe that nobody writes to would be waited for, and a terminal might become that of this process.
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
      const start = Buffer.alloc(token.length);
      const isThere = fstatSync(fd).isFile() && readSync(fd, start, 0, start.length, 0) === start.length;
      if (isThere && start.toString("latin1") === token) return new PeerFile(fd);
    } catch {
      // As for a file that is no such file.
    }
    if (fd !== null) closeSync(fd);
    return null;
  }

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Whether so many bytes are there. */
  holds(at: number, numBytes: number): boolean {
    return at + numBytes <= fstatSync(this.#fd).size;
  }

  /** Fills the target. @throws {Error} If the file ends before. */
  read(at: number, target: Float32Array): void {
    const bytes = bytesOf(target);
    for (let done = 0; done < bytes.length;) {
      const count = readSync(this.#fd, bytes, done, bytes.length - done, at + done);
      if (count === 0) throw new Error(`Cannot read ${bytes.length} bytes of a peer's shared file at ${at}`);
      done += count;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}
