/**
 * Errors that some caller catches by class. Everything else is a plain
 * TypeError (shape or type) or RangeError (value).
 *
 * @module
 */

/** The user asked for something that cannot be done; the message says what to do. Printed without a stack. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** A peer sent bytes that no version of this protocol allows. The peer is dropped, the run goes on. */
export class ProtocolError extends TypeError {
  override name = "ProtocolError";
}

/** Why a checkpoint cannot be used: there is none, it is not whole, or it is whole but of another format, network or configuration. */
export type CheckpointFault = "none" | "damaged" | "incompatible";

export class CheckpointError extends Error {
  override name = "CheckpointError";
  readonly reason: CheckpointFault;

  constructor(
    message: string,
    options: { readonly cause?: unknown; readonly reason?: CheckpointFault } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.reason = options.reason ?? "damaged";
  }
}

/** Another process has taken over the run that this one coordinated. Printed without a stack. */
export class RunLostError extends Error {
  override name = "RunLostError";
}

/** A data file is missing, truncated, corrupt or of the wrong kind. */
export class DatasetError extends Error {
  override name = "DatasetError";
}

/** The text of anything thrown, with its causes. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : describeError(error.cause);
  // Many a message quotes its cause.
  return error.message.includes(cause) ? error.message : `${error.message} (${cause})`;
}
