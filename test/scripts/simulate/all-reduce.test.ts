import t from "tap";
import type { Machines } from "../../../scripts/simulate/all-reduce.ts";
import { OVERHEAD_BYTES, simulateAllReduce } from "../../../scripts/simulate/all-reduce.ts";
import { EventQueue } from "../../../shared/event-queue.ts";
import { SCHEDULE_NAMES } from "../../../worker/schedule.ts";
import { mulberry32 } from "../../reference/mulberry32.ts";

/** Free of any cost but the wire's: 8 Mbit/s, so a byte takes a microsecond. */
const WIRE: Machines = {
  ...{ linkGbit: 8e-3, latencyUs: 0, localGbit: 1e9, localLatencyUs: 0, workersPerHost: 1 },
  ...{ messageUs: 0, sumGbytes: 1e12, workersSharingCores: 1, cores: 1 },
};
const LENGTH = 4096;

const zeros = (worldSize: number): readonly number[] => Array<number>(worldSize).fill(0);

/** One message per chunk or half. */
const caseOf = (schedule: (typeof SCHEDULE_NAMES)[number], worldSize: number) => ({
  ...{ schedule, worldSize, numShards: worldSize, length: LENGTH, segmentFloats: LENGTH },
  readyMs: zeros(worldSize),
});

const lastMs = (machines: Machines, ...of: Parameters<typeof caseOf>): number =>
  Math.max(...simulateAllReduce(machines, caseOf(...of)).doneMs);

const close = (t: Tap, actual: number, expected: number, message?: string): void =>
  void t.ok(Math.abs(actual - expected) < 1e-6 * expected, `${message ?? ""} ${actual} is ${expected}`);
type Tap = typeof t;

/** Milliseconds on the wire. */
const wireMs = (numFloats: number): number => (4 * numFloats + OVERHEAD_BYTES) / 1e3;

t.test("simulateAllReduce() of two workers takes latency + bytes / bandwidth, twice", async (t) => {
  for (const schedule of SCHEDULE_NAMES) {
    const expected = 2 * (0.5 + wireMs(LENGTH / 2));
    close(t as Tap, lastMs({ ...WIRE, latencyUs: 500 }, schedule, 2), expected, schedule);
  }
});

t.test("simulateAllReduce() has the closed forms of both schedules, where nothing contends", async (t) => {
  const machines = { ...WIRE, latencyUs: 300 };
  // Direct: everybody sends to another one at any time, so W-1 chunks pass one after another, twice.
  for (const worldSize of [4, 8, 16]) {
    const direct = 2 * (0.3 + (worldSize - 1) * wireMs(LENGTH / worldSize));
    close(t as Tap, lastMs(machines, "direct", worldSize), direct, `direct, ${worldSize}`);
    let halving = 0;
    for (let parts = 2; parts <= worldSize; parts *= 2) halving += 2 * (0.3 + wireMs(LENGTH / parts));
    close(t as Tap, lastMs(machines, "halving-doubling", worldSize), halving, `h-d, ${worldSize}`);
  }
});

t.test("simulateAllReduce() charges the thread for messages and sums", async (t) => {
  const busy = { ...WIRE, linkGbit: 1e9, messageUs: 1000 };
  // Send, take, send, take.
  close(t as Tap, lastMs(busy, "direct", 2), 4);
  close(t as Tap, lastMs({ ...busy, workersSharingCores: 8 }, "direct", 2), 8, "two workers on one core");
  // Half of the vector, at 1 MB/s.
  const summing = { ...WIRE, linkGbit: 1e9, sumGbytes: 1e-3 };
  for (const schedule of SCHEDULE_NAMES)
    close(t as Tap, lastMs(summing, schedule, 2), (4 * LENGTH) / 2 / 1e3, schedule);
});

t.test(
  "simulateAllReduce() lets workers of a host share its interface, but not their loopback",
  async (t) => {
    const local = { ...WIRE, workersPerHost: 2, localGbit: 8e-3, linkGbit: 1e9, localLatencyUs: 500 };
    close(t as Tap, lastMs(local, "direct", 2), 2 * (0.5 + wireMs(LENGTH / 2)));
    // Level 0 stays within the hosts; at level 1 both workers of a host send a quarter through one interface.
    const shared = { ...WIRE, workersPerHost: 2 };
    close(t as Tap, lastMs(shared, "halving-doubling", 4), 2 * 2 * wireMs(LENGTH / 4));
  },
);

t.test("simulateAllReduce() conserves bytes: 2 (W-1)/W of the vector per rank", async (t) => {
  for (const schedule of SCHEDULE_NAMES) {
    for (const worldSize of [2, 4, 8, 16, 32]) {
      const { valueBytes, numMessages } = simulateAllReduce(WIRE, caseOf(schedule, worldSize));
      const expected = (2 * (worldSize - 1) * LENGTH * 4) / worldSize;
      t.ok(valueBytes.every((bytes) => bytes === expected));
      const expectedMessages = schedule === "direct" ? 2 * (worldSize - 1) : 2 * Math.log2(worldSize);
      t.ok(numMessages.every((count) => count === expectedMessages));
    }
  }
});

t.test("simulateAllReduce() waits for the last rank, and gives the same times every time", async (t) => {
  const random = mulberry32(1);
  for (const schedule of SCHEDULE_NAMES) {
    const readyMs = Array.from({ length: 16 }, () => 100 * random.uniform());
    const machines = { ...WIRE, latencyUs: 70, messageUs: 11, sumGbytes: 1, workersPerHost: 3 };
    const late = { ...caseOf(schedule, 16), readyMs, segmentFloats: 50 };
    const first = simulateAllReduce(machines, late);
    t.ok(Math.min(...first.doneMs) > Math.max(...readyMs));
    t.same(simulateAllReduce(machines, late), first);
  }
});

t.test("EventQueue gives events by time, and those of one moment in the order they were added", async (t) => {
  const random = mulberry32(2);
  const queue = new EventQueue<number>();
  const added = Array.from({ length: 500 }, (_, i) => ({
    atMs: Math.floor(random.uniform() * 40),
    event: i,
  }));
  for (const { atMs, event } of added) queue.add(atMs, event);
  const taken: number[] = [];
  for (let next = queue.take(); next !== null; next = queue.take()) taken.push(next.event);
  t.same(
    taken,
    [...added].sort((a, b) => a.atMs - b.atMs || a.event - b.event).map(({ event }) => event),
  );
  t.equal(queue.take(), null);
});
