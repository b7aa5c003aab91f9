/**
 * Workers that are told to leave by whoever has started them: a batch system that needs the machine, an operator, a user
 * at a terminal. They train on until they are let go, so that no step is lost: if enough are left the others go on at
 * once, without them; if not, the run ends with the step under way, its state is saved, and it is to be started again.
 *
 * @module
 */
import { dismiss, finish } from "./departures.ts";
import { regroup, tryStart } from "./generation.ts";
import type { Member, MembershipConfig, MembershipState, Transition } from "./state.ts";
import { andThen, update } from "./state.ts";

/** Those that are told within this time go together: whoever ends a job tells its processes one after the other. */
const GATHER_MS = 200;

/** A worker was told to leave. */
export function told(
  state: MembershipState,
  member: Member,
  signal: string,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  if (member.leaving !== null) return { state, effects: [] };
  const leaving: Member = { ...member, leaving: signal };
  const next = { ...update(state, member, { leaving: signal }), leaveMs: state.leaveMs ?? nowMs + GATHER_MS };
  // The others have what it holds, or it holds nothing.
  const isOfNoUse =
    member.paused === null || state.joining.some(({ incarnation }) => incarnation === member.incarnation);
  return isOfNoUse ? letGo(next, [leaving], nowMs, config) : { state: next, effects: [] };
}

/** Lets those go that were told to, once that loses nothing; @returns the same state if it would now. */
export function leave(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  const { minWorkers } = config.run;
  const isStaying = ({ leaving }: Member): boolean => leaving === null;
  const leaving = state.members.filter((member) => !isStaying(member));
  if (leaving.length === 0) return { state: { ...state, leaveMs: null }, effects: [] };
  if (state.stopping || (state.status !== "training" && state.status !== "gathering")) {
    return { state, effects: [] };
  }
  const numStaying = state.members.length - leaving.length;
  if (numStaying >= minWorkers) {
    return state.status === "training" ? letGo(state, leaving, nowMs, config) : { state, effects: [] };
  }
  // Those that are about to enter take the state first.
  const numEntering = state.joining.filter((member) => member.prepared && isStaying(member)).length;
  if (numStaying + numEntering >= minWorkers) return { state, effects: [] };
  const text = `${namesOf(leaving)}: told to leave, which would leave ${numStaying} of at least ${minWorkers} workers (--min-workers). Ending with the step under way, to be started again`;
  return andThen({ state: { ...state, again: true }, effects: [{ type: "log", level: "info", text }] }, (s) =>
    finish(s, nowMs, config),
  );
}

/** Goes on without workers for which nobody waits. */
export function letGo(
  state: MembershipState,
  leaving: readonly Member[],
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const isMember = state.members.some((m) => leaving.some((other) => other.incarnation === m.incarnation));
  const { state: next, effects } = dismiss(state, leaving, true);
  const text = `${namesOf(leaving)}: told to leave, let go after step ${state.globalStep}`;
  return andThen({ state: next, effects: [...effects, { type: "log", level: "info", text }] }, (s) => {
    if (!isMember) return { state: s, effects: [] };
    return s.status === "training" || s.status === "starting"
      ? regroup(s, nowMs, config)
      : tryStart(s, nowMs, config);
  });
}

function namesOf(members: readonly Member[]): string {
  return members.map(({ workerId, leaving }) => `"${workerId}" (${leaving})`).join(", ");
}
