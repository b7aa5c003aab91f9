import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import t from "tap";
import { parseRunConfig } from "../../shared/config.ts";
import { ProtocolError } from "../../shared/errors.ts";
import { floatsOf } from "../../shared/frames.ts";
import type { CoordinatorMessage, WorkerMessage } from "../../shared/protocol.ts";
import {
  decodeHeader,
  encodeHeader,
  MAX_HEADER_BYTES,
  parseCoordinatorBulkMessage,
  parseCoordinatorMessage,
  parseWorkerBulkMessage,
  parseWorkerMessage,
} from "../../shared/protocol.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../../shared/version.ts";

t.test("messages survive encoding and parsing", async (t) => {
  const join: WorkerMessage = {
    type: "join",
    protocolVersion: PROTOCOL_VERSION,
    packageVersion: PACKAGE_VERSION,
    workerId: "w",
    host: "h",
    pid: 1,
    runtime: "node",
    data: { endpoint: "tcp://h:1", sharedFile: null },
  };
  t.same(parseWorkerMessage(decodeHeader(encodeHeader(join))), join);
  const start: CoordinatorMessage = {
    type: "start",
    generation: 1,
    rank: 0,
    worldSize: 1,
    peers: [
      { rank: 0, workerId: "w", data: { endpoint: "tcp://h:1", sharedFile: { path: "/p", token: "t" } } },
    ],
    globalStep: 0,
    endStep: 10,
    numImages: 60_000,
    stateFrom: "seed",
    bulkPort: 9,
    config: parseRunConfig({ workers: 1, seed: 2 ** 52 + 1, learningRate: 1e-4 }),
  };
  t.same(parseCoordinatorMessage(decodeHeader(encodeHeader(start))), start);
});

t.test("parsing names the field that is wrong", async (t) => {
  const step = { type: "credit", generation: 1, globalStep: -1 };
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

t.test("random and mutated bytes are refused with a ProtocolError, never another error", async (t) => {
  const parsers = [
    parseWorkerMessage,
    parseCoordinatorMessage,
    parseWorkerBulkMessage,
    parseCoordinatorBulkMessage,
  ];
  const valid = encodeHeader({
    type: "heartbeat",
    generation: 1,
    globalStep: 2,
    phase: "D0",
    waitingFor: null,
  });
  let refused = 0;
  for (let trial = 0; trial < 20_000; trial++) {
    let frame = randomBytes(trial % 60);
    if (trial % 2 === 0) {
      frame = Buffer.from(valid);
      frame[trial % frame.length] = randomBytes(1)[0];
    }
    try {
      parsers[trial % parsers.length](decodeHeader(frame));
    } catch (error) {
      if (!(error instanceof ProtocolError)) t.fail(`${frame.toString("hex")}: ${String(error)}`);
      refused += 1;
    }
  }
  t.ok(refused > 10_000);
  t.throws(() => decodeHeader(new Uint8Array(MAX_HEADER_BYTES + 1)), ProtocolError);
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
