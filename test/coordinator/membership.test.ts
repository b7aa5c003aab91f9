import t from "tap";
import type { Effect, Input, MembershipConfig, MembershipState } from "../../coordinator/membership/state.ts";
import { advance } from "../../coordinator/membership.ts";
import { initialState } from "../../coordinator/membership/state.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { ProtocolError } from "../../shared/errors.ts";
import type { CoordinatorMessage, Position, WorkerMessage } from "../../shared/protocol.ts";
import { UNNUMBERED } from "../../shared/sequence.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../../shared/version.ts";

const config: MembershipConfig = {
  run: parseRunConfig({ workers: 2, maxSteps: 10, failureTimeoutMs: 2000, maxRestarts: 1 }),
  term: "t",
  runId: "run",
  codeHash: "c",
  endStep: 10,
  numImages: 60_000,
  dataset: { name: "mnist", sha256: "ab" },
  folder: { checkpoints: "/run/checkpoints", identity: "i", hold: "h" },
  bulkPort: 2,
  joinCommand: "npx lockstep worker --coordinator tcp://127.0.0.1:1",
  localWorkers: [],
};

/** The number is filled in by run(), as are processes that are "". */
const from = (worker: string, message: WorkerMessage, sequence = NaN): Input => ({
  ...{ type: "message", from: `id-${worker}`, sequence, message },
});
const join = (workerId: string, change: object = {}, incarnation = workerId): Input =>
  from(incarnation, {
    type: "join",
    protocolVersion: PROTOCOL_VERSION,
    packageVersion: PACKAGE_VERSION,
    codeHash: "c",
    workerId,
    process: "",
    host: "h",
    pid: 7,
    runtime: "node",
    data: { endpoint: `tcp://h:${workerId.length}`, sharedFile: null },
    holds: null,
    ...change,
  });
const prepared = (worker: string, runId = "run"): Input => from(worker, { type: "prepared", runId });
const ready = (worker: string, generation = 1, stateHash = "aa/bb"): Input =>
  from(worker, { type: "ready", generation, stateHash });
const paused = (worker: string, generation: number, globalStep: number, phase = 0): Input =>
  from(worker, { type: "paused", generation, position: { globalStep, phase } });
const finished = (worker: string, generation: number, globalStep: number): Input =>
  from(worker, { type: "finished", generation, globalStep });
const failed = (worker: string, reason: string, byEngine = false): Input =>
  from(worker, { type: "failed", reason, byEngine });
const exited = (workerId: string, process = ""): Input => ({
  ...{ type: "exited", workerId, process, how: "killed by SIGKILL" },
});
const HEARTBEAT = { phase: "D0", waitingFor: null, waitedMs: 0, waitingRanks: [] };
const tick: Input = { type: "tick" };
const report = (globalStep: number, change: object = {}) => ({
  globalStep,
  metrics: {
    discriminatorLoss: 1,
    generatorLoss: 2,
    realProbability: 0.5,
    fakeProbability: 0.5,
    discriminatorGradientNorm: 1,
    generatorGradientNorm: 1,
  },
  timing: { computeMs: 1, allReduceMs: 1, waitMs: 1, applyMs: 1 },
  generatorHash: "g",
  discriminatorHash: "d",
  ...change,
});
const step = (worker: string, globalStep: number, change: object = {}, generation = 1): Input =>
  from(worker, { type: "step", generation, report: report(globalStep, change) });
const beat = (worker: string, phase = "D0", waitingFor: string | null = null): Input =>
  from(worker, {
    ...{ type: "heartbeat", generation: 1, globalStep: 4, phase, waitingFor },
    ...{ waitedMs: 0, waitingRanks: [] },
  });

interface Result {
  readonly state: MembershipState;
  /** Of the last input, and of all. */
  readonly effects: readonly Effect[];
  readonly all: readonly Effect[];
  readonly nowMs: number;
}

/** The newest process that has a worker's name. */
function processOf({ members, joining, local }: MembershipState, workerId: string): string {
  const known = [...local, ...members, ...joining].find((one) => one.workerId === workerId);
  return known?.process ?? `process of ${workerId}`;
}

function numbered(state: MembershipState, input: Input): Input {
  const { members, joining } = state;
  if (input.type === "exited" && input.process === "")
    return { ...input, process: processOf(state, input.workerId) };
  if (input.type !== "message" || !Number.isNaN(input.sequence)) return input;
  const sender = [...members, ...joining].find(({ incarnation }) => incarnation === input.from);
  const { message } = input;
  return {
    ...{ ...input, sequence: (sender?.sequence ?? 0) + 1 },
    message:
      message.type === "join" && message.process === ""
        ? { ...message, process: processOf(state, message.workerId) }
        : message,
  };
}

/** Runs inputs 10 ms apart, from the beginning or after another run. */
function run(inputs: readonly Input[], after?: Result, use: MembershipConfig = config): Result {
  let state = after?.state ?? initialState(use, { globalStep: 0, from: "seed" }, 0, 0);
  let effects: readonly Effect[] = [];
  const all: Effect[] = [];
  let nowMs = after?.nowMs ?? 0;
  for (const input of inputs) {
    nowMs += 10;
    ({ state, effects } = advance(state, numbered(state, input), nowMs, use));
    all.push(...effects);
  }
  return { state, effects, all, nowMs };
}

