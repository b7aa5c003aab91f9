/**
 * How members go: lost, ended, scaled away or stopped by the user, and what takes their place.
 *
 * @module
 */
import type { WorkerId, WorkerMessage } from "../../shared/protocol.ts";
import type { Effect, LocalProcess, Member, MembershipConfig, MembershipState, Transition } from "./state.ts";
import { andThen, fail, processId, sorted } from "./state.ts";
import { regroup, tryStart } from "./generation.ts";

/** Delay before a local worker is started again, doubled each time. */
const FIRST_RESTART_MS = 100;
const LAST_RESTART_MS = 10_000;

const ENGINE_ADVICE =
  "That is a fault of the engine's own: please report it with this line; until it is mended, another --engine in a new run may do";

/** Incarnations that are remembered after they were given up. */
const MAX_GONE = 4096;

/** Goes on without some members. */
export function lose(
  state: MembershipState,
  lost: readonly Member[],
  why: string,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const gone = new Set(lost.map((m) => m.incarnation));
  const rest = (members: readonly Member[]): readonly Member[] =>
    members.filter((m) => !gone.has(m.incarnation));
  const texts = lost.map((m) => `${lostText(state, m)}: ${why}`).join("; ");
  const members = rest(state.members);
  const joining = rest(state.joining);
  const isMember = members.length < state.members.length;
  const next: MembershipState = {
    ...{ ...state, members, joining, admitMs: joining.length === 0 ? null : state.admitMs },
    gone: withGone(state, lost),
    lostMs: isMember ? (state.lostMs ?? nowMs) : state.lostMs,
  };
  const log: Effect = { type: "log", level: "warn", text: texts };
  if (!isMember) return { state: next, effects: [log] };
  switch (state.status) {
    case "starting":
    case "training":
      return andThen({ state: next, effects: [log] }, (s) => regroup(s, nowMs, config));
    case "trained":
      // Only the first sends the last state and picture; whoever is first now sends them again.
      return lost.includes(state.members[0])
        ? andThen({ state: next, effects: [log] }, (s) => regroup(s, nowMs, config))
        : { state: next, effects: [log] };
    case "gathering":
    case "regrouping":
    case "restoring":
    case "ended":
      return andThen({ state: next, effects: [log] }, (s) => tryStart(s, nowMs, config));
  }
}

/** Goes on without members that will not come back by themselves; those that this machine started are killed, and started again. */
export function giveUp(
  state: MembershipState,
  stuck: readonly Member[],
  why: string,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const local = state.local.filter(({ process }) => stuck.some((m) => m.process === process));
  const lastWords = new Map([...state.lastWords, ...local.map(({ workerId }) => [workerId, why] as const)]);
  const { state: next, effects } = lose({ ...state, lastWords }, stuck, why, nowMs, config);
  const kills = local.map(({ process }): Effect => ({ type: "kill", process }));
  return { state: next, effects: [...effects, ...kills] };
}

function withGone({ gone }: MembershipState, members: readonly Member[]): MembershipState["gone"] {
  return new Set([...gone, ...members.map(({ incarnation }) => incarnation)].slice(-MAX_GONE));
}

function lostText(state: MembershipState, { workerId, incarnation, pid, host }: Member): string {
  const rank = state.members.findIndex((m) => m.incarnation === incarnation);
  const which = rank < 0 ? "" : `rank ${rank}, `;
  return `Lost worker "${workerId}" (${which}pid ${pid} on ${host}) after step ${state.globalStep}`;
}

/** A member says that it cannot go on. */
export function failed(
  state: MembershipState,
  member: Member,
  { reason, byEngine }: Extract<WorkerMessage, { type: "failed" }>,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const { workerId } = member;
  const lastWords = new Map(state.lastWords).set(workerId, reason);
  const engineFaults = new Map(state.engineFaults);
  if (byEngine) {
    // The reason names step and phase.
    const isRepeated = engineFaults.get(workerId)?.reason === reason;
    engineFaults.set(workerId, { reason, isRepeated });
  } else engineFaults.delete(workerId);
  return lose({ ...state, lastWords, engineFaults }, [member], reason, nowMs, config);
}

/** A worker process that this machine started has ended: goes on without it, and starts it again. */
export function exited(
  state: MembershipState,
  { workerId, process }: LocalProcess,
  how: string,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const member = [...state.members, ...state.joining].find((m) => m.process === process);
  const local = state.local.find((one) => one.process === process);
  // It was let go.
  if (member === undefined && local === undefined) return { state, effects: [] };
  const said = state.lastWords.get(workerId);
  const why = said === undefined ? how : `${how}: ${said}`;
  const text = `The process of worker "${workerId}" has ended: ${how}`;
  const without =
    member === undefined
      ? { state, effects: [{ type: "log", level: "warn", text } as const] }
      : lose(state, [member], how, nowMs, config);
  return local === undefined ? without : andThen(without, (next) => relaunch(next, local, why, config));
}

