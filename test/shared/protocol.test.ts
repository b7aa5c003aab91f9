import { readFile } from "node:fs/promises";
import t from "tap";
import { parseRunConfig } from "../../shared/config.ts";
import { ProtocolError } from "../../shared/errors.ts";
import { brokenLimit, MAX_DEPTH } from "../../shared/msgpack-limits.ts";
import { floatsOf } from "../../shared/frames.ts";
import type { CoordinatorMessage, WorkerMessage } from "../../shared/protocol.ts";
import { decodeHeader, encodeHeader, MAX_HEADER_BYTES } from "../../shared/header.ts";
import {
  parseAdminAnswer,
  parseCoordinatorMessage,
  parseWorkerBulkMessage,
  parseWorkerMessage,
  refusedVersion,
} from "../../shared/protocol.ts";
import { isPrintable } from "../../shared/text.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../../shared/version.ts";
import { ALL_MESSAGES } from "../fuzz/messages.ts";
import { parseMessages } from "../fuzz/parsers.ts";
import { FuzzRandom } from "../fuzz/random.ts";

t.test("messages survive encoding and parsing", async (t) => {
  const join: WorkerMessage = {
    type: "join",
    protocolVersion: PROTOCOL_VERSION,
    packageVersion: PACKAGE_VERSION,
    codeHash: "c",
    workerId: "w",
    process: "p",
    host: "h",
    pid: 1,
    runtime: "node",
    data: { endpoint: "tcp://h:1", sharedFile: null },
    holds: { runId: "r", position: { globalStep: 3, phase: 1 }, reports: [] },
  };
  t.same(parseWorkerMessage(decodeHeader(encodeHeader(join))), join);
  const start: CoordinatorMessage = {
    type: "start",
    term: "t",
    generation: 1,
    rank: 0,
    worldSize: 1,
    peers: [
      {
        rank: 0,
        workerId: "w",
        data: { endpoint: "tcp://h:1", sharedFile: { path: "/proc/1/fd/2", token: "0".repeat(32) } },
      },
    ],
    runId: "r",
    position: { globalStep: 4, phase: 1 },
    endStep: 10,
    numImages: 60_000,
    dataset: { name: "mnist", sha256: "ab" },
    folder: { checkpoints: "/run/checkpoints", identity: "i", hold: "h" },
    stateFrom: "peer",
    stateTo: [],
    bulkPort: 9,
    config: parseRunConfig({ workers: 1, seed: 2 ** 52 + 1, learningRate: 1e-4 }),
  };
  t.same(parseCoordinatorMessage(decodeHeader(encodeHeader(start))), start);
});

t.test("parsing names the field that is wrong", async (t) => {
  const step = { type: "credit", term: "t", generation: 1, globalStep: -1 };
  t.throws(() => parseWorkerBulkMessage(step), {
    name: "ProtocolError",
    message: /"credit" as 'globalStep' is wrong/,
  });
  t.throws(() => parseWorkerMessage({ type: "heartbeat", generation: "1" }), /'generation'/);
  t.throws(() => parseWorkerMessage({ type: "unheard-of" }), /"unheard-of"/);
  t.throws(
    () => parseCoordinatorMessage({ type: "exit", more: 1 }),
    ProtocolError,
    "unknown fields are refused",
  );
});