/** One input, so many milliseconds later. */
function later(after: Result, ms: number, input: Input = tick, use: MembershipConfig = config): Result {
  return run([input], { ...after, nowMs: after.nowMs + ms - 10 }, use);
}

const training = run([join("a"), join("b"), ready("a"), ready("b")]);
const withLocal = { ...config, localWorkers: ["a", "b"] };

type Start = Extract<CoordinatorMessage, { type: "start" }>;
const ends = (effects: readonly Effect[]) => effects.flatMap((e) => (e.type === "end" ? [e] : []));
const sent = (effects: readonly Effect[]) =>
  effects.flatMap((e) => (e.type === "send" ? [`${e.to} ${e.message.type}`] : []));
const logs = (effects: readonly Effect[]) => effects.flatMap((e) => (e.type === "log" ? [e.text] : []));
const starts = (effects: readonly Effect[]): readonly Start[] =>
  effects.flatMap((e) => (e.type === "send" && e.message.type === "start" ? [e.message] : []));
const commits = (effects: readonly Effect[]) =>
  effects.flatMap((e) => (e.type === "commit" ? [e.globalStep] : []));
const at = (globalStep: number, phase = 0): Position => ({ globalStep, phase });

t.test("advance() ranks in worker-id order whatever the order of joining", async (t) => {
  const { state, effects } = run([join("b"), join("a")]);
  t.same(
    effects.flatMap((e) => (e.type === "send" && e.message.type === "start" ? [[e.to, e.message.rank]] : [])),
    [
      ["id-a", 0],
      ["id-b", 1],
    ],
  );
  t.equal(state.status, "starting");
  t.equal(state.generation, 1);
});

t.test("advance() refuses other versions, other builds and too many workers, with the reason", async (t) => {
  const full = { ...config, run: { ...config.run, maxWorkers: 2 } };
  const cases: [Input[], RegExp][] = [
    [[join("a", { packageVersion: "9.9.9" })], /version of lockstep must be .*: got 9.9.9/],
    [[join("a", { codeHash: "d" })], /build of lockstep .* must be c: got d\. Remove dist/],
    [[join("a"), join("b"), join("c")], /takes at most 2 workers: see --max-workers/],
  ];
  for (const [inputs, reason] of cases) {
    const [refusal] = run(inputs, undefined, full).effects;
    t.ok(refusal.type === "send" && refusal.message.type === "refuse" && reason.test(refusal.message.reason));
  }
});

t.test("advance() begins when all are ready with the same state, and not otherwise", async (t) => {
  t.same(run([join("a"), join("b"), ready("a")]).effects, []);
  t.match(training.effects.at(-1), { type: "train", generation: 1, globalStep: 0, endStep: 10 });
  const [end] = ends(run([join("a"), join("b"), ready("a", 1, "aa"), ready("b", 1, "bb")]).effects);
  t.match(end, { ok: false, reason: /same state: got "a" aa .*"b" bb/ });
});

t.test("advance() commits a step once every member has reported it", async (t) => {
  const before = run([step("a", 1), step("a", 2)], training);
  t.equal(before.state.globalStep, 0);
  const after = run([step("b", 1)], before);
  t.match(after.effects, [{ type: "commit", globalStep: 1 }]);
  t.equal(after.state.globalStep, 1);
  t.same([...after.state.reports.keys()], [2]);
});

t.test("advance() stops the run when replicas differ, and says who, when and which network", async (t) => {
  const { effects } = run([step("a", 1), step("b", 1, { discriminatorHash: "x" })], training);
  const [end] = ends(effects);
  t.match(end, { ok: false, reason: /diverged after step 1 of generation 1: discriminator .*"a" d, "b" x/ });
  t.same(sent(effects), ["id-a abort", "id-b abort"]);
});

t.test("advance() ignores messages of another generation, and tells unknown workers", async (t) => {
  const { state, effects } = run([step("b", 1, {}, 2), step("z", 1)], training);
  t.same(effects, []);
  t.equal(state.globalStep, 0);
  t.same(sent(run([beat("z")], training).effects), ["id-z unknown"]);
});

t.test("advance() goes on without a member that is lost, from the most advanced state", async (t) => {
  const three = { ...config, run: { ...config.run, workers: 3 } };
  const all = ["a", "b", "c"];
  const before = run(
    [...all.map((id) => join(id)), ...all.map((id) => ready(id)), step("a", 1), step("c", 1)],
    undefined,
    three,
  );
  const lost = run([exited("b")], before, three);
  t.match(logs(lost.effects), [/Lost worker "b" \(rank 1, pid 7 on h\) after step 0: killed by SIGKILL/]);
  t.ok(lost.effects.some(({ type }) => type === "pause"));
  t.same(sent(lost.effects), ["id-a regroup", "id-c regroup"]);
  // a has applied the discriminator of step 1, c has not received all of it.
  const { effects, state } = run([paused("c", 2, 1, 0), paused("a", 2, 1, 1)], lost, three);
  t.same(commits(effects), [1], "what both hold is committed");
  t.match(starts(effects), [
    { generation: 2, rank: 0, worldSize: 2, position: at(1, 1), stateFrom: "own", stateTo: [1] },
    { generation: 2, rank: 1, position: at(1, 1), stateFrom: "peer", stateTo: [] },
  ]);
  t.equal(state.globalStep, 1);
  const again = run([ready("a", 2), ready("c", 2)], { ...lost, state }, three);
  t.match(again.effects.at(-1), { type: "train", generation: 2, globalStep: 1 });
  t.match(logs(again.effects), [/Generation 2: 2 workers hold the same state .* ms after the loss/]);
});

