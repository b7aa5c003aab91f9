/**
 * Who trains, when a step is committed, and when the run ends. No sockets,
 * clocks or files: every input arrives as a value and every effect leaves as
 * one, so the same inputs always give the same decisions (the design of
 * etcd-io/raft). Gradients never pass here: workers reduce among themselves.
 *
 * Every change of members makes a new generation. In this version a run has
 * one: a lost worker ends the run with a reason, and `--resume` continues it.
 *
 * @module
 */
import type { RunConfig } from "../shared/config.ts";
import type {
  CoordinatorMessage,
  DataAddress,
  StepMetrics,
  Timing,
  WorkerId,
  WorkerMessage,
} from "../shared/protocol.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../shared/version.ts";

export interface MembershipConfig {
  readonly run: RunConfig;
  /** Steps complete in the state that training starts from. */
  readonly startStep: number;
  /** Step after which training ends. */
  readonly endStep: number;
  readonly numImages: number;
  readonly stateFrom: "seed" | "checkpoint";
  readonly bulkPort: number;
  /** Control endpoint, for advice to the user. */
  readonly endpoint: string;
}

/** Routing id of one incarnation of a worker. */
export type Incarnation = string;

export interface Member {
  readonly workerId: WorkerId;
  readonly incarnation: Incarnation;
  readonly data: DataAddress;
  readonly host: string;
  readonly pid: number;
  readonly runtime: string;
  readonly lastSeenMs: number;
  /** Hash of the state it starts from, or null until it is ready. */
  readonly readyHash: string | null;
  /** Where it said it is: for explanations only. */
  readonly position: string;
  readonly waitingFor: string | null;
  readonly finished: boolean;
}

interface StepReport {
  readonly metrics: StepMetrics;
  readonly timing: Timing;
  readonly generatorHash: string;
  readonly discriminatorHash: string;
}

interface NonFiniteReport {
  readonly globalStep: number;
  readonly phase: string;
  readonly own: string | null;
}

export type Status = "gathering" | "starting" | "training" | "trained" | "ended";

export interface MembershipState {
  readonly status: Status;
  readonly generation: number;
  /** Steps committed. */
  readonly globalStep: number;
  readonly endStep: number;
  /** Sorted by worker id; from "starting" on, the position of a member is its rank. */
  readonly members: readonly Member[];
  /** Reports of steps that are not committed yet, by step and worker. */
  readonly reports: ReadonlyMap<number, ReadonlyMap<WorkerId, StepReport>>;
  readonly nonFinite: ReadonlyMap<WorkerId, NonFiniteReport>;
  readonly nonFiniteSinceMs: number | null;
  /** When something last went forward, or was last explained. */
  readonly progressMs: number;
}

export type Input =
  | { readonly type: "message"; readonly from: Incarnation; readonly message: WorkerMessage }
  | { readonly type: "tick" }
  /** A worker process that this machine started has ended. */
  | { readonly type: "exited"; readonly workerId: WorkerId; readonly how: string }
  /** The user wants to stop: no batch beyond globalStep was or will be sent. */
  | { readonly type: "finish"; readonly globalStep: number }
  /** Final checkpoint and pictures are on disk. */
  | { readonly type: "saved" };

export type Effect =
  | { readonly type: "send"; readonly to: Incarnation; readonly message: CoordinatorMessage }
  | { readonly type: "log"; readonly level: "info" | "warn" | "error"; readonly text: string }
  /** Every member is ready with the same state: stream batches. */
  | { readonly type: "train"; readonly generation: number }
  | {
      readonly type: "commit";
      readonly globalStep: number;
      readonly metrics: StepMetrics;
      readonly timings: ReadonlyMap<WorkerId, Timing>;
    }
  /** Every member has finished: save what is left, then input "saved". */
  | { readonly type: "trained"; readonly globalStep: number }
  /** The run is over; if not ok, the shell stops every worker. */
  | { readonly type: "end"; readonly ok: boolean; readonly reason: string };

export interface Transition {
  readonly state: MembershipState;
  readonly effects: readonly Effect[];
}

