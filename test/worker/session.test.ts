import t from "tap";
import { parseRunConfig } from "../../shared/config.ts";
import type { CoordinatorMessage, StartMessage, StepReport, WorkerMessage } from "../../shared/protocol.ts";
import { MAX_KEPT_REPORTS } from "../../shared/protocol.ts";
import type { Held, SessionConfig, SessionEffect, SessionInput, SessionState } from "../../worker/session.ts";
import { UNNUMBERED } from "../../shared/sequence.ts";
import { advanceSession, initialSession } from "../../worker/session.ts";

const config: SessionConfig = {
  ...{ coordinator: "tcp://c:1", workerId: "w", process: "p", host: "h", pid: 1, runtime: "node" },
  codeHash: "c",
  ...{ data: { endpoint: "tcp://h:1", sharedFile: null }, connectTimeoutMs: 30_000 },
};

const start = (generation: number, change: Partial<StartMessage> = {}): StartMessage => ({
  ...{ type: "start", term: "t", generation, rank: 0, worldSize: 1, peers: [], runId: "run" },
  ...{ position: { globalStep: 0, phase: 0 }, endStep: 9, numImages: 10 },
  ...{
    dataset: { name: "d", sha256: "0" },
    folder: { checkpoints: "/c", identity: "i", hold: "h" },
    stateFrom: "seed",
    stateTo: [],
    bulkPort: 2,
  },
  config: parseRunConfig({ workers: 1, failureTimeoutMs: 2000, orphanTimeoutMs: 20_000 }),
  ...change,
});
const report = (globalStep: number): StepReport => ({
  globalStep,
  metrics: {
    ...{ discriminatorLoss: 1, generatorLoss: 1, realProbability: 0.5, fakeProbability: 0.5 },
    ...{ discriminatorGradientNorm: 1, generatorGradientNorm: 1 },
  },
  timing: { computeMs: 1, allReduceMs: 1, waitMs: 1, applyMs: 1 },
  ...{ generatorHash: "g", discriminatorHash: "d" },
});
/** The number is filled in by run(). */
const says = (message: CoordinatorMessage, link = 1, sequence = NaN): SessionInput => ({
  ...{ type: "message", link, sequence, message },
});
const step = (globalStep: number, generation = 1): SessionInput => ({
  type: "step",
  generation,
  report: report(globalStep),
});
const heldAt = (globalStep: number, phase = 0): Held => ({ runId: "run", position: { globalStep, phase } });
const stopped = (held: Held = heldAt(3)): SessionInput => ({ type: "stopped", held });
const tick: SessionInput = {
  type: "tick",
  observed: { globalStep: 3, phase: "D0", waiting: null, waitingRanks: [] },
};

interface Result {
  readonly state: SessionState;
  /** Of the last input. */
  readonly effects: readonly SessionEffect[];
  readonly nowMs: number;
}

/** Runs inputs, each so many milliseconds after the one before it. */
function run(inputs: readonly SessionInput[], after?: Result, apartMs = 10): Result {
  let state = after?.state ?? initialSession(0);
  let nowMs = after?.nowMs ?? 0;
  let effects: readonly SessionEffect[] = [];
  for (const input of inputs) {
    nowMs += apartMs;
    const numbered =
      input.type === "message" && Number.isNaN(input.sequence)
        ? { ...input, sequence: state.sequence + 1 }
        : input;
    ({ state, effects } = advanceSession(state, numbered, nowMs, config));
  }
  return { state, effects, nowMs };
}

const sent = (effects: readonly SessionEffect[]): readonly WorkerMessage[] =>
  effects.flatMap((effect) => (effect.type === "send" ? [effect.message] : []));
const types = (effects: readonly SessionEffect[]): readonly string[] => effects.map(({ type }) => type);
const opened = run([{ type: "open" }]);
const training = run([says(start(1)), { type: "ready", generation: 1, stateHash: "h" }], opened);

