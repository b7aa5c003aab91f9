/**
 * What the integration tests train on; how they start processes is shared with `npm run chaos`.
 *
 * @module
 */
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeIdx } from "../../coordinator/dataset/idx.ts";
import { syntheticDigits } from "../../coordinator/dataset/synthetic.ts";

export * from "../../scripts/chaos/processes.ts";

/** So few that a run is begun in no time: drawing 60,000 takes longer than most tests train. */
const NUM_DIGITS = 2000;

/** A folder with digits that the product draws, as files in MNIST's format, until this process ends. */
function writeDigits(): string {
  const folder = mkdtempSync(join(tmpdir(), "lockstep-digits-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const { pixels, labels } = syntheticDigits({ seed: 0, count: NUM_DIGITS });
  writeFileSync(join(folder, "train-images-idx3-ubyte"), encodeIdx([NUM_DIGITS, 28, 28], pixels));
  writeFileSync(join(folder, "train-labels-idx1-ubyte"), encodeIdx([NUM_DIGITS], labels));
  return folder;
}

/** Engine wasm, which every machine has (a later --engine wins), and data that every machine has. */
export const TRAINING_FLAGS: readonly string[] = [
  ...["--engine", "wasm"],
  ...["--dataset", "mnist", "--data-dir", writeDigits(), "--no-verify-data"],
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
