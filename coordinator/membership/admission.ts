/**
 * How workers come: who may join, and when they enter.
 *
 * @module
 */
import { maxWorkersOf } from "../../shared/config.ts";
import { HEARTBEAT_MS } from "../../shared/heartbeat.ts";
import type { ProcessId, WorkerMessage } from "../../shared/protocol.ts";
import { PACKAGE_VERSION } from "../../shared/version.ts";
import type { Effect, Incarnation, Member, MembershipConfig, MembershipState, Transition } from "./state.ts";
import { andThen, isStartedHere, sorted, update, withJoining } from "./state.ts";
import { withReports } from "./commits.ts";
import { wrongPosition } from "./possible.ts";
import { tryStart } from "./generation.ts";
import { lose } from "./departures.ts";

/** Workers that join within this time enter together. */
const ADMIT_MS = 200;

/** A worker that is heard so long after another process asked for its name lives: what it says was not just on its way. */
const LIVES_MS = 2 * HEARTBEAT_MS;
/** Processes that may wait for one name. */
const MAX_RIVALS = 64;

type JoinMessage = Extract<WorkerMessage, { type: "join" }>;

/** Takes in a worker, refuses it, or tells it to prepare while the others train. */
export function join(
  state: MembershipState,
  from: Incarnation,
  sequence: number,
  message: JoinMessage,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const refusal = refusalOf(state, message, config);
  if (refusal !== null) return refuse(state, from, message, refusal, config);
  // It was let go before it could join.
  if (isStartedHere(message.process, config) && !state.local.some(isOf(message))) {
    return { state, effects: [{ type: "send", to: from, message: { type: "exit", again: false } }] };
  }
  const old = [...state.members, ...state.joining].find((m) => m.workerId === message.workerId);
  // A new incarnation of a process takes the place of the old one, which cannot come back.
  if (old?.process === message.process) {
    const without = lose(state, [old], "it has joined again", nowMs, config);
    return andThen(without, (next) => join(next, from, sequence, message, nowMs, config));
  }
  const local = state.local.find((one) => one.workerId === message.workerId && !isOf(message)(one));
  if (local !== undefined && !state.exhausted.has(local.workerId)) {
    const owner = "a worker that this coordinator starts by itself";
    return refuse(state, from, message, nameTaken(message, owner), config);
  }
  if (old !== undefined) return contest(state, old, from, message, nowMs, config);
  const holds = message.holds?.position ?? null;
  if (state.stopping && holds === null) {
    return { state, effects: [{ type: "send", to: from, message: { type: "exit", again: state.again } }] };
  }
  const member: Member = {
    workerId: message.workerId,
    process: message.process,
    incarnation: from,
    data: message.data,
    host: message.host,
    pid: message.pid,
    runtime: message.runtime,
    lastSeenMs: nowMs,
    sequence,
    prepared: holds !== null,
    started: false,
    paused: holds,
    readyHash: null,
    position: "joining",
    waitingFor: null,
    waitedMs: 0,
    busyMs: 0,
    waitingRanks: [],
    finished: false,
    rivals: new Map(),
    leaving: null,
  };
  const numAfter = state.members.length + state.joining.length + 1;
  const count = state.generation === 0 ? `${numAfter} of ${state.wanted}` : `now ${numAfter}`;
  const held = holds === null ? "" : `, holds step ${holds.globalStep}`;
  const text = `Worker "${member.workerId}" joined (pid ${member.pid} on ${member.host}, ${member.runtime}${held}): ${count}`;
  const joined: Effect = { type: "log", level: "info", text };
  if (holds !== null) state = withReports(state, member.workerId, message.holds?.reports ?? []);
  if (state.status === "gathering" || state.status === "regrouping" || state.status === "restoring") {
    const next = { ...state, members: sorted([...state.members, member]), progressMs: nowMs };
    return andThen({ state: next, effects: [joined] }, (s) => tryStart(s, nowMs, config));
  }
  const next: MembershipState = { ...state, joining: [...state.joining, member] };
  if (member.prepared) return { state: admitSoon(next, nowMs), effects: [joined] };
  const { runId, run } = config;
  const prepare: Effect = { type: "send", to: from, message: { type: "prepare", runId, config: run } };
  return { state: next, effects: [joined, prepare] };
}

function refuse(
  state: MembershipState,
  from: Incarnation,
  message: JoinMessage,
  reason: string,
  config: MembershipConfig,
): Transition {
  const text = `Refused worker "${message.workerId}" on ${message.host}: ${reason}`;
  const type = isOtherRun(message, config) ? "otherRun" : "refuse";
  return {
    state,
    effects: [
      { type: "send", to: from, message: { type, reason } },
      { type: "refused", text },
    ],
  };
}

