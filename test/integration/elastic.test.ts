import { join } from "node:path";
import t from "tap";
import type { Running } from "./processes.ts";
import { bits, goneProcesses, inspect, run, start, traceOf, TRAINING_FLAGS } from "./processes.ts";

const SAME = [...TRAINING_FLAGS, "--seed", "1", "--global-batch-size", "16"];
const TRAIN = [...SAME, "--workers", "2", "--checkpoint-every", "20"];
/** Runs that are stopped once what they are for has happened, so that they are as short as the machine allows. */
const ENDLESS = ["--max-steps", "100000"];

const pidOf = async (running: Running, id: string): Promise<number> =>
  Number((await running.until(new RegExp(`"${id}" joined \\(pid (\\d+)`)))[1]);

/** Parameters, and metrics without speeds, of a run that nothing disturbs. One worker takes the least time for it. */
async function calm(dir: string, steps: number): Promise<string> {
  const runDir = join(dir, `calm-${steps}`);
  const flags = ["--workers", "1", "--max-steps", `${steps}`, "--run-dir", runDir];
  const { code, output } = await run(["train", ...SAME, ...flags]);
  if (code !== 0) throw new Error(output);
  return traceOf(runDir);
}

/** Ends a run after its next checkpoint as Ctrl-C does. @returns Its output, and its last step. */
async function stop(running: Running, runDir: string): Promise<{ output: string; globalStep: number }> {
  const until = running.output.length;
  await running.until(new RegExp(`^[^]{${until}}[^]*Checkpoint of step`));
  running.child.kill("SIGINT");
  const { code, output } = await running.finished;
  if (code !== 130) throw new Error(`Exit code ${code}:\n${output}`);
  return { output, globalStep: inspect(runDir).globalStep };
}

