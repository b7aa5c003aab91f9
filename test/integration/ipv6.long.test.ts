import { networkInterfaces } from "node:os";
import { join } from "node:path";
import t from "tap";
import { bits, run, start, TRAINING_FLAGS } from "./processes.ts";

const hasIPv6 = Object.values(networkInterfaces())
  .flat()
  .some((one) => one?.address === "::1");
const skip = hasIPv6 ? false : "this machine has no IPv6";

const TRAIN = [...TRAINING_FLAGS, "--seed", "1", "--workers", "2", "--global-batch-size", "16"];
const FLAGS = [...TRAIN, "--max-steps", "10", "--no-shared-memory"];

t.test("a run over IPv6, started in every way, has the bits of one over IPv4", { skip }, async (t) => {
  const dir = t.testdir();
  const [four, six, byHand] = ["four", "six", "by-hand"].map((name) => join(dir, name));
  t.equal((await run(["train", ...FLAGS, "--run-dir", four])).code, 0);

  const local = await run(["train", ...FLAGS, "--bind", "tcp://[::1]:*", "--run-dir", six]);
  t.equal(local.code, 0, local.output);
  t.match(local.output, /listens on tcp:\/\/\[::1\]:\d+/);
  t.match(local.output, /0 peers through shared memory, 1 by tcp/);
  t.equal(bits(six), bits(four));

  const begin = [...TRAIN, "--max-steps", "100000", "--no-shared-memory", "--run-dir", byHand];
  const coordinator = start(["coordinator", ...begin, "--bind", "tcp://[::1]:*"]);
  const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
  const worker = ["worker", "--coordinator", endpoint];
  const workers = [start(worker), start([...worker, "--data-host", "::1"])];
  await coordinator.until(/^step [1-9]/m);
  const status = await run(["status", endpoint]);
  t.equal(status.code, 0, status.output);
  t.match(status.output, /^training, .*\n {2}rank 0 .*\n {2}rank 1 /);
  t.equal((await run(["stop", byHand])).code, 0, "by the address in its folder");
  t.equal((await coordinator.finished).code, 0);
  for (const { finished } of workers) t.equal((await finished).code, 0);
});

t.test(
  "who listens on all addresses is reached by local workers, over IPv6 and IPv4",
  { skip },
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const refused = await run(["train", ...FLAGS, "--bind", "tcp://[::]:*", "--run-dir", runDir]);
    t.equal(refused.code, 2);
    t.match(refused.output, /Cannot listen on \[::\] \(--bind\).*lockstep keygen/);
    const flags = ["--bind", "tcp://[::]:*", "--insecure", "--max-steps", "100000", "--run-dir", runDir];
    const running = start(["train", ...TRAIN, ...flags]);
    const port = (await running.until(/listens on tcp:\/\/\[::\]:(\d+)/))[1];
    await running.until(/^step [1-9]/m);
    for (const address of [runDir, `tcp://127.0.0.1:${port}`, `tcp://[::1]:${port}`]) {
      const { code, output } = await run(["status", address]);
      t.equal(code, 0, output);
    }
    t.equal((await run(["stop", runDir])).code, 0);
    t.equal((await running.finished).code, 0);
  },
);