t.test("advance() loses a member that falls silent, and one while the next generation forms", async (t) => {
  const alive = later(training, 1900, beat("a"));
  t.same(sent(later(alive, 50).effects), []);
  const silent = later(alive, 200);
  t.match(logs(silent.effects), [/Lost worker "b" .*: silent for 2\.1 s/]);
  const one = run([paused("a", 2, 3)], silent);
  t.match(starts(one.effects), [{ generation: 2, rank: 0, worldSize: 1, stateFrom: "own" }]);

  const three = { ...config, run: { ...config.run, workers: 3 } };
  const all = ["a", "b", "c"];
  const both = run(
    [
      ...all.map((id) => join(id)),
      ...all.map((id) => ready(id)),
      exited("b"),
      paused("a", 2, 3),
      exited("c"),
    ],
    undefined,
    three,
  );
  t.match(starts(both.effects), [{ generation: 2, rank: 0, worldSize: 1 }]);
});

t.test(
  "advance() admits those that join while others train once they are prepared, all at once",
  async (t) => {
    const asked = run([join("c"), join("d")], training);
    t.same(sent(asked.all), ["id-c prepare", "id-d prepare"], "training goes on");
    t.same(sent(later(asked, 1000, beat("a")).effects), [], "while engines load");
    t.equal(later(run([prepared("c", "other")], asked), 250).state.status, "training");
    const joined = run([prepared("c"), prepared("d")], asked);
    t.same(sent(joined.effects), [], "training goes on");
    const admitted = later(joined, 250);
    t.same(sent(admitted.effects), ["id-a regroup", "id-b regroup"]);
    const { effects } = run([paused("a", 2, 5), paused("b", 2, 5)], admitted);
    t.match(starts(effects), [
      { rank: 0, worldSize: 4, stateFrom: "own", stateTo: [2, 3] },
      { rank: 1, stateFrom: "own", stateTo: [] },
      { rank: 2, stateFrom: "peer" },
      { rank: 3, stateFrom: "peer" },
    ]);
  },
);

t.test("advance() regroups without those that are not prepared, which enter when they are", async (t) => {
  const lost = run([join("c"), exited("b"), paused("a", 2, 2)], training);
  t.match(starts(lost.effects), [{ generation: 2, worldSize: 1, stateFrom: "own" }]);
  const entered = later(run([ready("a", 2), prepared("c")], lost), 250);
  t.same(sent(entered.effects), ["id-a regroup"]);
  const { effects } = run([paused("a", 3, 4)], entered);
  t.match(starts(effects), [{ generation: 3, worldSize: 2, stateTo: [1] }, { stateFrom: "peer" }]);
  const forming = run([join("c"), exited("b"), prepared("c"), paused("a", 2, 2)], training);
  t.match(starts(forming.effects), [{ worldSize: 2 }, { stateFrom: "peer" }], "just in time");
});

t.test("advance() keeps a member whose pulse says that it computes, but not for ever", async (t) => {
  const busy = (worker: string, forMs: number): Input => from(worker, { type: "busy", forMs }, UNNUMBERED);
  const alive = later(training, 1900, beat("a"));
  const computing = run([busy("b", 1900)], alive);
  const next = later(later(computing, 1900, beat("a")), 10);
  t.equal(next.state.members.length, 2, "longer than --failure-timeout");
  t.same(
    next.state.members.map(({ busyMs }) => busyMs),
    [0, 1900],
  );
  const answers = run([beat("b")], next);
  t.equal(answers.state.members[1].busyMs, 0, "once it answers again");
  t.equal(answers.state.members.length, 2, "its messages are numbered as before");
  const long = run([beat("a"), busy("b", 30_001)], next);
  const stuck = later(long, 10);
  t.match(logs(stuck.effects), [
    /Lost worker "b" .*: one computation .* longer than 30\.0 s \(--straggler-timeout\)/,
  ]);
  const never = { ...config, run: { ...config.run, stragglerTimeoutMs: 0 } };
  t.equal(later(long, 10, tick, never).state.members.length, 2);
  t.same(
    stuck.effects.filter(({ type }) => type === "kill"),
    [],
    "its process is of another machine",
  );
  const here = later(
    run(
      [busy("b", 30_001)],
      run([join("a"), join("b"), ready("a"), ready("b")], undefined, withLocal),
      withLocal,
    ),
    10,
    tick,
    withLocal,
  );
  t.match(here.effects.at(-1), { type: "kill", process: "t.1" });
  const restarted = run([exited("b")], here, withLocal);
  t.match(restarted.effects.at(-1), { type: "launch", workerId: "b" });
  const ended = run([exited("b"), paused("a", 2, 3), exited("a"), exited("a")], restarted, withLocal);
  t.match(ends(ended.effects), [{ ok: false, reason: /"a": killed by SIGKILL$/ }]);
  const stranger = run([busy("c", 1)], next);
  t.equal(stranger.state, next.state);
  t.same(stranger.effects, []);
});

