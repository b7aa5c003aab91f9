/**
 * What the coordinator's decisions are made from and made of: state, inputs, effects, and the changes that
 * several of them share.
 *
 * @module
 */
import type { RunConfig } from "../../shared/config.ts";
import type {
  CoordinatorMessage,
  DataAddress,
  Position,
  ProcessId,
  RunFolder,
  StepMetrics,
  StepReport,
  Timing,
  WorkerId,
  WorkerMessage,
} from "../../shared/protocol.ts";

export interface MembershipConfig {
  readonly run: RunConfig;
  /** Id of this process. */
  readonly term: string;
  readonly runId: string;
  /** Of this process's build (see code-hash.ts). */
  readonly codeHash: string;
  /** Step after which training ends. */
  readonly endStep: number;
  readonly numImages: number;
  readonly dataset: { readonly name: string; readonly sha256: string };
  /** The run's folder. */
  readonly folder: RunFolder;
  readonly bulkPort: number;
  /** What starts one more worker, for advice to the user. */
  readonly joinCommand: string;
  /** Worker processes that this machine starts at first. */
  readonly localWorkers: readonly WorkerId[];
}

/** The state of a run that no worker holds. */
export interface StoredState {
  readonly globalStep: number;
  readonly from: "seed" | "checkpoint";
}

/** Routing id of one incarnation of a worker. */
export type Incarnation = string;

/** A worker process that this machine starts, has started, or will start again under another `process`. */
export interface LocalProcess {
  readonly workerId: WorkerId;
  /** Names the process, whatever name its worker has: see processId(). */
  readonly process: ProcessId;
}

export interface Member {
  readonly workerId: WorkerId;
  readonly process: ProcessId;
  readonly incarnation: Incarnation;
  readonly data: DataAddress;
  readonly host: string;
  readonly pid: number;
  readonly runtime: string;
  readonly lastSeenMs: number;
  /** Number of the last message from it. */
  readonly sequence: number;
  /** Whether it can take a state at once; if it cannot, the others train until it can. */
  readonly prepared: boolean;
  /** Whether it was sent the start of some generation, and so must be paused before the next. */
  readonly started: boolean;
  /** Where it has paused for the next generation; "running" until it has. Null if it holds no state. */
  readonly paused: Position | null | "running";
  /** Hash of the state it starts from, or null until it is ready. */
  readonly readyHash: string | null;
  /** Where it said it is: for explanations only. */
  readonly position: string;
  readonly waitingFor: string | null;
  readonly waitedMs: number;
  readonly waitingRanks: readonly number[];
  /** For how long one computation has kept it from answering, as its pulse says; 0 once it answers. */
  readonly busyMs: number;
  readonly finished: boolean;
  /** Other processes that want its name, and since when: they wait until it is heard again, or given up. */
  readonly rivals: ReadonlyMap<Incarnation, number>;
  /** Signal by which it was told to leave, or null. */
  readonly leaving: string | null;
}

interface NonFiniteReport {
  readonly globalStep: number;
  readonly phase: string;
  readonly isApplied: boolean;
  readonly own: string | null;
}

/**
 * gathering: too few members. regrouping: members pause. restoring: the shell looks for the newest
 * checkpoint. starting: members take the state and connect. trained: the last state is being saved.
 */
export type Status = "gathering" | "regrouping" | "restoring" | "starting" | "training" | "trained" | "ended";

