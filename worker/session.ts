/**
 * A worker's side of the control protocol: when it joins, trains, stops,
 * keeps its state for a coordinator that is gone, and ends. No sockets, clocks
 * or files, as in the coordinator's membership core: every input arrives as a
 * value and every effect leaves as one.
 *
 * @module
 */
import type {
  CoordinatorMessage,
  DataAddress,
  Position,
  PrepareMessage,
  ProcessId,
  StartMessage,
  StepReport,
  WorkerId,
  WorkerMessage,
} from "../shared/protocol.ts";
import { MAX_KEPT_REPORTS } from "../shared/protocol.ts";
import { UNNUMBERED } from "../shared/sequence.ts";
import { seconds } from "../shared/text.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../shared/version.ts";

export interface SessionConfig {
  /** Control endpoint, for what is said to the user. */
  readonly coordinator: string;
  readonly workerId: WorkerId;
  /** Names this process, whatever else has its worker's name. */
  readonly process: ProcessId;
  readonly host: string;
  readonly pid: number;
  readonly runtime: string;
  /** Of this process's build (see code-hash.ts). */
  readonly codeHash: string;
  /** Where other workers reach this one. */
  readonly data: DataAddress;
  /** How long to try to reach the coordinator at first, in milliseconds. */
  readonly connectTimeoutMs: number;
}

/** What the shell sees of the training under way, for explanations. */
export interface Observed {
  readonly globalStep: number;
  readonly phase: string;
  /** For what it waits and how long already, or null. */
  readonly waiting: { readonly what: string; readonly forMs: number } | null;
  /** Ranks without which its all-reduce cannot go on. */
  readonly waitingRanks: readonly number[];
}

/** Where a replica is, and of which run; null if it holds no state. */
export type Held = { readonly runId: string; readonly position: Position } | null;

export interface SessionState {
  /** ending: the last words are on their way; saving: nobody is left, the state is being saved. */
  readonly status: "open" | "saving" | "ending" | "ended";
  /** Whether a generation is under way in the shell. */
  readonly activity: "idle" | "training" | "stopping";
  /** What follows once the generation under way has stopped. */
  readonly next: { readonly type: "join" } | { readonly type: "pause"; readonly generation: number } | null;
  /** Of the newest connection: the generation under way, or the last one; 0 before the first. */
  readonly generation: number;
  /** The last start, of whichever connection; null before the first. */
  readonly start: StartMessage | null;
  /** Connections so far; the newest one counts. 0: none. */
  readonly link: number;
  readonly isLinked: boolean;
  /** Whether the coordinator has said anything on the newest connection. */
  readonly isHeard: boolean;
  /** Number of the last message on the newest connection. */
  readonly sequence: number;
  /** When it joined last on the newest connection, and with which state. */
  readonly joinedMs: number;
  readonly held: Held;
  /** Of steps that a crash could still take back or lose, oldest first. */
  readonly reports: readonly StepReport[];
  readonly startedMs: number;
  /** When the coordinator was last heard, or null if never. */
  readonly heardMs: number | null;
  /** When its silence was last said aloud, or null. */
  readonly saidSilentMs: number | null;
  /** For what the worker waits while nothing is under way, or null. */
  readonly waiting: { readonly what: string; readonly sinceMs: number } | null;
  readonly saidWaitingMs: number;
  /** The signal by which the worker was told to leave, or null. */
  readonly told: { readonly signal: string; readonly atMs: number } | null;
  /** How the worker will end, once its last words are sent. */
  readonly outcome: Outcome | null;
}

export interface Outcome {
  /**
   * done: all is trained, or nobody needs it. again: nothing is lost, and it is of use if it is started again.
   * told: it was told to end, and held nothing.
   */
  readonly how: "done" | "again" | "told" | "failed";
  /** For the user; null if all went well. */
  readonly reason: string | null;
}

