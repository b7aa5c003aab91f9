/**
 * What the coordinator turns away, of peers that may be anybody: all is counted, little is said.
 *
 * @module
 */
import { describeError, ProtocolError } from "../shared/errors.ts";
import type { RunStatus } from "../shared/protocol.ts";
import { Refusals } from "../shared/refusals.ts";
import { printable } from "../shared/text.ts";
import { Gate } from "./gate.ts";

const MAX_NAME_LENGTH = 40;

export class Doorkeeper {
  readonly #gate = new Gate();
  readonly #connections: Refusals;
  readonly #joins: Refusals;
  readonly #messages: Refusals;
  readonly #answers: Refusals;
  #numUnread = 0;

  /** @param say Told of some refusals, as a line for the log. */
  constructor(say: (text: string) => void) {
    this.#connections = new Refusals(say);
    this.#joins = new Refusals(say);
    this.#messages = new Refusals(say);
    this.#answers = new Refusals(say);
  }

  get counts(): RunStatus["refused"] {
    return {
      connections: this.#connections.count,
      joins: this.#joins.count,
      messages: this.#messages.count,
      unread: this.#numUnread,
    };
  }

  refusedConnection(text: string): void {
    this.#connections.note(text);
  }

  refusedJoin(text: string): void {
    this.#joins.note(text);
  }

  /** An answer could not be sent, as where its receiver reads nothing. */
  undeliverable(text: string): void {
    this.#answers.note(text);
  }

  /**
   * Uses a message, unless a stranger sends too much. One that is malformed is refused; it never ends the run.
   *
   * @param from Routing id of the sender.
   * @param use Throws {ProtocolError} if the message is malformed. Whatever else it throws is thrown on.
   */
  guard(from: string, isStranger: boolean, use: () => void): void {
    if (isStranger && !this.#gate.admits(from, performance.now())) {
      this.#numUnread += 1;
      return this.#refusedMessage(from, "it sends too much and has not joined");
    }
    try {
      use();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      if (isStranger) this.#gate.noteMalformed(from);
      this.#refusedMessage(from, describeError(error));
    }
  }

  #refusedMessage(from: string, why: string): void {
    this.#messages.note(`Refused a message from ${printable(from, MAX_NAME_LENGTH)}: ${why}`);
  }
}