export interface MembershipState {
  readonly status: Status;
  /** Of the newest generation that was begun or is being formed. */
  readonly generation: number;
  /** Steps committed. */
  readonly globalStep: number;
  /** Steps whose metrics the shell has; ahead of globalStep after a restart, until members say where they are. */
  readonly recorded: number;
  readonly endStep: number;
  /** Whether to end with the step under way. */
  readonly stopping: boolean;
  /** Whether that is since too few of its workers may stay, and not what the user wants. */
  readonly again: boolean;
  readonly stored: StoredState;
  /** Sorted by worker id. From "starting" on, the position of a member is its rank, until somebody joins. */
  readonly members: readonly Member[];
  /** Those that have joined since the generation began; they enter with a next one, once they are prepared. */
  readonly joining: readonly Member[];
  /** When those that are joining and prepared enter, so that several enter at once; null if there are none. */
  readonly admitMs: number | null;
  /** When those that were told to leave may go, so that several go at once; null if there are none. */
  readonly leaveMs: number | null;
  /** Reports of steps that are not committed yet, by step and worker. */
  readonly reports: ReadonlyMap<number, ReadonlyMap<WorkerId, StepReport>>;
  readonly nonFinite: ReadonlyMap<WorkerId, NonFiniteReport>;
  readonly nonFiniteSinceMs: number | null;
  /** Workers that the first generation waits for. */
  readonly wanted: number;
  /** Worker processes that this machine starts, and starts again. */
  readonly local: readonly LocalProcess[];
  /** Processes that this machine was ever told to start. */
  readonly numLaunched: number;
  /** How often each local worker was started again. */
  readonly restarts: ReadonlyMap<WorkerId, number>;
  /** Local workers that are not started again, with the reason of their last end. */
  readonly exhausted: ReadonlyMap<WorkerId, string>;
  /** The last fault of a worker's engine, and whether it was the same before the worker was started again. */
  readonly engineFaults: ReadonlyMap<WorkerId, { readonly reason: string; readonly isRepeated: boolean }>;
  /** Why a worker said that it cannot go on. */
  readonly lastWords: ReadonlyMap<WorkerId, string>;
  /** Incarnations that were given up: what they still send, they sent before they knew. */
  readonly gone: ReadonlySet<Incarnation>;
  /** When the newest generation was begun. */
  readonly beganMs: number;
  /** When the members last changed for the worse, or null: for the time that recovery took. */
  readonly lostMs: number | null;
  /** When something last went forward. */
  readonly progressMs: number;
  /** When it was last said for what the run waits. */
  readonly explainedMs: number;
  /** Time that steps take; 0 before the first. */
  readonly stepMs: number;
}

export type Input =
  | {
      readonly type: "message";
      readonly from: Incarnation;
      /** Number of the message among all that the incarnation has sent, from 1. */
      readonly sequence: number;
      readonly message: WorkerMessage;
    }
  | { readonly type: "tick" }
  /** A worker process that this machine started has ended. */
  | ({ readonly type: "exited"; readonly how: string } & LocalProcess)
  /** The user wants to stop. */
  | { readonly type: "finish" }
  /** The user wants so many workers; at most maxWorkersOf(). */
  | { readonly type: "scale"; readonly workers: number }
  /** Answer to "restore": the newest state on disk, or the seed's. */
  | { readonly type: "restored"; readonly stored: StoredState }
  /** The last state has not come, long after all have finished. */
  | { readonly type: "missing" }
  /** Final checkpoint and pictures are on disk. */
  | { readonly type: "saved" };

export type Effect =
  | { readonly type: "send"; readonly to: Incarnation; readonly message: CoordinatorMessage }
  | { readonly type: "log"; readonly level: "info" | "warn" | "error"; readonly text: string }
  /** A worker may not join. */
  | { readonly type: "refused"; readonly text: string }
  /** Members change: stream no more batches. */
  | { readonly type: "pause" }
  /** No member holds a state: find the newest one, then input "restored". */
  | { readonly type: "restore" }
  /** Training goes on from a step before what is recorded: forget the metrics of later steps. */
  | { readonly type: "rewind"; readonly globalStep: number }
  /** Every member is ready with the same state: stream batches from the step on. */
  | {
      readonly type: "train";
      readonly generation: number;
      readonly globalStep: number;
      readonly endStep: number;
    }
  | {
      readonly type: "commit";
      readonly globalStep: number;
      readonly metrics: StepMetrics;
      readonly timings: ReadonlyMap<WorkerId, Timing>;
    }
  /** Start a process for a local worker, once no other process of that worker is left. */
  | ({ readonly type: "launch"; readonly delayMs: number } & LocalProcess)
  /** End a process of a local worker, or start it no more; then input "exited" if it was there. */
  | { readonly type: "kill"; readonly process: ProcessId }
  /** Every member has finished: save what is left, then input "saved". */
  | { readonly type: "trained"; readonly globalStep: number }
  /** The run is over; if not ok, the shell stops every worker. again: it is to be started again, to go on. */
  | { readonly type: "end"; readonly ok: boolean; readonly again: boolean; readonly reason: string };