t.test("what a peer says is made printable, or refused, where it comes in", async (t) => {
  const evil = "a\u001b[2J\r\nWARN: b\u202e\u0085\u009b";
  const join = {
    ...{ type: "join", protocolVersion: PROTOCOL_VERSION, packageVersion: evil, codeHash: "c" },
    ...{ workerId: "w\u00e9 \u{1f600}", process: "p", host: evil, pid: 1, runtime: evil, holds: null },
    data: { endpoint: "tcp://[::1]:1", sharedFile: { path: "/proc/1/fd/2", token: "0".repeat(32) } },
  };
  const printed = "a?[2J??WARN: b???";
  t.match(parseWorkerMessage(join), {
    ...{ workerId: "w\u00e9 \u{1f600}", host: printed, runtime: printed, packageVersion: printed },
  });
  for (const change of [
    ...[{ workerId: evil }, { workerId: "" }, { process: "\u0007" }, { codeHash: "\u0007" }],
    ...["ipc:///tmp/x", "tcp://a\u001b:1", "tcp://h:*", "garbage", "tcp://;:1 "].map((endpoint) => ({
      data: { ...join.data, endpoint },
    })),
    ...[
      { path: "/etc/passwd", token: "0".repeat(32) },
      { path: "/proc/1/fd/2", token: "" },
    ].map((sharedFile) => ({ data: { ...join.data, sharedFile } })),
  ]) {
    t.throws(() => parseWorkerMessage({ ...join, ...change }), ProtocolError, JSON.stringify(change));
  }
  const reasons = [
    parseWorkerMessage({ type: "failed", reason: evil, byEngine: false }),
    parseCoordinatorMessage({ type: "refuse", reason: evil }),
    parseCoordinatorMessage({ type: "abort", reason: evil }),
    parseAdminAnswer({ type: "cannot", reason: evil }),
  ];
  for (const message of reasons) t.match(message, { reason: printed });
  for (const message of [{ type: evil }, { ...join, [evil]: 1 }]) {
    try {
      parseWorkerMessage(message);
      t.fail("it is refused");
    } catch (error) {
      t.ok(isPrintable((error as Error).message), "and so is what is said of it");
    }
  }
});

t.test("a start that no run can have is refused", async (t) => {
  const data = { endpoint: "tcp://h:1", sharedFile: null };
  const peers = [0, 1].map((rank) => ({ rank, workerId: `w${rank}`, data }));
  const start = {
    ...{ type: "start", term: "t", generation: 1, rank: 0, worldSize: 2, peers, runId: "r" },
    ...{ position: { globalStep: 4, phase: 1 }, endStep: 10, numImages: 60_000 },
    ...{
      dataset: { name: "mnist", sha256: "ab" },
      folder: { checkpoints: "/c", identity: "i", hold: "h" },
      stateFrom: "own",
      stateTo: [1],
    },
    ...{ bulkPort: 9, config: parseRunConfig({ workers: 2 }) },
  };
  t.match(parseCoordinatorMessage(start), { type: "start" });
  for (const change of [
    { rank: 2 },
    { worldSize: 3 },
    { peers: [...peers].reverse() },
    { peers: peers.slice(1) },
    { stateTo: [0] },
    { stateTo: [2] },
    { stateTo: [1, 1] },
    { position: { globalStep: 2 ** 40, phase: 0 } },
    { position: { globalStep: 10, phase: 1 } },
    { position: { globalStep: 4, phase: 2 } },
    { bulkPort: 65_536 },
  ]) {
    t.throws(() => parseCoordinatorMessage({ ...start, ...change }), ProtocolError, JSON.stringify(change));
  }
});

t.test("random and mutated bytes are refused with a ProtocolError, never another error", async (t) => {
  const random = new FuzzRandom(1);
  const valid = ALL_MESSAGES.map((message) => encodeHeader(message));
  /** Whether some parser takes it. @throws What is no ProtocolError. */
  const isTaken = (frame: Uint8Array): boolean => {
    try {
      return parseMessages(decodeHeader(frame));
    } catch (error) {
      if (error instanceof ProtocolError) return false;
      throw new Error(`Of ${Buffer.from(frame).toString("hex")}`, { cause: error });
    }
  };
  t.ok(valid.every(isTaken), "as long as nothing is changed");
  const counts = { random: 0, oneByte: 0, damaged: 0 };
  const NUM_TRIALS = 3000;
  for (let trial = 0; trial < NUM_TRIALS; trial++) {
    const frame = random.pick(valid);
    const oneByte = Uint8Array.from(frame);
    oneByte[random.below(frame.length)] ^= 1 + random.below(255);
    counts.random += isTaken(random.bytes(random.below(60))) ? 1 : 0;
    counts.oneByte += isTaken(oneByte) ? 1 : 0;
    counts.damaged += isTaken(random.damagedBytes(frame)) ? 1 : 0;
  }
  t.equal(counts.random, 0, "noise is no message");
  // Other texts and numbers are valid messages; other names, types and lengths are not.
  for (const taken of [counts.oneByte, counts.damaged]) {
    t.ok(taken > 0 && taken < 0.9 * NUM_TRIALS, `${taken} of ${NUM_TRIALS} taken`);
  }
  t.throws(() => decodeHeader(new Uint8Array(MAX_HEADER_BYTES + 1)), ProtocolError);
});

