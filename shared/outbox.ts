/**
 * One queue per socket: zeromq.js rejects a second send while one is pending.
 * `send` resolves when ZeroMQ has queued the message, not when it is delivered,
 * and frames over 128 bytes are sent from the caller's buffer without a copy:
 * never write to a frame again before the receiver has answered.
 *
 * @module
 */

import type { Frame, Sender } from "./polled-sockets.ts";
import { send } from "./sockets.ts";

export class Outbox {
  readonly #socket: Sender;
  readonly #onError: (error: unknown, frames: readonly Frame[]) => void;
  readonly #queue: Frame[][] = [];
  #sending: Promise<void> | null = null;

  /** @param onError Told of every message that could not be sent; the queue goes on with the next. */
  constructor(socket: Sender, onError: (error: unknown, frames: readonly Frame[]) => void) {
    this.#socket = socket;
    this.#onError = onError;
  }

  push(frames: Frame[]): void {
    this.#queue.push(frames);
    this.#sending ??= this.#drain();
  }

  /** Number of messages that ZeroMQ has not taken yet. */
  get length(): number {
    return this.#queue.length;
  }

  /** Resolves once ZeroMQ has taken all messages. */
  async flush(): Promise<void> {
    while (this.#sending !== null) await this.#sending;
  }

  async #drain(): Promise<void> {
    for (;;) {
      const frames = this.#queue[0];
      if (frames === undefined) break;
      try {
        await send(this.#socket, frames);
      } catch (error) {
        this.#onError(error, frames);
      }
      this.#queue.shift();
    }
    this.#sending = null;
  }
}
