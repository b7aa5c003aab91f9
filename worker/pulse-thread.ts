/**
 * The thread of pulse.ts. It connects only once it has something to say, which most workers never have.
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

const { endpoint, key, turns } = workerData as PulseData;
// This thread may be stopped as well, with all of its process.
const clock = new WakingClock();
let incarnation: string | null = null;
let link: { readonly outbox: Outbox; close(): void } | null = null;
let seen = -1;
let seenMs = clock.now();

function connect(as: string): NonNullable<typeof link> {
  const socket = dealer(pulseIdOf(as), { maxFrameBytes: MAX_HEADER_BYTES, key });
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
  if (incarnation === null) return;
  link ??= connect(incarnation);
  // Older words wait for the connection.
  if (link.outbox.length > 0) return;
  const message: WorkerMessage = { type: "busy", forMs: nowMs - seenMs };
  link.outbox.push([encodeHeader(message), encodeSequence(UNNUMBERED)]);
}, HEARTBEAT_MS);

parentPort?.on("message", (order: PulseOrder) => {
  link?.close();
  link = null;
  incarnation = order.type === "speakFor" ? order.incarnation : null;
  if (order.type === "speakFor") return;
  clearInterval(timer);
  // Nothing is left to do, so the thread ends. (A port of Deno has no close().)
  parentPort?.unref();
});
