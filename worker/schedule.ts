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
 *   10 Gbit/s, 50 us     12.8 /  13.2  13.7 /  14.4  15.4 /  15.8  20.1 /  16.2  148.7 / 17.4
 *   10 Gbit/s, 500 us    14.6 /  18.1  15.5 /  21.2  16.3 /  26.1  21.0 /  28.4
 *   1 Gbit/s, 2 ms      122.5 / 136.5  130.7 / 152.8  137.0 / 175.2  138.4 / 184.4
 *
 * So up to 64 direct exchange is ahead, by 1 to 16 % of a step. But the model knows no congestion, and
 * worldSize - 1 peers that send to one at the same time are what fills the buffers of a switch; halving and doubling
 * has one partner at a time. Above 64, direct exchange can lose in proportion to worldSize, and halving and
 * doubling only in proportion to its logarithm. The limit is the largest world that one host is likely to hold.
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
