/**
 * ZeroMQ sockets with the options that every part of this project wants, and
 * one way to send and one to receive. In Node, zeromq waits by itself. In Deno
 * it may only be called where it need not wait, so a poller waits for it.
 *
 * @module
 */
import { context, Dealer, Pull, Push, Router } from "zeromq";
import type { RunKey } from "./keys.ts";
import type { Frame, Receiver, Sender } from "./polled-sockets.ts";
import { receivePolled, sendPolled } from "./polled-sockets.ts";
import { Poller } from "./poller.ts";
import { RUNTIME } from "./runtime.ts";

// Closing the process must never wait for messages that nobody will receive.
context.blocky = false;

/** Silence on a connection after which ZeroMQ itself drops it, in milliseconds; our own heartbeats are faster. */
const CONNECTION_TIMEOUT_MS = 30_000;

interface Limits {
  /** Largest frame that a peer may send; a larger one closes its connection. */
  readonly maxFrameBytes: number;
  /** The run's key, or null: then nothing is encrypted, and anybody may connect. */
  readonly key: RunKey | null;
  /** Of the endpoint, for a socket that connects: see isIPv6Endpoint(). One that listens learns it when it is bound. */
  readonly ipv6?: boolean;
}

/** Messages of one peer that wait to be read; it then has to wait, so that a flood does not fill the memory. */
const MAX_WAITING = 1000;

/** Null where zeromq can wait by itself. */
const poller = RUNTIME === "deno" ? new Poller() : null;
/** For sockets that receive, or send: with a poller zeromq never waits. (A timeout above 0 would crash Deno.) */
const RECEIVES = poller === null ? {} : { receiveTimeout: 0 };
const SENDS = poller === null ? {} : { sendTimeout: 0 };

const COMMON = {
  linger: 500,
  heartbeatInterval: 5000,
  heartbeatTimeout: CONNECTION_TIMEOUT_MS,
  handshakeInterval: 5000,
} as const;

/** Options of a side that listens. Until a guard gives it a domain that it knows (see door.ts), nobody can connect. */
function serving(key: RunKey | null) {
  if (key === null) return {};
  const { secretKey: curveSecretKey } = key;
  return { curveServer: true, curveSecretKey, zapDomain: "closed", zapEnforceDomain: true };
}

/** Options of a side that connects. */
function connecting(key: RunKey | null) {
  if (key === null) return {};
  const { publicKey, secretKey } = key;
  return { curveServerKey: publicKey, curvePublicKey: publicKey, curveSecretKey: secretKey };
}

/** Deno crashes when it collects a socket that is closed, so it never does. */
const kept: object[] = [];

function keep<T extends object>(socket: T): T {
  if (RUNTIME === "deno") kept.push(socket);
  return socket;
}

/** Workers' side of the control and the bulk plane. @param routingId New for every incarnation. */
export function dealer(routingId: string, limits: Limits): Dealer {
  return keep(
    new Dealer({
      ...COMMON,
      ...connecting(limits.key),
      ...RECEIVES,
      ...SENDS,
      routingId,
      ipv6: limits.ipv6 ?? false,
      immediate: true,
      maxMessageSize: limits.maxFrameBytes,
      reconnectInterval: 100,
      reconnectMaxInterval: 1000,
      sendHighWaterMark: 10_000,
      receiveHighWaterMark: 10_000,
    }),
  );
}

/** Coordinator's side of the control and the bulk plane: an unknown receiver is an error, not a silence. */
export function router(limits: Limits): Router {
  return keep(
    new Router({
      ...COMMON,
      ...serving(limits.key),
      ...RECEIVES,
      ...SENDS,
      mandatory: true,
      maxMessageSize: limits.maxFrameBytes,
      sendHighWaterMark: 10_000,
      receiveHighWaterMark: MAX_WAITING,
    }),
  );
}

/** Receiving side of a worker's data plane. */
export function pull(limits: Limits): Pull {
  return keep(
    new Pull({
      ...COMMON,
      ...serving(limits.key),
      ...RECEIVES,
      maxMessageSize: limits.maxFrameBytes,
      receiveHighWaterMark: MAX_WAITING,
    }),
  );
}

/** Sending side of the data plane, one per peer. @param ipv6 Of the peer's endpoint. */
export function push(key: RunKey | null, ipv6 = false): Push {
  return keep(
    new Push({
      ...COMMON,
      ...connecting(key),
      ...SENDS,
      ipv6,
      immediate: true,
      reconnectInterval: 100,
      sendHighWaterMark: MAX_WAITING,
      // Nobody sends on it.
      maxMessageSize: 4096,
    }),
  );
}

/**
 * Receives until the socket is closed.
 *
 * @param onMessage Errors that it throws reject the returned promise.
 */
export async function receiveAll(socket: Receiver, onMessage: (frames: Buffer[]) => void): Promise<void> {
  if (poller !== null) return receivePolled(poller, socket, onMessage);
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

/**
 * Resolves when ZeroMQ has queued the message; one at a time for each socket.
 *
 * @throws {Error} If it cannot be sent.
 */
export function send(socket: Sender, frames: Frame[]): Promise<void> {
  return poller === null ? socket.send(frames) : sendPolled(poller, socket, frames);
}