export interface Transition {
  readonly state: MembershipState;
  readonly effects: readonly Effect[];
}

/** @param recorded Last step whose metrics are there from before. */
export function initialState(
  config: MembershipConfig,
  stored: StoredState,
  recorded: number,
  nowMs: number,
): MembershipState {
  return {
    status: "gathering",
    generation: 0,
    globalStep: stored.globalStep,
    recorded,
    endStep: config.endStep,
    stopping: false,
    again: false,
    stored,
    members: [],
    joining: [],
    admitMs: null,
    leaveMs: null,
    reports: new Map(),
    nonFinite: new Map(),
    nonFiniteSinceMs: null,
    wanted: config.run.workers,
    local: config.localWorkers.map((workerId, i) => ({ workerId, process: processId(config, i) })),
    numLaunched: config.localWorkers.length,
    restarts: new Map(),
    exhausted: new Map(),
    engineFaults: new Map(),
    lastWords: new Map(),
    gone: new Set(),
    beganMs: nowMs,
    lostMs: null,
    progressMs: nowMs,
    explainedMs: nowMs,
    stepMs: 0,
  };
}

/**
 * Id of a process that this machine starts. A process says whose it is when it joins; so its end is not taken for that
 * of another one which has its worker's name by then.
 */
export function processId({ term }: MembershipConfig, index: number): ProcessId {
  return `${term}.${index}`;
}

/** Whether this process of the coordinator has started a process. */
export function isStartedHere(process: ProcessId, { term }: MembershipConfig): boolean {
  return process.startsWith(`${term}.`);
}

/** By worker id. */
export function sorted(members: readonly Member[]): readonly Member[] {
  return members.toSorted((a, b) => (a.workerId < b.workerId ? -1 : 1));
}

/** Changes one member, or one that is joining. */
export function update(state: MembershipState, member: Member, change: Partial<Member>): MembershipState {
  const changed = (members: readonly Member[]): readonly Member[] =>
    members.map((m) => (m.incarnation === member.incarnation ? { ...m, ...change } : m));
  return { ...state, members: changed(state.members), joining: changed(state.joining) };
}

/** Those that are joining and prepared become members. */
export function withJoining(state: MembershipState, nowMs: number): MembershipState {
  const entering = state.joining.filter((m) => m.prepared);
  return {
    ...state,
    members: sorted([...state.members, ...entering]),
    joining: state.joining.filter((m) => !m.prepared),
    ...{ admitMs: null, progressMs: nowMs },
  };
}

/** A transition, then another from its state, unless the run has ended. */
export function andThen(
  { state, effects }: Transition,
  next: (state: MembershipState) => Transition,
): Transition {
  if (state.status === "ended") return { state, effects };
  const after = next(state);
  return { state: after.state, effects: [...effects, ...after.effects] };
}

/** Ends a run that cannot go on. */
export function fail(state: MembershipState, reason: string): Transition {
  const sends = [...state.members, ...state.joining].map(({ incarnation }): Effect => ({
    type: "send",
    to: incarnation,
    message: { type: "abort", reason: reason.slice(0, 4000) },
  }));
  const end: Effect = { type: "end", ok: false, again: false, reason };
  return { state: { ...state, status: "ended" }, effects: [...sends, end] };
}

/** Ends a run that is complete, or that was to stop; what its members can save, they have. */
export function end(state: MembershipState, config: MembershipConfig): Transition {
  const { again, generation, globalStep, members, joining } = state;
  const isComplete = globalStep >= config.endStep;
  const sends = [...members, ...joining].map(({ incarnation, leaving }): Effect => ({
    type: "send",
    to: incarnation,
    message: { type: "exit", again: !isComplete && (again || leaving !== null) },
  }));
  const reason = isComplete
    ? `Trained to step ${globalStep}`
    : generation === 0
      ? "Stopped before training began"
      : `Stopped at step ${globalStep} of ${config.endStep}`;
  const over: Effect = { type: "end", ok: true, again: again && !isComplete, reason };
  return { state: { ...state, status: "ended" }, effects: [...sends, over] };
}
