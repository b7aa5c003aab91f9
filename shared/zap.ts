/**
 * Who may connect where a key is needed: ZeroMQ asks a handler inside the
 * process, by the ZAP protocol (rfc.zeromq.org/spec/27), whether a client's
 * public key is admitted. Without one, CURVE lets in whoever knows the server's
 * public key. Sockets with a key enforce it: no handler, no connection.
 *
 * @module
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Router } from "zeromq";
import type { RunKey } from "./keys.ts";
import { Outbox } from "./outbox.ts";
import { receiveAll, router } from "./sockets.ts";

/** Where libzmq looks for the handler, in the context of the socket. */
const ENDPOINT = "inproc://zeromq.zap.01";

/** Frames of a request, behind those of its return path. */
const REQUEST = { version: 0, id: 1, domain: 2, address: 3, mechanism: 5, credentials: 6 } as const;
const MAX_REQUEST_BYTES = 4096;

interface Guarded {
  readonly key: RunKey;
  /** Told the address of a client that is refused. */
  readonly onRefused: (address: string) => void;
}

/** By ZAP domain: one for each listening socket. */
const guarded = new Map<string, Guarded>();
let numDomains = 0;
let handler: Promise<Router> | null = null;

export interface Guard {
  /** For the socket's zapDomain. */
  readonly domain: string;
  close(): void;
}

/** Admits clients that have the key, and nobody else, to a socket that is bound afterwards. */
export async function guard(key: RunKey, onRefused: (address: string) => void): Promise<Guard> {
  const domain = `lockstep-${numDomains++}`;
  guarded.set(domain, { key, onRefused });
  handler ??= bindHandler();
  await handler;
  return {
    domain,
    close() {
      guarded.delete(domain);
      if (guarded.size > 0) return;
      // It would keep the process alive.
      void handler?.then((socket) => socket.close());
      handler = null;
    },
  };
}

async function bindHandler(): Promise<Router> {
  const socket = router({ maxFrameBytes: MAX_REQUEST_BYTES, key: null });
  for (;;) {
    try {
      await socket.bind(ENDPOINT);
      break;
    } catch (error) {
      // One that was closed a moment ago still has the name.
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
      await sleep(5);
    }
  }
  // Whoever asked may have hung up.
  const outbox = new Outbox(socket, () => undefined);
  receiveAll(socket, (frames) => outbox.push(answer(frames))).catch(() => undefined);
  return socket;
}

/** The answer to a request, with its return path. Exported for tests. */
export function answer(frames: readonly Buffer[]): (Buffer | string)[] {
  const numPath = frames.findIndex((frame) => frame.length === 0) + 1;
  const request = frames.slice(numPath);
  const text = (i: number): string => request.at(i)?.toString("latin1") ?? "";
  const domain = guarded.get(text(REQUEST.domain));
  const isAdmitted =
    domain !== undefined &&
    text(REQUEST.version) === "1.0" &&
    text(REQUEST.mechanism) === "CURVE" &&
    request.length === REQUEST.credentials + 1 &&
    request[REQUEST.credentials].equals(decodeZ85(domain.key.publicKey));
  if (!isAdmitted) domain?.onRefused(text(REQUEST.address));
  const status = isAdmitted ? ["200", "OK"] : ["400", "No member of this run"];
  // User id and metadata are empty.
  return [...frames.slice(0, numPath), "1.0", request.at(REQUEST.id) ?? "", ...status, "", ""];
}

const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/** Bytes of Z85 text, five characters for four bytes (rfc.zeromq.org/spec/32). */
function decodeZ85(text: string): Buffer {
  const bytes = Buffer.alloc((text.length / 5) * 4);
  for (let i = 0; i < text.length; i += 5) {
    const value = [...text.slice(i, i + 5)].reduce((sum, digit) => sum * 85 + DIGITS.indexOf(digit), 0);
    bytes.writeUInt32BE(value, (i / 5) * 4);
  }
  return bytes;
}