function isOf({ process }: JoinMessage): (other: { readonly process: ProcessId }) => boolean {
  return (other) => other.process === process;
}

/**
 * Another process has the name. If it is heard from again it lives, and the newcomer is refused; who would evict it had to
 * be evicted next. Until then the newcomer waits, as a process that was started in the place of one that has died.
 */
function contest(
  state: MembershipState,
  old: Member,
  from: Incarnation,
  message: JoinMessage,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const sinceMs = old.rivals.get(from);
  if (sinceMs !== undefined && old.lastSeenMs >= sinceMs + LIVES_MS) {
    const owner = `a worker that lives (pid ${old.pid} on ${old.host})`;
    return refuse(state, from, message, nameTaken(message, owner), config);
  }
  const rivals = new Map([...old.rivals].slice(1 - MAX_RIVALS)).set(from, sinceMs ?? nowMs);
  const reason = `worker "${old.workerId}" (pid ${old.pid} on ${old.host}), which has this name, to be heard or given up`;
  return {
    state: update(state, old, { rivals }),
    effects: [{ type: "send", to: from, message: { type: "wait", reason } }],
  };
}

/** Whether somebody waits for the name of a worker that may be gone. */
export function isRival({ members, joining }: MembershipState, from: Incarnation): boolean {
  return [...members, ...joining].some(({ rivals }) => rivals.has(from));
}

function nameTaken({ workerId }: JoinMessage, owner: string): string {
  return `Cannot join as the name "${workerId}" belongs to ${owner}: give this worker another --worker-id, or leave --worker-id away for a name of its own`;
}

/** A worker that is joining can take a state at once. */
export function prepared(
  state: MembershipState,
  member: Member,
  runId: string,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const isJoining = state.joining.some(({ incarnation }) => incarnation === member.incarnation);
  if (!isJoining || runId !== config.runId) return { state, effects: [] };
  const ready = update(state, member, { prepared: true });
  const isForming =
    state.status === "gathering" || state.status === "regrouping" || state.status === "restoring";
  return isForming
    ? tryStart(withJoining(ready, nowMs), nowMs, config)
    : { state: admitSoon(ready, nowMs), effects: [] };
}

/** Somebody who has joined can take part. */
function admitSoon(state: MembershipState, nowMs: number): MembershipState {
  // Who comes when all is trained helps only if somebody else is lost.
  const isOver = state.status === "trained" || state.stopping;
  return { ...state, admitMs: isOver ? null : (state.admitMs ?? nowMs + ADMIT_MS) };
}

/** Whether the worker holds a state that this run has no use for: of other training values or data, or of steps after its end. */
function isOtherRun({ holds }: JoinMessage, config: MembershipConfig): boolean {
  return holds !== null && (holds.runId !== config.runId || wrongPosition(holds.position, config) !== null);
}

function refusalOf(state: MembershipState, message: JoinMessage, config: MembershipConfig): string | null {
  const { run, runId, dataset } = config;
  if (message.packageVersion !== PACKAGE_VERSION) {
    return `Cannot join as version of lockstep must be ${PACKAGE_VERSION}: got ${message.packageVersion}`;
  }
  if (message.codeHash !== config.codeHash) {
    return `Cannot join as build of lockstep ${PACKAGE_VERSION} must be ${config.codeHash}: got ${message.codeHash}. Remove dist and build the same sources on both machines`;
  }
  const { holds } = message;
  if (holds !== null && holds.runId !== runId) {
    const { globalStep } = holds.position;
    return `Cannot join as the run must be ${runId} (${dataset.name}): this worker holds step ${globalStep} of run ${holds.runId}, of other training values or data. Let its own coordinator continue that run, or start a new worker process for this one`;
  }
  const wrong = holds === null ? null : wrongPosition(holds.position, config);
  if (wrong !== null) {
    return `Cannot join as this worker holds ${wrong}. If it trained that far, resume the run with a --max-steps or --epochs beyond it`;
  }
  if (holds?.reports.some(({ globalStep }) => globalStep > holds.position.globalStep) === true) {
    return `Cannot join as this worker reports steps after ${holds.position.globalStep}, which it holds`;
  }
  const others = [...state.members, ...state.joining].filter((m) => m.workerId !== message.workerId);
  const limit = maxWorkersOf(run);
  if (others.length >= limit) {
    return `Cannot join as the run takes at most ${limit} workers: see --max-workers and --shards`;
  }
  return null;
}
