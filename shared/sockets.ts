/**
 * ZeroMQ sockets with the options that every part of this project wants, and
 * one way to receive from them.
 *
 * @module
 */
import { context, Dealer, Pull, Push, Router } from "zeromq";

// Closing the process must never wait for messages that nobody will receive.
context.blocky = false;

/** Silence on a connection after which ZeroMQ itself drops it, in milliseconds; our own heartbeats are faster. */
const CONNECTION_TIMEOUT_MS = 30_000;

interface Limits {
  /** Largest frame that a peer may send; a larger one closes its connection. */
  readonly maxFrameBytes: number;
}

const COMMON = {
  linger: 500,
  heartbeatInterval: 5000,
  heartbeatTimeout: CONNECTION_TIMEOUT_MS,
  handshakeInterval: 5000,
} as const;

/** Workers' side of the control and the bulk plane. @param routingId New for every incarnation. */
export function dealer(routingId: string, limits: Limits): Dealer {
  return new Dealer({
    ...COMMON,
    routingId,
    immediate: true,
    maxMessageSize: limits.maxFrameBytes,
    reconnectInterval: 100,
    reconnectMaxInterval: 1000,
    sendHighWaterMark: 10_000,
    receiveHighWaterMark: 10_000,
  });
}

/** Coordinator's side of the control and the bulk plane: an unknown receiver is an error, not a silence. */
export function router(limits: Limits): Router {
  return new Router({
    ...COMMON,
    mandatory: true,
    maxMessageSize: limits.maxFrameBytes,
    sendHighWaterMark: 10_000,
    receiveHighWaterMark: 10_000,
  });
}

/** Receiving side of a worker's data plane. */
export function pull(limits: Limits): Pull {
  return new Pull({ ...COMMON, maxMessageSize: limits.maxFrameBytes, receiveHighWaterMark: 1000 });
}

/** Sending side of the data plane, one per peer. */
export function push(): Push {
  return new Push({ ...COMMON, immediate: true, reconnectInterval: 100, sendHighWaterMark: 1000 });
}

interface Receiver {
  readonly closed: boolean;
  receive(): Promise<Buffer[]>;
}

/**
 * Receives until the socket is closed.
 *
 * @param onMessage Errors that it throws reject the returned promise.
 */
export async function receiveAll(socket: Receiver, onMessage: (frames: Buffer[]) => void): Promise<void> {
  for (;;) {
    let frames: Buffer[];
    try {
      frames = await socket.receive();
    } catch (error) {
      if (socket.closed) return;
      throw error;
    }
    onMessage(frames);
  }
}

/** "tcp://host:port" in parts. @throws {RangeError} If it is not such an endpoint. */
export function parseEndpoint(endpoint: string): { readonly host: string; readonly port: string } {
  const match = /^tcp:\/\/(\[[^\]]+\]|[^:[\]]+):(\d+|\*)$/.exec(endpoint);
  if (match === null || (match[2] !== "*" && Number(match[2]) > 65535)) {
    throw new RangeError(`Cannot use endpoint as it must look like tcp://host:port: got "${endpoint}"`);
  }
  return { host: match[1], port: match[2] };
}
