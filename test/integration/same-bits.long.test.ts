import { existsSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { OBJECTIVE_NAMES } from "../../shared/nn/objectives.ts";
import { bits, run, TRAINING_FLAGS } from "./processes.ts";

const TRAIN = ["train", ...TRAINING_FLAGS, "--global-batch-size", "16", "--shards", "4", "--seed", "1"];

t.test("every objective trains, with the same bits for 1 and 2 workers", async (t) => {
  const dir = t.testdir();
  const seen = new Set<string>();
  for (const objective of OBJECTIVE_NAMES) {
    const outcomes: string[] = [];
    for (const workers of ["1", "2"]) {
      const runDir = join(dir, `${objective}-${workers}`);
      const flags = ["--objective", objective, "--max-steps", "2", "--global-batch-size", "10"];
      const result = await run([...TRAIN, ...flags, "--workers", workers, "--run-dir", runDir]);
      t.equal(result.code, 0, result.output);
      outcomes.push(bits(runDir));
    }
    t.equal(outcomes[1], outcomes[0], objective);
    seen.add(outcomes[0]);
  }
  t.equal(seen.size, OBJECTIVE_NAMES.length, "another objective gives other bits");
});

t.test(
  "bits do not depend on the number of workers or the transport, for every kind of arithmetic",
  async (t) => {
    const dir = t.testdir();
    const seen = new Set<string>();
    for (const arithmetic of [[], ["--deterministic-kernels"], ["--gradient-dtype", "bf16"]]) {
      const outcomes: string[] = [];
      for (const cluster of [
        ["--workers", "1"],
        ["--workers", "3"],
        ["--workers", "3", "--no-shared-memory"],
      ]) {
        const runDir = join(dir, [...arithmetic, ...cluster].join("_"));
        const result = await run([
          ...TRAIN,
          "--max-steps",
          "4",
          ...arithmetic,
          ...cluster,
          "--run-dir",
          runDir,
        ]);
        t.equal(result.code, 0, result.output);
        const shared = /with 2 peers through shared memory/.test(result.output);
        t.equal(shared, cluster.join(" ") === "--workers 3" && existsSync("/dev/shm"), cluster.join(" "));
        outcomes.push(bits(runDir));
      }
      t.equal(new Set(outcomes).size, 1, arithmetic.join(" "));
      seen.add(outcomes[0]);
    }
    t.equal(seen.size, 3, "another arithmetic gives other bits");
  },
);
