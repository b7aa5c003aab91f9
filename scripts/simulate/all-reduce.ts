/**
 * Discrete-event simulation of one all-reduce. The ranks are the state machines
 * that workers run; simulated are their threads, their network interfaces and the wire.
 *
 * - A worker has one thread. It pays for every message that it sends or takes, and for the values that it sums.
 * - An interface carries one message at a time in each direction. A message
 *   flows: its first byte arrives one latency after it left, and waits until
 *   the receiving interface is free; so without contention it takes latency + bytes / bandwidth.
 * - Workers of one host share its interface. Between each other they use the
 *   host's loopback, where every worker has its own lane in each direction.
 *
 * Not simulated: congestion inside the network, lost packets, copies, a busy coordinator.
 *
 * @module
 */
import { coveringNodes, rankShards } from "../../shared/sharding.ts";
import type { Collective, Outgoing } from "../../worker/collective.ts";
import { SEGMENT_FLOATS, SegmentPool } from "../../worker/collective.ts";
import type { ScheduleName } from "../../worker/schedule.ts";
import { createCollective } from "../../worker/schedule.ts";
import { EventQueue } from "../../shared/event-queue.ts";

/** Header, frame lengths and delimiters around the values of a message. */
export const OVERHEAD_BYTES = 150;

export interface Machines {
  /** Bandwidth of a host's interface, in each direction. */
  readonly linkGbit: number;
  /** Time from one host to another, one way. */
  readonly latencyUs: number;
  /** The same between workers of one host. */
  readonly localGbit: number;
  readonly localLatencyUs: number;
  readonly workersPerHost: number;
  /** Thread's time per message, once where it is sent and once where it is received. */
  readonly messageUs: number;
  /** Bytes of sums per second of a thread. */
  readonly sumGbytes: number;
  /** Workers that take turns on `cores`: those of a host, or more where hosts are emulated. */
  readonly workersSharingCores: number;
  readonly cores: number;
}

/** How much longer threads take as they share cores; 1 if each has its own. */
export function slowdownOf({ workersSharingCores, cores }: Machines, worldSize: number): number {
  return Math.max(1, Math.min(worldSize, workersSharingCores) / cores);
}

export interface AllReduceCase {
  readonly schedule: ScheduleName;
  readonly worldSize: number;
  readonly numShards: number;
  /** Values in the vector. */
  readonly length: number;
  readonly segmentFloats?: number;
  /** When each rank has its partial sums. */
  readonly readyMs: readonly number[];
}

export interface AllReduceTimes {
  /** When each rank has the result. */
  readonly doneMs: readonly number[];
  /** Sent by each rank: messages, and bytes of values in them. */
  readonly numMessages: readonly number[];
  readonly valueBytes: readonly number[];
}

interface Rank {
  readonly collective: Collective;
  started: boolean;
  readonly early: Outgoing[];
  /** Until when the thread is busy. */
  busyMs: number;
  doneMs: number;
  numMessages: number;
  valueBytes: number;
}

interface Port {
  sendingMs: number;
  receivingMs: number;
}

type Event =
  | { readonly type: "ready"; readonly rank: number }
  | { readonly type: "firstByte" | "delivered"; readonly from: number; readonly outgoing: Outgoing };

