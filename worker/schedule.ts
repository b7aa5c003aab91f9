/**
 * Which schedule the all-reduce of a group follows. Every rank decides by
 * itself, from the same two numbers, so all decide alike.
 *
 * @module
 */
import type { Collective, CollectivePlan } from "./collective.ts";
import { canHalveAndDouble, HalvingDoubling } from "./halving-doubling.ts";
import { Reduction } from "./reduction.ts";

export const SCHEDULE_NAMES = ["direct", "halving-doubling"] as const;
export type ScheduleName = (typeof SCHEDULE_NAMES)[number];

/** Largest world that exchanges directly although it could halve and double. */
const MAX_DIRECT_WORLD_SIZE = 8;

export function chooseSchedule(worldSize: number, numShards: number): ScheduleName {
  return worldSize > MAX_DIRECT_WORLD_SIZE && canHalveAndDouble(worldSize, numShards)
    ? "halving-doubling"
    : "direct";
}

/**
 * @param result Receives the sum: (length,), in use until the all-reduce is done and as long as peers may still receive it.
 * @throws {RangeError} If the result has another length, or the schedule does not fit the group.
 */
export function createCollective(
  plan: CollectivePlan,
  globalStep: number,
  phase: number,
  result: Float32Array,
  schedule = chooseSchedule(plan.worldSize, plan.numShards),
): Collective {
  return schedule === "direct"
    ? new Reduction(plan, globalStep, phase, result)
    : new HalvingDoubling(plan, globalStep, phase, result);
}