/** Starts a local worker again, or, where that was of no use, ends a run that has too few left. */
function relaunch(
  state: MembershipState,
  { workerId, process }: LocalProcess,
  how: string,
  config: MembershipConfig,
): Transition {
  const { run } = config;
  const { local } = state;
  if (state.stopping || state.status === "trained") return { state, effects: [] };
  const count = state.restarts.get(workerId) ?? 0;
  // The same inputs would only make the engine fail once more.
  const isHopeless = state.engineFaults.get(workerId)?.isRepeated === true;
  if (count < run.maxRestarts && !isHopeless) {
    const delayMs = Math.min(FIRST_RESTART_MS * 2 ** count, LAST_RESTART_MS);
    const restarts = new Map(state.restarts).set(workerId, count + 1);
    const others = { ...state, restarts, local: local.filter((one) => one.process !== process) };
    return launch(others, [workerId], delayMs, config);
  }
  const exhausted = new Map(state.exhausted).set(workerId, how);
  const next = { ...state, exhausted };
  const numLeft = local.length - exhausted.size;
  if (Math.max(numLeft, state.members.length) >= run.minWorkers) {
    const why = isHopeless
      ? `its engine has failed twice in the same way. ${ENGINE_ADVICE}`
      : `it has ended ${count + 1} times (--max-restarts ${run.maxRestarts})`;
    const text = `Worker "${workerId}" is not started again, as ${why}`;
    return { state: next, effects: [{ type: "log", level: "warn", text }] };
  }
  const list = [...exhausted].map(([id, reason]) => `"${id}": ${reason}`).join("; ");
  const limit = isHopeless ? "" : ` (--max-restarts ${run.maxRestarts})`;
  const advice = isHopeless ? `. The engine has failed twice in the same way. ${ENGINE_ADVICE}` : "";
  return fail(
    next,
    `Too few workers are left to go on (--min-workers ${run.minWorkers}); those that are not started again${limit}: ${list}${advice}`,
  );
}

/** Starts a new process for each of some local workers. */
function launch(
  state: MembershipState,
  workerIds: readonly WorkerId[],
  delayMs: number,
  config: MembershipConfig,
): Transition {
  const added = workerIds.map((workerId, i): LocalProcess => {
    return { workerId, process: processId(config, state.numLaunched + i) };
  });
  const numLaunched = state.numLaunched + added.length;
  return {
    state: { ...state, local: [...state.local, ...added], numLaunched },
    effects: added.map((one): Effect => ({ type: "launch", ...one, delayMs })),
  };
}

/** Ends with the step under way, as the user wants. */
export function finish(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  if (state.stopping || state.status === "trained") return { state, effects: [] };
  // Who holds nothing would only be given what the others save.
  const { state: next, effects } = dismiss(
    { ...state, stopping: true, admitMs: null },
    [...state.members, ...state.joining].filter(({ paused }) => paused === null),
    state.again,
  );
  return andThen({ state: next, effects }, (s) =>
    // A generation that ends with the step under way.
    s.status === "training" || s.status === "starting"
      ? regroup(s, nowMs, config)
      : tryStart(s, nowMs, config),
  );
}

/** Lets workers go for whom the others need not wait. @param again Whether those that are not told to leave are of use later. */
export function dismiss(state: MembershipState, dismissed: readonly Member[], again: boolean): Transition {
  const isStaying = ({ incarnation }: Member): boolean =>
    !dismissed.some((other) => other.incarnation === incarnation);
  const joining = state.joining.filter(isStaying);
  return {
    state: {
      ...{ ...state, members: state.members.filter(isStaying), joining },
      admitMs: joining.length === 0 ? null : state.admitMs,
      gone: withGone(state, dismissed),
    },
    effects: dismissed.map(({ incarnation, leaving }): Effect => ({
      type: "send",
      to: incarnation,
      message: { type: "exit", again: again || leaving !== null },
    })),
  };
}

/** Starts local workers, or lets the last ones go. Where none are local, more must be started by hand. */
export function scale(
  before: MembershipState,
  workers: number,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const state: MembershipState = { ...before, wanted: workers };
  const present = sorted([...state.members, ...state.joining]);
  const isPresent = ({ process }: LocalProcess): boolean => present.some((m) => m.process === process);
  const coming = state.local.filter((one) => !isPresent(one) && !state.exhausted.has(one.workerId));
  const numMissing = workers - present.length - coming.length;
  if (numMissing < 0) return shrink(state, present.slice(workers), coming.slice(numMissing), nowMs, config);
  if (config.localWorkers.length === 0) return tryStart(state, nowMs, config);
  const added: WorkerId[] = [];
  for (let i = 0; added.length < numMissing; i++) {
    const workerId = `worker-${i}`;
    if (![...state.local, ...present].some((one) => one.workerId === workerId)) added.push(workerId);
  }
  return andThen(launch(state, added, 0, config), (s) => tryStart(s, nowMs, config));
}

/** @param leaving Members that go. @param dropped Processes that have not joined yet, and need not any more. */
function shrink(
  state: MembershipState,
  leaving: readonly Member[],
  dropped: readonly LocalProcess[],
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const { state: rest, effects: goodbyes } = dismiss(state, leaving, false);
  const kills = dropped.map(({ process }): Effect => ({ type: "kill", process }));
  const gone = new Set([...leaving, ...dropped].map(({ process }) => process));
  const next: MembershipState = { ...rest, local: rest.local.filter(({ process }) => !gone.has(process)) };
  const names = [...leaving, ...dropped].map(({ workerId }) => `"${workerId}"`);
  const text = `${names.join(", ")} ${names.length === 1 ? "leaves" : "leave"}: scaled to ${state.wanted} workers`;
  const effects: Effect[] = [...goodbyes, ...kills, { type: "log", level: "info", text }];
  const isUnderWay = state.status === "training" || state.status === "starting";
  return isUnderWay && leaving.length > 0
    ? andThen({ state: next, effects }, (s) => regroup(s, nowMs, config))
    : andThen({ state: next, effects }, (s) => tryStart(s, nowMs, config));
}
