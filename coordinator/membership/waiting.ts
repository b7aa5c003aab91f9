/**
 * Who keeps the others waiting, and what the user is told about it.
 *
 * @module
 */
import { seconds } from "../../shared/text.ts";
import type { Member, MembershipConfig, MembershipState, Transition } from "./state.ts";

/**
 * The member for which most others have waited too long; of several, one that waits for nobody
 * itself, then the last. If nobody waits for a member, one that has waited too long for the
 * coordinator: a message to it was lost. Null if there is none.
 */
export function stragglerOf({ status, members }: MembershipState, timeoutMs: number): Member | null {
  if (status !== "training" || timeoutMs === 0) return null;
  const votes = members.map(() => 0);
  for (const { waitedMs, waitingRanks } of members) {
    if (waitedMs <= timeoutMs) continue;
    for (const rank of waitingRanks) if (rank < votes.length) votes[rank] += 1;
  }
  const most = Math.max(0, ...votes);
  if (most === 0) {
    return members.find(({ waitedMs, finished }) => waitedMs > timeoutMs && !finished) ?? null;
  }
  const candidates = members.filter((_, rank) => votes[rank] === most);
  return (
    candidates.filter(({ waitingRanks }) => waitingRanks.length === 0).at(-1) ?? candidates.at(-1) ?? null
  );
}

/** Those whose computation takes too long: they may compute for ever. */
export function stuckOf({ members, joining }: MembershipState, timeoutMs: number): readonly Member[] {
  return timeoutMs === 0 ? [] : [...members, ...joining].filter(({ busyMs }) => busyMs > timeoutMs);
}

/** Members that keep a generation from beginning; of several, those that wait for nobody themselves. */
export function lateOf(
  { status, members, beganMs }: MembershipState,
  nowMs: number,
  timeoutMs: number,
): readonly Member[] {
  if (status !== "starting" || timeoutMs === 0 || nowMs - beganMs <= timeoutMs) return [];
  const late = members.filter(({ readyHash }) => readyHash === null);
  const idle = late.filter(({ waitingFor }) => waitingFor === null);
  return idle.length > 0 ? idle : late;
}

/** Waits that last are explained at first within this time, in milliseconds, or that of two steps if that is longer. */
const EXPLAIN_MS = 2000;
/** Then each time that the wait has doubled, but at least once in this time. */
const EXPLAIN_AGAIN_MS = 30_000;

/** Says for whom and what the run waits, if it has for long. */
export function explained(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  const { progressMs, explainedMs } = state;
  const waitedMs = nowMs - progressMs;
  const firstMs = Math.min(EXPLAIN_MS, config.run.failureTimeoutMs);
  if (waitedMs < Math.max(firstMs, 2 * state.stepMs)) return { state, effects: [] };
  const againMs = Math.min(explainedMs - progressMs, EXPLAIN_AGAIN_MS);
  if (nowMs - explainedMs < againMs) return { state, effects: [] };
  const since = seconds(waitedMs);
  const next: MembershipState = { ...state, explainedMs: nowMs };
  const say = (level: "info" | "warn", text: string): Transition => ({
    state: next,
    effects: [{ type: "log", level, text }],
  });
  if (state.status === "gathering") {
    const wanted = state.generation > 0 ? config.run.minWorkers : state.wanted;
    return say(
      "info",
      `Waiting for ${wanted - state.members.length} of ${wanted} workers (for ${since}). To add one: ${config.joinCommand}`,
    );
  }
  if (state.status === "trained") return say("info", `Waiting for the last checkpoint (for ${since})`);
  if (state.status === "restoring") return say("info", `Reading the newest checkpoint (for ${since})`);
  const where = state.members.map((m) => {
    const waits = m.waitingFor === null ? "" : `, waiting for ${m.waitingFor}`;
    const computes = m.busyMs === 0 ? "" : `, computing for ${seconds(m.busyMs)}`;
    return `"${m.workerId}" at ${m.position}${waits}${computes}, heard ${seconds(nowMs - m.lastSeenMs)} ago`;
  });
  return say("warn", `No step for ${since} since step ${state.globalStep}: ${where.join("; ")}`);
}