t.test("bytes that would cost a decoder dearly are refused before it sees them", async (t) => {
  const nested = (depth: number): Buffer => Buffer.from([...Array<number>(depth).fill(0x91), 0xc0]);
  t.equal(brokenLimit(nested(MAX_DEPTH)), null);
  const many = Buffer.alloc(MAX_HEADER_BYTES, 0x91);
  for (const [bytes, reason] of [
    [nested(MAX_DEPTH + 1), /at most 8 deep/],
    [many, /at most 8 deep/],
    [Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff]), /as long as it says/],
    [Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff, 0xa1]), /as long as it says/],
    [Buffer.from([0xdb, 0x7f, 0xff, 0xff, 0xff, 0x61]), /as long as it says/],
    [Buffer.from([0xc6, 0x00, 0x10, 0x00, 0x00]), /as long as it says/],
    [Buffer.from([0xcb, 0]), /as long as it says/],
    [Buffer.from([0xd9]), /as long as it says/],
    [Buffer.from([]), /as long as it says/],
    [Buffer.from([0xc0, 0xc0]), /end with its first value/],
    [Buffer.from([0xd4, 0x72, 0x40]), /no extensions/],
    [Buffer.from([0xc7, 0x01, 0xff, 0x00]), /no extensions/],
    [Buffer.from([0xc1]), /no extensions/],
  ] as const) {
    t.throws(() => decodeHeader(bytes), { name: "ProtocolError", message: reason });
  }
  t.throws(() => decodeHeader(undefined), { name: "ProtocolError", message: /got none/ });
});

t.test("what encodeHeader() writes is within the limits", async (t) => {
  for (const value of [
    ...[0, 1, -1, 31, -33, 127, 128, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 48, -(2 ** 40)],
    ...[
      0.5,
      1e300,
      NaN,
      Infinity,
      true,
      false,
      null,
      "",
      "x".repeat(31),
      "y".repeat(300),
      "ü".repeat(40_000),
    ],
    ...[
      [],
      Array(16).fill(1),
      Array(70_000).fill("z"),
      Object.fromEntries(Array.from({ length: 20 }, (_, i) => [i, i])),
    ],
  ]) {
    const frame = encodeHeader({ value, list: [{ value }] });
    t.equal(brokenLimit(frame), null, typeof value);
    t.same(decodeHeader(frame), { value, list: [{ value }] });
    t.not(brokenLimit(frame.subarray(0, -1)), null, "cut off");
  }
});

t.test("a join of another protocol version is named, whatever else it says", async (t) => {
  t.match(
    refusedVersion({ type: "join", protocolVersion: 99, news: 1 }),
    /must be \d+: got 99\. Install the same/,
  );
  t.equal(refusedVersion({ type: "join", protocolVersion: PROTOCOL_VERSION }), null);
  for (const header of [null, 1, {}, { type: "join" }, { type: "step", protocolVersion: 99 }])
    t.equal(refusedVersion(header), null);
});

t.test("floatsOf() reads frames at any alignment and refuses other lengths", async (t) => {
  const bytes = new Uint8Array(13);
  new DataView(bytes.buffer).setFloat32(1, 1.5, true);
  t.same([...floatsOf(bytes.subarray(1, 5), 1)], [1.5]);
  t.throws(() => floatsOf(bytes, 3), ProtocolError);
});

t.test("PACKAGE_VERSION is the version of package.json", async (t) => {
  const { version } = JSON.parse(await readFile("package.json", "utf8")) as { version: string };
  t.equal(PACKAGE_VERSION, version);
});
