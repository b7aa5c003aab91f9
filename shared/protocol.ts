/**
 * Messages between coordinator and workers on the control plane, and on the
 * bulk plane that carries batches, state and pictures beside it: one readonly
 * union per direction, decoded from `unknown` in one place each. Headers are
 * msgpack maps; arrays of pixels and parameters travel as raw frames behind them.
 *
 * @module
 */
import { z } from "zod";
import { checked } from "./checked.ts";
import type { RunConfig } from "./config.ts";
import { parseRunConfig } from "./config.ts";
import { parseEndpoint } from "./endpoint.ts";
import { describeError, ProtocolError } from "./errors.ts";
import { isInRun } from "./phases.ts";
import { isPrintable, printable } from "./text.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "./version.ts";

/** Longest name of a worker. */
export const MAX_ID_LENGTH = 200;

/** Where a process of Linux finds what another one has open: its number, and that of the file. */
export const SHARED_FILE_PATH = /^\/proc\/\d{1,10}\/fd\/\d{1,10}$/;
export const SHARED_FILE_TOKEN = /^[0-9a-f]{32}$/;

/** Name of a worker; survives a reconnect, and the process. */
export type WorkerId = string;
/** Names one process of a worker, for as long as it lives: its pid may be that of another process elsewhere. */
export type ProcessId = string;

const index = z
  .int()
  .min(0)
  .max(2 ** 48);
const rank = index.max(4095);
const port = z.int().min(1).max(65_535);
/** Made printable here, as it ends in logs, terminals and errors. */
const text = z
  .string()
  .max(4096)
  .transform((value) => printable(value));
/** Names are compared, so they are refused rather than changed. */
const name = z.string().min(1).refine(isPrintable, { error: "must have no control characters" });
const id = name.max(MAX_ID_LENGTH);
const hash = z
  .string()
  .max(128)
  .regex(/^[\w.-]*$/);
/** One that somebody listens on. */
const endpoint = z.string().max(300).refine(isEndpoint, { error: "must look like tcp://host:port" });
/** At most thirty years: as long as no process lives. */
const milliseconds = z.number().min(0).max(1e12);

const Timing = z.strictObject({
  /** Gradients of this worker's shards. */
  computeMs: milliseconds,
  /** From the first send to the last chunk of the reduced gradient. */
  allReduceMs: milliseconds,
  /** Waiting for the coordinator's batch. */
  waitMs: milliseconds,
  /** Optimizer, and handing the parameters to the engine. */
  applyMs: milliseconds,
});
export type Timing = z.infer<typeof Timing>;

/** Values after the all-reduce: the same bits on every worker. Losses in nats. */
const StepMetrics = z.strictObject({
  discriminatorLoss: z.number(),
  generatorLoss: z.number(),
  /** Mean D(x) in the last discriminator phase. */
  realProbability: z.number(),
  /** Mean D(G(z)) in the last discriminator phase. */
  fakeProbability: z.number(),
  /** Euclidean norms of the reduced gradients of the last phase of each network. */
  discriminatorGradientNorm: z.number(),
  generatorGradientNorm: z.number(),
});
export type StepMetrics = z.infer<typeof StepMetrics>;

export const StepReportSchema = z.strictObject({
  /** Steps complete. */
  globalStep: index,
  metrics: StepMetrics,
  timing: Timing,
  generatorHash: hash,
  discriminatorHash: hash,
});
/** What a worker says of a step whose phases it has all applied. */
export type StepReport = z.infer<typeof StepReportSchema>;

/** Reports that a worker keeps until it hears that no crash can lose them: what a header has room for. */
export const MAX_KEPT_REPORTS = 2000;

const DataAddressSchema = z.strictObject({
  endpoint,
  /** A file with what this worker sends, for workers on the same host; null if it has none. */
  sharedFile: z
    .strictObject({
      path: z.string().max(100).regex(SHARED_FILE_PATH),
      /** What the file begins with, so that a file of another host is not taken for it. */
      token: z.string().regex(SHARED_FILE_TOKEN),
    })
    .nullable(),
});
export type DataAddress = z.infer<typeof DataAddressSchema>;
export type SharedFileAddress = NonNullable<DataAddress["sharedFile"]>;

const PositionSchema = z.strictObject({
  /** Steps complete. */
  globalStep: index,
  /** Phases applied in the step after those. */
  phase: index,
});
/** How far a replica is. Two replicas of a run at one position have the same bits. */
export type Position = z.infer<typeof PositionSchema>;

/** Below 0 if `a` is behind `b`, 0 if they are equal. */
export function comparePositions(a: Position, b: Position): number {
  return a.globalStep - b.globalStep || a.phase - b.phase;
}

