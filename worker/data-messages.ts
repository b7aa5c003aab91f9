/**
 * The messages between workers, and the only way to them.
 *
 * @module
 */
import { z } from "zod";
import { checked } from "../shared/checked.ts";
import { ProtocolError } from "../shared/errors.ts";
import { MAX_KEPT_REPORTS, StepReportSchema } from "../shared/protocol.ts";

const index = z
  .int()
  .min(0)
  .max(2 ** 48);

/** Id of the coordinator's process that counts the generation. */
const term = z.string().min(1).max(64);

const DataMessageSchema = z.strictObject({
  type: z.enum(["scatter", "gather"]),
  term,
  generation: index,
  globalStep: index,
  phase: index,
  /** Rank of the sender. */
  from: index,
  /** Shards summed in the values: a tree node for "scatter", all of them for "gather". */
  firstShard: index,
  endShard: index,
  /** Where the values are in the sender's shared file, in bytes, or null if they follow in a frame. */
  at: index.nullable(),
  /** How many of the values, from the first, are bfloat16: in a frame they have two bytes each and come last. */
  numRounded: index,
  /** Position of the values in the gradient. */
  start: index,
  end: index,
});
/** Header of float32 values start..end of a phase's vector. */
export type DataMessage = z.infer<typeof DataMessageSchema>;

const AttachedMessageSchema = z.strictObject({
  type: z.literal("attached"),
  term,
  generation: index,
  from: index,
});
/** Tells a peer, once, that its shared file can be read here. */
export type AttachedMessage = z.infer<typeof AttachedMessageSchema>;

const StateMessageSchema = z.strictObject({
  type: z.literal("state"),
  term,
  generation: index,
  from: index,
  /** Optimizer updates of each network. */
  generatorSteps: index,
  discriminatorSteps: index,
  /** What the step under way has measured so far, or null. */
  measured: z.strictObject({ metrics: z.array(z.number()).max(16).readonly(), norm: z.number() }).nullable(),
  /** In the first message: of steps that may not be recorded yet. */
  reports: z.array(StepReportSchema).max(MAX_KEPT_REPORTS),
  /** Index into STATE_FRAMES, and the position of the values in that vector. */
  vector: index,
  start: index,
  end: index,
});
/** Header of float32 values of a replica's state, which follow in a frame. */
export type StateMessage = z.infer<typeof StateMessageSchema>;

const PeerMessageSchema = z.discriminatedUnion("type", [
  DataMessageSchema,
  AttachedMessageSchema,
  StateMessageSchema,
]);
export type PeerMessage = z.infer<typeof PeerMessageSchema>;

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parsePeerMessage(header: unknown): PeerMessage {
  const result = checked(PeerMessageSchema, header);
  if (result.ok) return result.value;
  const [{ path, message }] = result.issues;
  throw new ProtocolError(`Cannot parse data message as '${path}' is wrong: ${message}`);
}

export function describeDataMessage(m: DataMessage): string {
  return `"${m.type}" of step ${m.globalStep}, phase ${m.phase}, shards ${m.firstShard}..${m.endShard}, values ${m.start}..${m.end} from rank ${m.from}`;
}
