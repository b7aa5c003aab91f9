import { join } from "node:path";
import t from "tap";
import { probeTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { skipUnlessUsable } from "../engines.ts";
import { bits, TRAINING_FLAGS, run } from "./processes.ts";

const skip = skipUnlessUsable("tensorflow", await probeTensorflow());

t.test(
  "engine tensorflow: bits do not depend on the number of workers or on the user's environment",
  { skip },
  async (t) => {
    const dir = t.testdir();
    const outcomes = new Map<string, string>();
    const train = async (name: string, flags: readonly string[], env: Readonly<Record<string, string>>) => {
      const runDir = join(dir, name);
      const result = await run(
        [
          ...["train", ...TRAINING_FLAGS, "--engine", "tensorflow", "--seed", "1", "--max-steps", "12"],
          ...[...flags, "--run-dir", runDir],
        ],
        { env: { ...process.env, ...env } },
      );
      t.equal(result.code, 0, result.output);
      t.match(result.output, /tensorflow \(TensorFlow \d/);
      outcomes.set(name, bits(runDir));
    };
    await train("one", ["--workers", "1"], {});
    await train("two", ["--workers", "2"], {});
    await train("three, uneven", ["--workers", "3"], {});
    await train("more threads asked for", ["--workers", "1"], {
      TF_NUM_INTRAOP_THREADS: "2",
      TF_ENABLE_ONEDNN_OPTS: "0",
    });
    for (const [name, value] of outcomes) t.equal(value, outcomes.get("one"), name);
    await train("bf16, one", ["--workers", "1", "--gradient-dtype", "bf16"], {});
    await train("bf16, two", ["--workers", "2", "--gradient-dtype", "bf16"], {});
    t.equal(outcomes.get("bf16, one"), outcomes.get("bf16, two"));
    t.not(outcomes.get("bf16, one"), outcomes.get("one"));
  },
);
