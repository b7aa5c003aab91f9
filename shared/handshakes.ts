/**
 * Connections that fail before the first message, on either side. ZeroMQ
 * tries again in silence; this says why it does.
 *
 * @module
 */
import type { Event, Socket } from "zeromq";

/**
 * mechanism: one side has a key and the other none. key: the keys differ.
 * refused: by the server's ZAP handler. closed: the other side hung up,
 * as a server does where keys differ. malformed: no handshake that ZeroMQ understands.
 */
export type HandshakeFailure = "mechanism" | "key" | "refused" | "closed" | "malformed";

/**
 * Watches a socket until it is closed. What happened before is not told: watch first, then connect or bind.
 * libzmq tells no address of the other side.
 */
export function watchHandshakes(socket: Socket, onFailed: (failure: HandshakeFailure) => void): void {
  const { events } = socket;
  const watch = async (): Promise<void> => {
    while (!events.closed) {
      // Undefined where the socket is closed meanwhile.
      const event = (await events.receive()) as Event | undefined;
      if (event === undefined) return;
      const failure = failureOf(event);
      if (failure !== null) onFailed(failure);
    }
  };
  // A socket that is closed while it is asked rejects.
  watch().catch(() => undefined);
}

function failureOf(event: Event): HandshakeFailure | null {
  if (event.type === "handshake:error:auth") return "refused";
  if (event.type === "handshake:error:other") return "closed";
  if (event.type !== "handshake:error:protocol") return null;
  const { code } = event.error;
  if (code === "ERR_ZMTP_MECHANISM_MISMATCH") return "mechanism";
  return code === "ERR_ZMTP_CRYPTOGRAPHIC" ? "key" : "malformed";
}

/**
 * What a client is told whose handshake fails. Where only one side has a key, or the keys differ, either side may
 * be the first to see it; the client then learns no more than that the other one hung up.
 *
 * @param hasKey Whether it has a key itself.
 */
export function explainToClient(failure: HandshakeFailure, hasKey: boolean): string {
  switch (failure) {
    case "mechanism":
      return hasKey
        ? "it has no key: start this side without --key and LOCKSTEP_KEY, or that side with the key"
        : "it wants the run's key: give --key FILE or LOCKSTEP_KEY=FILE, with a copy of its key file";
    case "key":
    case "refused":
      return "it has another key: give --key a copy of its key file";
    case "closed":
      return hasKey
        ? "it hung up, as it does where it has another key or none: compare the key files, or start this side without --key if the run has no key"
        : "it hung up, as it does where it wants the run's key: give --key FILE or LOCKSTEP_KEY=FILE, with a copy of its key file";
    case "malformed":
      return "it is no coordinator, or of another version: check address and port";
  }
}