t.test("kill -9 of workers, one after the other: the rest goes on, and nothing changes", async (t) => {
  const runDir = join(t.testdir(), "run");
  const running = start(["train", ...TRAIN, ...ENDLESS, "--run-dir", runDir]);
  const first = await pidOf(running, "worker-1");
  await running.until(/^step [1-9]/m);
  process.kill(first, "SIGKILL");
  await running.until(/Lost worker "worker-1" \(rank 1, .*killed by SIGKILL/);
  await running.until(/Generation 3: 2 workers/);
  process.kill(await pidOf(running, "worker-0"), "SIGKILL");
  await running.until(/Generation 5: 2 workers/);
  const { output, globalStep } = await stop(running, runDir);
  t.match(output, /Generation 2: 1 workers hold the same state .* ms after the loss/);
  t.equal(traceOf(runDir), await calm(t.testdirName, globalStep));
  t.same(await goneProcesses(runDir), []);
});

t.test("all workers are killed at once: the run goes back to its newest checkpoint by itself", async (t) => {
  const runDir = join(t.testdir(), "run");
  const flags = ["--max-steps", "60", "--checkpoint-every", "10", "--run-dir", runDir];
  const running = start(["train", ...TRAIN, ...flags]);
  const pids = [await pidOf(running, "worker-0"), await pidOf(running, "worker-1")];
  await running.until(/Checkpoint of step 10/);
  for (const pid of pids) process.kill(pid, "SIGKILL");
  await running.until(/going back \d+ steps to the checkpoint of step \d0/);
  const { code, output } = await running.finished;
  t.equal(code, 0, output);
  t.equal(traceOf(runDir), await calm(t.testdirName, 60));
});

t.test("workers by hand join, stop, come back and leave, and nothing changes", async (t) => {
  const runDir = join(t.testdir(), "run");
  const flags = [...ENDLESS, "--failure-timeout", "2", "--bind", "tcp://127.0.0.1:*"];
  const coordinator = start(["coordinator", ...TRAIN, ...flags, "--run-dir", runDir]);
  const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
  const worker = (id: string): Running => start(["worker", "--coordinator", endpoint, "--worker-id", id]);
  const [a, b] = [worker("a"), worker("b")];
  await coordinator.until(/^step [1-9]/m);
  const c = worker("c");
  await coordinator.until(/Generation 2: 3 workers/);
  b.child.kill("SIGSTOP");
  await coordinator.until(/Lost worker "b" .*silent for /);
  await coordinator.until(/Generation 3: 2 workers/);
  b.child.kill("SIGCONT");
  await coordinator.until(/"b" joined .*holds step/);
  await coordinator.until(/Generation 4: 3 workers/);
  a.child.kill("SIGKILL");
  await coordinator.until(/Generation 5: 2 workers/);
  const { globalStep } = await stop(coordinator, runDir);
  t.match(b.output, /does not know this worker any more: joining again/);
  for (const left of [b, c]) t.equal((await left.finished).code, 0);
  t.equal(traceOf(runDir), await calm(t.testdirName, globalStep));
});

t.test("kill -9 of the coordinator: workers keep their state for the next one", async (t) => {
  const runDir = join(t.testdir(), "run");
  const here = ["--run-dir", runDir, "--bind"];
  const begin = [...TRAIN, ...ENDLESS, ...here, "tcp://127.0.0.1:*"];
  const coordinator = start(["coordinator", ...begin]);
  const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
  const workers = ["a", "b"].map((id) => start(["worker", "--coordinator", endpoint, "--worker-id", id]));
  await coordinator.until(/Checkpoint of step 20/);
  coordinator.child.kill("SIGKILL");
  await coordinator.finished;
  for (const worker of workers) await worker.until(/is silent for 2\.\d s. Keeping step \d+/);
  const next = start(["coordinator", "--resume", ...here, endpoint]);
  const { output, globalStep } = await stop(next, runDir);
  const held = Number(/joined .*holds step (\d+)/.exec(output)?.[1]);
  t.ok(held >= 20, `step ${held}`);
  t.match(output, new RegExp(`hold the same state .* at step ${held}`), "not that of the checkpoint");
  for (const worker of workers) t.equal((await worker.finished).code, 0);
  t.equal(bits(runDir), (await calm(t.testdirName, globalStep)).split("\n")[0]);
});

t.test("kill -9 of lockstep train: its workers save their state and end", async (t) => {
  const runDir = join(t.testdir(), "run");
  const running = start(["train", ...TRAIN, ...ENDLESS, "--run-dir", runDir]);
  const endpoint = (await running.until(/listens on (tcp:\S+)/))[1];
  await running.until(/Checkpoint of step 20/);
  running.child.kill("SIGKILL");
  await running.finished;
  t.same(await goneProcesses(endpoint), [], "no worker is left");
  const saved = inspect(runDir).globalStep;
  t.ok(saved > 20, `step ${saved}`);
  const rest = await run(["train", "--resume", "--run-dir", runDir, "--max-steps", `${saved + 3}`]);
  t.equal(rest.code, 0, rest.output);
  t.equal(bits(runDir), (await calm(t.testdirName, saved + 3)).split("\n")[0]);
});

t.test("a worker alone for --orphan-timeout saves its state and ends", async (t) => {
  const runDir = join(t.testdir(), "run");
  const flags = ["--failure-timeout", "1", "--orphan-timeout", "2", ...ENDLESS, "--run-dir", runDir];
  const coordinator = start(["coordinator", ...TRAIN, ...flags, "--bind", "tcp://127.0.0.1:*"]);
  const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
  const workers = ["a", "b"].map((id) => start(["worker", "--coordinator", endpoint, "--worker-id", id]));
  await coordinator.until(/^step [2-9]/m);
  coordinator.child.kill("SIGKILL");
  const saved: number[] = [];
  for (const worker of workers) {
    const { code, output } = await worker.finished;
    t.equal(code, 1);
    const pattern = /Lost the coordinator at .*(?:emergency checkpoint of step |Step )(\d+)/;
    saved.push(Number(pattern.exec(output)?.[1]));
  }
  t.same(saved, [inspect(runDir).globalStep, inspect(runDir).globalStep]);
});

t.test("status, scale and stop reach a run that is under way; nothing changes", async (t) => {
  const runDir = join(t.testdir(), "run");
  // Nobody counts as lost because the machine is busy.
  const patience = ["--failure-timeout", "60"];
  const running = start(["train", ...TRAIN, ...ENDLESS, ...patience, "--run-dir", runDir]);
  await running.until(/^step [1-9]/m);
  t.equal((await run(["scale", runDir, "--workers", "4"])).code, 0);
  await running.until(/: 4 workers hold/);
  const status = await run(["status", runDir]);
  t.match(
    status.output,
    /^training, generation \d+, step \d+ of 100000.*\n {2}rank 0 {2}"worker-0" .*shards 0\.\.0/,
  );
  t.equal((await run(["scale", runDir, "--workers", "1"])).code, 0);
  await running.until(/scaled to 1 workers[^]*: 1 workers hold/);
  const { members, lastFaults } = JSON.parse((await run(["status", runDir, "--json"])).output) as {
    members: object[];
    lastFaults: { text: string }[];
  };
  t.match(members, [{ workerId: "worker-0", rank: 0, shards: [0, 4], pid: Number }]);
  t.same(
    lastFaults.filter(({ text }) => !text.startsWith("No step for ")),
    [],
  );
  const tooMany = await run(["scale", runDir, "--workers", "9"]);
  t.equal(tooMany.code, 2);
  t.match(tooMany.output, /Cannot scale to 9 workers as the run takes 1 to 4/);
  t.equal((await run(["stop", runDir])).code, 0);
  t.equal((await running.finished).code, 0);
  t.match(running.output, /Asked to stop: finishing the step under way/);
  const { globalStep } = inspect(runDir);
  t.equal(traceOf(runDir), await calm(t.testdirName, globalStep));
  const over = await run(["status", runDir]);
  t.equal(over.code, 2);
  t.match(over.output, /Cannot find a coordinator that works on .*lockstep inspect/);
});

t.test("below --min-workers the run waits and says so; a worker that fails each time ends it", async (t) => {
  const runDir = join(t.testdir(), "run");
  const flags = ["--min-workers", "2", "--max-restarts", "1"];
  const running = start(["train", ...TRAIN, ...ENDLESS, ...flags, "--run-dir", runDir]);
  process.kill(await pidOf(running, "worker-1"), "SIGKILL");
  await running.until(/"worker-1" joined[^]*"worker-1" joined/);
  const again = /"worker-1" joined \(pid (\d+)[^]*"worker-1" joined \(pid (\d+)/.exec(running.output)?.[2];
  process.kill(Number(again), "SIGKILL");
  const { code, output } = await running.finished;
  t.equal(code, 1);
  t.match(output, /Too few workers are left to go on \(--min-workers 2\).*"worker-1": killed by SIGKILL/);
  t.same(await goneProcesses(runDir), []);
});
