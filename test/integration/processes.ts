/**
 * What the integration tests train on; how they start processes is shared with `npm run chaos`.
 *
 * @module
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync } from "node:fs";
import { resolve } from "node:path";

export * from "../../scripts/chaos/processes.ts";

const MNIST = resolve("../shared/data/mnist");

/**
 * Engine wasm, which every machine has (a later --engine wins), and real MNIST where this checkout has it beside it,
 * else the digits that the product draws.
 */
export const TRAINING_FLAGS: readonly string[] = [
  ...["--engine", "wasm"],
  ...(existsSync(MNIST) ? ["--dataset", "mnist", "--data-dir", MNIST] : ["--dataset", "synthetic"]),
];

/** Deletes the folder of a run that goes on, and so makes it again: file by file that may never end. */
export function deleteAtOnce(runDir: string): void {
  const aside = `${runDir}-deleted`;
  renameSync(runDir, aside);
  rmSync(aside, { recursive: true });
}

/** TCP ports on which a process listens. Linux only. */
export function listeningPorts(pid: number): readonly number[] {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
      } catch {
        return [];
      }
    }),
  );
  return readFileSync(`/proc/${pid}/net/tcp`, "utf8")
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === "0A" && inodes.has(fields[9]))
    .map((fields) => parseInt(fields[1].split(":")[1], 16));
}