const WorkerMessageSchema = z.discriminatedUnion("type", [
  /** First message of an incarnation. Stale: never, as the routing id is new each time. */
  z.strictObject({
    type: z.literal("join"),
    protocolVersion: z.literal(PROTOCOL_VERSION),
    packageVersion: text,
    /** Of the built files (see code-hash.ts). */
    codeHash: hash,
    workerId: id,
    process: id,
    host: text,
    /** Of 32 bits on any system. */
    pid: index.max(2 ** 32),
    runtime: text,
    /** Where other workers reach this one's data plane. */
    data: DataAddressSchema,
    /** State that it holds from before it lost the coordinator, or null. */
    holds: z
      .strictObject({
        runId: id,
        position: PositionSchema,
        /** Of its last steps, as far as it does not know that they are recorded. */
        reports: z.array(StepReportSchema).max(MAX_KEPT_REPORTS),
      })
      .nullable(),
  }),
  /** Every heartbeat interval; proves that the event loop runs, and says where training stands. */
  z.strictObject({
    type: z.literal("heartbeat"),
    generation: index,
    globalStep: index,
    phase: text,
    /** For whom and what the worker waits for long, or null. */
    waitingFor: text.nullable(),
    waitedMs: milliseconds,
    /** Ranks without which its all-reduce cannot go on. */
    waitingRanks: z.array(rank).max(4096),
  }),
  /** Instead of heartbeats, while one computation lasts: from pulseIdOf() the incarnation, not numbered. */
  z.strictObject({ type: z.literal("busy"), forMs: milliseconds }),
  /** Answer to "regroup": the worker computes nothing more for older generations. */
  z.strictObject({
    type: z.literal("paused"),
    generation: index,
    /** Null if it holds no state yet. */
    position: PositionSchema.nullable(),
  }),
  /** Answer to "prepare": the worker can take the state of the run. */
  z.strictObject({ type: z.literal("prepared"), runId: id }),
  /** The worker holds the state that the generation starts from and has connected to its peers. */
  z.strictObject({ type: z.literal("ready"), generation: index, stateHash: text }),
  /** All phases of a step are applied. Stale: counted for its own step only. */
  z.strictObject({ type: z.literal("step"), generation: index, report: StepReportSchema }),
  /** The worker has done its last step and holds the final state. */
  z.strictObject({ type: z.literal("finished"), generation: index, globalStep: index }),
  /** A reduced gradient or loss is not finite, or a state after its update. Every worker sends this. */
  z.strictObject({
    type: z.literal("nonFinite"),
    generation: index,
    globalStep: index,
    phase: text,
    /** Whether the update was applied, so that a parameter or moment is not finite. */
    isApplied: z.boolean(),
    /** What this worker's own shards contributed, or null if its part was finite. */
    own: text.nullable(),
  }),
  /** The worker was told to end by whoever has started it, and trains on until it is let go. */
  z.strictObject({ type: z.literal("leaving"), signal: text }),
  /** The worker is about to exit, as it was let go, or told to leave before it held anything. */
  z.strictObject({ type: z.literal("left"), generation: index }),
  /** The worker cannot go on and is about to exit. */
  z.strictObject({
    type: z.literal("failed"),
    /** Step and phase, and what happened. */
    reason: text,
    /** Whether its engine could not compute: with the same inputs it fails again. */
    byEngine: z.boolean(),
  }),
]);
export type WorkerMessage = z.infer<typeof WorkerMessageSchema>;

const PeerSchema = z.strictObject({ rank, workerId: id, data: DataAddressSchema });
export type Peer = z.infer<typeof PeerSchema>;

/** The run's folder on the coordinator's host, for a worker that is left alone. */
const FolderSchema = z.strictObject({
  /** Absolute path of its checkpoints, which a change would lead elsewhere. */
  checkpoints: z.string().max(4096),
  /** Of the run: at the same path there may be another one by then. */
  identity: id,
  /** Of the coordinator's hold of the run: another one may have it by then. */
  hold: id,
});
export type RunFolder = z.infer<typeof FolderSchema>;

const StartSchema = z.strictObject({
  type: z.literal("start"),
  /** Id of the coordinator's process, which counts generations. */
  term: name.max(64),
  generation: index,
  rank,
  worldSize: index.min(1),
  /** All members, sorted by rank, the receiver among them. */
  peers: z.array(PeerSchema).min(1).max(4096),
  /** Names the run to workers that outlive a coordinator. */
  runId: id,
  /** Where the state is that training starts from. */
  position: PositionSchema,
  /** Step after which training ends. */
  endStep: index,
  /** Images in the data set, from which epochs follow. */
  numImages: index.min(1),
  dataset: z.strictObject({ name: text, sha256: hash }),
  folder: FolderSchema,
  /** Whence the receiver takes the state: its own, a peer's (data plane), a checkpoint's (bulk plane), or the seed. */
  stateFrom: z.enum(["own", "peer", "checkpoint", "seed"]),
  /** Ranks to which the receiver sends its state. */
  stateTo: z.array(rank).max(4096),
  /** Port of the coordinator's bulk plane, on the host of its control plane. */
  bulkPort: port,
  config: z.unknown(),
});

