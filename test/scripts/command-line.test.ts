import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { resolveConfig } from "../../scripts/commands/options.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { run } from "../integration/processes.ts";

t.test("unknown flags and commands are refused with a suggestion", async (t) => {
  const cases: [string[], RegExp][] = [
    [["train", "--sharsd", "4"], /Unknown argument sharsd: did you mean --shards\?/],
    [["train", "--globalBatchSiz", "4"], /did you mean --global-batch-size\?/],
    [["trian"], /Did you mean train\?/],
    [[], /Cannot run without a command/],
    [["train", "--shards", "many"], /--shards: must be a number/],
    [["train", "--engine", "abacus"], /abacus/],
    [["train", "--local-batch-size", "4", "--global-batch-size", "8"], /mutually exclusive/],
    [["train", "--bind", "127.0.0.1"], /must look like tcp:\/\/host:port/],
    [["worker", "--coordinator", "nowhere"], /must look like tcp:\/\/host:port/],
    [["worker"], /coordinator/],
    [["inspect", "no/such/run"], /Cannot find a run or a checkpoint in no\/such\/run/],
    [["train", "--config", "no-such.yaml"], /no-such\.yaml/],
    [["train", "--resume", "--run-dir", "no/such/run"], /Cannot find a run in no\/such\/run/],
    [["train", "--dataset", "mnist", "--data-dir", "no/such/dir"], /no\/such\/dir/],
  ];
  for (const [args, message] of cases) {
    const { code, output } = await run(args);
    t.match(output, message, args.join(" "));
    t.ok(code === 1 || code === 2, `exit code ${code}`);
    t.notMatch(output, /\n\s+at /, "no stack");
  }
});

t.test("--config lies beneath the flags, and its unknown keys are refused", async (t) => {
  const dir = t.testdir();
  const file = join(dir, "run.yaml");
  writeFileSync(file, "learningRate: -3\nglobal-batch-size: 32\n");
  const low = await run(["train", "--config", file]);
  t.match(low.output, /--learning-rate: .*: got -3/);
  const over = await run(["train", "--config", file, "--learning-rate", "-4"]);
  t.match(over.output, /--learning-rate: .*: got -4/);
  writeFileSync(file, "learninRate: 1\n");
  const unknown = await run(["train", "--config", file]);
  t.match(unknown.output, /Unknown argument.*learnin-?[rR]ate: did you mean --learning-rate/);
  writeFileSync(file, "- 1\n");
  t.match((await run(["train", "--config", file])).output, /must be a map of flags/);
});

t.test("completion prints a script", async (t) => {
  const { code, output } = await run(["completion"]);
  t.equal(code, 0);
  t.match(output, /complete .*lockstep/);
});

t.test("resolveConfig() puts flags over the stored run over defaults", async (t) => {
  t.match(resolveConfig({ workers: 3, localBatchSize: 10 }, null), { globalBatchSize: 30, shards: 4 });
  t.match(resolveConfig({ workers: 6 }, null), { shards: 8 });
  t.ok(resolveConfig({}, null).workers >= 1);
  t.equal(resolveConfig({ shards: 1 }, null).workers, 1);
  t.equal(resolveConfig({ failureTimeout: 2.5 }, null).failureTimeoutMs, 2500);
  const stored = parseRunConfig({ workers: 4, seed: 9, maxSteps: 100 });
  t.match(resolveConfig({ workers: 2 }, stored), { workers: 2, seed: 9, maxSteps: 100 });
  t.match(resolveConfig({ epochs: 2 }, stored), { epochs: 2, maxSteps: null });
});
