/**
 * One valid message of every kind, to be damaged.
 *
 * @module
 */
import type {
  AdminAnswer,
  AdminRequest,
  CoordinatorBulkMessage,
  CoordinatorMessage,
  WorkerBulkMessage,
  WorkerMessage,
} from "../../shared/protocol.ts";
import type { PeerMessage } from "../../worker/data-messages.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../../shared/version.ts";

const position = { globalStep: 3, phase: 1 };
const data = {
  endpoint: "tcp://127.0.0.1:1234",
  sharedFile: { path: "/proc/1/fd/2", token: "0".repeat(32) },
};
const report = {
  globalStep: 3,
  metrics: {
    ...{ discriminatorLoss: 1, generatorLoss: 1, realProbability: 0.5, fakeProbability: 0.5 },
    ...{ discriminatorGradientNorm: 1, generatorGradientNorm: 1 },
  },
  timing: { computeMs: 1, allReduceMs: 1, waitMs: 1, applyMs: 1 },
  generatorHash: "1",
  discriminatorHash: "2",
};

/** Worker to coordinator. */
export const CONTROL: readonly WorkerMessage[] = [
  {
    ...{
      type: "join",
      protocolVersion: PROTOCOL_VERSION,
      packageVersion: PACKAGE_VERSION,
      codeHash: "0",
      ...{ workerId: "stranger", process: "p" },
    },
    ...{ host: "h", pid: 1, runtime: "node", data, holds: { runId: "r", position, reports: [report] } },
  },
  {
    ...{ type: "heartbeat", generation: 1, globalStep: 3, phase: "D0" },
    ...{ waitingFor: null, waitedMs: 0, waitingRanks: [1] },
  },
  { type: "busy", forMs: 1 },
  { type: "paused", generation: 1, position },
  { type: "ready", generation: 1, stateHash: "0" },
  { type: "step", generation: 1, report },
  { type: "finished", generation: 1, globalStep: 3 },
  { type: "nonFinite", generation: 1, globalStep: 3, phase: "G", isApplied: false, own: "loss" },
  { type: "prepared", runId: "r" },
  { type: "leaving", signal: "SIGTERM" },
  { type: "left", generation: 1 },
  { type: "failed", reason: "because", byEngine: true },
];

/** Coordinator to worker. */
export const CONTROL_ANSWERS: readonly CoordinatorMessage[] = [
  { type: "refuse", reason: "no" },
  { type: "otherRun", reason: "no" },
  { type: "wait", reason: "no" },
  { type: "unknown" },
  { type: "prepare", runId: "r", config: parseRunConfig({ workers: 1 }) },
  { type: "regroup", generation: 2 },
  { type: "heartbeat", safe: 3 },
  {
    ...{ type: "start", term: "t", generation: 1, rank: 0, worldSize: 1 },
    ...{ peers: [{ rank: 0, workerId: "a", data }], runId: "r", position, endStep: 9, numImages: 10 },
    ...{
      dataset: { name: "mnist", sha256: "0" },
      folder: { checkpoints: "/c", identity: "i", hold: "h" },
      stateFrom: "seed",
      stateTo: [],
    },
    ...{ bulkPort: 1, config: parseRunConfig({ workers: 1 }) },
  },
  { type: "exit", again: true },
  { type: "abort", reason: "no" },
];

/** Both ways, with batches, states and pictures behind them. */
export const BULK: readonly (WorkerBulkMessage | CoordinatorBulkMessage)[] = [
  { type: "hello", generation: 1, wantsState: true },
  { type: "credit", generation: 1, globalStep: 3 },
  { type: "state", generation: 1, globalStep: 3, generatorSteps: 3, discriminatorSteps: 3 },
  { type: "samples", generation: 1, globalStep: 3 },
  { type: "batch", generation: 1, globalStep: 3 },
];

/** Worker to worker. */
export const DATA: readonly PeerMessage[] = [
  ...(["scatter", "gather"] as const).map((type) => ({
    ...{ type, term: "t", generation: 1, globalStep: 3, phase: 0, from: 1, firstShard: 0, endShard: 4 },
    ...{ at: null, numRounded: 0, start: 0, end: 1024 },
  })),
  { type: "attached", term: "t", generation: 1, from: 1 },
  {
    ...{ type: "state", term: "t", generation: 1, from: 1, generatorSteps: 3, discriminatorSteps: 3 },
    ...{ measured: { metrics: [1, 2], norm: 1 }, reports: [report], vector: 0, start: 0, end: 1024 },
  },
];

/** Requests of users' commands, and answers. */
export const ADMIN: readonly (AdminRequest | AdminAnswer)[] = [
  { type: "status" },
  { type: "scale", workers: 2 },
  { type: "stop" },
  {
    type: "status",
    run: {
      ...{ status: "training", generation: 1, globalStep: 3, endStep: 9, imagesPerSecond: 1.5 },
      refused: { connections: 1, joins: 1, messages: 2, unread: 1 },
      members: [
        {
          ...{ workerId: "a", rank: 0, host: "h", pid: 1, runtime: "node", shards: [0, 4] },
          ...{ position: "step 3 D0", waitingFor: null, busyMs: 0, silentMs: 1 },
        },
      ],
      lastFaults: [{ at: "now", text: "none" }],
    },
  },
  { type: "done", text: "yes" },
  { type: "cannot", reason: "no" },
];

export const ALL_MESSAGES: readonly object[] = [...CONTROL, ...CONTROL_ANSWERS, ...BULK, ...DATA, ...ADMIN];
