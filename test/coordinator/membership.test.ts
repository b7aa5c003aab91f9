import t from "tap";
import type { Effect, Input, MembershipConfig, MembershipState } from "../../coordinator/membership.ts";
import { advance, initialState } from "../../coordinator/membership.ts";
import { parseRunConfig } from "../../shared/config.ts";
import type { WorkerMessage } from "../../shared/protocol.ts";
import { PACKAGE_VERSION, PROTOCOL_VERSION } from "../../shared/version.ts";

const config: MembershipConfig = {
  run: parseRunConfig({ workers: 2, maxSteps: 10, failureTimeoutMs: 2000 }),
  startStep: 0,
  endStep: 10,
  numImages: 60_000,
  stateFrom: "seed",
  bulkPort: 2,
  endpoint: "tcp://127.0.0.1:1",
};

const from = (worker: string, message: WorkerMessage): Input => ({
  type: "message",
  from: `id-${worker}`,
  message,
});
const join = (workerId: string, change: object = {}): Input =>
  from(workerId, {
    type: "join",
    protocolVersion: PROTOCOL_VERSION,
    packageVersion: PACKAGE_VERSION,
    workerId,
    host: "h",
    pid: 7,
    runtime: "node",
    data: { endpoint: `tcp://h:${workerId.length}`, sharedFile: null },
    ...change,
  });
const ready = (worker: string, parameterHash = "aa"): Input =>
  from(worker, { type: "ready", generation: 1, parameterHash });
