/**
 * A listening socket, and who is turned away there.
 *
 * @module
 */
import type { Pull, Router } from "zeromq";
import { UsageError } from "./errors.ts";
import type { HandshakeFailure } from "./handshakes.ts";
import { watchHandshakes } from "./handshakes.ts";
import type { RunKey } from "./keys.ts";
import { KEY_VARIABLE } from "./keys.ts";
import { isIPv6Endpoint, isLoopback } from "./endpoint.ts";
import { guard } from "./zap.ts";

export interface Door {
  /** The address, with the port that was taken. */
  readonly endpoint: string;
  /** Closes the socket. */
  close(): void;
}

/**
 * Binds a socket. With a key, which must be the one that the socket was made with, only clients that have it too can connect.
 *
 * @param onRefused Told of every connection that was refused, why and, if libzmq tells it, from where.
 * @throws {Error} If the address cannot be used.
 */
export async function openDoor(
  socket: Router | Pull,
  endpoint: string,
  key: RunKey | null,
  onRefused: (reason: string) => void,
): Promise<Door> {
  const guarding =
    key === null ? null : await guard(key, (address) => onRefused(`${address} has another key`));
  if (guarding !== null) socket.zapDomain = guarding.domain;
  watchHandshakes(socket, (failure) => {
    const reason = reasonOf(failure, key !== null);
    if (reason !== null) onRefused(reason);
  });
  const close = (): void => {
    socket.close();
    guarding?.close();
  };
  try {
    socket.ipv6 = await isIPv6Endpoint(endpoint);
    await socket.bind(endpoint);
  } catch (error) {
    close();
    throw error;
  }
  return { endpoint: socket.lastEndpoint ?? endpoint, close };
}

/** Null: the guard says it, or it was no refusal of ours. */
function reasonOf(failure: HandshakeFailure, hasKey: boolean): string | null {
  switch (failure) {
    case "mechanism":
      return hasKey ? "a peer has no key" : "a peer has a key, and this run has none";
    case "key":
      return "a peer has another key";
    case "malformed":
      return "a peer speaks another protocol";
    case "refused":
    case "closed":
      return null;
  }
}

/**
 * Refuses to listen without a key where others may reach the address.
 *
 * @param flag That chose the address, for the message.
 * @throws {UsageError} If a key is needed and there is none.
 */
export function requireKey(host: string, flag: string, key: RunKey | null, insecure: boolean): void {
  if (key !== null || insecure || isLoopback(host)) return;
  throw new UsageError(
    `Cannot listen on ${host} (${flag}) as others who reach this address could join or stop the run: make a key with lockstep keygen and give --key FILE (or ${KEY_VARIABLE}=FILE) to every member of the run; or, where the network keeps all others out, add --insecure`,
  );
}
