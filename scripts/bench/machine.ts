/**
 * What a measurement was made on and with. Numbers without it mean nothing.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { availableParallelism, cpus, loadavg, totalmem } from "node:os";
import { PACKAGE_VERSION } from "../../shared/version.ts";

export interface Surroundings {
  /** ISO 8601. */
  readonly date: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  /** Mean number of runnable processes over the minute before: above 0.5, somebody else was measured too. */
  readonly loadBefore: number;
  readonly node: string;
  readonly lockstep: string;
  /** Version, or null where there is none. */
  readonly torch: string | null;
  /** Commit, or null outside a clone. */
  readonly commit: string | null;
  /** Whether files differ from the commit. */
  readonly dirty: boolean;
}

export function surroundings(torch: string | null): Surroundings {
  const commit = git("rev-parse", "HEAD");
  return {
    date: new Date().toISOString(),
    cpu: cpus().at(0)?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    loadBefore: loadavg()[0],
    node: process.versions.node,
    lockstep: PACKAGE_VERSION,
    torch,
    commit,
    dirty: commit !== null && git("status", "--porcelain") !== "",
  };
}

export function describeSurroundings(s: Surroundings): string {
  const commit = s.commit === null ? "no commit" : s.commit.slice(0, 12) + (s.dirty ? " with changes" : "");
  return [
    s.date,
    `${s.cpu}, ${s.cores} cores, ${s.memoryGiB} GiB, load ${s.loadBefore.toFixed(1)} before`,
    `Node ${s.node}, Lockstep ${s.lockstep} (${commit}), ${s.torch === null ? "no PyTorch" : `PyTorch ${s.torch}`}`,
  ].join("\n");
}

function git(...args: readonly string[]): string | null {
  try {
    const stdio: ["ignore", "pipe", "ignore"] = ["ignore", "pipe", "ignore"];
    return execFileSync("git", args, { encoding: "utf8", stdio }).trim();
  } catch {
    return null;
  }
}