/** @throws {RangeError} If the schedule does not fit the case. */
export function simulateAllReduce(machines: Machines, allReduceCase: AllReduceCase): AllReduceTimes {
  const { schedule, worldSize, numShards, length, readyMs } = allReduceCase;
  const { workersPerHost } = machines;
  const slowdown = slowdownOf(machines, worldSize);
  const messageMs = (machines.messageUs / 1e3) * slowdown;
  const sumMsPerFloat = (4 / (machines.sumGbytes * 1e6)) * slowdown;
  let numSummed = 0;
  // Bits do not matter here, so all ranks may write to the same vectors.
  const vector = new Float32Array(length);
  const segment = allReduceCase.segmentFloats;
  const numBuffers = SegmentPool.buffersFor(numShards);
  const pool = new SegmentPool(Array.from({ length: numBuffers }, () => new Float32Array(SEGMENT_FLOATS)));
  const ranks = readyMs.map((_, rank): Rank => {
    const plan = {
      ...{ term: "simulated", generation: 0, worldSize, rank, numShards, length },
      ...(segment === undefined ? {} : { segmentFloats: segment }),
      add: (out: Float32Array) => void (numSummed += out.length),
      round: () => undefined,
      numRounded: 0,
      pool,
    };
    return {
      collective: createCollective(plan, 0, 0, vector, schedule),
      started: false,
      early: [],
      ...{ busyMs: 0, doneMs: NaN, numMessages: 0, valueBytes: 0 },
    };
  });
  const newPort = (): Port => ({ sendingMs: 0, receivingMs: 0 });
  const hostPorts = Array.from({ length: Math.ceil(worldSize / workersPerHost) }, newPort);
  const loopbackPorts = Array.from({ length: worldSize }, newPort);
  const hostOf = (rank: number): number => Math.floor(rank / workersPerHost);
  const events = new EventQueue<Event>();

  const wire = (a: number, b: number) =>
    hostOf(a) === hostOf(b)
      ? {
          latencyMs: machines.localLatencyUs / 1e3,
          // Loopback is copying: it slows down with the threads.
          msPerByte: (8e-6 / machines.localGbit) * slowdown,
          sender: loopbackPorts[a],
          receiver: loopbackPorts[b],
        }
      : {
          latencyMs: machines.latencyUs / 1e3,
          msPerByte: 8e-6 / machines.linkGbit,
          sender: hostPorts[hostOf(a)],
          receiver: hostPorts[hostOf(b)],
        };
  const wireMs = (outgoing: Outgoing, msPerByte: number): number =>
    (outgoing.values.byteLength + OVERHEAD_BYTES) * msPerByte;

  /** Runs part of a rank's program on its thread and sends what it returns. */
  const work = (
    index: number,
    atMs: number,
    program: () => readonly Outgoing[],
    numReceived: number,
  ): void => {
    const rank = ranks[index];
    numSummed = 0;
    const outgoing = program();
    let nowMs = Math.max(atMs, rank.busyMs) + numReceived * messageMs + numSummed * sumMsPerFloat;
    for (const message of outgoing) {
      nowMs += messageMs;
      const { sender, latencyMs, msPerByte } = wire(index, message.to);
      const leavesMs = Math.max(nowMs, sender.sendingMs);
      sender.sendingMs = leavesMs + wireMs(message, msPerByte);
      rank.numMessages += 1;
      rank.valueBytes += message.values.byteLength;
      events.add(leavesMs + latencyMs, { type: "firstByte", from: index, outgoing: message });
    }
    rank.busyMs = nowMs;
    if (rank.collective.done && Number.isNaN(rank.doneMs)) rank.doneMs = nowMs;
  };
  const receive = (index: number, atMs: number, { message }: Outgoing): void =>
    work(index, atMs, () => ranks[index].collective.receive(message, () => undefined), 1);

  for (const [rank, atMs] of readyMs.entries()) events.add(atMs, { type: "ready", rank });
  for (let next = events.take(); next !== null; next = events.take()) {
    const { atMs, event } = next;
    switch (event.type) {
      case "ready": {
        const rank = ranks[event.rank];
        const nodes = coveringNodes(rankShards(numShards, worldSize, event.rank), numShards);
        const partials = nodes.map((node) => ({ node, values: vector }));
        rank.started = true;
        work(event.rank, atMs, () => rank.collective.start(partials), 0);
        for (const outgoing of rank.early) receive(event.rank, atMs, outgoing);
        break;
      }
      case "firstByte": {
        const { receiver, msPerByte } = wire(event.from, event.outgoing.to);
        receiver.receivingMs = Math.max(atMs, receiver.receivingMs) + wireMs(event.outgoing, msPerByte);
        events.add(receiver.receivingMs, { ...event, type: "delivered" });
        break;
      }
      case "delivered": {
        const { to } = event.outgoing;
        if (ranks[to].started) receive(to, atMs, event.outgoing);
        else ranks[to].early.push(event.outgoing);
      }
    }
  }
  return {
    doneMs: ranks.map((rank) => rank.doneMs),
    numMessages: ranks.map((rank) => rank.numMessages),
    valueBytes: ranks.map((rank) => rank.valueBytes),
  };
}