const PrepareSchema = z.strictObject({ type: z.literal("prepare"), runId: id, config: z.unknown() });

const CoordinatorMessageSchema = z.discriminatedUnion("type", [
  /** The worker may not join; it exits. Of the same shape in every version, as it tells of other versions. */
  z.strictObject({ type: z.literal("refuse"), reason: text }),
  /** The worker may not join, and nobody here needs the state that it holds: it saves it, and exits. */
  z.strictObject({ type: z.literal("otherRun"), reason: text }),
  /** Another process has the worker's name, and may be gone: join again, until one of the two is known to be. */
  z.strictObject({ type: z.literal("wait"), reason: text }),
  /** The coordinator does not count this incarnation any more: join again, with the state that it holds. */
  z.strictObject({ type: z.literal("unknown") }),
  /** Load the engine while others train: the receiver enters with the generation after its answer. */
  PrepareSchema,
  /** Members change: stop where you are and say where that is. Stale: if a later generation is known. */
  z.strictObject({ type: z.literal("regroup"), generation: index }),
  /** Every heartbeat interval. */
  z.strictObject({
    type: z.literal("heartbeat"),
    /** The run never goes back before this step, and the metrics of all steps up to it are on disk. */
    safe: index,
  }),
  StartSchema,
  /** Nobody needs the receiver any more, and nothing of its work is lost. */
  z.strictObject({
    type: z.literal("exit"),
    /** Whether training goes on without it, or later, so that it is of use if it is started again. */
    again: z.boolean(),
  }),
  /** The run has failed: exit with code 1. */
  z.strictObject({ type: z.literal("abort"), reason: text }),
]);
export type StartMessage = Omit<z.infer<typeof StartSchema>, "config"> & { readonly config: RunConfig };
export type PrepareMessage = Omit<z.infer<typeof PrepareSchema>, "config"> & { readonly config: RunConfig };
export type CoordinatorMessage =
  | Exclude<z.infer<typeof CoordinatorMessageSchema>, { type: "start" | "prepare" }>
  | PrepareMessage
  | StartMessage;

/** The training state after globalStep steps, in STATE_FRAMES. */
const StateSchema = z.strictObject({
  type: z.literal("state"),
  generation: index,
  globalStep: index,
  /** Optimizer updates of each network. */
  generatorSteps: index,
  discriminatorSteps: index,
});

/** Bulk plane, worker to coordinator. */
const WorkerBulkSchema = z.discriminatedUnion("type", [
  /** Opens the bulk plane of this worker; asks for the checkpoint's state where `start` promised one. */
  z.strictObject({ type: z.literal("hello"), generation: index, wantsState: z.boolean() }),
  /** Batches of steps below this one have been used: the credit that keeps the stream moving. */
  z.strictObject({ type: z.literal("credit"), generation: index, globalStep: index }),
  /** Sent by rank 0, for a checkpoint. */
  StateSchema,
  /** Pixels (64, 784) uint8 of samples from the fixed noise. Sent by rank 0. */
  z.strictObject({ type: z.literal("samples"), generation: index, globalStep: index }),
]);
export type WorkerBulkMessage = z.infer<typeof WorkerBulkSchema>;

/** Bulk plane, coordinator to worker. */
const CoordinatorBulkSchema = z.discriminatedUnion("type", [
  /** Images of one step for one rank: (discriminatorSteps, rank's samples, 784) uint8. */
  z.strictObject({ type: z.literal("batch"), generation: index, globalStep: index }),
  /** From a checkpoint, for a worker that has no state yet. */
  StateSchema,
]);
export type CoordinatorBulkMessage = z.infer<typeof CoordinatorBulkSchema>;

/** Frames behind a "state" header: float32, little-endian, (numParameters,) each. */
export const STATE_FRAMES = [
  "generator",
  "generatorM",
  "generatorV",
  "discriminator",
  "discriminatorM",
  "discriminatorV",
] as const;

/** What a user's command asks of a coordinator. */
const AdminRequestSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("status") }),
  /** Train with so many workers from now on. */
  z.strictObject({ type: z.literal("scale"), workers: index.min(1).max(4096) }),
  /** End with the step under way; its state is saved. */
  z.strictObject({ type: z.literal("stop") }),
]);
export type AdminRequest = z.infer<typeof AdminRequestSchema>;

const MemberStatusSchema = z.strictObject({
  workerId: id,
  /** Null until it has entered. */
  rank: index.nullable(),
  host: text,
  pid: index,
  runtime: text,
  /** Shards that it computes, [start, end), or null. */
  shards: z.tuple([index, index]).nullable(),
  position: text,
  waitingFor: text.nullable(),
  /** For how long one computation has kept it from answering; 0 if none does. */
  busyMs: milliseconds,
  silentMs: milliseconds,
});

