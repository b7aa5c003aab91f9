/**
 * Which faults a chaos run injects, when, and where: decided by a seed and the
 * fault's number alone, so that the same flags repeat the same faults.
 *
 * @module
 */
import { createHash } from "node:crypto";

/** What can happen, and what it needs. */
export const FAULT_KINDS = {
  "kill-worker": { needs: null, describe: "kill -9 of a worker" },
  "stop-long": { needs: null, describe: "SIGSTOP for longer than the failure timeout, then SIGCONT" },
  "stop-short": { needs: null, describe: "SIGSTOP for less than the failure timeout" },
  join: { needs: null, describe: "a worker started by hand joins" },
  scale: { needs: null, describe: "lockstep scale to fewer workers, and back" },
  "kill-coordinator": { needs: null, describe: "kill -9 of the coordinator, then --resume on its address" },
  "end-job": { needs: null, describe: "SIGTERM to all processes at once, then --resume" },
  "end-machine": { needs: "network", describe: "SIGTERM to all processes of a worker's host" },
  "kill-all": { needs: null, describe: "kill -9 of all workers at once" },
  "kill-two": { needs: null, describe: "a second worker is killed while the run recovers from the first" },
  "same-name": { needs: null, describe: "another process takes a living worker's name" },
  "disk-full": { needs: "tmpfs", describe: "no room for checkpoints for a while" },
  partition: { needs: "network", describe: "a worker and the coordinator do not reach each other" },
  "partition-in": { needs: "network", describe: "nothing from the coordinator reaches a worker" },
  "partition-out": { needs: "network", describe: "nothing from a worker reaches the coordinator" },
  "partition-peers": { needs: "network", describe: "two workers do not reach each other" },
  "partition-peers-one-way": { needs: "network", describe: "nothing from a worker reaches another" },
  "link-down": { needs: "network", describe: "a worker's cable is pulled out" },
} as const satisfies Record<string, FaultKindInfo>;

export interface FaultKindInfo {
  readonly needs: "tmpfs" | "network" | null;
  readonly describe: string;
}

export type FaultKind = keyof typeof FAULT_KINDS;
export const FAULT_KIND_NAMES = Object.keys(FAULT_KINDS) as readonly FaultKind[];

/** A number in [0, 1) for each name. */
export type Draw = (name: string) => number;

export interface PlannedFault {
  readonly index: number;
  readonly kind: FaultKind;
  /** For what the kind leaves open. */
  readonly draw: Draw;
}

export function drawOf(seed: number, index: number): Draw {
  return (name) => createHash("sha256").update(`${seed} ${index} ${name}`).digest().readUInt32LE(0) / 2 ** 32;
}

/** Endless; every kind comes once in each round, in a new order. */
export function* plan(seed: number, kinds: readonly FaultKind[]): Generator<PlannedFault, never> {
  for (let index = 0; ;) {
    const round = index;
    const order = kinds
      .map((kind) => ({ kind, key: drawOf(seed, round)(`order of ${kind}`) }))
      .sort((a, b) => a.key - b.key);
    for (const { kind } of order) yield { index, kind, draw: drawOf(seed, index++) };
  }
}
