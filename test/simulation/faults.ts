/**
 * Plans of faults: what is done to a simulated cluster, and when.
 *
 * @module
 */
import type { TestRandom } from "../reference/mulberry32.ts";

/** Times in milliseconds; targets are indices into the hosts that exist when the fault comes. */
export type Fault = { readonly atMs: number } & (
  | { readonly type: "kill"; readonly target: number; readonly isMachineGone: boolean }
  | { readonly type: "killAll" }
  | { readonly type: "stop"; readonly target: number; readonly forMs: number }
  /** One computation keeps a worker's event loop. */
  | { readonly type: "block"; readonly target: number; readonly forMs: number }
  | { readonly type: "killCoordinator"; readonly downMs: number; readonly isMachineGone: boolean }
  | { readonly type: "stopCoordinator"; readonly forMs: number }
  /** Host 0 is the coordinator's. */
  | {
      readonly type: "partition";
      readonly a: number;
      readonly b: number;
      readonly isOneWay: boolean;
      readonly forMs: number;
    }
  | { readonly type: "reset"; readonly a: number; readonly b: number }
  | { readonly type: "slow"; readonly target: number; readonly factor: number; readonly forMs: number }
  /** Workers that were started by hand are told to leave, and with them, as by the end of a job, the coordinator. */
  | {
      readonly type: "leave";
      readonly target: number;
      readonly count: number;
      readonly isCoordinatorTold: boolean;
    }
  | { readonly type: "join" }
  | { readonly type: "scale"; readonly workers: number }
  | { readonly type: "diskFull"; readonly forMs: number }
  | { readonly type: "diskSlow"; readonly writeMs: number; readonly forMs: number }
);

export const FAULT_TYPES = [
  "kill",
  "killAll",
  "stop",
  "block",
  "killCoordinator",
  "stopCoordinator",
  "partition",
  "reset",
  "slow",
  "leave",
  "join",
  "scale",
  "diskFull",
  "diskSlow",
] as const satisfies readonly Fault["type"][];

/** More often what happens more often. */
const WEIGHTS: Record<Fault["type"], number> = {
  ...{ kill: 6, killAll: 1, stop: 4, block: 2, killCoordinator: 2, stopCoordinator: 2 },
  ...{ partition: 4, reset: 2, slow: 2, leave: 4, join: 3, scale: 1, diskFull: 1, diskSlow: 1 },
};

export interface PlanSize {
  readonly numFaults: number;
  /** Faults come within this time. */
  readonly withinMs: number;
  readonly numHosts: number;
  readonly maxWorkers: number;
}

/** A plan in order of time. */
export function planOf(random: TestRandom, size: PlanSize): readonly Fault[] {
  const faults = Array.from({ length: size.numFaults }, () => faultOf(random, size));
  return faults.sort((a, b) => a.atMs - b.atMs);
}

function faultOf(random: TestRandom, { withinMs, numHosts, maxWorkers }: PlanSize): Fault {
  const below = (n: number): number => Math.floor(random.uniform() * n);
  /** Short times often, long ones now and then. */
  const duration = (max: number): number => Math.round(10 + max * random.uniform() ** 3);
  const atMs = Math.round(random.uniform() * withinMs);
  const total = FAULT_TYPES.reduce((sum, type) => sum + WEIGHTS[type], 0);
  let draw = random.uniform() * total;
  const type = FAULT_TYPES.find((candidate) => (draw -= WEIGHTS[candidate]) < 0) ?? "kill";
  switch (type) {
    case "kill":
      return { atMs, type, target: below(numHosts), isMachineGone: random.uniform() < 0.5 };
    case "stop":
    case "block":
      return { atMs, type, target: below(numHosts), forMs: duration(15_000) };
    case "killCoordinator":
      return { atMs, type, downMs: duration(15_000), isMachineGone: random.uniform() < 0.5 };
    case "stopCoordinator":
      return { atMs, type, forMs: duration(10_000) };
    case "partition": {
      const isOneWay = random.uniform() < 0.5;
      return {
        ...{ atMs, type, isOneWay, forMs: duration(20_000) },
        ...{ a: below(numHosts + 1), b: below(numHosts + 1) },
      };
    }
    case "reset":
      return { atMs, type, a: below(numHosts + 1), b: below(numHosts + 1) };
    case "slow":
      return { atMs, type, target: below(numHosts), factor: 2 + below(100), forMs: duration(10_000) };
    case "leave": {
      const count = random.uniform() < 0.5 ? 1 : numHosts;
      return { atMs, type, target: below(numHosts), count, isCoordinatorTold: random.uniform() < 0.3 };
    }
    case "scale":
      return { atMs, type, workers: 1 + below(maxWorkers) };
    case "diskFull":
      return { atMs, type, forMs: duration(10_000) };
    case "diskSlow":
      return { atMs, type, writeMs: 10 + below(2000), forMs: duration(10_000) };
    case "killAll":
    case "join":
      return { atMs, type };
  }
}