const step = (worker: string, globalStep: number, change: object = {}): Input =>
  from(worker, {
    type: "step",
    generation: 1,
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

/** Runs inputs 10 ms apart; returns the last state, and the effects of the last input and of all. */
function run(inputs: readonly Input[], start?: MembershipState, startMs = 0) {
  let state = start ?? initialState(config, 0);
  let effects: readonly Effect[] = [];
  const all: Effect[] = [];
  let nowMs = startMs;
  for (const input of inputs) {
    nowMs += 10;
    ({ state, effects } = advance(state, input, nowMs, config));
    all.push(...effects);
  }
  return { state, effects, all, nowMs };
}
const training = [join("a"), join("b"), ready("a"), ready("b")];
const ends = (effects: readonly Effect[]) => effects.flatMap((e) => (e.type === "end" ? [e] : []));
const sentTypes = (effects: readonly Effect[]) =>
  effects.flatMap((e) => (e.type === "send" ? [`${e.to} ${e.message.type}`] : []));

t.test("advance() ranks in worker-id order whatever the order of joining", async (t) => {
  const { state, effects } = run([join("b"), join("a")]);
  const starts = effects.flatMap((e) => (e.type === "send" && e.message.type === "start" ? [e] : []));
  t.same(
    starts.map((e) => [e.to, e.message.type === "start" && e.message.rank]),
    [
      ["id-a", 0],
      ["id-b", 1],
    ],
  );
  t.equal(state.status, "starting");
  t.equal(state.generation, 1);
});

t.test("advance() refuses other versions, taken names and late comers, with the reason", async (t) => {
  const cases: [Input[], RegExp][] = [
    [[join("a", { protocolVersion: 99 })], /protocol version must be 1: got 99/],
    [[join("a", { packageVersion: "9.9.9" })], /version of lockstep must be .*: got 9.9.9/],
    [[join("a"), join("a")], /"a" is taken/],
    [[...training, join("c")], /already trains with 2 workers/],
  ];
  for (const [inputs, reason] of cases) {
    const { effects } = run(inputs);
    const [refusal] = effects;
    t.ok(refusal.type === "send" && refusal.message.type === "refuse" && reason.test(refusal.message.reason));
  }
});

t.test("advance() begins when all are ready with the same state, and not otherwise", async (t) => {
  t.same(run([join("a"), join("b"), ready("a")]).effects, []);
  t.match(run(training).effects.at(-1), { type: "train", generation: 1 });
  const [end] = ends(run([join("a"), join("b"), ready("a", "aa"), ready("b", "bb")]).effects);
  t.match(end, { ok: false, reason: /same parameters: got "a" aa .*"b" bb/ });
});

t.test("advance() commits a step once every member has reported it", async (t) => {
  const before = run([...training, step("a", 1), step("a", 2)]);
  t.equal(before.state.globalStep, 0);
  const after = run([step("b", 1)], before.state, before.nowMs);
  t.match(after.effects, [{ type: "commit", globalStep: 1 }]);
  t.equal(after.state.globalStep, 1);
  t.same([...after.state.reports.keys()], [2]);
});

t.test("advance() stops the run when replicas differ, and says who, when and which network", async (t) => {
  const { effects } = run([...training, step("a", 1), step("b", 1, { discriminatorHash: "x" })]);
  const [end] = ends(effects);
  t.match(end, { ok: false, reason: /diverged after step 1 of generation 1: discriminator .*"a" d, "b" x/ });
  t.same(sentTypes(effects), ["id-a abort", "id-b abort"]);
});

t.test("advance() ignores messages of another generation and of unknown workers", async (t) => {
  const { state } = run([...training, step("a", 1), step("b", 1, { generation: 2 }), step("z", 1)]);
  t.equal(state.globalStep, 0);
});

t.test("advance() ends the run when a member falls silent, and names it", async (t) => {
  const { state, nowMs } = run(training);
  const alive = from("a", { type: "heartbeat", generation: 1, globalStep: 0, phase: "D0", waitingFor: null });
  const later = advance(state, alive, nowMs + 1900, config).state;
  t.same(ends(advance(later, { type: "tick" }, nowMs + 1950, config).effects), []);
  const [end] = ends(advance(later, { type: "tick" }, nowMs + 2100, config).effects);
  t.match(end, {
    ok: false,
    reason: /Lost worker "b" \(rank 1, pid 7 on h\) after step 0: silent for 2\.1 s/,
  });
});

t.test("advance() forgets a worker that falls silent before training, and waits on", async (t) => {
  const { state, nowMs } = run([join("a")]);
  const { state: next, effects } = advance(state, { type: "tick" }, nowMs + 3000, config);
  t.equal(next.members.length, 0);
  t.same(ends(effects), []);
});

t.test("advance() says for whom it waits", async (t) => {
  const gathering = run([join("a")]);
  const beat = from("a", {
    type: "heartbeat",
    generation: 0,
    globalStep: 0,
    phase: "start",
    waitingFor: null,
  });
  const kept = advance(gathering.state, beat, 2000, config).state;
  t.match(advance(kept, { type: "tick" }, 2500, config).effects, [
    { text: /Waiting for 1 of 2 workers.*npx lockstep worker/ },
  ]);
  const { state, nowMs } = run(training);
  let stuck = state;
  for (const worker of ["a", "b"]) {
    const message = {
      type: "heartbeat" as const,
      generation: 1,
      globalStep: 4,
      phase: "G",
      waitingFor: worker === "a" ? "rank 1" : null,
    };
    stuck = advance(stuck, from(worker, message), nowMs + 2000, config).state;
  }
  const { effects } = advance(stuck, { type: "tick" }, nowMs + 2100, config);
  t.match(effects, [
    {
      level: "warn",
      text: /No step for 2\.\d s since step 0: "a" at step 4 G, waiting for rank 1.*"b" at step 4 G/,
    },
  ]);
});

t.test("advance() ends the run when a local worker exits, unless it has finished", async (t) => {
  const exited: Input = { type: "exited", workerId: "b", how: "killed by SIGKILL" };
  const [end] = ends(run([...training, exited]).effects);
  t.match(end, { ok: false, reason: /Lost worker "b" .*killed by SIGKILL/ });
  const finished = run([...training, from("b", { type: "finished", generation: 1, globalStep: 10 }), exited]);
  t.same(ends(finished.all), []);
  t.match(ends(run([{ type: "exited", workerId: "b", how: "exited with code 1" }]).effects), [
    { reason: /ended before it joined/ },
  ]);
});

t.test("advance() gathers all reports of a gradient that is not finite before it ends", async (t) => {
  const report = (worker: string, own: string | null): Input =>
    from(worker, { type: "nonFinite", generation: 1, globalStep: 3, phase: "G", own });
  const first = run([...training, report("a", null)]);
  t.same(ends(first.effects), []);
  const [end] = ends(
    run([report("b", "gradient value 5 of shards 2..3 is NaN")], first.state, first.nowMs).effects,
  );
  t.match(end, { ok: false, reason: /step 3, phase G \(worker "b": gradient value 5.*NaN\).*not applied/ });
  const [timeout] = ends(advance(first.state, { type: "tick" }, first.nowMs + 1100, config).effects);
  t.match(timeout, { ok: false, reason: /their sum was not/ });
});

t.test(
  "advance() finishes: members stop at the given step, then the last state is saved, then all exit",
  async (t) => {
    const stop = run([...training, { type: "finish", globalStep: 6 }]);
    t.same(sentTypes(stop.effects), ["id-a finish", "id-b finish"]);
    t.equal(stop.state.endStep, 6);
    const done = (worker: string): Input => from(worker, { type: "finished", generation: 1, globalStep: 6 });
    const trained = run([done("a"), done("b")], stop.state, stop.nowMs);
    t.match(trained.effects, [{ type: "trained", globalStep: 6 }]);
    const { effects } = run([{ type: "saved" }], trained.state, trained.nowMs);
    t.same(sentTypes(effects), ["id-a exit", "id-b exit"]);
    t.match(ends(effects), [{ ok: true }]);
  },
);

t.test("advance() does nothing more once the run has ended", async (t) => {
  const { state } = run([...training, { type: "exited", workerId: "a", how: "x" }]);
  t.same(run([join("c"), { type: "tick" }, step("b", 1)], state, 100_000).all, []);
});
