/**
 * Who trains, when a step is committed, and when the run ends. No sockets,
 * clocks or files: every input arrives as a value and every effect leaves as
 * one, so the same inputs always give the same decisions (the design of
 * etcd-io/raft). Gradients never pass here: workers reduce among themselves.
 *
 * Every change of members makes a new generation. Its members first stop and
 * say where they are ("regroup"); the most advanced of them gives its state to
 * those that are behind or new; when all hold the same state, training goes
 * on in the phase where it was. Any two replicas of a run at one position have the same
 * bits, so it does not matter who is asked.
 *
 * @module
 */
import type { WorkerMessage } from "../shared/protocol.ts";
import { seconds } from "../shared/text.ts";
import type { Input, Member, MembershipConfig, MembershipState, Transition } from "./membership/state.ts";
import { end, update } from "./membership/state.ts";
import { checkPossible } from "./membership/possible.ts";
import { diverged, stepReported } from "./membership/commits.ts";
import { ready, regroup, restored, tryStart } from "./membership/generation.ts";
import { exited, failed, finish, giveUp, lose, scale } from "./membership/departures.ts";
import { isRival, join, prepared } from "./membership/admission.ts";
import { leave, letGo, told } from "./membership/leaving.ts";
import { explained, lateOf, stragglerOf, stuckOf } from "./membership/waiting.ts";

/**
 * Advances the coordinator by one input.
 *
 * @param nowMs Monotonic time of the input, in milliseconds.
 * @returns The next state, and the effects for the shell to run in order.
 * @throws {ProtocolError} If a message of a member says what no worker of the run can.
 */
export function advance(
  state: MembershipState,
  input: Input,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  if (state.status === "ended") return { state, effects: [] };
  switch (input.type) {
    case "tick":
      return tick(state, nowMs, config);
    case "exited":
      return exited(state, input, input.how, nowMs, config);
    case "finish":
      return finish(state, nowMs, config);
    case "scale":
      return scale(state, input.workers, nowMs, config);
    case "restored":
      return restored(state, input.stored, nowMs, config);
    case "missing":
      return state.status === "trained" ? regroup(state, nowMs, config) : { state, effects: [] };
    case "saved":
      return end(state, config);
    case "message":
      return message(state, input, nowMs, config);
  }
}

function message(
  state: MembershipState,
  input: Extract<Input, { type: "message" }>,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const { from, sequence } = input;
  const member = [...state.members, ...state.joining].find((m) => m.incarnation === from);
  if (input.message.type === "busy") {
    if (member === undefined) return { state, effects: [] };
    return { state: update(state, member, { busyMs: input.message.forMs, lastSeenMs: nowMs }), effects: [] };
  }
  if (member === undefined) {
    if (input.message.type === "join" && !state.gone.has(from)) {
      return join(state, from, sequence, input.message, nowMs, config);
    }
    // It was told to wait.
    if (isRival(state, from)) return { state, effects: [] };
    // It was given up, or knows a coordinator before this one.
    const isAlive = input.message.type === "heartbeat" || input.message.type === "join";
    return { state, effects: isAlive ? [{ type: "send", to: from, message: { type: "unknown" } }] : [] };
  }
  if (sequence !== member.sequence + 1) {
    return lose(state, [member], "messages of it were lost on the way", nowMs, config);
  }
  const next = update(state, member, { sequence, busyMs: 0, lastSeenMs: nowMs });
  // It is told again who is there until it hears something.
  if (input.message.type === "join") return { state: next, effects: [] };
  checkPossible(input.message, state, config);
  return fromMember(next, { ...member, sequence }, input.message, nowMs, config);
}

