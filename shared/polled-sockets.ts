/**
 * Sending and receiving where zeromq may only be called when it need not wait:
 * a poller waits for it. The sockets need receiveTimeout and sendTimeout 0.
 *
 * @module
 */
import type { Poller } from "./poller.ts";

export type Frame = Uint8Array | string;

export interface Receiver {
  readonly closed: boolean;
  readonly readable: boolean;
  receive(): Promise<Buffer[]>;
}

export interface Sender {
  readonly closed: boolean;
  readonly writable: boolean;
  send(frames: Frame[]): Promise<void>;
}

/** Messages taken from one socket before the others, and timers, have their turn. */
const MESSAGES_PER_TURN = 100;

/** Receives until the socket is closed. @param onMessage Errors that it throws reject the returned promise. */
export async function receivePolled(
  poller: Poller,
  socket: Receiver,
  onMessage: (frames: Buffer[]) => void,
): Promise<void> {
  for (;;) {
    await poller.until(() => socket.closed || socket.readable);
    for (let i = 0; i < MESSAGES_PER_TURN && !socket.closed && socket.readable; i++) {
      onMessage(await socket.receive());
    }
    if (socket.closed) return;
  }
}

/** Resolves once ZeroMQ has queued the message. @throws {Error} If it cannot be sent, as where the socket is closed. */
export async function sendPolled(poller: Poller, socket: Sender, frames: Frame[]): Promise<void> {
  for (;;) {
    if (!socket.closed && !socket.writable) await poller.until(() => socket.closed || socket.writable);
    poller.noteActivity();
    try {
      return await socket.send(frames);
    } catch (error) {
      // The last peer may go between the two calls.
      if (socket.closed || socket.writable || (error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}