export function initialState(config: MembershipConfig, nowMs: number): MembershipState {
  return {
    status: "gathering",
    generation: 0,
    globalStep: config.startStep,
    endStep: config.endStep,
    members: [],
    reports: new Map(),
    nonFinite: new Map(),
    nonFiniteSinceMs: null,
    progressMs: nowMs,
  };
}

/**
 * Advances the coordinator by one input.
 *
 * @param nowMs Monotonic time of the input, in milliseconds.
 * @returns The next state, and the effects for the shell to run in order.
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
      return exited(state, input.workerId, input.how);
    case "finish":
      return finish(state, input.globalStep);
    case "saved":
      return saved(state);
    case "message":
      return input.message.type === "join"
        ? join(state, input.from, input.message, nowMs, config)
        : fromMember(state, input.from, input.message, nowMs, config);
  }
}

function join(
  state: MembershipState,
  from: Incarnation,
  message: Extract<WorkerMessage, { type: "join" }>,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const refusal = refusalOf(state, message, config);
  if (refusal !== null) {
    return {
      state,
      effects: [
        { type: "send", to: from, message: { type: "refuse", reason: refusal } },
        {
          type: "log",
          level: "warn",
          text: `Refused worker "${message.workerId}" on ${message.host}: ${refusal}`,
        },
      ],
    };
  }
  const member: Member = {
    workerId: message.workerId,
    incarnation: from,
    data: message.data,
    host: message.host,
    pid: message.pid,
    runtime: message.runtime,
    lastSeenMs: nowMs,
    readyHash: null,
    position: "joining",
    waitingFor: null,
    finished: false,
  };
  const members = [...state.members, member].sort((a, b) => (a.workerId < b.workerId ? -1 : 1));
  const joined: Effect = {
    type: "log",
    level: "info",
    text: `Worker "${member.workerId}" joined (pid ${member.pid} on ${member.host}, ${member.runtime}): ${members.length} of ${config.run.workers}`,
  };
  const next: MembershipState = { ...state, members, progressMs: nowMs };
  if (members.length < config.run.workers) return { state: next, effects: [joined] };
  const generation = state.generation + 1;
  const peers = members.map(({ workerId, data }, rank) => ({ rank, workerId, data }));
  const starts = members.map(({ incarnation }, rank): Effect => ({
    type: "send",
    to: incarnation,
    message: {
      type: "start",
      generation,
      rank,
      worldSize: members.length,
      peers,
      globalStep: state.globalStep,
      endStep: state.endStep,
      numImages: config.numImages,
      stateFrom: config.stateFrom,
      bulkPort: config.bulkPort,
      config: config.run,
    },
  }));
  return { state: { ...next, status: "starting", generation }, effects: [joined, ...starts] };
}

function refusalOf(
  state: MembershipState,
  message: Extract<WorkerMessage, { type: "join" }>,
  config: MembershipConfig,
): string | null {
  if (message.protocolVersion !== PROTOCOL_VERSION) {
    return `Cannot join as protocol version must be ${PROTOCOL_VERSION}: got ${message.protocolVersion}`;
  }
  if (message.packageVersion !== PACKAGE_VERSION) {
    return `Cannot join as version of lockstep must be ${PACKAGE_VERSION}: got ${message.packageVersion}`;
  }
  if (state.status !== "gathering") {
    return `Cannot join as the run already trains with ${state.members.length} workers: start workers before training begins, or resume the run with more --workers`;
  }
  if (state.members.some((m) => m.workerId === message.workerId)) {
    return `Cannot join as worker ids must be unique: "${message.workerId}" is taken`;
  }
  if (state.members.length >= config.run.workers) {
    return `Cannot join as the run takes ${config.run.workers} workers`;
  }
  return null;
}

function fromMember(
  state: MembershipState,
  from: Incarnation,
  message: Exclude<WorkerMessage, { type: "join" }>,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const member = state.members.find((m) => m.incarnation === from);
  if (member === undefined) {
    return {
      state,
      effects: [{ type: "log", level: "warn", text: `Ignored "${message.type}" from an unknown worker` }],
    };
  }
  if (message.type === "failed") {
    const text = `Worker "${member.workerId}" (rank ${rankOf(state, member)}, pid ${member.pid} on ${member.host}) failed: ${message.reason}`;
    return end(state, false, text);
  }
  if (message.generation !== state.generation && message.type !== "heartbeat") {
    const text = `Ignored "${message.type}" of generation ${message.generation} from "${member.workerId}": now ${state.generation}`;
    return {
      state: update(state, member, { lastSeenMs: nowMs }),
      effects: [{ type: "log", level: "warn", text }],
    };
  }
  switch (message.type) {
    case "heartbeat":
      return {
        state: update(state, member, {
          lastSeenMs: nowMs,
          position: `step ${message.globalStep} ${message.phase}`,
          waitingFor: message.waitingFor,
        }),
        effects: [],
      };
    case "ready":
      return ready(update(state, member, { lastSeenMs: nowMs, readyHash: message.parameterHash }), nowMs);
    case "step":
      return stepReported(update(state, member, { lastSeenMs: nowMs }), member, message, nowMs);
    case "finished": {
      const next = update(state, member, { lastSeenMs: nowMs, finished: true });
      if (!next.members.every((m) => m.finished)) return { state: next, effects: [] };
      return {
        state: { ...next, status: "trained", progressMs: nowMs },
        effects: [{ type: "trained", globalStep: message.globalStep }],
      };
    }
    case "left":
      // Only an ended run lets workers go.
      return { state, effects: [] };
    case "nonFinite": {
      const { globalStep, phase, own } = message;
      const nonFinite = new Map(state.nonFinite).set(member.workerId, { globalStep, phase, own });
      const next = {
        ...update(state, member, { lastSeenMs: nowMs }),
        nonFinite,
        nonFiniteSinceMs: state.nonFiniteSinceMs ?? nowMs,
      };
      return nonFinite.size === state.members.length ? diverged(next, config) : { state: next, effects: [] };
    }
  }
}

function ready(state: MembershipState, nowMs: number): Transition {
  if (state.status !== "starting" || state.members.some((m) => m.readyHash === null))
    return { state, effects: [] };
  const hashes = new Set(state.members.map((m) => m.readyHash));
  if (hashes.size > 1) {
    const list = state.members.map((m) => `"${m.workerId}" ${m.readyHash} (${m.runtime})`).join(", ");
    return end(state, false, `Cannot train as all workers must start from the same parameters: got ${list}`);
  }
  const text = `Generation ${state.generation}: ${state.members.length} workers hold the same state (${[...hashes].join("")}) at step ${state.globalStep}`;
  return {
    state: { ...state, status: "training", progressMs: nowMs },
    effects: [
      { type: "log", level: "info", text },
      { type: "train", generation: state.generation },
    ],
  };
}

function stepReported(
  state: MembershipState,
  member: Member,
  message: Extract<WorkerMessage, { type: "step" }>,
  nowMs: number,
): Transition {
  const { globalStep, metrics, timing, generatorHash, discriminatorHash } = message;
  const ofStep = new Map(state.reports.get(globalStep)).set(member.workerId, {
    metrics,
    timing,
    generatorHash,
    discriminatorHash,
  });
  const reports = new Map(state.reports).set(globalStep, ofStep);
  if (ofStep.size < state.members.length) return { state: { ...state, reports }, effects: [] };
  const divergence = divergenceOf(state, globalStep, ofStep);
  if (divergence !== null) return end(state, false, divergence);
  reports.delete(globalStep);
  const timings = new Map(state.members.map((m) => [m.workerId, ofStep.get(m.workerId)?.timing ?? timing]));
  return {
    state: { ...state, reports, globalStep, progressMs: nowMs },
    effects: [{ type: "commit", globalStep, metrics, timings }],
  };
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

function diverged(state: MembershipState, _config: MembershipConfig): Transition {
  const [first] = state.nonFinite.values();
  const own = [...state.nonFinite].flatMap(([id, r]) => (r.own === null ? [] : [`worker "${id}": ${r.own}`]));
  const who = own.length > 0 ? own.join("; ") : "every worker's part was finite, their sum was not";
  const text = `Training has diverged: loss or gradient is not finite at step ${first.globalStep}, phase ${first.phase} (${who}). The update was not applied. Lower --learning-rate, or change --beta1 or the seed, in a new run`;
  return end(state, false, text);
}

function tick(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  const { failureTimeoutMs, workers } = config.run;
  const silent = state.members.filter((m) => !m.finished && nowMs - m.lastSeenMs > failureTimeoutMs);
  if (silent.length > 0) {
    const list = silent
      .map((m) => `${lostText(state, m)}: silent for ${seconds(nowMs - m.lastSeenMs)}`)
      .join("; ");
    if (state.status !== "gathering") return end(state, false, list);
    const gone = new Set(silent.map((m) => m.incarnation));
    return {
      state: { ...state, members: state.members.filter((m) => !gone.has(m.incarnation)) },
      effects: [{ type: "log", level: "warn", text: `${list}. Still waiting for workers` }],
    };
  }
  if (state.nonFiniteSinceMs !== null && nowMs - state.nonFiniteSinceMs > 1000)
    return diverged(state, config);
  const waitedMs = nowMs - state.progressMs;
  if (waitedMs < Math.min(5000, failureTimeoutMs)) return { state, effects: [] };
  const since = seconds(waitedMs);
  const explained: MembershipState = { ...state, progressMs: nowMs };
  if (state.status === "gathering") {
    const missing = workers - state.members.length;
    const text = `Waiting for ${missing} of ${workers} workers (for ${since}). To add one: npx lockstep worker --coordinator ${config.endpoint}`;
    return { state: explained, effects: [{ type: "log", level: "info", text }] };
  }
  if (state.status === "trained") {
    return {
      state: explained,
      effects: [{ type: "log", level: "info", text: `Waiting for the last checkpoint (for ${since})` }],
    };
  }
  const where = state.members.map((m) => {
    const waits = m.waitingFor === null ? "" : `, waiting for ${m.waitingFor}`;
    return `"${m.workerId}" at ${m.position}${waits}, heard ${seconds(nowMs - m.lastSeenMs)} ago`;
  });
  const text = `No step for ${since} since step ${state.globalStep}: ${where.join("; ")}`;
  return { state: explained, effects: [{ type: "log", level: "warn", text }] };
}

function exited(state: MembershipState, workerId: WorkerId, how: string): Transition {
  const member = state.members.find((m) => m.workerId === workerId);
  if (member?.finished === true) return { state, effects: [] };
  const who = member === undefined ? `Worker "${workerId}" ended before it joined` : lostText(state, member);
  return end(state, false, `${who}: ${how}`);
}

function finish(state: MembershipState, globalStep: number): Transition {
  if (state.status === "gathering" || state.status === "starting") {
    return end(state, true, "Stopped before training began");
  }
  const endStep = Math.min(state.endStep, globalStep);
  const sends = state.members.map(({ incarnation }): Effect => ({
    type: "send",
    to: incarnation,
    message: { type: "finish", generation: state.generation, globalStep: endStep },
  }));
  return { state: { ...state, endStep }, effects: sends };
}

function saved(state: MembershipState): Transition {
  const sends = state.members.map(({ incarnation }): Effect => ({
    type: "send",
    to: incarnation,
    message: { type: "exit" },
  }));
  const ended = end(state, true, `Trained to step ${state.globalStep}`);
  return { state: ended.state, effects: [...sends, ...ended.effects] };
}

function end(state: MembershipState, ok: boolean, reason: string): Transition {
  const sends = state.members.map(({ incarnation }): Effect => ({
    type: "send",
    to: incarnation,
    message: ok ? { type: "exit" } : { type: "abort", reason: reason.slice(0, 4000) },
  }));
  return {
    state: { ...state, status: "ended" },
    effects: [...(state.status === "trained" && ok ? [] : sends), { type: "end", ok, reason }],
  };
}

function update(state: MembershipState, member: Member, change: Partial<Member>): MembershipState {
  const members = state.members.map((m) => (m.incarnation === member.incarnation ? { ...m, ...change } : m));
  return { ...state, members };
}

function rankOf(state: MembershipState, member: Member): number {
  return state.members.findIndex((m) => m.incarnation === member.incarnation);
}

function lostText(state: MembershipState, m: Member): string {
  return `Lost worker "${m.workerId}" (rank ${rankOf(state, m)}, pid ${m.pid} on ${m.host}) after step ${state.globalStep}`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
