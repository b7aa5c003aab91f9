import { randomUUID } from "node:crypto";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import type { Test } from "tap";
import t from "tap";
import { Dealer } from "zeromq";
import { encodeHeader } from "../../shared/header.ts";
import { bits, CLI, inspect, run, Running, start, traceOf, TRAINING_FLAGS } from "./processes.ts";

const TRAIN = [...TRAINING_FLAGS, "--seed", "1", "--global-batch-size", "16", "--checkpoint-every", "50"];

/** A coordinator for workers that are started by hand. */
async function coordinatorFor(
  runDir: string,
  flags: readonly string[],
): Promise<{ readonly running: Running; readonly endpoint: string }> {
  const here = ["--bind", "tcp://127.0.0.1:*", "--run-dir", runDir, "--max-steps", "100000"];
  const running = start(["coordinator", ...TRAIN, ...here, ...flags]);
  return { running, endpoint: (await running.until(/listens on (tcp:\S+)/))[1] };
}

/** Ends a run as a user does, and compares it with one that nothing disturbs. @returns What it said. */
async function endedAsCalm(t: Test, runDir: string, running: Running): Promise<string> {
  running.child.kill("SIGINT");
  const { code, output } = await running.finished;
  t.equal(code, 130, output);
  const { globalStep } = inspect(runDir);
  t.ok(globalStep > 0);
  const calm = `${runDir}-calm`;
  await run(["train", ...TRAIN, "--workers", "1", "--max-steps", `${globalStep}`, "--run-dir", calm]);
  t.equal(traceOf(runDir), traceOf(calm));
  return output;
}

t.test("a name whose worker lives is refused, with what to do, and nobody is evicted", async (t) => {
  const runDir = join(t.testdir(), "run");
  const { running, endpoint } = await coordinatorFor(runDir, ["--workers", "2"]);
  const worker = ["worker", "--coordinator", endpoint, "--worker-id"];
  const workers = ["a", "b"].map((id) => start([...worker, id]));
  await running.until(/^step [1-9]/m);
  const second = await run([...worker, "a"]);
  t.equal(second.code, 1, second.output);
  t.match(second.output, /the name "a" belongs to a worker that lives \(pid \d+ on .*another --worker-id/);
  t.notMatch(second.output, /^ {4}at /m, "no stack");
  const output = await endedAsCalm(t, runDir, running);
  t.notMatch(output, /Lost worker/);
  for (const { finished } of workers) t.equal((await finished).code, 0);
});

t.test("a worker that is killed and started again takes its name once it is given up", async (t) => {
  const runDir = join(t.testdir(), "run");
  const { running, endpoint } = await coordinatorFor(runDir, ["--workers", "1", "--failure-timeout", "4"]);
  const worker = ["worker", "--coordinator", endpoint, "--worker-id", "a"];
  const first = start(worker);
  await running.until(/Checkpoint of step 50/);
  first.child.kill("SIGKILL");
  const second = start(worker);
  await running.until(/Lost worker "a" .*: silent for [^]*"a" joined[^]*Generation 2: 1 workers/);
  await running.until(/going back[^]*^step \d/m);
  const output = await endedAsCalm(t, runDir, running);
  t.equal(output.match(/Lost worker/g)?.length, 1, output);
  t.equal((await second.finished).code, 0);
});

t.test("scaled to 1 and to 2 at once, no process is taken for another one of its name", async (t) => {
  const runDir = join(t.testdir(), "run");
  const running = start(["train", ...TRAIN, "--workers", "2", "--max-steps", "100000", "--run-dir", runDir]);
  const endpoint = (await running.until(/listens on (tcp:\S+)/))[1];
  await running.until(/^step [1-9]/m);
  const user = new Dealer({ routingId: randomUUID(), linger: 5000 });
  user.connect(endpoint);
  for (const workers of [1, 2, 1, 2]) await user.send([encodeHeader({ type: "scale", workers })]);
  await running.until(/scaled to 1 workers[^]*"worker-1" joined[^]*: 2 workers hold/);
  user.close();
  await running.until(/: 2 workers hold[^]*: 2 workers hold[^]*^step \d+/m);
  const output = await endedAsCalm(t, runDir, running);
  t.notMatch(output, /Lost worker|has ended/, "nobody is evicted, and no end is a surprise");
});

/** Whether processes can be process 1 of namespaces of their own here: root, Linux, util-linux. */
function reasonToSkip(): string | false {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return "pid namespaces need Linux and root";
  try {
    execFileSync("unshare", ["--pid", "--fork", "--mount-proc", "true"], { stdio: "pipe" });
    return false;
  } catch {
    return "pid namespaces need util-linux and a kernel that allows them";
  }
}

t.test("two workers that are both process 1 of one host name train together", async (t) => {
  const skip = reasonToSkip();
  if (skip !== false) t.comment(`As plain processes, as ${skip}`);
  const runDir = join(t.testdir(), "run");
  const { running, endpoint } = await coordinatorFor(runDir, ["--workers", "2"]);
  const command = [CLI, "worker", "--coordinator", endpoint];
  const contained = ["--pid", "--fork", "--kill-child", "--mount-proc", process.execPath, ...command];
  const workers = [1, 2].map(() =>
    skip === false ? new Running("unshare", contained) : new Running(process.execPath, command),
  );
  await running.until(/^step [1-9]/m);
  const output = await endedAsCalm(t, runDir, running);
  t.notMatch(output, /Lost worker|Refused/);
  const names = [...output.matchAll(/^.*Worker "(\S+)" joined \(pid (\d+)/gm)];
  t.equal(new Set(names.map(([, name]) => name)).size, 2);
  if (skip === false)
    t.same(
      names.map(([, , pid]) => pid),
      ["1", "1"],
    );
  for (const { finished } of workers) t.equal((await finished).code, 0);
  t.ok(bits(runDir));
});
