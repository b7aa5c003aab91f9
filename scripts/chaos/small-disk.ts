/**
 * A disk that fills up: a file system in memory, of a size that is chosen. Needs Linux and root.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  rmdirSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const mount = (...args: string[]): void => void execFileSync("mount", args, { stdio: "pipe" });

/** What Linux calls a file system in memory. */
const TMPFS_MAGIC = 0x01021994;

export class SmallDisk {
  readonly path: string;
  #numBytes: number;

  /** @param path Folder to make it in, or null for a new one. */
  constructor(megabytes: number, path: string | null = null) {
    this.#numBytes = megabytes * 2 ** 20;
    this.path = path ?? mkdtempSync(join(tmpdir(), "lockstep-disk-"));
    mkdirSync(this.path, { recursive: true });
    try {
      mount("-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", this.path);
    } catch (error) {
      rmdirSync(this.path);
      throw error;
    }
  }

  get freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.path);
    return bavail * bsize;
  }

  resize(megabytes: number): void {
    this.#numBytes = megabytes * 2 ** 20;
    mount("-o", `remount,size=${megabytes}m`, this.path);
  }

  /** @param mode Refused while a file is being written: tried again for a while. */
  async remount(mode: "ro" | "rw"): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        return mount("-o", `remount,${mode}`, this.path);
      } catch (error) {
        if (attempt === 500) throw error;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }
  }

  /**
   * Takes all space that is left, until {@linkcode free}. Never more than the disk has: it may have been
   * removed under one that still fills it, and the path is then a folder of the machine's own disk.
   *
   * @throws {Error} If the disk is not there.
   */
  fill(): void {
    const { type, blocks, bsize } = statfsSync(this.path);
    if (type !== TMPFS_MAGIC || blocks * bsize !== this.#numBytes) {
      throw new Error(`Cannot fill ${this.path} as it is not a file system of ${this.#numBytes} bytes`);
    }
    const file = openSync(join(this.path, "filler"), "a");
    let numLeft = this.#numBytes;
    try {
      for (let size = 1 << 20; size >= 1; size >>= 4) {
        const bytes = Buffer.alloc(size, 1);
        try {
          let written = size;
          while (written === size && numLeft > 0) {
            written = writeSync(file, bytes);
            numLeft -= written;
          }
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
        }
      }
    } finally {
      closeSync(file);
    }
  }

  free(): void {
    rmSync(join(this.path, "filler"));
  }

  remove(): void {
    execFileSync("umount", ["-l", this.path]);
    rmdirSync(this.path);
  }
}

/** Why there can be no such disk here, or null. */
export function whyNoSmallDisk(): string | null {
  if (process.platform !== "linux") return "a file system of its own needs Linux";
  if (process.getuid?.() !== 0) return "a file system of its own needs root";
  try {
    new SmallDisk(1).remove();
    return null;
  } catch {
    return "a file system of its own needs the right to mount";
  }
}