export type SessionInput =
  /** Begin. */
  | { readonly type: "open" }
  | {
      readonly type: "message";
      readonly link: number;
      /** Number of the message among all on this connection, from 1; or UNNUMBERED. */
      readonly sequence: number;
      readonly message: CoordinatorMessage;
    }
  | { readonly type: "tick"; readonly observed: Observed }
  /** The process that started this one is gone. */
  | { readonly type: "orphaned" }
  /** The process was told to end. */
  | { readonly type: "told"; readonly signal: string }
  /** Answer to "stop": nothing is under way any more. */
  | { readonly type: "stopped"; readonly held: Held }
  /** The state of a peer came with reports of steps that may not be recorded yet. */
  | { readonly type: "took"; readonly reports: readonly StepReport[] }
  /** Answer to "prepare". */
  | { readonly type: "prepared"; readonly link: number; readonly runId: string }
  /** The replica holds the state that the generation starts from, and is connected to its peers. */
  | { readonly type: "ready"; readonly generation: number; readonly stateHash: string }
  | { readonly type: "step"; readonly generation: number; readonly report: StepReport }
  /** The last step of the generation is done, and its state is with the coordinator. */
  | { readonly type: "trained"; readonly generation: number; readonly globalStep: number }
  | {
      readonly type: "nonFinite";
      readonly generation: number;
      readonly globalStep: number;
      readonly phase: string;
      readonly isApplied: boolean;
      readonly own: string | null;
    }
  /** Something of the shell's does not work any more. */
  | { readonly type: "broken"; readonly reason: string; readonly byEngine: boolean }
  /** Answer to "save": what became of the state. */
  | { readonly type: "saved"; readonly isSaved: boolean; readonly text: string }
  /** Answer to "flush". */
  | { readonly type: "flushed" };

export type SessionEffect =
  /** Open another connection under a new routing id. The one before it is closed. */
  | { readonly type: "connect"; readonly link: number }
  | { readonly type: "disconnect" }
  | { readonly type: "send"; readonly message: WorkerMessage }
  /** Load what does not depend on a generation, then input "prepared". */
  | { readonly type: "prepare"; readonly link: number; readonly message: PrepareMessage }
  /** Take the state and train; the shell answers with "ready", "step" and "trained". */
  | { readonly type: "train"; readonly start: StartMessage }
  /** Stop what is under way, then input "stopped". What is applied stays applied. */
  | { readonly type: "stop" }
  /** Save the state and the reports where they can be found, as nobody else will; then input "saved". */
  | { readonly type: "save" }
  | { readonly type: "log"; readonly text: string }
  /** Bring what was sent on its way, then input "flushed". */
  | { readonly type: "flush" }
  | { readonly type: "end"; readonly outcome: Outcome };

export interface SessionTransition {
  readonly state: SessionState;
  readonly effects: readonly SessionEffect[];
}

/** Waiting longer than this is said aloud, in milliseconds. */
export const LONG_WAIT_MS = 2000;
/** And said again after this long. */
const SAY_AGAIN_MS = 5000;
const SAY_SILENT_AGAIN_MS = 10_000;
/** A coordinator that says nothing on a new connection is told again who is there. */
const JOIN_AGAIN_MS = 1000;
/** A worker that is told to leave waits so long for a coordinator that says nothing: who told it may not wait longer. */
const LEAVE_SILENT_MS = 3000;
/** And so long for one that does not let it go. */
const LEAVE_MS = 30_000;
/** The same for a worker that holds nothing. */
const LEAVE_EMPTY_MS = 2000;

export function initialSession(nowMs: number): SessionState {
  return {
    ...{ status: "open", activity: "idle", next: null, generation: 0, start: null },
    ...{ link: 0, isLinked: false, isHeard: false, sequence: 0, joinedMs: nowMs, held: null, reports: [] },
    ...{ startedMs: nowMs, heardMs: null, saidSilentMs: null },
    ...{ waiting: null, saidWaitingMs: -Infinity, told: null, outcome: null },
  };
}

/**
 * Advances a worker by one input.
 *
 * @param nowMs Monotonic time of the input, in milliseconds.
 * @returns The next state, and the effects for the shell to run in order.
 */
export function advanceSession(
  state: SessionState,
  input: SessionInput,
  nowMs: number,
  config: SessionConfig,
): SessionTransition {
  if (state.status === "ended") return { state, effects: [] };
  if (input.type === "flushed") return flushed(state);
  if (input.type === "saved") return saved(state, input.isSaved, input.text);
  // Batches that are here already are still used before the state is saved.
  if (input.type === "step") return stepDone(state, input.generation, input.report);
  if (state.status !== "open") return { state, effects: [] };
  switch (input.type) {
    case "open":
      return join(state, null, nowMs, config);
    case "message":
      if (input.link !== state.link || !state.isLinked) return { state, effects: [] };
      return receive(state, input.sequence, input.message, nowMs);
    case "tick":
      return tick(state, input.observed, nowMs, config);
    case "orphaned":
      return orphaned(state, "The coordinator is gone");
    case "told":
      return told(state, input.signal, nowMs);
    case "stopped":
      return stopped(state, input.held, nowMs, config);
    case "broken":
      return lastWords(state, failedMessage(input), { how: "failed", reason: input.reason });
    case "took":
      return { state: { ...state, reports: input.reports }, effects: [] };
    case "prepared": {
      if (input.link !== state.link || !state.isLinked) return { state, effects: [] };
      const next: SessionState = { ...state, waiting: { what: "its turn to enter", sinceMs: nowMs } };
      return { state: next, effects: [{ type: "send", message: { type: "prepared", runId: input.runId } }] };
    }
    case "ready":
    case "trained":
    case "nonFinite":
      return fromTraining(state, input, nowMs);
  }
}

