/**
 * When a step is committed, and when the run must end because replicas differ or have diverged.
 *
 * @module
 */
import type { StepReport, WorkerId } from "../../shared/protocol.ts";
import type { Effect, Member, MembershipState, Transition } from "./state.ts";
import { fail } from "./state.ts";

/** Takes what a member reports of a step; commits it once all have, and ends the run if they differ. */
export function stepReported(
  state: MembershipState,
  member: Member,
  report: StepReport,
  nowMs: number,
): Transition {
  const { globalStep } = report;
  const next = withReports(state, member.workerId, [report]);
  const ofStep = next.reports.get(globalStep);
  if (ofStep === undefined) return { state, effects: [] };
  const divergence = divergenceOf(state, globalStep, ofStep);
  if (divergence !== null) return fail(state, divergence);
  return commitReported(next, nowMs);
}

/** Commits, in order, the steps that every member has reported. */
function commitReported(state: MembershipState, nowMs: number): Transition {
  let next = state;
  const effects: Effect[] = [];
  for (;;) {
    const globalStep = next.recorded + 1;
    const ofStep = next.reports.get(globalStep);
    if (ofStep === undefined || !state.members.every(({ workerId }) => ofStep.has(workerId))) break;
    const reports = new Map(next.reports);
    reports.delete(globalStep);
    next = { ...next, reports, globalStep, recorded: globalStep };
    effects.push(commitOf(globalStep, ofStep));
  }
  if (effects.length === 0) return { state: next, effects };
  const tookMs = (nowMs - state.progressMs) / effects.length;
  // One step that hung says little about the next.
  const stepMs = state.stepMs === 0 ? tookMs : Math.min(tookMs, 2 * state.stepMs);
  return { state: { ...next, progressMs: nowMs, stepMs }, effects };
}

/**
 * Commits what members have applied although not all of them could report it; forgets
 * what no member has any more.
 */
export function commitUpTo(state: MembershipState, globalStep: number): Transition {
  const effects: Effect[] = [];
  if (state.recorded > globalStep) effects.push({ type: "rewind", globalStep });
  const known = [...state.reports].filter(([step]) => step > state.recorded && step <= globalStep);
  for (const [step, ofStep] of known.sort(([a], [b]) => a - b)) effects.push(commitOf(step, ofStep));
  const numMissing = globalStep - state.recorded - known.length;
  if (numMissing > 0) {
    const text = `The metrics of ${numMissing} steps up to step ${globalStep} are lost: those that had them are gone`;
    effects.push({ type: "log", level: "warn", text });
  }
  return { state: { ...state, globalStep, recorded: globalStep, reports: new Map() }, effects };
}

function commitOf(globalStep: number, ofStep: ReadonlyMap<WorkerId, StepReport>): Effect {
  const [first] = ofStep.values();
  const timings = new Map([...ofStep].map(([workerId, { timing }]) => [workerId, timing]));
  return { type: "commit", globalStep, metrics: first.metrics, timings };
}

/** Keeps what a worker reports of steps that are not recorded yet. */
export function withReports(
  state: MembershipState,
  workerId: WorkerId,
  added: readonly StepReport[],
): MembershipState {
  const reports = new Map(state.reports);
  for (const report of added) {
    if (report.globalStep <= state.recorded) continue;
    reports.set(report.globalStep, new Map(reports.get(report.globalStep)).set(workerId, report));
  }
  return { ...state, reports };
}

/** Invariant: after each commit all replicas are equal bit for bit. Returns the report of a violation. */
function divergenceOf(
  state: MembershipState,
  globalStep: number,
  reports: ReadonlyMap<WorkerId, StepReport>,
): string | null {
  for (const network of ["discriminator", "generator"] as const) {
    const hashes = [...reports].map(([id, r]) => [
      id,
      network === "generator" ? r.generatorHash : r.discriminatorHash,
    ]);
    if (new Set(hashes.map(([, hash]) => hash)).size === 1) continue;
    const list = hashes.map(([id, hash]) => `"${id}" ${hash}`).join(", ");
    return `Replicas have diverged after step ${globalStep} of generation ${state.generation}: ${network} parameters hash to ${list}. The state of that step is not saved`;
  }
  return null;
}

/** Ends the run, as a loss or gradient is not finite on any member, or what follows from it. */
export function diverged(state: MembershipState): Transition {
  const [first] = state.nonFinite.values();
  const at = `step ${first.globalStep}, phase ${first.phase}`;
  const own = [...state.nonFinite].flatMap(([id, r]) => (r.own === null ? [] : [`worker "${id}": ${r.own}`]));
  const who = own.length > 0 ? own.join("; ") : "every worker's part was finite, their sum was not";
  const what = first.isApplied
    ? `a parameter, or a moment of the optimizer, is not finite after the update of ${at}. That state is not saved`
    : `loss or gradient is not finite at ${at} (${who}). The update was not applied`;
  const text = `Training has diverged: ${what}. Lower --learning-rate, or change --beta1 or the seed, in a new run`;
  return fail(state, text);
}
