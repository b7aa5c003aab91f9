/**
 * Clients with the right key, none, another, or only the public half, at real
 * sockets: what arrives and what each side is told. Runs in Node and in Deno.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Dealer } from "zeromq";
import { codeHash } from "../../shared/code-hash.ts";
import { openDoor } from "../../shared/door.ts";
import type { HandshakeFailure } from "../../shared/handshakes.ts";
import { watchHandshakes } from "../../shared/handshakes.ts";
import type { RunKey } from "../../shared/keys.ts";
import { generateKey } from "../../shared/keys.ts";
import { dealer, pull, push, receiveAll, router, send } from "../../shared/sockets.ts";

const MAX = 1000;

export interface DoorReport {
  /** Names of the clients whose messages came through. */
  readonly received: readonly string[];
  /** What the door said of refused clients, each once, in order of the alphabet. */
  readonly refused: readonly string[];
  /** What a client was told, by its name. */
  readonly told: Readonly<Record<string, HandshakeFailure>>;
}

/** @param serverKey Null: a door without a key. */
async function knock(
  serverKey: RunKey | null,
  clients: Readonly<Record<string, RunKey | null>>,
): Promise<DoorReport> {
  const received = new Set<string>();
  const refused = new Set<string>();
  const told: Record<string, HandshakeFailure> = {};
  const server = router({ maxFrameBytes: MAX, key: serverKey });
  const door = await openDoor(server, "tcp://127.0.0.1:*", serverKey, (reason) => refused.add(reason));
  void receiveAll(server, ([, name]) => void received.add(name.toString()));
  const sockets: Dealer[] = [];
  for (const [name, key] of Object.entries(clients)) {
    const client = dealer(randomUUID(), { maxFrameBytes: MAX, key });
    watchHandshakes(client, (failure) => (told[name] ??= failure));
    client.connect(door.endpoint);
    // One that is refused waits for ever.
    send(client, [name]).catch(() => undefined);
    sockets.push(client);
  }
  while (received.size + Object.keys(told).length < sockets.length) await sleep(5);
  // What is to be said has been tried again and again meanwhile, but may be on its way.
  while (refused.size < Object.keys(told).length) await sleep(5);
  for (const socket of sockets) socket.close();
  door.close();
  return { received: [...received].sort(), refused: [...refused].sort(), told };
}

export interface Report {
  readonly keyed: DoorReport;
  readonly open: DoorReport;
  /** Messages of a PUSH socket with the key that a PULL socket has received. */
  readonly pushed: string;
  /** What its door said meanwhile of a client that knows the public key. */
  readonly spied: string;
  readonly codeHash: string;
}

export async function report(): Promise<Report> {
  const key = generateKey();
  const other = generateKey();
  // Knows the public key, as anybody may, and has a key pair of its own: only the ZAP handler keeps it out.
  const spy = { publicKey: other.publicKey, secretKey: other.secretKey };
  const keyed = await knock(key, { member: key, nobody: null, stranger: other });
  const open = await knock(null, { anybody: null, member: key });
  const receiver = pull({ maxFrameBytes: MAX, key });
  let onSpied: (reason: string) => void = () => undefined;
  const spied = new Promise<string>((resolve) => (onSpied = resolve));
  const door = await openDoor(receiver, "tcp://127.0.0.1:*", key, (reason) => onSpied(reason));
  const arrived = new Promise<string>((resolve) => {
    void receiveAll(receiver, ([frame]) => resolve(frame.toString()));
  });
  const sender = push(key);
  sender.connect(door.endpoint);
  // A spy beside it.
  const peeping = push(null);
  peeping.curveServerKey = key.publicKey;
  peeping.curvePublicKey = spy.publicKey;
  peeping.curveSecretKey = spy.secretKey;
  const isRefused = new Promise<void>((resolve) =>
    watchHandshakes(peeping, (f) => f === "refused" && resolve()),
  );
  peeping.connect(door.endpoint);
  await isRefused;
  await send(sender, ["gradient"]);
  const pushed = await arrived;
  for (const socket of [sender, peeping]) socket.close();
  door.close();
  return { keyed, open, pushed, spied: await spied, codeHash: codeHash() };
}
