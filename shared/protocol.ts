/**
 * Messages between coordinator and workers on the control plane, and on the
 * bulk plane that carries batches, state and pictures beside it: one readonly
 * union per direction, decoded from `unknown` in one place each. Headers are
 * msgpack maps; arrays of pixels and parameters travel as raw frames behind them.
 *
 * @module
 */
import { Packr, Unpackr } from "msgpackr";
import { z } from "zod";
import type { RunConfig } from "./config.ts";
import { parseRunConfig } from "./config.ts";
import { describeError, ProtocolError } from "./errors.ts";

/** Name of a worker; survives a reconnect. */
export type WorkerId = string;

const packr = new Packr({ useRecords: false, encodeUndefinedAsNil: true });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true });

/** Largest header that a peer may send; headers are small by design. */
export const MAX_HEADER_BYTES = 1 << 20;

/** A header as one frame. The buffer is fresh, so ZeroMQ may keep it. */
export function encodeHeader(header: object): Buffer {
  return Buffer.from(packr.pack(header));
}

/** @throws {ProtocolError} If the frame is no msgpack or too large. */
export function decodeHeader(frame: Uint8Array): unknown {
  if (frame.byteLength > MAX_HEADER_BYTES) {
    throw new ProtocolError(
      `Cannot decode header as it must have at most ${MAX_HEADER_BYTES} bytes: got ${frame.byteLength}`,
    );
  }
  try {
    return unpackr.unpack(frame);
  } catch (error) {
    throw new ProtocolError("Cannot decode header as it must be msgpack", { cause: error });
  }
}

const index = z
  .int()
  .min(0)
  .max(2 ** 48);
const text = z.string().max(4096);
const id = z.string().min(1).max(200);
const hash = z.string().max(128);
const milliseconds = z.number().min(0);

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

const DataAddressSchema = z.strictObject({
  /** tcp://host:port. */
  endpoint: text,
  /** A file with what this worker sends, for workers on the same host; null if it has none. */
  sharedFile: z
    .strictObject({
      path: text,
      /** What the file begins with, so that a file of another host is not taken for it. */
      token: text,
    })
    .nullable(),
});
export type DataAddress = z.infer<typeof DataAddressSchema>;
export type SharedFileAddress = NonNullable<DataAddress["sharedFile"]>;

const WorkerMessageSchema = z.discriminatedUnion("type", [
  /** First message of an incarnation. Stale: never, as the routing id is new each time. */
  z.strictObject({
    type: z.literal("join"),
    protocolVersion: index,
    packageVersion: text,
    workerId: id,
    host: text,
    pid: index,
    runtime: text,
    /** Where other workers reach this one's data plane. */
    data: DataAddressSchema,
  }),
  /** Every heartbeat interval; proves that the event loop runs, and says where training stands. */
  z.strictObject({
    type: z.literal("heartbeat"),
    generation: index,
    globalStep: index,
    phase: text,
    /** For whom and what the worker waits, or null. */
    waitingFor: text.nullable(),
  }),
  /** The worker holds the state of the generation's first step and has connected to its peers. */
  z.strictObject({ type: z.literal("ready"), generation: index, parameterHash: hash }),
  /** All phases of a step are applied. Stale: counted for its own step only. */
  z.strictObject({
    type: z.literal("step"),
    generation: index,
    /** Steps now complete. */
    globalStep: index,
    metrics: StepMetrics,
    timing: Timing,
    generatorHash: hash,
    discriminatorHash: hash,
  }),
  /** The worker has done its last step and holds the final state. */
  z.strictObject({ type: z.literal("finished"), generation: index, globalStep: index }),
  /** A reduced gradient or loss is not finite, so nobody applied it. Every worker sends this. */
  z.strictObject({
    type: z.literal("nonFinite"),
    generation: index,
    globalStep: index,
    phase: text,
    /** What this worker's own shards contributed, or null if its part was finite. */
    own: text.nullable(),
  }),
  /** Answer to "exit" and "abort": the coordinator may close its sockets. */
  z.strictObject({ type: z.literal("left"), generation: index }),
  /** The worker cannot go on and is about to exit. */
  z.strictObject({ type: z.literal("failed"), reason: text }),
]);
export type WorkerMessage = z.infer<typeof WorkerMessageSchema>;

const PeerSchema = z.strictObject({ rank: index, workerId: id, data: DataAddressSchema });
export type Peer = z.infer<typeof PeerSchema>;

const StartSchema = z.strictObject({
  type: z.literal("start"),
  generation: index,
  rank: index,
  worldSize: index.min(1),
  /** All members, sorted by rank, the receiver among them. */
  peers: z.array(PeerSchema).min(1),
  /** Steps complete in the state that training starts from. */
  globalStep: index,
  /** Step after which training ends. */
  endStep: index,
  /** Images in the data set, from which epochs follow. */
  numImages: index.min(1),
  /** Whether the state comes from a checkpoint (bulk plane) or from the seed. */
  stateFrom: z.enum(["seed", "checkpoint"]),
  /** Port of the coordinator's bulk plane, on the host of its control plane. */
  bulkPort: index,
  config: z.unknown(),
});

const CoordinatorMessageSchema = z.discriminatedUnion("type", [
  /** The worker may not join; it exits. */
  z.strictObject({ type: z.literal("refuse"), reason: text }),
  /** Every heartbeat interval. */
  z.strictObject({ type: z.literal("heartbeat"), joined: index, expected: index }),
  StartSchema,
  /** Training ends after this many steps: every worker has, or will get, the batches up to there. */
  z.strictObject({ type: z.literal("finish"), generation: index, globalStep: index }),
  /** All is saved: exit with code 0. */
  z.strictObject({ type: z.literal("exit") }),
  /** The run has failed: exit with code 1. */
  z.strictObject({ type: z.literal("abort"), reason: text }),
]);
export type StartMessage = Omit<z.infer<typeof StartSchema>, "config"> & { readonly config: RunConfig };
export type CoordinatorMessage =
  Exclude<z.infer<typeof CoordinatorMessageSchema>, { type: "start" }> | StartMessage;

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
  /** Opens the bulk plane of this worker; asks for the checkpoint's state if `start` promised one. */
  z.strictObject({ type: z.literal("hello"), generation: index }),
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

function parse<T>(schema: z.ZodType<T>, header: unknown, what: string): T {
  const result = schema.safeParse(header);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const type =
    typeof header === "object" && header !== null && "type" in header ? String(header.type) : typeof header;
  throw new ProtocolError(
    `Cannot parse ${what} "${type}" as '${issue.path.join(".")}' is wrong: ${issue.message}`,
  );
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseWorkerMessage(header: unknown): WorkerMessage {
  return parse(WorkerMessageSchema, header, "worker message");
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseCoordinatorMessage(header: unknown): CoordinatorMessage {
  const message = parse(CoordinatorMessageSchema, header, "coordinator message");
  if (message.type !== "start") return message;
  try {
    return { ...message, config: parseRunConfig(message.config) };
  } catch (error) {
    throw new ProtocolError(`Cannot parse "start": ${describeError(error)}`);
  }
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseWorkerBulkMessage(header: unknown): WorkerBulkMessage {
  return parse(WorkerBulkSchema, header, "worker bulk message");
}

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parseCoordinatorBulkMessage(header: unknown): CoordinatorBulkMessage {
  return parse(CoordinatorBulkSchema, header, "coordinator bulk message");
}
