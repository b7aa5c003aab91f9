/**
 * The thread of pulse.ts.
 *
 * @module
 */
import { parentPort, workerData } from "node:worker_threads";
import { Outbox } from "../shared/outbox.ts";
import { encodeHeader, MAX_HEADER_BYTES } from "../shared/header.ts";
import { HEARTBEAT_MS, pulseIdOf } from "../shared/heartbeat.ts";
import type { WorkerMessage } from "../shared/protocol.ts";
import { encodeSequence, UNNUMBERED } from "../shared/sequence.ts";
import { dealer } from "../shared/sockets.ts";
import { WakingClock } from "../shared/waking-clock.ts";
import type { PulseData, PulseOrder } from "./pulse.ts";

const { endpoint, key, ipv6, turns } = workerData as PulseData;
// This thread may be stopped as well, with all of its process.
const clock = new WakingClock();
let link: { readonly outbox: Outbox; close(): void } | null = null;
let seen = -1;
let seenMs = clock.now();
let saidMs = -Infinity;

/** How often it looks, in milliseconds. */
const LOOK_MS = 50;
/** A turn of the event loop that is late by so much is said, in milliseconds: in time for the shortest --failure-timeout. */
const LATE_MS = 100;

function connect(as: string): NonNullable<typeof link> {
  const socket = dealer(pulseIdOf(as), { maxFrameBytes: MAX_HEADER_BYTES, key, ipv6 });
  socket.connect(endpoint);
  // What cannot be sent is said again soon.
  return { outbox: new Outbox(socket, () => undefined), close: () => socket.close() };
}

const timer = setInterval(() => {
  const nowMs = clock.now();
  const turn = Atomics.load(turns, 0);
  if (turn !== seen) {
    seen = turn;
    seenMs = nowMs;
    return;
  }
  const forMs = nowMs - seenMs;
  // Older words may still wait for the connection.
  if (link === null || link.outbox.length > 0) return;
  if (forMs < HEARTBEAT_MS + LATE_MS || nowMs - saidMs < HEARTBEAT_MS) return;
  saidMs = nowMs;
  const message: WorkerMessage = { type: "busy", forMs };
  link.outbox.push([encodeHeader(message), encodeSequence(UNNUMBERED)]);
}, LOOK_MS);

parentPort?.on("message", (order: PulseOrder) => {
  link?.close();
  link = order.type === "end" || order.incarnation === null ? null : connect(order.incarnation);
  if (order.type === "speakFor") return;
  clearInterval(timer);
  // Nothing is left to do, so the thread ends. (A port of Deno has no close().)
  parentPort?.unref();
});