function join(state: SessionState, held: Held, nowMs: number, config: SessionConfig): SessionTransition {
  const link = state.link + 1;
  const next: SessionState = {
    ...{ ...state, activity: "idle", next: null, generation: 0 },
    ...{ link, isLinked: true, isHeard: false, sequence: 0, joinedMs: nowMs, held, waiting: null },
  };
  const leaving = next.told === null ? [] : [leavingMessage(next.told.signal)];
  return { state: next, effects: [{ type: "connect", link }, joinMessage(next, config), ...leaving] };
}

function leavingMessage(signal: string): SessionEffect {
  return { type: "send", message: { type: "leaving", signal } };
}

/** Tells the coordinator, and goes on until it lets this worker go. */
function told(state: SessionState, signal: string, nowMs: number): SessionTransition {
  const next: SessionState = { ...state, told: { signal, atMs: nowMs } };
  if (state.heardMs === null) {
    // What it has sent may still arrive.
    const outcome: Outcome = { how: "told", reason: `${signal}, before a coordinator answered` };
    const { state: after, effects } = lastWords(next, leftMessage(next), outcome);
    return { state: after, effects: [leavingMessage(signal), ...effects] };
  }
  const text = `${signal}: told to leave. Going on until the coordinator lets this worker go; once more to end at once`;
  const send = state.isLinked ? [leavingMessage(signal)] : [];
  return leftAlone({ state: next, effects: [{ type: "log", text }, ...send] }, nowMs);
}

/** Ends a worker that was told to leave and that nobody lets go, with its state saved. */
function leftAlone({ state, effects }: SessionTransition, nowMs: number): SessionTransition {
  const { heardMs, start } = state;
  if (state.told === null) return { state, effects };
  const { signal, atMs } = state.told;
  const isEmpty = start === null;
  const silentMs = nowMs - (heardMs ?? 0);
  const toldMs = nowMs - atMs;
  const isSilent = silentMs > Math.min(LEAVE_SILENT_MS, start?.config.failureTimeoutMs ?? LEAVE_EMPTY_MS);
  if (!isSilent && toldMs <= (isEmpty ? LEAVE_EMPTY_MS : LEAVE_MS)) return { state, effects };
  const why = isSilent
    ? `${signal}, and the coordinator is silent for ${seconds(silentMs)}`
    : `${signal}, and the coordinator does not let this worker go for ${seconds(toldMs)}`;
  const after = isEmpty ? ended(state, "told", why) : orphaned(state, why);
  return { state: after.state, effects: [...effects, ...after.effects] };
}

function joinMessage({ held, reports }: SessionState, config: SessionConfig): SessionEffect {
  const { workerId, process, host, pid, runtime, codeHash, data } = config;
  return {
    type: "send",
    message: {
      type: "join",
      protocolVersion: PROTOCOL_VERSION,
      packageVersion: PACKAGE_VERSION,
      ...{ codeHash, workerId, process, host, pid, runtime, data },
      holds: held === null ? null : { ...held, reports: [...reports] },
    },
  };
}

