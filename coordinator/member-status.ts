/**
 * What `lockstep status` shows of each worker.
 *
 * @module
 */
import type { RunStatus } from "../shared/protocol.ts";
import { rankShards } from "../shared/sharding.ts";
import type { MembershipState } from "./membership/state.ts";

/**
 * @param numShards Shards of the global batch.
 * @param nowMs Monotonic, in milliseconds.
 * @returns Members by rank, then those that are joining. Rank and shards are null where a worker has none.
 */
export function memberStatus(
  { status, members, joining }: MembershipState,
  numShards: number,
  nowMs: number,
): RunStatus["members"] {
  const hasRanks = status === "training" || status === "starting" || status === "trained";
  return [...members, ...joining].map((m, i) => {
    const rank = hasRanks && i < members.length ? i : null;
    const shards = rank === null ? null : rankShards(numShards, members.length, rank);
    return {
      ...{ workerId: m.workerId, rank, host: m.host, pid: m.pid, runtime: m.runtime },
      shards: shards === null ? null : [shards.start, shards.end],
      ...{ position: m.position, waitingFor: m.waitingFor, busyMs: m.busyMs, silentMs: nowMs - m.lastSeenMs },
    };
  });
}
