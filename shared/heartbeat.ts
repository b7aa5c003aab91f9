/**
 * How workers and the coordinator say that they are there.
 *
 * @module
 */

/** How often each side says that it is there, in milliseconds. The shortest --failure-timeout is four times as long. */
export const HEARTBEAT_MS = 250;

const PULSE_SUFFIX = "/pulse";

/** Routing id under which a thread of a worker says that the worker is busy. */
export function pulseIdOf(incarnation: string): string {
  return `${incarnation}${PULSE_SUFFIX}`;
}

/** The incarnation for which a sender speaks, and whether as its pulse. */
export function speakerOf(routingId: string): { readonly incarnation: string; readonly isPulse: boolean } {
  const isPulse = routingId.endsWith(PULSE_SUFFIX);
  return { incarnation: isPulse ? routingId.slice(0, -PULSE_SUFFIX.length) : routingId, isPulse };
}