t.test("advance() gives a process that joins again its place at once", async (t) => {
  const again = run([join("b", {}, "b2")], training);
  t.match(logs(again.effects), [/Lost worker "b" .*it has joined again/, /"b" joined/]);
  const { effects } = run([paused("a", 2, 2)], again);
  t.match(starts(effects), [{ stateTo: [1] }, { stateFrom: "peer" }]);
});

/** Another process that wants the name "b", from its first try on. */
const rival = (number = 1): Input => join("b", { process: `rival ${number}` }, `rival-${number}`);

t.test("advance() refuses a name whose worker lives, and evicts nobody", async (t) => {
  const asked = run([rival()], training);
  t.match(asked.effects, [{ type: "send", message: { type: "wait", reason: /"b" \(pid 7 on h\)/ } }]);
  t.same(run([beat("rival-1")], asked).effects, [], "it is not told to join anew");
  const early = later(later(asked, 200, beat("b")), 700, rival());
  t.match(early.effects, [{ message: { type: "wait" } }], "what b said may have been on its way");
  const other = later(asked, 300, rival(2));
  const { state, effects } = later(later(other, 700, beat("b")), 100, rival());
  t.match(effects, [
    {
      to: "id-rival-1",
      message: { type: "refuse", reason: /"b" belongs to a worker that lives.*another --worker-id/ },
    },
    { type: "refused" },
  ]);
  t.match(state.members, [{ workerId: "a" }, { workerId: "b", incarnation: "id-b" }], "both train on");
  t.equal(state.status, "training");
});

t.test("advance() takes a new process for a worker that is silent, once it is given up", async (t) => {
  let now = run([rival()], training);
  for (let i = 0; i < 2; i++) {
    now = later(later(now, 900, beat("a")), 10, rival());
    t.match(now.effects, [{ message: { type: "wait" } }]);
  }
  now = later(now, 300);
  t.match(logs(now.effects), [/Lost worker "b" .*silent/]);
  const heartbeat = run([beat("rival-1")], now);
  t.match(heartbeat.effects, [{ message: { type: "unknown" } }], "it need not wait for its next try");
  t.match(logs(run([rival()], heartbeat).effects), [/"b" joined/]);
});

t.test("advance() keeps names for the processes that it starts", async (t) => {
  const begun = run([join("a")], undefined, withLocal);
  t.match(run([rival()], begun, withLocal).effects, [
    { message: { type: "refuse", reason: /"b" belongs to a worker that this coordinator starts by itself/ } },
    { type: "refused" },
  ]);
});

t.test("advance() waits below the minimum, and says so", async (t) => {
  const use = { ...config, run: { ...config.run, minWorkers: 2 } };
  const short = run(
    [join("a"), join("b"), ready("a"), ready("b"), exited("b"), paused("a", 2, 4)],
    undefined,
    use,
  );
  t.equal(short.state.status, "gathering");
  const waiting = later(later(short, 1000, beat("a"), use), 1500, tick, use);
  t.match(logs(waiting.effects), [/Waiting for 1 of 2 workers.*npx lockstep worker --coordinator/]);
  const { effects } = run([join("c")], waiting, use);
  t.match(starts(effects), [{ generation: 2, stateTo: [1] }, { stateFrom: "peer" }]);
});

t.test("advance() goes back to what is stored when every replica is gone", async (t) => {
  const gone = run([step("a", 1), step("b", 1), exited("a"), exited("b"), join("c")], training);
  t.match(gone.effects.at(-1), { type: "restore" });
  const back = run([{ type: "restored", stored: { globalStep: 0, from: "seed" } }], gone);
  t.match(logs(back.effects), [
    /Every worker that held the state is gone: going back 1 steps to the beginning/,
  ]);
  t.match(starts(back.effects), [{ generation: 2, worldSize: 1, stateFrom: "seed", position: at(0) }]);
});

t.test("advance() takes the state and the metrics of workers that outlived a coordinator", async (t) => {
  const stored = { globalStep: 5, from: "checkpoint" } as const;
  const holds = (globalStep: number, phase: number, reports: readonly object[] = []) => ({
    holds: { runId: "run", position: at(globalStep, phase), reports },
  });
  const startAt = (recorded: number) => ({
    state: initialState(config, stored, recorded, 0),
    ...{ effects: [], all: [], nowMs: 0 },
  });
  const reports = [6, 7, 8].map((globalStep) => report(globalStep));
  const { state, effects } = run([join("a", holds(8, 1, reports))], startAt(6));
  t.match(starts(effects), [{ stateFrom: "own", position: at(8, 1) }], "one is enough to go on");
  const commits = effects.flatMap((e) => (e.type === "commit" ? [e.globalStep] : []));
  t.same(commits, [7, 8], "what is not recorded yet");
  t.equal(state.recorded, 8);
  const torn = run([join("a", holds(8, 1, reports.slice(1)))], startAt(5));
  t.match(logs(torn.effects), [/joined/, /metrics of 1 steps up to step 8 are lost/]);
  const nobody = run([join("a"), join("b")], startAt(6));
  t.match(starts(nobody.effects), [
    { stateFrom: "checkpoint", position: at(5) },
    { stateFrom: "checkpoint" },
  ]);
  t.match(nobody.effects, [{ type: "log" }, { type: "rewind", globalStep: 5 }], "what nobody has");
  const other = join("a", { holds: { runId: "another", position: at(8), reports: [] } });
  t.match(
    run([other], startAt(6)).effects,
    [
      { message: { type: "otherRun", reason: /must be run.*holds step 8 of run another/ } },
      { type: "refused", text: /Refused worker "a"/ },
    ],
    "a state of another run is no state of this one, and the worker is told to keep it",
  );
});

