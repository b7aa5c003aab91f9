/**
 * The messages between workers, and the only way to them.
 *
 * @module
 */
import { z } from "zod";
import { ProtocolError } from "../shared/errors.ts";

const index = z
  .int()
  .min(0)
  .max(2 ** 48);

const DataMessageSchema = z.strictObject({
  type: z.enum(["scatter", "gather"]),
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
  generation: index,
  from: index,
});
/** Tells a peer, once, that its shared file can be read here. */
export type AttachedMessage = z.infer<typeof AttachedMessageSchema>;

const PeerMessageSchema = z.discriminatedUnion("type", [DataMessageSchema, AttachedMessageSchema]);

/** @throws {ProtocolError} If a field is missing, unknown or has the wrong type. */
export function parsePeerMessage(header: unknown): DataMessage | AttachedMessage {
  const result = PeerMessageSchema.safeParse(header);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(
    `Cannot parse data message as '${issue.path.join(".")}' is wrong: ${issue.message}`,
  );
}

export function describeDataMessage(m: DataMessage): string {
  return `"${m.type}" of step ${m.globalStep}, phase ${m.phase}, shards ${m.firstShard}..${m.endShard}, values ${m.start}..${m.end} from rank ${m.from}`;
}