t.test("a session joins, trains and leaves", async (t) => {
  t.match(opened.effects, [
    { type: "connect", link: 1 },
    { type: "send", message: { type: "join", workerId: "w", holds: null } },
  ]);
  t.match(sent(training.effects), [{ type: "ready", generation: 1, stateHash: "h" }]);
  t.match(sent(run([step(1)], training).effects), [{ type: "step", report: { globalStep: 1 } }]);
  const done = run([{ type: "trained", generation: 1, globalStep: 9 }], training);
  t.match(sent(done.effects), [{ type: "finished", generation: 1, globalStep: 9 }]);
  const left = run([says({ type: "exit", again: false })], done);
  t.same(types(left.effects), ["send", "flush"], "the last word is sent before it ends");
  t.match(run([{ type: "flushed" }], left).effects, [
    { type: "end", outcome: { how: "done", reason: null } },
  ]);
  const aborted = run([says({ type: "abort", reason: "no" }), { type: "flushed" }], done);
  t.match(aborted.effects, [{ type: "end", outcome: { reason: "The run has stopped: no" } }]);
  t.same(
    run([tick, says({ type: "exit", again: false })], aborted).effects,
    [],
    "nothing moves after the end",
  );
});

t.test("a session prepares when it is asked to, and says so unless it has joined again since", async (t) => {
  const prepare = { type: "prepare", runId: "run", config: start(1).config } as const;
  const asked = run([says(prepare)], opened);
  t.match(asked.effects, [{ type: "prepare", link: 1, message: { runId: "run" } }]);
  const done = { type: "prepared", link: 1, runId: "run" } as const;
  t.same(sent(run([done], asked).effects), [{ type: "prepared", runId: "run" }]);
  t.same(types(run([done, says(start(1))], asked).effects), ["train"]);
  const forgotten = run([says({ type: "unknown" }), done], asked);
  t.same(forgotten.effects, [], "nobody to tell");
  const again = run([stopped(null)], forgotten);
  t.same(types(again.effects), ["connect", "send"]);
  t.same(run([done], again).effects, [], "that was another connection");
  t.same(run([says(prepare)], training).effects, [], "it has begun");
});

t.test("a session stops before it pauses, and begins only what is next", async (t) => {
  const asked = run([says({ type: "regroup", generation: 2 })], training);
  t.same(types(asked.effects), ["stop"]);
  t.same(run([says({ type: "regroup", generation: 2 })], asked).effects, [], "once");
  t.same(types(run([says(start(2))], asked).effects), ["log"], "not before it has stopped");
  const paused = run([stopped(heldAt(3, 1))], asked);
  t.match(sent(paused.effects), [{ type: "paused", generation: 2, position: { globalStep: 3, phase: 1 } }]);
  t.same(types(run([says(start(1))], paused).effects), ["log"], "not the same again");
  t.same(types(run([says(start(2))], paused).effects), ["train"]);
  t.same(run([{ type: "ready", generation: 1, stateHash: "h" }], run([says(start(2))], paused)).effects, []);
});

t.test(
  "a session that is not known any more joins again, with its state and what may not be recorded",
  async (t) => {
    const reported = run([step(1), step(2), says({ type: "heartbeat", safe: 1 }), step(3)], training);
    const asked = run([says({ type: "unknown" })], reported);
    t.same(types(asked.effects), ["log", "disconnect", "stop"]);
    t.same(types(run([tick], asked).effects), [], "nobody to talk to meanwhile");
    const late = run([step(4)], asked);
    t.same(late.effects, [], "kept, not sent");
    const joined = run([stopped(heldAt(4))], late);
    t.match(joined.effects, [
      { type: "connect", link: 2 },
      { message: { type: "join", holds: { position: { globalStep: 4 } } } },
    ]);
    const [message] = sent(joined.effects);
    t.same(message.type === "join" && message.holds?.reports.map(({ globalStep }) => globalStep), [2, 3, 4]);
    t.same(run([says(start(2), 1)], joined).effects, [], "what comes on the old connection is void");
    t.same(types(run([says(start(1), 2)], joined).effects), ["train"], "another coordinator counts from 1");
  },
);

t.test("a session joins again when a message was lost", async (t) => {
  t.same(types(run([says({ type: "heartbeat", safe: 0 }, 1, 3)], training).effects), [
    "log",
    "disconnect",
    "stop",
  ]);
  t.same(types(run([says({ type: "unknown" }, 1, UNNUMBERED)], training).effects), [
    "log",
    "disconnect",
    "stop",
  ]);
});