t.test("advance() refuses what no worker of the run can say", async (t) => {
  const holding = (globalStep: number, phase = 0, reports: object[] = []): Input =>
    join("x", { holds: { runId: "run", position: at(globalStep, phase), reports } });
  for (const [input, pattern] of [
    [holding(2 ** 40), /holds step 1099511627776, phase 0 of a run that ends after step 10.*--max-steps/],
    [holding(11), /holds step 11/],
    [holding(10, 1), /holds step 10, phase 1/],
    [holding(3, 2), /holds step 3, phase 2/],
    [holding(3, 0, [report(2 ** 48)]), /reports steps after 3/],
  ] as const) {
    const { state, effects } = run([input]);
    t.match(effects, [{ message: { reason: pattern } }, { type: "refused" }]);
    t.same(state.members, []);
  }
  t.match(run([holding(10)]).state.members, [{ workerId: "x" }], "the end is in the run");
  const far = 2 ** 48;
  for (const message of [
    { ...{ type: "heartbeat", generation: 1, globalStep: far }, ...HEARTBEAT },
    { ...{ type: "heartbeat", generation: far, globalStep: 1 }, ...HEARTBEAT },
    { ...{ type: "heartbeat", generation: 1, globalStep: 1 }, ...HEARTBEAT, waitingRanks: [4] },
    { ...{ type: "heartbeat", generation: 1, globalStep: 1 }, ...HEARTBEAT, waitingRanks: [1, 1] },
    { type: "paused", generation: 2, position: at(far) },
    { type: "paused", generation: far, position: null },
    { type: "ready", generation: far, stateHash: "x" },
    { type: "step", generation: 1, report: report(0) },
    { type: "step", generation: 1, report: report(11) },
    { type: "step", generation: 0, report: report(far) },
    { type: "finished", generation: 1, globalStep: far },
    { type: "finished", generation: 1, globalStep: 9 },
    { type: "nonFinite", generation: 1, globalStep: far, phase: "D0", isApplied: false, own: null },
    { type: "left", generation: far },
  ] satisfies WorkerMessage[]) {
    t.throws(() => run([from("a", message)], training), ProtocolError, JSON.stringify(message));
  }
  const long = { ...config, endStep: 1e9 };
  const ahead = run([join("a"), join("b"), ready("a"), ready("b")], undefined, long);
  t.throws(() => run([step("a", 65_537)], ahead, long), /step 65537 where all have reported 0/);
  t.equal(run([step("a", 65_536)], ahead, long).state.reports.size, 1);
});

t.test("advance() takes what belongs to a generation from its members alone", async (t) => {
  const coming = run([join("x")], training);
  const nonFinite = {
    type: "nonFinite",
    generation: 1,
    globalStep: 1,
    phase: "G",
    isApplied: false,
    own: null,
  } as const;
  const { state, effects } = run(
    [step("x", 1, { generatorHash: "other" }), step("a", 1), step("b", 1), from("x", nonFinite)],
    coming,
  );
  t.same(effects, []);
  t.equal(state.nonFiniteSinceMs, null);
  t.equal(state.globalStep, 1, "both members have reported it");
  const again = run([from("x", { type: "paused", generation: 2, position: at(9) })], coming);
  t.match(again.state.joining, [{ workerId: "x", paused: null }]);
});

t.test("advance() goes on from a position that is far ahead of what is recorded", async (t) => {
  const long = { ...config, endStep: 2 ** 48 };
  const held = join("a", { holds: { runId: "run", position: at(2 ** 48), reports: [] } });
  const { all } = run([held], undefined, long);
  t.match(logs(all).at(-1), /metrics of 281474976710656 steps up to step 281474976710656 are lost/);
});

t.test("advance() prefers a checkpoint to a worker that is far behind it", async (t) => {
  const stored = { globalStep: 5, from: "checkpoint" } as const;
  const start = { state: initialState(config, stored, 5, 0), effects: [], all: [], nowMs: 0 };
  const behind = join("a", { holds: { runId: "run", position: at(3), reports: [] } });
  const asked = run([behind], start);
  t.match(asked.effects.at(-1), { type: "restore" });
  const { effects } = run([{ type: "restored", stored }], asked);
  t.match(starts(effects), [{ stateFrom: "checkpoint", position: at(5) }]);
  const lost = run([{ type: "restored", stored: { globalStep: 0, from: "seed" } }], asked);
  t.match(starts(lost.effects), [{ stateFrom: "own", position: at(3) }], "where the checkpoint is gone");
});