function fromMember(
  seen: MembershipState,
  member: Member,
  message: Exclude<WorkerMessage, { type: "join" | "busy" }>,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  switch (message.type) {
    case "heartbeat":
      return {
        state: update(seen, member, {
          position: `step ${message.globalStep} ${message.phase}`,
          waitingFor: message.waitingFor,
          waitedMs: message.waitedMs,
          waitingRanks: message.generation === seen.generation ? message.waitingRanks : [],
        }),
        effects: [],
      };
    case "failed":
      return failed(seen, member, message, nowMs, config);
    case "leaving":
      return told(seen, member, message.signal, nowMs, config);
    case "left":
      return letGo(seen, [member], nowMs, config);
    case "prepared":
      return prepared(seen, member, message.runId, nowMs, config);
    case "paused":
      if (message.generation !== seen.generation + 1 || member.paused !== "running")
        return { state: seen, effects: [] };
      return tryStart(update(seen, member, { paused: message.position }), nowMs, config);
    case "ready":
    case "step":
    case "finished":
    case "nonFinite":
      // What was under way when the members changed is answered by what they say when they have paused.
      if (message.generation !== seen.generation || !seen.members.some((m) => m.workerId === member.workerId))
        return { state: seen, effects: [] };
      break;
  }
  switch (message.type) {
    case "ready":
      return ready(update(seen, member, { readyHash: message.stateHash }), nowMs);
    case "step":
      return stepReported(seen, member, message.report, nowMs);
    case "finished":
      return finished(update(seen, member, { finished: true }), nowMs);
    case "nonFinite": {
      const { globalStep, phase, isApplied, own } = message;
      const report = { globalStep, phase, isApplied, own };
      const nonFinite = new Map(seen.nonFinite).set(member.workerId, report);
      const next = { ...seen, nonFinite, nonFiniteSinceMs: seen.nonFiniteSinceMs ?? nowMs };
      return nonFinite.size === seen.members.length ? diverged(next) : { state: next, effects: [] };
    }
  }
}

function finished(state: MembershipState, nowMs: number): Transition {
  if (!state.members.every((m) => m.finished)) return { state, effects: [] };
  return {
    state: { ...state, status: "trained", admitMs: null, progressMs: nowMs },
    effects: [{ type: "trained", globalStep: state.endStep }],
  };
}

function tick(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  const { failureTimeoutMs } = config.run;
  const silent = [...state.members, ...state.joining].filter((m) => nowMs - m.lastSeenMs > failureTimeoutMs);
  if (silent.length > 0) {
    const longest = Math.max(...silent.map((m) => nowMs - m.lastSeenMs));
    return lose(state, silent, `silent for ${seconds(longest)}`, nowMs, config);
  }
  if (state.nonFiniteSinceMs !== null && nowMs - state.nonFiniteSinceMs > 1000) return diverged(state);
  const straggler = stragglerOf(state, config.run.stragglerTimeoutMs);
  if (straggler !== null) {
    const whom =
      straggler.waitingRanks.length === 0 && straggler.waitedMs > 0 ? "it waits" : "the others wait for it";
    const why = `${whom} for longer than ${seconds(config.run.stragglerTimeoutMs)} (--straggler-timeout)`;
    return lose(state, [straggler], why, nowMs, config);
  }
  const stuck = stuckOf(state, config.run.stragglerTimeoutMs);
  if (stuck.length > 0) {
    const why = `one computation of it takes longer than ${seconds(config.run.stragglerTimeoutMs)} (--straggler-timeout)`;
    return giveUp(state, stuck, why, nowMs, config);
  }
  const late = lateOf(state, nowMs, config.run.stragglerTimeoutMs);
  if (late.length > 0) {
    const why = `it did not get ready within ${seconds(config.run.stragglerTimeoutMs)} (--straggler-timeout)`;
    return lose(state, late, why, nowMs, config);
  }
  if (state.leaveMs !== null && nowMs >= state.leaveMs) {
    const { state: next, effects } = leave(state, nowMs, config);
    if (next !== state) return { state: next, effects };
  }
  if (state.admitMs !== null && nowMs >= state.admitMs) return regroup(state, nowMs, config);
  return explained(state, nowMs, config);
}
