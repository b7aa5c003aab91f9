import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { bits, TRAINING_FLAGS, metricsOf, run, start } from "./processes.ts";

const STEPS = 30;
const TRAIN = ["train", ...TRAINING_FLAGS, "--global-batch-size", "16", "--shards", "4", "--seed", "1"];

t.test(
  "the same seed gives the same bits for 1 to 4 workers, and when stopped and resumed with another number",
  async (t) => {
    const dir = t.testdir();
    const runs = new Map<string, string>();
    for (const workers of [1, 2, 3, 4]) {
      const runDir = join(dir, `w${workers}`);
      const result = await run([
        ...TRAIN,
        "--max-steps",
        `${STEPS}`,
        "--workers",
        `${workers}`,
        // Both ways that gradients go.
        ...(workers === 3 ? ["--no-shared-memory"] : []),
        "--run-dir",
        runDir,
      ]);
      t.equal(result.code, 0, result.output);
      runs.set(`${workers} workers`, bits(runDir));
    }
    for (const [before, after] of [
      [2, 4],
      [3, 1],
    ]) {
      const runDir = join(dir, `r${before}${after}`);
      const half = await run([
        ...TRAIN,
        "--max-steps",
        `${STEPS / 2}`,
        "--workers",
        `${before}`,
        "--run-dir",
        runDir,
      ]);
      t.equal(half.code, 0, half.output);
      const rest = await run([
        "train",
        "--resume",
        "--run-dir",
        runDir,
        "--max-steps",
        `${STEPS}`,
        "--workers",
        `${after}`,
      ]);
      t.equal(rest.code, 0, rest.output);
      t.match(rest.output, /Resuming from .*step-00000015/);
      runs.set(`${before} workers, then ${after}`, bits(runDir));
      t.same(
        metricsOf(runDir).map((line) => line.globalStep),
        Array.from({ length: STEPS }, (_, i) => i + 1),
        "every step has one line of metrics",
      );
    }
    const [first] = runs.values();
    t.match(first, /^30 /);
    for (const [name, value] of runs) t.equal(value, first, name);

    const other = join(dir, "other-seed");
    await run([...TRAIN, "--seed", "2", "--max-steps", "3", "--workers", "1", "--run-dir", other]);
    const same = join(dir, "same-seed");
    await run([...TRAIN, "--max-steps", "3", "--workers", "1", "--run-dir", same]);
    t.not(bits(other), bits(same), "another seed gives other bits");

    // Metrics are reduced like gradients, so they agree too.
    const strip = (runDir: string) =>
      metricsOf(runDir).map(({ imagesPerSecond: _speed, workers: _workers, ...values }) => values);
    t.same(strip(join(dir, "w1")), strip(join(dir, "w4")));
  },
);

t.test("a run that needs three of its workers trains, and goes on with three of four", async (t) => {
  const dir = t.testdir();
  // Of 4 shards on 3 workers the last holds two, the first one.
  const train = ["train", ...TRAINING_FLAGS, "--seed", "1"];
  const three = ["--workers", "3", "--min-workers", "3", "--max-steps", "3"];
  const one = ["--workers", "1", "--max-steps", "3"];
  for (const [name, flags] of Object.entries({ three, one })) {
    const result = await run([...train, ...flags, "--run-dir", join(dir, name)]);
    t.equal(result.code, 0, result.output);
  }
  t.match(bits(join(dir, "one")), /^3 /);
  t.equal(bits(join(dir, "three")), bits(join(dir, "one")));

  const steps = ["--max-steps", "60"];
  const four = [
    "--workers",
    "4",
    "--min-workers",
    "3",
    "--max-restarts",
    "0",
    "--run-dir",
    join(dir, "four"),
  ];
  const running = start([...train, ...steps, ...four]);
  const [, pid] = await running.until(/"worker-1" joined \(pid (\d+)/);
  await running.until(/^step [1-9]/m);
  process.kill(Number(pid), "SIGKILL");
  const { code, output } = await running.finished;
  t.equal(code, 0, output);
  t.match(output, /Generation 2: 3 workers hold the same state/);
  const calm = await run([...train, ...steps, "--workers", "2", "--run-dir", join(dir, "calm")]);
  t.equal(calm.code, 0, calm.output);
  t.equal(bits(join(dir, "four")), bits(join(dir, "calm")));
});

t.test("several discriminator steps and uneven shards keep the bits", async (t) => {
  const dir = t.testdir();
  const hashes = new Set<string>();
  for (const workers of [1, 3]) {
    const runDir = join(dir, `w${workers}`);
    const flags = [
      "--discriminator-steps",
      "3",
      "--shards",
      "5",
      "--global-batch-size",
      "23",
      "--sample-every",
      "4",
    ];
    const result = await run([
      ...["train", ...TRAINING_FLAGS, ...flags],
      ...["--max-steps", "9", "--checkpoint-every", "4", "--workers", `${workers}`, "--run-dir", runDir],
    ]);
    t.equal(result.code, 0, result.output);
    hashes.add(bits(runDir));
    t.same(readdirSync(join(runDir, "checkpoints")), ["step-00000004", "step-00000008", "step-00000009"]);
    const pictures = readdirSync(join(runDir, "samples"));
    t.same(pictures, ["step-00000004.png", "step-00000008.png", "step-00000009.png"]);
    hashes.add(`9 ${readFileSync(join(runDir, "samples", pictures[2])).toString("base64")}`);
  }
  t.equal(hashes.size, 2, "one set of parameters, one picture");
});

t.test(
  "Ctrl-C finishes the step and writes a checkpoint; --resume reaches the bits of a run that never stopped",
  async (t) => {
    const dir = t.testdir();
    const calm = join(dir, "calm");
    const stopped = join(dir, "stopped");
    const flags = ["--max-steps", "60", "--workers", "2"];
    await run([...TRAIN, ...flags, "--run-dir", calm]);
    const running = start([...TRAIN, ...flags, "--run-dir", stopped]);
    await running.until(/^step [1-9]/m);
    running.child.kill("SIGINT");
    const { code, output } = await running.finished;
    t.equal(code, 130, output);
    t.match(output, /SIGINT: finishing/);
    const step = Number(/Stopped at step (\d+)/.exec(output)?.[1]);
    t.ok(step > 0 && step < 60, `stopped at ${step}`);
    t.ok(existsSync(join(stopped, "checkpoints", `step-${String(step).padStart(8, "0")}`)));
    const rest = await run(["train", "--resume", "--run-dir", stopped]);
    t.equal(rest.code, 0, rest.output);
    t.equal(bits(stopped), bits(calm));
  },
);
