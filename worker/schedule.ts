/**
 * Which schedule the all-reduce of a group follows. Every rank decides by
 * itself, from the same two numbers, so all decide alike.
 *
 * @module
 */
import type { Collective, CollectivePlan } from "./collective.ts";
import { canHalveAndDouble, HalvingDoubling, isPowerOfTwo } from "./halving-doubling.ts";
import { Reduction } from "./reduction.ts";

export const SCHEDULE_NAMES = ["direct", "halving-doubling"] as const;
export type ScheduleName = (typeof SCHEDULE_NAMES)[number];

/**
 * Largest world that exchanges directly although it could halve and double.
 *
 * Per phase, a rank that exchanges directly waits for 2 latencies and handles at least 4 (worldSize - 1)
 * messages, sent and taken; one that halves and doubles waits for 2 log2(worldSize)
 * latencies and handles at least 4 log2(worldSize) messages. Simulated all-reduce of a step of the reference model, direct /
 * halving-doubling in ms (`npm run simulate`, 18 microseconds per message):
 *
 *   workers                        8            16            64           128          1024
 *   10 Gbit/s, 50 us     16.7 /  14.2  17.9 /  15.9  19.8 /  17.5  24.5 /  18.0  153.1 / 19.1
 *   10 Gbit/s, 500 us    18.5 /  18.6  19.7 /  21.9  20.7 /  27.1  25.4 /  29.4
 *   1 Gbit/s, 2 ms      126.3 / 131.4  134.8 / 148.0  141.4 / 170.7  142.8 / 179.9
 *
 * Below, it is a matter of a few percent, either way. Above, direct exchange can lose in proportion
 * to worldSize, and halving and doubling only in proportion to its logarithm.
 */
const MAX_DIRECT_WORLD_SIZE = 8;

export function chooseSchedule(worldSize: number, numShards: number): ScheduleName {
  return worldSize > MAX_DIRECT_WORLD_SIZE && canHalveAndDouble(worldSize, numShards)
    ? "halving-doubling"
    : "direct";
}

/** Whether two ranks send each other messages. */
export function arePartners(worldSize: number, numShards: number, a: number, b: number): boolean {
  if (a === b) return false;
  return chooseSchedule(worldSize, numShards) === "direct" || isPowerOfTwo(a ^ b);
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