function receive(
  before: SessionState,
  sequence: number,
  message: CoordinatorMessage,
  nowMs: number,
): SessionTransition {
  const state: SessionState = {
    ...{ ...before, sequence, heardMs: nowMs, isHeard: true },
    waiting: before.isHeard ? before.waiting : null,
  };
  if (sequence !== UNNUMBERED && sequence !== before.sequence + 1) {
    return rejoin(state, "Messages of the coordinator were lost on the way: joining again");
  }
  switch (message.type) {
    case "heartbeat": {
      const reports = state.reports.filter(({ globalStep }) => globalStep > message.safe);
      return { state: { ...state, reports }, effects: [] };
    }
    case "refuse":
      return ended(state, "failed", `The coordinator refused this worker: ${message.reason}`);
    case "otherRun":
      return orphaned(state, `The coordinator refused this worker: ${message.reason}`);
    case "wait": {
      // It joins again as if it had heard nothing.
      const waiting = { what: message.reason, sinceMs: before.waiting?.sinceMs ?? nowMs };
      return { state: { ...state, isHeard: false, waiting }, effects: [] };
    }
    case "abort":
      return lastWords(state, leftMessage(state), {
        how: "failed",
        reason: `The run has stopped: ${message.reason}`,
      });
    case "exit":
      return lastWords(state, leftMessage(state), { how: message.again ? "again" : "done", reason: null });
    case "unknown":
      return rejoin(state, "The coordinator does not know this worker any more: joining again");
    case "prepare":
      // It is asked for once, before the first generation of a connection.
      if (state.activity !== "idle" || state.generation > 0) return { state, effects: [] };
      return { state, effects: [{ type: "prepare", link: state.link, message }] };
    case "regroup":
      return stop({ ...state, next: { type: "pause", generation: message.generation } }, []);
    case "start":
      // The coordinator begins a generation only with those that have paused.
      if (state.activity !== "idle" || message.generation <= state.generation) {
        const text = `Ignored the start of generation ${message.generation} after that of ${state.generation}`;
        return { state, effects: [{ type: "log", text }] };
      }
      return {
        state: {
          ...{ ...state, activity: "training", generation: message.generation, start: message },
          ...{ next: null, waiting: null },
        },
        effects: [{ type: "train", start: message }],
      };
  }
}

function rejoin(state: SessionState, text: string): SessionTransition {
  const next: SessionState = { ...state, isLinked: false, next: { type: "join" } };
  return stop(next, [{ type: "log", text }, { type: "disconnect" }]);
}

function leftMessage({ generation }: SessionState): WorkerMessage {
  return { type: "left", generation };
}

function failedMessage({ reason, byEngine }: Extract<SessionInput, { type: "broken" }>): WorkerMessage {
  return { type: "failed", reason: reason.slice(0, 4000), byEngine };
}

/** Stops what is under way; `state.next` follows. */
function stop(state: SessionState, effects: readonly SessionEffect[]): SessionTransition {
  if (state.activity === "stopping") return { state, effects };
  return { state: { ...state, activity: "stopping" }, effects: [...effects, { type: "stop" }] };
}

function stopped(state: SessionState, held: Held, nowMs: number, config: SessionConfig): SessionTransition {
  if (state.activity !== "stopping") return { state, effects: [] };
  const { next } = state;
  const idle: SessionState = { ...state, activity: "idle", next: null };
  if (next?.type === "join") return join(idle, held, nowMs, config);
  if (next === null) return { state: idle, effects: [] };
  const { generation } = next;
  return {
    state: { ...idle, waiting: { what: "the other workers to regroup", sinceMs: nowMs } },
    effects: [{ type: "send", message: { type: "paused", generation, position: held?.position ?? null } }],
  };
}

function fromTraining(
  state: SessionState,
  input: Extract<SessionInput, { readonly type: "ready" | "trained" | "nonFinite" }>,
  nowMs: number,
): SessionTransition {
  if (input.generation !== state.generation || !state.isLinked) return { state, effects: [] };
  const send = (message: WorkerMessage, what: string | null): SessionTransition => ({
    state: what === null ? state : { ...state, waiting: { what, sinceMs: nowMs } },
    effects: [{ type: "send", message }],
  });
  const { generation } = input;
  switch (input.type) {
    case "ready":
      return send({ type: "ready", generation, stateHash: input.stateHash }, null);
    case "trained": {
      const { globalStep } = input;
      return send(
        { type: "finished", generation, globalStep },
        "the coordinator to save the last checkpoint",
      );
    }
    case "nonFinite": {
      const { globalStep, phase, isApplied, own } = input;
      const what = "the coordinator's word on a gradient that is not finite";
      return send({ type: "nonFinite", generation, globalStep, phase, isApplied, own }, what);
    }
  }
}

/** Keeps the report until it is recorded: the coordinator may be gone. */
function stepDone(state: SessionState, generation: number, report: StepReport): SessionTransition {
  const before = state.reports.filter(({ globalStep }) => globalStep < report.globalStep);
  const next: SessionState = { ...state, reports: [...before, report].slice(-MAX_KEPT_REPORTS) };
  const isCurrent = state.status === "open" && generation === state.generation && state.isLinked;
  const effects: SessionEffect[] = isCurrent
    ? [{ type: "send", message: { type: "step", generation, report } }]
    : [];
  return { state: next, effects };
}

