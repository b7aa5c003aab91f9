import { mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { encodeIdx } from "../../coordinator/dataset/idx.ts";
import { bits, TRAINING_FLAGS, goneProcesses, inspect, run, start } from "./processes.ts";

const SAME = ["train", ...TRAINING_FLAGS, "--seed", "1", "--global-batch-size", "16"];
const TRAIN = [...SAME, "--workers", "2", "--checkpoint-every", "5"];
const ENDLESS = ["--max-steps", "100000"];

t.test("a second Ctrl-C stops at once and leaves nobody behind", async (t) => {
  const runDir = join(t.testdir(), "run");
  const running = start([...TRAIN, ...ENDLESS, "--run-dir", runDir]);
  const endpoint = (await running.until(/listens on (tcp:\S+)/))[1];
  await running.until(/^step [1-9]/m);
  // Workers that do not answer, so that only the second signal can end the run.
  for (const id of ["worker-0", "worker-1"]) {
    process.kill(Number(new RegExp(`"${id}" joined \\(pid (\\d+)`).exec(running.output)?.[1]), "SIGSTOP");
  }
  running.child.kill("SIGINT");
  await running.until(/SIGINT: finishing/);
  // One that comes at once is the same, which npm passes on.
  await sleep(600);
  running.child.kill("SIGINT");
  t.equal((await running.finished).code, 130);
  t.same(await goneProcesses(endpoint), []);
});

t.test("a damaged newest checkpoint is named, and the one before it is used", async (t) => {
  const runDir = join(t.testdir(), "run");
  await run([...TRAIN, "--max-steps", "12", "--run-dir", runDir]);
  const before = bits(runDir);
  t.match(before, /^12 /);
  const path = (step: string, file: string): string =>
    join(runDir, "checkpoints", `step-000000${step}`, file);
  truncateSync(path("12", "generator-optimizer.safetensors"), 1000);
  const file = readFileSync(path("10", "discriminator.safetensors"));
  file[file.length >> 1] ^= 1;
  writeFileSync(path("10", "discriminator.safetensors"), file);
  t.match(inspect(runDir).checkpoints, [
    { globalStep: 12, damage: /damaged/ },
    { globalStep: 10, damage: /SHA-256/ },
    { globalStep: 5, damage: null },
  ]);
  const rest = await run(["train", "--resume", "--run-dir", runDir]);
  t.equal(rest.code, 0, rest.output);
  t.match(
    rest.output,
    /step-00000012 is damaged: .*generator-optimizer\.safetensors.*Trying the one before it/,
  );
  t.match(rest.output, /step-00000010 is damaged: .*discriminator\.safetensors/);
  t.match(rest.output, /Resuming from .*step-00000005/);
  t.equal(bits(runDir), before);
});

t.test("--resume refuses other training values, and a run that is complete", async (t) => {
  const runDir = join(t.testdir(), "run");
  await run([...TRAIN, "--max-steps", "2", "--run-dir", runDir]);
  const other = await run([
    "train",
    "--resume",
    "--run-dir",
    runDir,
    "--seed",
    "5",
    "--shards",
    "8",
    "--max-steps",
    "9",
  ]);
  t.equal(other.code, 2);
  t.match(other.output, /--seed: 1 and 5[^]*--shards: 4 and 8/);
  const complete = await run(["train", "--resume", "--run-dir", runDir]);
  t.equal(complete.code, 2);
  t.match(complete.output, /at step 2 and ends at 2: raise --epochs or --max-steps/);
  const again = await run([...TRAIN, "--max-steps", "2", "--run-dir", runDir]);
  t.equal(again.code, 2);
  t.match(again.output, /already holds one: add --resume/);
});

t.test("--resume refuses other data, and goes on with the same under another name", async (t) => {
  const dir = t.testdir();
  const folder = (name: string, factor: number): string => {
    const path = join(dir, name);
    mkdirSync(path);
    const pixels = Uint8Array.from({ length: 20 * 784 }, (_, i) => (i * factor) & 255);
    writeFileSync(join(path, "train-images-idx3-ubyte"), encodeIdx([20, 28, 28], pixels));
    return path;
  };
  const runDir = join(dir, "run");
  const own = ["--no-verify-data", "--dataset", "mnist", "--data-dir"];
  const begin = ["--engine", "wasm", "--workers", "1", "--global-batch-size", "8", "--max-steps", "2"];
  const first = await run(["train", ...begin, ...own, folder("data", 11), "--run-dir", runDir]);
  t.equal(first.code, 0, first.output);
  const before = bits(runDir);
  const resume = ["train", "--resume", "--run-dir", runDir, "--max-steps", "3", ...own];
  const other = await run([...resume, folder("other", 13)]);
  t.equal(other.code, 2, other.output);
  t.match(other.output, /Cannot resume .* on other data: the checkpoint was trained on .*SHA-256/);
  t.equal(bits(runDir), before);
  const moved = await run([...resume, folder("moved", 11)]);
  t.equal(moved.code, 0, moved.output);
  t.match(bits(runDir), /^3 /);
});

t.test("a second coordinator cannot use a run that is in use", async (t) => {
  const runDir = join(t.testdir(), "run");
  const first = start([...TRAIN, ...ENDLESS, "--run-dir", runDir]);
  await first.until(/Checkpoint of step 5/);
  const second = await run(["train", "--resume", "--run-dir", runDir]);
  t.equal(second.code, 2);
  t.match(second.output, /another coordinator does/);
  const endpoint = /listens on (tcp:\S+)/.exec(first.output)?.[1] ?? "";
  const samePort = await run(["train", ...TRAINING_FLAGS, "--bind", endpoint, "--run-dir", `${runDir}2`]);
  t.equal(samePort.code, 2);
  t.match(samePort.output, /Cannot listen on tcp:.*in use.*--bind another port/);
  first.child.kill("SIGINT");
  t.equal((await first.finished).code, 130);
});

t.test("divergence stops the run and names step, phase and worker", async (t) => {
  const runDir = join(t.testdir(), "run");
  const { code, output } = await run([
    ...TRAIN,
    "--learning-rate",
    "1e30",
    "--max-steps",
    "50",
    "--run-dir",
    runDir,
  ]);
  t.equal(code, 1);
  t.match(
    output,
    /Training has diverged: loss or gradient is not finite at step \d+, phase (D0|G) \(worker "worker-\d": .* is (NaN|-?Infinity)/,
  );
  t.match(output, /(Last good checkpoint: step|No checkpoint had been written)/);
});

t.test("a state that is not finite is never saved, nor taken for a run that has ended well", async (t) => {
  const dir = t.testdir();
  // The square of a gradient overflows before the gradient does, so a moment is the first that is not finite.
  const cases = [
    ["--learning-rate", "1e6"],
    ["--learning-rate", "1e9"],
    ["--learning-rate", "30", "--objective", "least-squares"],
  ];
  const saved: number[] = [];
  for (const [i, flags] of cases.entries()) {
    const runDir = join(dir, `${i}`);
    const { code, output } = await run([
      ...["train", ...TRAINING_FLAGS, ...flags, "--seed", "1", "--workers", "2", "--global-batch-size", "8"],
      ...["--max-steps", "50", "--checkpoint-every", "1", "--keep-checkpoints", "50", "--run-dir", runDir],
    ]);
    t.equal(code, 1, output);
    t.match(
      output,
      /ERROR: Training has diverged: a parameter, or a moment .* is not saved\. Lower --learning-rate/,
    );
    const lastGood = /Last good checkpoint: step (\d+)/.exec(output);
    if (lastGood === null) {
      t.match(output, /No checkpoint had been written yet/);
      t.same(readdirSync(join(runDir, "checkpoints")), []);
      continue;
    }
    const { checkpoints } = inspect(runDir);
    t.equal(checkpoints[0].globalStep, Number(lastGood[1]));
    for (const { globalStep, damage } of checkpoints) t.equal(damage, null, `step ${globalStep} is finite`);
    saved.push(checkpoints.length);
  }
  t.ok(
    saved.some((count) => count > 0),
    "one of them went well for some steps",
  );
});

t.test("strangers and noise on the coordinator's ports change nothing", async (t) => {
  const { Dealer } = await import("zeromq");
  const runDir = join(t.testdir(), "run");
  const calm = join(t.testdirName, "calm");
  const cluster = ["--workers", "2", "--max-workers", "2"];
  const running = start([...SAME, ...cluster, ...ENDLESS, "--run-dir", runDir]);
  const endpoint = (await running.until(/listens on (tcp:\S+)/))[1];
  await running.until(/hold the same state/);
  const stranger = new Dealer({ linger: 0 });
  stranger.connect(endpoint);
  for (const frames of [["hello"], ["a", "b", "c"], [Buffer.from([0x81, 0xa4])], [Buffer.alloc(1000, 0xc1)]])
    await stranger.send(frames);
  const late = start(["worker", "--coordinator", endpoint, "--worker-id", "late"]);
  t.equal((await late.finished).code, 1);
  t.match(late.output, /The coordinator refused this worker: Cannot join/);
  await running.until(/Refused a message from/);
  running.child.kill("SIGINT");
  const { code, output } = await running.finished;
  stranger.close();
  t.equal(code, 130, output);
  const { globalStep } = inspect(runDir);
  await run([...SAME, "--workers", "1", "--max-steps", `${globalStep}`, "--run-dir", calm]);
  t.equal(bits(runDir), bits(calm));
});

t.test(
  "a run leaves pictures, metrics, configuration and log; generate draws the same images again",
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const { code, output } = await run([
      ...TRAIN,
      "--max-steps",
      "6",
      "--run-dir",
      runDir,
      "--log-format",
      "json",
    ]);
    t.equal(code, 0, output);
    for (const line of output.trimEnd().split("\n")) t.doesNotThrow(() => JSON.parse(line) as unknown, line);
    t.same(readdirSync(runDir), [
      "checkpoints",
      "config.json",
      "metrics.jsonl",
      "run.json",
      "run.log",
      "samples",
    ]);
    const picture = join(runDir, "samples", "step-00000006.png");
    t.ok(statSync(picture).size > 1000);
    const png = join(runDir, "again.png");
    t.equal((await run(["generate", runDir, "--seed", "1", "--out", png])).code, 0);
    t.ok(readFileSync(png).equals(readFileSync(picture)), "the run's picture is --seed 1, the run's seed");
    const idx = join(runDir, "fakes.idx");
    t.equal((await run(["generate", runDir, "--count", "10", "--out", idx])).code, 0);
    const bytes = readFileSync(idx);
    t.same([...bytes.subarray(0, 16)], [0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 28, 0, 0, 0, 28]);
    t.equal(bytes.length, 16 + 10 * 784);
    t.match((await run(["generate", runDir, "--out", "x.gif"])).output, /must end in \.png/);
  },
);