t.test("a session joins again where its first word was lost", async (t) => {
  const patient = run([tick], opened, 500);
  t.same(sent(patient.effects), []);
  t.match(sent(run([tick], patient, 500).effects), [{ type: "join" }]);
  const heard = run([says({ type: "heartbeat", safe: 0 })], patient);
  t.match(sent(run([tick], heard, 500).effects), [{ type: "heartbeat" }], "once it was heard");
});

t.test("a session that waits for its name tries again, however long, until it is refused", async (t) => {
  const reason = 'worker "w" (pid 2 on h), which has this name, to be heard or given up';
  let now = run([{ type: "open" }, says({ type: "wait", reason }, 1, UNNUMBERED)]);
  for (let i = 0; i < 40; i++) {
    now = run([tick], now, 1000);
    t.match(sent(now.effects)[0], { type: "join" }, "it asks again");
    now = run([says({ type: "wait", reason }, 1, UNNUMBERED)], now);
    t.same(now.effects, []);
  }
  const said = run([tick], now, 4900).effects.find(({ type }) => type === "log");
  t.match(said, { text: /^Waiting for worker "w" .* to be heard or given up, for 4\d\.\d s/ });
  const refused = run([says({ type: "refuse", reason: "taken" }, 1, UNNUMBERED)], now);
  t.match(refused.effects, [{ type: "end", outcome: { reason: /refused this worker: taken/ } }]);
  const admitted = run([says({ type: "heartbeat", safe: 0 }), tick], now, 1000);
  t.notMatch(sent(admitted.effects)[0], { type: "join" });
});

t.test(
  "a session says that it waits for a coordinator that does not answer, however often it asks",
  async (t) => {
    const said = Array.from({ length: 4 }).reduce<Result>((after) => run([tick], after, 500), opened);
    t.match(said.effects, [
      { type: "send" },
      { type: "log", text: "Waiting for the coordinator at tcp://c:1 to answer, for 2.0 s" },
    ]);
  },
);

t.test("a session keeps few reports for a coordinator that is gone", async (t) => {
  const many = Array.from({ length: MAX_KEPT_REPORTS + 5 }, (_, i) => step(i + 1));
  const { state } = run(many, training);
  t.equal(state.reports.length, MAX_KEPT_REPORTS);
  t.equal(state.reports[0].globalStep, 6);
  const again = run([step(8)], { state, effects: [], nowMs: 0 });
  t.equal(again.state.reports.at(-1)?.globalStep, 8, "after the run went back");
});

t.test("a session gives up on a coordinator that never answers, and waits for one that did", async (t) => {
  const never = run([tick], opened, 31_000);
  t.match(never.effects, [
    { type: "end", outcome: { reason: /Cannot reach the coordinator at tcp:\/\/c:1/ } },
  ]);
  const silent = run([tick], training, 3000);
  t.match(silent.effects, [
    { type: "log", text: /silent for 3\.0 s. Keeping step 3; waiting 17\.0 s more/ },
    { type: "send" },
  ]);
  t.same(types(run([tick], silent, 500).effects), ["send"], "said once in a while");
  const back = run([says({ type: "heartbeat", safe: 0 }), tick], silent);
  t.match(back.effects, [{ type: "log", text: "The coordinator is back" }, { type: "send" }]);
  const alone = run([tick], silent, 20_000);
  t.same(types(alone.effects), ["save"]);
  t.same(run([step(4)], alone).state.reports.length, 1, "what is applied meanwhile is saved too");
  t.match(run([{ type: "saved", isSaved: true, text: "Saved" }], alone).effects, [
    { type: "end", outcome: { reason: /Lost the coordinator .*\. Saved$/ } },
  ]);
  t.same(types(run([{ type: "orphaned" }], training).effects), ["save"], "at once where that is known");
});