t.test("advance() starts local workers again, with growing delays, and not for ever", async (t) => {
  const first = run([join("a"), join("b"), ready("a"), ready("b"), exited("b")], undefined, withLocal);
  t.match(first.effects.at(-1), { type: "launch", workerId: "b", delayMs: 100 });
  const second = run([exited("b")], first, withLocal);
  t.match(logs(second.effects), [
    /process of worker "b" has ended/,
    /"b" is not started again.*--max-restarts 1/,
  ]);
  t.same(ends(second.effects), [], "one worker is left");
  const third = run([failed("a", "no memory"), exited("a")], second, withLocal);
  t.match(third.effects.at(-1), { type: "launch", workerId: "a" });
  const [end] = ends(run([exited("a")], third, withLocal).effects);
  t.match(end, {
    ok: false,
    reason: /Too few workers are left.*"b": killed.*"a": killed by SIGKILL: no memory/,
  });
});

t.test(
  "advance() does not start a worker a third time whose engine fails twice in the same way",
  async (t) => {
    const use = { ...withLocal, run: { ...config.run, maxRestarts: 5 } };
    const fault = "At step 3: engine wasm failed in phase D0: no room";
    let numProcesses = 0;
    const again = (worker: string, reason: string, byEngine: boolean): readonly Input[] => {
      const incarnation = `${worker}${(numProcesses += 1)}`;
      return [join(worker, {}, incarnation), failed(incarnation, reason, byEngine), exited(worker)];
    };
    const begun = run([join("a"), join("b"), ready("a"), ready("b")], undefined, use);
    const once = run([failed("b", fault, true), exited("b")], begun, use);
    t.match(once.effects.at(-1), { type: "launch", workerId: "b" });
    const twice = run(again("b", fault, true), once, use);
    t.match(logs(twice.effects), [
      /"b" has ended/,
      /"b" is not started again, as its engine .* please report/,
    ]);
    t.same(ends(twice.all), [], "one worker is left");
    const both = run([failed("a", fault, true), exited("a"), ...again("a", fault, true)], twice, use);
    t.match(ends(both.effects), [
      { ok: false, reason: /Too few.*"a": .*step 3.*phase D0: no room.*please report/ },
    ]);

    const elsewhere = run(again("b", fault.replace("3", "4"), true), once, use);
    t.match(elsewhere.effects.at(-1), { type: "launch", workerId: "b" }, "it came further");
    const circumstances = run(again("b", fault, false), run(again("b", fault, false), begun, use), use);
    t.match(circumstances.effects.at(-1), { type: "launch", workerId: "b" }, "what may be mended meanwhile");
  },
);

t.test("advance() counts a member as lost for which the others wait too long", async (t) => {
  const waits = (worker: string, waitedMs: number, waitingRanks: number[]): Input =>
    from(worker, {
      ...{ type: "heartbeat", generation: 1, globalStep: 4, phase: "D0", waitingFor: "segments" },
      ...{ waitedMs, waitingRanks },
    });
  const patient = run([waits("a", 29_000, [1]), waits("b", 0, []), tick], training);
  t.same(sent(patient.effects), []);
  const late = run([waits("a", 31_000, [1]), waits("b", 0, []), tick], training);
  t.match(logs(late.effects), [
    /Lost worker "b" .*wait for it for longer than 30.0 s \(--straggler-timeout\)/,
  ]);
  const both = run([waits("a", 31_000, [1]), waits("b", 31_000, [0]), tick], training);
  t.match(logs(both.effects), [/Lost worker "b"/], "of two that wait for each other, the last");
  const never = { ...config, run: { ...config.run, stragglerTimeoutMs: 0 } };
  t.same(run([waits("a", 99_000, [1]), tick], training, never).effects, []);
});

t.test("advance() scales: starts local workers, lets the last ones go", async (t) => {
  const begun = run([join("worker-0"), join("worker-1"), ready("worker-0"), ready("worker-1")], undefined, {
    ...config,
    localWorkers: ["worker-0", "worker-1"],
  });
  const use = { ...config, localWorkers: ["worker-0", "worker-1"] };
  const up = run([{ type: "scale", workers: 4 }], begun, use);
  t.match(up.effects, [
    { type: "launch", workerId: "worker-2", process: "t.2", delayMs: 0 },
    { type: "launch", workerId: "worker-3", process: "t.3" },
  ]);
  const back = run([{ type: "scale", workers: 2 }], up, use);
  t.match(
    back.effects,
    [{ type: "kill", process: "t.2" }, { type: "kill", process: "t.3" }, { type: "log" }],
    "who has not joined yet is not waited for",
  );
  const early = run([join("worker-3", { process: "t.3" }, "3")], back, use);
  t.same(sent(early.effects), ["id-3 exit"], "nor let in");
  const down = run([{ type: "scale", workers: 1 }], begun, use);
  t.same(sent(down.effects), ["id-worker-1 exit", "id-worker-0 regroup"]);
  const gone = run([exited("worker-1"), paused("worker-0", 2, 3)], down, use);
  t.notOk(
    gone.all.some(({ type }) => type === "launch"),
    "it is not started again",
  );
  t.match(starts(gone.effects), [{ worldSize: 1, stateFrom: "own" }]);
  t.same(run([{ type: "scale", workers: 3 }], training).effects, [], "by hand");
});

