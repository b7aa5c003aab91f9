import { join } from "node:path";
import t from "tap";
import "../worker/software-gpu.ts";
import { probeWebgpu } from "../../worker/engine/webgpu-device.ts";
import { skipUnlessUsable } from "../engines.ts";
import { bits, TRAINING_FLAGS, run } from "./processes.ts";

// A software driver takes seconds for a step.
t.setTimeout(800_000);

const skip = skipUnlessUsable("webgpu", await probeWebgpu());

t.test("engine webgpu gives the same bits for one and two workers", { skip }, async (t) => {
  const dir = t.testdir();
  const outcomes: string[] = [];
  for (const workers of [1, 2]) {
    const runDir = join(dir, `w${workers}`);
    const batch = ["--global-batch-size", "8", "--shards", "2"];
    const result = await run([
      ...["train", ...TRAINING_FLAGS, ...batch, "--engine", "webgpu", "--max-steps", "20"],
      ...["--workers", `${workers}`, "--run-dir", runDir],
    ]);
    t.equal(result.code, 0, result.output);
    t.match(result.output, /Rank 0 of \d: webgpu on /);
    outcomes.push(bits(runDir));
  }
  t.match(outcomes[0], /^20 /);
  t.equal(outcomes[1], outcomes[0]);
});
