import { join } from "node:path";
import t from "tap";
import { run, start, TRAINING_FLAGS } from "./processes.ts";

/** Batches for the slowest engine, from one whose phase takes seconds on a usual machine to one for any. */
const GROWING_BATCHES = ["512", "4096", "32768"];

t.test("a computation that is longer than --failure-timeout is not the end of a worker", async (t) => {
  const dir = t.testdir();
  const limits = ["--failure-timeout", "3", "--straggler-timeout", "600", "--max-steps", "1"];
  const cluster = ["--engine", "cpu", "--workers", "2", "--runtime", "mixed"];
  // How fast this machine is, the coordinator says: the time for which it sees a worker compute.
  const isLong = /2 workers hold the same state[^]*No step for .* computing for ([3-9]|\d\d+)\.\d s/;
  for (const batch of GROWING_BATCHES) {
    const runDir = join(dir, batch);
    const size = ["--global-batch-size", batch, "--run-dir", runDir];
    const training = start(["train", ...TRAINING_FLAGS, ...cluster, ...limits, ...size]);
    const wasLong = await Promise.race([
      training.until(isLong).then(
        () => true,
        () => false,
      ),
      training.finished.then(() => false),
    ]);
    // A run that is over is told of by no coordinator.
    if (wasLong) t.match((await run(["status", runDir])).output, /"worker-\d" .*, computing for \d/);
    const { code, output } = await training.finished;
    t.equal(code, 0, output);
    // Before that, on a machine that is very busy, a worker that starts may be silent in earnest.
    const trained = output.slice(output.lastIndexOf("2 workers hold the same state"));
    t.notMatch(trained, /Lost worker|is silent for/);
    if (wasLong) return;
  }
  t.fail("no computation took longer than --failure-timeout");
});

t.test(
  "a worker that computes for longer than --straggler-timeout is killed and started again, but not for ever",
  async (t) => {
    const dir = t.testdir();
    const limits = ["--failure-timeout", "10", "--straggler-timeout", "5", "--max-restarts", "1"];
    for (const batch of GROWING_BATCHES) {
      const size = ["--global-batch-size", batch, "--max-steps", "2", "--run-dir", join(dir, batch)];
      const { code, output } = await run([
        ...["train", ...TRAINING_FLAGS, "--engine", "cpu", "--workers", "1", ...limits, ...size],
      ]);
      // This machine is too fast for the batch.
      if (code === 0) continue;
      t.equal(code, 1, output);
      t.equal(
        output.match(
          /Lost worker "worker-0" .*: one computation of it takes longer than 5\.0 s \(--straggler-timeout\)/g,
        )?.length,
        2,
      );
      t.equal(output.match(/Worker "worker-0" joined/g)?.length, 2);
      t.match(
        output,
        /\(--max-restarts 1\): "worker-0": killed by SIGKILL: one computation of it takes longer/,
      );
      return;
    }
    t.fail("no computation took longer than --straggler-timeout");
  },
);
