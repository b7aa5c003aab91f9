/**
 * Measures what the simulation needs to know of this machine: messages between
 * two processes, and sums. Without training, so that comparing with training means something.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { bytesOf } from "../../shared/frames.ts";
import { Outbox } from "../../shared/outbox.ts";
import { decodeHeader, encodeHeader } from "../../shared/header.ts";
import { pull, push, receiveAll } from "../../shared/sockets.ts";
import { SEGMENT_FLOATS } from "../../worker/collective.ts";
import type { DataMessage } from "../../worker/data-messages.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import { HostMemory } from "../../worker/host-memory.ts";
import type { Machines } from "./all-reduce.ts";
import { median } from "./run-metrics.ts";

export type Calibration = Pick<Machines, "localGbit" | "localLatencyUs" | "messageUs" | "sumGbytes">;

const ROUNDS = 5;

export async function calibrate(): Promise<Calibration> {
  const receiver = pull({ maxFrameBytes: SEGMENT_FLOATS * 4 + 4096, key: null });
  await receiver.bind("tcp://127.0.0.1:*");
  const echo = fileURLToPath(new URL("echo.js", import.meta.url));
  const child = spawn(process.execPath, [echo, receiver.lastEndpoint ?? ""], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [endpoint] = await new Promise<[string]>((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", (line) => resolve([line]));
    child.once("exit", (code) => reject(new Error(`Cannot calibrate as the echo ended with code ${code}`)));
  });
  const sender = push(null);
  sender.connect(endpoint);
  const outbox = new Outbox(sender, (error) => {
    throw error;
  });
  let numExpected = 0;
  let onAll = (): void => undefined;
  const receiving = receiveAll(receiver, ([header]) => {
    parsePeerMessage(decodeHeader(header));
    numExpected -= 1;
    if (numExpected === 0) onAll();
  });
  /** @returns Milliseconds until all have come back. */
  const echoed = async (numMessages: number, numFloats: number): Promise<number> => {
    const values = bytesOf(new Float32Array(numFloats));
    const startMs = performance.now();
    const all = new Promise<void>((resolve) => (onAll = resolve));
    numExpected = numMessages;
    for (let i = 0; i < numMessages; i++) outbox.push([encodeHeader(headerOf(numFloats)), values]);
    await all;
    return performance.now() - startMs;
  };
  try {
    await echoed(200, 16);
    const roundTrips = await times(200, () => echoed(1, 16));
    const numSmall = 1000;
    const small = await times(ROUNDS, () => echoed(numSmall, 16));
    const numLarge = 24;
    const large = await times(ROUNDS, () => echoed(numLarge, SEGMENT_FLOATS));
    // Each side takes and sends every message.
    const messageUs = (1e3 * median(small)) / numSmall / 2;
    return {
      messageUs,
      // Four ends on one round trip: two messages, each sent and taken.
      localLatencyUs: Math.max(0, (1e3 * median(roundTrips) - 4 * messageUs) / 2),
      localGbit: (numLarge * SEGMENT_FLOATS * 32) / (1e6 * median(large)),
      sumGbytes: await sumGbytes(),
    };
  } finally {
    child.stdin.end();
    sender.close();
    receiver.close();
    await receiving;
  }
}

async function sumGbytes(): Promise<number> {
  const memory = await HostMemory.create({ fused: false });
  memory.reserve(Array<number>(3).fill(SEGMENT_FLOATS));
  const [out, left, right] = [0, 1, 2].map((x) => memory.allocate(SEGMENT_FLOATS).fill(x));
  const received = new Float32Array(SEGMENT_FLOATS);
  // As the schedules do: values of a peer are copied to the host memory, and added there.
  const sum = (): Promise<number> => {
    const startMs = performance.now();
    right.set(received);
    memory.add(out, left, right);
    return Promise.resolve(performance.now() - startMs);
  };
  await times(20, sum);
  return (SEGMENT_FLOATS * 4) / (1e6 * median(await times(50, sum)));
}

async function times(n: number, measure: () => Promise<number>): Promise<readonly number[]> {
  const results: number[] = [];
  for (let i = 0; i < n; i++) results.push(await measure());
  return results;
}

function headerOf(numFloats: number): DataMessage {
  const place = { term: "t", generation: 1, globalStep: 1000, phase: 1, from: 1 };
  return {
    type: "scatter",
    ...place,
    firstShard: 2,
    endShard: 3,
    at: null,
    numRounded: 0,
    start: 0,
    end: numFloats,
  };
}