function tick(
  state: SessionState,
  observed: Observed,
  nowMs: number,
  config: SessionConfig,
): SessionTransition {
  const { coordinator, connectTimeoutMs } = config;
  const silentMs = nowMs - (state.heardMs ?? state.startedMs);
  if (state.heardMs === null && silentMs > connectTimeoutMs) {
    return ended(
      state,
      "failed",
      `Cannot reach the coordinator at ${coordinator}: silent for ${seconds(silentMs)}; check that it runs and that this machine reaches it`,
    );
  }
  const { failureTimeoutMs, orphanTimeoutMs } = state.start?.config ?? DEFAULT_TIMEOUTS;
  if (state.heardMs !== null && silentMs > orphanTimeoutMs) {
    return orphaned(state, `Lost the coordinator at ${coordinator}: silent for ${seconds(silentMs)}`);
  }
  const effects: SessionEffect[] = [];
  let next = state;
  if (state.isLinked && !state.isHeard && nowMs - state.joinedMs >= JOIN_AGAIN_MS) {
    next = { ...next, joinedMs: nowMs };
    effects.push(joinMessage(next, config));
  }
  if (state.heardMs !== null && silentMs > failureTimeoutMs) {
    if (state.saidSilentMs === null || nowMs - state.saidSilentMs >= SAY_SILENT_AGAIN_MS) {
      next = { ...next, saidSilentMs: nowMs };
      const text = `The coordinator at ${coordinator} is silent for ${seconds(silentMs)}. Keeping step ${observed.globalStep}; waiting ${seconds(orphanTimeoutMs - silentMs)} more for it to be started again with --resume`;
      effects.push({ type: "log", text });
    }
  } else if (state.saidSilentMs !== null) {
    next = { ...next, saidSilentMs: null };
    effects.push({ type: "log", text: "The coordinator is back" });
  }
  const waiting = waitingOf(state, observed, nowMs, config);
  const isLong = waiting !== null && waiting.forMs > LONG_WAIT_MS;
  if (isLong && nowMs - state.saidWaitingMs > SAY_AGAIN_MS) {
    next = { ...next, saidWaitingMs: nowMs };
    effects.push({ type: "log", text: `Waiting for ${waiting.what}, for ${seconds(waiting.forMs)}` });
  }
  if (state.isLinked && state.heardMs !== null) {
    effects.push({
      type: "send",
      message: {
        type: "heartbeat",
        generation: state.generation,
        globalStep: observed.globalStep,
        phase: observed.phase,
        waitingFor: isLong ? waiting.what.slice(0, 4000) : null,
        waitedMs: waiting?.forMs ?? 0,
        waitingRanks: [...observed.waitingRanks],
      },
    });
  }
  return leftAlone({ state: next, effects }, nowMs);
}

/** Of a worker that has not begun, and so does not know those of the run. */
const DEFAULT_TIMEOUTS = { failureTimeoutMs: 10_000, orphanTimeoutMs: 60_000 };

function waitingOf(
  state: SessionState,
  observed: Observed,
  nowMs: number,
  { coordinator }: SessionConfig,
): Observed["waiting"] {
  if (observed.waiting !== null) return observed.waiting;
  if (state.waiting !== null) return { what: state.waiting.what, forMs: nowMs - state.waiting.sinceMs };
  return state.isHeard
    ? null
    : {
        what: `the coordinator at ${coordinator} to answer`,
        forMs: nowMs - (state.heardMs ?? state.startedMs),
      };
}

/** Saves the state, as nobody else will. */
function orphaned(state: SessionState, why: string): SessionTransition {
  return {
    state: { ...state, status: "saving", outcome: { how: "failed", reason: why } },
    effects: [{ type: "save" }],
  };
}

function saved(state: SessionState, isSaved: boolean, text: string): SessionTransition {
  if (state.status !== "saving") return { state, effects: [] };
  const how = state.told !== null && isSaved ? "again" : "failed";
  return ended(state, how, `${state.outcome?.reason}. ${text}`);
}

/** Says something that must still arrive, then ends. */
function lastWords(state: SessionState, message: WorkerMessage, outcome: Outcome): SessionTransition {
  return {
    state: { ...state, status: "ending", outcome },
    effects: [{ type: "send", message }, { type: "flush" }],
  };
}

function flushed(state: SessionState): SessionTransition {
  const { outcome } = state;
  if (state.status !== "ending" || outcome === null) return { state, effects: [] };
  return ended(state, outcome.how, outcome.reason);
}

function ended(state: SessionState, how: Outcome["how"], reason: string | null): SessionTransition {
  const outcome: Outcome = { how, reason };
  return { state: { ...state, status: "ended", outcome }, effects: [{ type: "end", outcome }] };
}