t.test("advance() takes no end of a process for that of the next one of its name", async (t) => {
  const use = { ...config, localWorkers: ["worker-0", "worker-1"] };
  const begun = run(
    [join("worker-0"), join("worker-1"), ready("worker-0"), ready("worker-1")],
    undefined,
    use,
  );
  const again = run(
    [
      ...[{ type: "scale", workers: 1 } as const, { type: "scale", workers: 2 } as const],
      exited("worker-1", "t.1"),
    ],
    begun,
    use,
  );
  const launches = again.all.filter(({ type }) => type === "launch");
  t.match(launches, [{ workerId: "worker-1", process: "t.2", delayMs: 0 }]);
  const { state } = run([join("worker-1", {}, "new"), exited("worker-1", "t.1")], again, use);
  t.match(
    [...state.members, ...state.joining],
    [{ workerId: "worker-0" }, { workerId: "worker-1", process: "t.2" }],
  );
});

t.test("advance() scales before the run begins: it waits for as many as it is told", async (t) => {
  const one = run([join("a")]);
  t.match(starts(run([{ type: "scale", workers: 1 }], one).effects), [{ worldSize: 1 }]);
  const three = run([{ type: "scale", workers: 3 }, join("b")], one);
  t.same(starts(three.effects), []);
  t.match(starts(run([join("c")], three).effects), [{ worldSize: 3 }, { worldSize: 3 }, { worldSize: 3 }]);
});

t.test("advance() says for whom it waits", async (t) => {
  const gathering = later(run([join("a")]), 1500, beat("a"));
  t.match(logs(later(gathering, 600).effects), [/Waiting for 1 of 2 workers.*npx lockstep worker/]);
  const said: string[] = [];
  for (let now = run([join("a")]), i = 0; i < 100; i++) {
    now = later(later(now, 990, beat("a")), 10);
    said.push(...logs(now.effects).map((text) => /for (\d+)\.\d s/.exec(text)?.[1] ?? text));
  }
  t.same(
    said,
    ["2", "4", "8", "16", "32", "62", "92"],
    "more seldom as time goes by, and for how long in all",
  );
  let slow = training;
  const heard = (ms: number): void => {
    for (; ms > 0; ms -= 1000) slow = later(later(slow, 500, beat("a")), 500, beat("b"));
  };
  for (let i = 1; i <= 3; i++) {
    heard(10_000);
    slow = run([step("a", i), step("b", i)], slow);
  }
  heard(19_000);
  t.same(logs(later(slow, 10).effects), [], "steps that take long are no news");
  heard(2000);
  t.match(logs(later(slow, 10).effects), [/No step for 2\d\.\d s since step 3/], "twice as long is");
  const beats = run([beat("a", "G", "rank 1"), beat("b", "G")], { ...training, nowMs: 2000 });
  t.match(logs(later(beats, 100).effects), [
    /No step for 2\.\d s since step 0: "a" at step 4 G, waiting for rank 1.*"b" at step 4 G/,
  ]);
});

t.test("advance() gathers all reports of a gradient that is not finite before it ends", async (t) => {
  const report = (worker: string, own: string | null): Input =>
    from(worker, { type: "nonFinite", generation: 1, globalStep: 3, phase: "G", isApplied: false, own });
  const first = run([report("a", null)], training);
  t.same(ends(first.effects), []);
  const [end] = ends(run([report("b", "gradient value 5 of shards 2..3 is NaN")], first).effects);
  t.match(end, { ok: false, reason: /step 3, phase G \(worker "b": gradient value 5.*NaN\).*not applied/ });
  t.match(ends(later(first, 1100).effects), [{ ok: false, reason: /their sum was not/ }]);
  const applied = { generation: 1, globalStep: 3, phase: "G", isApplied: true, own: null };
  const both = ["a", "b"].map((worker) => from(worker, { type: "nonFinite", ...applied }));
  t.match(ends(run(both, training).effects), [
    {
      ok: false,
      reason: /moment .* not finite after the update of step 3, phase G\. That state is not saved/,
    },
  ]);
});

t.test("advance() finishes: the step under way is ended, its state saved, then all exit", async (t) => {
  const stop = run([{ type: "finish" }], training);
  t.same(sent(stop.effects), ["id-a regroup", "id-b regroup"]);
  const { effects, ...rest } = run([paused("a", 2, 6, 1), paused("b", 2, 6, 0)], stop);
  t.match(starts(effects), [{ endStep: 7 }, { endStep: 7, stateFrom: "peer" }]);
  const done = run([ready("a", 2), ready("b", 2), finished("a", 2, 7), finished("b", 2, 7)], {
    effects,
    ...rest,
  });
  t.match(done.effects, [{ type: "trained", globalStep: 7 }]);
  const saved = run([{ type: "saved" }], done);
  t.same(sent(saved.effects), ["id-a exit", "id-b exit"]);
  t.match(ends(saved.effects), [{ ok: true }]);
});