t.test("a session says for what it waits", async (t) => {
  const waiting = { what: "3 segments from rank 1", forMs: 2500 };
  const observed = { globalStep: 4, phase: "G", waiting, waitingRanks: [1] };
  const heard = run([says({ type: "heartbeat", safe: 0 })], training, 2000);
  const said = run([{ type: "tick", observed }], heard, 500);
  t.match(said.effects, [
    { type: "log", text: "Waiting for 3 segments from rank 1, for 2.5 s" },
    { message: { type: "heartbeat", globalStep: 4, phase: "G", waitingFor: waiting.what, waitedMs: 2500 } },
  ]);
  t.same(types(run([{ type: "tick", observed }], said, 500).effects), ["send"], "said once in a while");
});

t.test("a session that fails says why", async (t) => {
  const failed = run([{ type: "broken", reason: "No memory", byEngine: true }], training);
  t.match(failed.effects, [
    { message: { type: "failed", reason: "No memory", byEngine: true } },
    { type: "flush" },
  ]);
  t.match(run([{ type: "flushed" }], failed).effects, [{ type: "end", outcome: { reason: "No memory" } }]);
  t.match(run([says({ type: "refuse", reason: "version" })], opened).effects, [
    { type: "end", outcome: { reason: /refused this worker: version/ } },
  ]);
  const other = run([says({ type: "otherRun", reason: "run" })], opened);
  t.same(types(other.effects), ["save"], "its state is of no use to that coordinator");
  t.match(run([{ type: "saved", isSaved: true, text: "Saved" }], other).effects, [
    { type: "end", outcome: { reason: "The coordinator refused this worker: run. Saved" } },
  ]);
});

const told: SessionInput = { type: "told", signal: "SIGTERM" };
const endOf = (effects: readonly SessionEffect[]) =>
  effects.flatMap((effect) => (effect.type === "end" ? [effect.outcome] : []));

t.test("a session that is told to leave says so, and trains on until it is let go", async (t) => {
  const heard = run([says({ type: "heartbeat", safe: 0 })], training);
  const leaves = run([told], heard);
  t.same(sent(leaves.effects), [{ type: "leaving", signal: "SIGTERM" }]);
  t.match(sent(run([step(4)], leaves).effects), [{ type: "step" }]);
  const left = run([says({ type: "exit", again: true }), { type: "flushed" }], leaves);
  t.same(endOf(left.effects), [{ how: "again", reason: null }]);
  const rejoined = run([says({ type: "unknown" }), stopped()], leaves);
  t.match(sent(rejoined.effects), [{ type: "join" }, { type: "leaving" }], "another connection is told too");
});

t.test("a session that is told to leave saves what nobody lets it hand over", async (t) => {
  const heard = run([says({ type: "heartbeat", safe: 0 })], training);
  const silent = run([tick], run([told], heard), 2500);
  t.same(types(silent.effects).at(-1), "save", "its coordinator is gone");
  const saved = (isSaved: boolean): Result => run([{ type: "saved", isSaved, text: "Saved" }], silent);
  t.match(endOf(saved(true).effects), [
    { how: "again", reason: /^SIGTERM, .* is silent for 2\.5 s\. Saved$/ },
  ]);
  t.match(endOf(saved(false).effects), [{ how: "failed" }]);
  t.same(types(run([told], run([tick], heard, 2500)).effects).at(-1), "save", "it was gone before");
  let waits = run([told], heard);
  for (let i = 0; i < 30; i++) waits = run([says({ type: "heartbeat", safe: 0 }), tick], waits, 500);
  t.notOk(types(waits.effects).includes("save"), "a coordinator that is there has its time");
  waits = run([says({ type: "heartbeat", safe: 0 }), tick], waits, 500);
  t.ok(types(waits.effects).includes("save"), "but not for ever");
});

t.test("a session that holds nothing ends as soon as it is told to", async (t) => {
  const unheard = run([told], opened);
  t.same(sent(unheard.effects), [
    { type: "leaving", signal: "SIGTERM" },
    { type: "left", generation: 0 },
  ]);
  t.match(endOf(run([{ type: "flushed" }], unheard).effects), [{ how: "told" }]);
  const joined = run([says({ type: "heartbeat", safe: 0 }), told], opened);
  t.match(endOf(run([says({ type: "heartbeat", safe: 0 }), tick], joined, 1500).effects), [{ how: "told" }]);
});