const RunStatusSchema = z.strictObject({
  /** What was turned away since the coordinator began. */
  refused: z.strictObject({
    connections: index,
    joins: index,
    /** Malformed, unexpected, or too many. */
    messages: index,
    /** Those of the messages that were too many, and so were not parsed. */
    unread: index,
  }),
  status: text,
  generation: index,
  globalStep: index,
  endStep: index,
  imagesPerSecond: milliseconds,
  members: z.array(MemberStatusSchema),
  /** Newest last. */
  lastFaults: z.array(z.strictObject({ at: text, text })),
});
export type RunStatus = z.infer<typeof RunStatusSchema>;

const AdminAnswerSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("status"), run: RunStatusSchema }),
  z.strictObject({ type: z.literal("done"), text }),
  z.strictObject({ type: z.literal("cannot"), reason: text }),
]);
export type AdminAnswer = z.infer<typeof AdminAnswerSchema>;

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseAdminAnswer(header: unknown): AdminAnswer {
  return parse(AdminAnswerSchema, header, "answer");
}

/**
 * What the coordinator's control plane takes: from workers, and from users' commands.
 *
 * @throws {ProtocolError} If a field is missing, unknown or has the wrong type.
 */
export function parseControlMessage(header: unknown): WorkerMessage | AdminRequest {
  const admin = checked(AdminRequestSchema, header);
  return admin.ok ? admin.value : parseWorkerMessage(header);
}

/**
 * Why a join cannot be parsed that another version of the protocol wrote; null for any other header.
 * Only its type and version are sure to be there.
 */
export function refusedVersion(header: unknown): string | null {
  if (typeof header !== "object" || header === null) return null;
  const { type, protocolVersion } = header as { readonly type?: unknown; readonly protocolVersion?: unknown };
  if (type !== "join" || typeof protocolVersion !== "number" || protocolVersion === PROTOCOL_VERSION)
    return null;
  return `Cannot join as protocol version must be ${PROTOCOL_VERSION}: got ${protocolVersion}. Install the same version of lockstep (here ${PACKAGE_VERSION}) on all machines`;
}

function isEndpoint(value: string): boolean {
  try {
    return parseEndpoint(value).port !== "*";
  } catch {
    return false;
  }
}

function parse<T>(schema: z.ZodType<T>, header: unknown, what: string): T {
  const result = checked(schema, header);
  if (result.ok) return result.value;
  const [issue] = result.issues;
  const { type } = (header ?? {}) as { readonly type?: unknown };
  const kind = typeof type === "string" ? type.slice(0, 40) : typeof type;
  throw new ProtocolError(
    printable(`Cannot parse ${what} "${kind}" as '${issue.path}' is wrong: ${issue.message}`, 500),
  );
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseWorkerMessage(header: unknown): WorkerMessage {
  return parse(WorkerMessageSchema, header, "worker message");
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseCoordinatorMessage(header: unknown): CoordinatorMessage {
  const message = parse(CoordinatorMessageSchema, header, "coordinator message");
  if (message.type !== "start" && message.type !== "prepare") return message;
  let config: RunConfig;
  try {
    config = parseRunConfig(message.config);
  } catch (error) {
    throw new ProtocolError(`Cannot parse "${message.type}": ${describeError(error)}`);
  }
  if (message.type === "start") checkStart({ ...message, config });
  return { ...message, config };
}

/** @throws {ProtocolError} If no member of a run can be told to start so. */
function checkStart({ config, endStep, peers, position, rank: own, stateTo, worldSize }: StartMessage): void {
  const hasOthers = stateTo.every((to) => to < worldSize && to !== own) && isUnique(stateTo);
  const hasRanks = peers.length === worldSize && peers.every((peer, i) => peer.rank === i) && own < worldSize;
  if (!hasOthers || !hasRanks || worldSize > config.shards) {
    throw new ProtocolError(`Cannot start as rank ${own} of ${worldSize} with ${peers.length} members`);
  }
  if (!isInRun(position, endStep, config.discriminatorSteps)) {
    throw new ProtocolError(
      `Cannot start at step ${position.globalStep}, phase ${position.phase} of a run of ${endStep} steps`,
    );
  }
}

function isUnique(values: readonly number[]): boolean {
  return new Set(values).size === values.length;
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseWorkerBulkMessage(header: unknown): WorkerBulkMessage {
  return parse(WorkerBulkSchema, header, "worker bulk message");
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseCoordinatorBulkMessage(header: unknown): CoordinatorBulkMessage {
  return parse(CoordinatorBulkSchema, header, "coordinator bulk message");
}