t.test("advance() lets another worker save when the first is lost at the end", async (t) => {
  const done = run([finished("a", 1, 10), finished("b", 1, 10)], training);
  t.same(sent(run([exited("b")], done).effects), [], "only the first saves");
  const lost = run([exited("a"), paused("b", 2, 10)], done);
  t.match(starts(lost.effects), [{ rank: 0, worldSize: 1, position: at(10), stateFrom: "own" }]);
  t.match(run([ready("b", 2), finished("b", 2, 10)], lost).effects, [{ type: "trained", globalStep: 10 }]);
});

t.test("advance() does nothing more once the run has ended", async (t) => {
  const ended = run([step("a", 1), step("b", 1, { generatorHash: "x" })], training);
  t.same(run([join("c"), tick, step("b", 1)], { ...ended, nowMs: 100_000 }).all, []);
});

const leaving = (worker: string, signal = "SIGTERM"): Input => from(worker, { type: "leaving", signal });

t.test("advance() lets a worker go that is told to leave, and goes on at once without it", async (t) => {
  const told = run([leaving("a"), leaving("a")], training);
  t.same(sent(told.all), [], "others may be told in a moment");
  const left = later(told, 250);
  t.same(sent(left.effects), ["id-a exit", "id-b regroup"]);
  t.match(left.effects, [{ message: { type: "exit", again: true } }]);
  t.match(logs(left.effects), ['"a" (SIGTERM): told to leave, let go after step 0']);
  const on = run([paused("b", 2, 3, 1)], left);
  t.match(starts(on.effects), [{ generation: 2, worldSize: 1, stateFrom: "own", position: at(3, 1) }]);
  t.equal(on.state.lostMs, null, "nobody is lost");
  t.same(run([leaving("a"), from("a", { type: "left", generation: 1 })], on).effects, []);
});

t.test("advance() ends a run from which too many are told to leave, to be started again", async (t) => {
  const two = { ...config, run: { ...config.run, minWorkers: 2 } };
  for (const [use, told] of [
    [config, [leaving("a"), leaving("b", "SIGUSR1")]],
    [two, [leaving("b")]],
  ] as const) {
    const asked = later(run(told, training, use), 250, tick, use);
    t.same(sent(asked.effects), ["id-a regroup", "id-b regroup"], "the step under way is ended by all");
    const last = run([paused("a", 2, 6, 1), paused("b", 2, 6)], asked, use);
    t.match(starts(last.effects), [{ endStep: 7 }, { endStep: 7 }]);
    const ready2 = [ready("a", 2), ready("b", 2), finished("a", 2, 7), finished("b", 2, 7)];
    const saved = run([...ready2, { type: "saved" }], last, use);
    t.match(saved.effects, [
      ...["a", "b"].map((id) => ({ to: `id-${id}`, message: { type: "exit", again: true } })),
      { type: "end", ok: true, again: true, reason: "Stopped at step 6 of 10" },
    ]);
  }
});

t.test("advance() lets those take the state that are about to enter, before it lets others go", async (t) => {
  const entering = run([join("c"), prepared("c"), leaving("a"), leaving("b")], training);
  const entered = later(entering, 250);
  t.same(sent(entered.effects), ["id-a regroup", "id-b regroup"], "not before c has the state");
  const all = run([paused("a", 2, 3), paused("b", 2, 3)], entered);
  t.match(starts(all.effects), [{ worldSize: 3 }, { worldSize: 3 }, { worldSize: 3, stateFrom: "peer" }]);
  const trains = run([ready("a", 2), ready("b", 2), ready("c", 2)], all);
  t.same(sent(later(trains, 250).effects), ["id-a exit", "id-b exit", "id-c regroup"]);
});

t.test("advance() lets a worker go at once that holds nothing, or is about to exit", async (t) => {
  t.same(sent(run([join("a"), leaving("a")]).effects), ["id-a exit"]);
  t.same(sent(run([join("c"), leaving("c")], training).effects), ["id-c exit"]);
  const begun = run([join("a"), join("b")]);
  t.same(sent(run([from("a", { type: "left", generation: 0 })], begun).effects), [
    "id-a exit",
    "id-b regroup",
  ]);
});

t.test("advance() that stops goes back to nothing and waits for nobody", async (t) => {
  const stop = run([{ type: "finish" }], training);
  const local = run([join("a"), join("b"), ready("a"), ready("b")], undefined, withLocal);
  const without = run([{ type: "finish" }, exited("a"), exited("b")], local, withLocal);
  t.match(ends(without.all), [{ ok: true, again: false, reason: "Stopped at step 0 of 10" }]);
  t.same(
    without.all.filter(({ type }) => type === "launch" || type === "restore" || type === "rewind"),
    [],
  );
  t.match(ends(later(stop, 3000).effects), [{ reason: "Stopped at step 0 of 10" }], "nor for the silent");
  const late = run([join("c")], stop);
  t.match(late.effects, [{ to: "id-c", message: { type: "exit", again: false } }], "nobody enters any more");
  // A coordinator that is started again, and stopped before all that hold the state of the run are back.
  const holds = { runId: "run", position: at(5), reports: [] };
  const three = { ...config, run: { ...config.run, minWorkers: 3 } };
  const alone = run([join("a", { holds }), { type: "finish" }], undefined, three);
  t.match(
    starts(alone.effects),
    [{ endStep: 5, position: at(5), stateFrom: "own" }],
    "what it holds is saved",
  );
});
