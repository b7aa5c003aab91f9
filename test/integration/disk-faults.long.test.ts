import { cpSync, existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { SmallDisk, whyNoSmallDisk } from "../../scripts/chaos/small-disk.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import { bits, deleteAtOnce, inspect, metricsOf, run, start, TRAINING_FLAGS } from "./processes.ts";

const TRAIN = ["train", ...TRAINING_FLAGS, "--seed", "1", "--workers", "1", "--global-batch-size", "8"];
/** Where workers that are left alone save what their coordinator could not. */
const cwd = t.testdir({});
const skip = whyNoSmallDisk() ?? false;
/** A checkpoint takes about 24 MB. */
const ONE_AND_A_BIT = 30;

/** Bits of a run to a step that nothing disturbed. */
async function calmBits(directory: string, numSteps: number): Promise<string> {
  const runDir = join(directory, "calm");
  const { code, output } = await run([...TRAIN, "--max-steps", String(numSteps), "--run-dir", runDir]);
  if (code !== 0) throw new Error(output);
  return bits(runDir);
}

const stepsOf = (runDir: string): readonly number[] => metricsOf(runDir).map((line) => line.globalStep);
const upTo = (step: number): readonly number[] => Array.from({ length: step }, (_, i) => i + 1);

t.test(
  "a full disk ends the run only after so many checkpoints in a row, and the run goes on later",
  { skip },
  async (t) => {
    const disk = new SmallDisk(60);
    t.teardown(() => disk.remove());
    const runDir = join(disk.path, "run");
    const flags = ["--checkpoint-every", "5", "--keep-checkpoints", "2", "--max-checkpoint-failures", "2"];
    const { code, output } = await run([...TRAIN, ...flags, "--max-steps", "100000", "--run-dir", runDir], {
      cwd,
    });
    t.equal(code, 1, output);
    t.match(output, /Only [\d.]+ MB are free for .*checkpoints.*--keep-checkpoints 2/, "warned at the start");
    t.match(
      output,
      /Only [\d.]+ MB are left for .*: room for [01] more checkpoints/,
      "warned when it was low",
    );
    t.match(
      output,
      /Checkpoint failure 1 of 2 in a row: .*free 24\.\d MB there.*newest whole checkpoint is that of step 10/,
    );
    t.match(output, /Checkpoint failure 2 of 2 in a row/);
    t.match(output, /2 checkpoints in a row could not be written \(--max-checkpoint-failures\).*make room/i);
    t.match(output, /Last good checkpoint: step 10\. To continue from it: .*--resume/);
    t.match(inspect(runDir).checkpoints, [
      { globalStep: 10, damage: null },
      { globalStep: 5, damage: null },
    ]);
    t.notOk(readdirSync(join(runDir, "checkpoints")).some((name) => name.startsWith(".")));
    disk.resize(200);
    const rest = await run(["train", "--resume", "--run-dir", runDir, "--max-steps", "22"]);
    t.equal(rest.code, 0, rest.output);
    t.same(stepsOf(runDir), upTo(22));
    t.equal(bits(runDir), await calmBits(t.testdir(), 22));
  },
);

t.test(
  "a disk that fills up, empties, turns read-only and back costs no line of metrics and no step",
  { skip },
  async (t) => {
    const disk = new SmallDisk(150);
    t.teardown(() => disk.remove());
    const runDir = join(disk.path, "run");
    const flags = [
      "--checkpoint-every",
      "10",
      "--keep-checkpoints",
      "2",
      "--max-checkpoint-failures",
      "1000",
    ];
    const running = start([...TRAIN, ...flags, "--max-steps", "100000", "--run-dir", runDir]);
    await running.until(/Checkpoint of step 20:/);
    disk.fill();
    await running.until(/Cannot write \S*metrics\.jsonl: ENOSPC.*Its lines are kept/);
    await running.until(/Checkpoint failure 2 of 1000 in a row: .*file system is full/);
    disk.free();
    await running.until(/metrics\.jsonl can be written again; no line is lost/);
    await running.until(/failure 2 of[^]*Checkpoint of step/);
    await disk.remount("ro");
    await running.until(/Cannot write \S*metrics\.jsonl: EROFS/);
    await running.until(/Checkpoint failure 1 of 1000 in a row: .*its folder must be writable.*EROFS/);
    await disk.remount("rw");
    await running.until(/EROFS[^]*metrics\.jsonl can be written again; no line is lost/);
    running.child.kill("SIGINT");
    const { code, output } = await running.finished;
    t.equal(code, 130, output);
    const { globalStep, checkpoints } = inspect(runDir);
    t.match(checkpoints, [{ damage: null }, { damage: null }]);
    t.same(stepsOf(runDir), upTo(globalStep));
  },
);

t.test("the last checkpoint is tried again until there is room", { skip }, async (t) => {
  const disk = new SmallDisk(ONE_AND_A_BIT);
  t.teardown(() => disk.remove());
  const runDir = join(disk.path, "run");
  disk.fill();
  disk.resize(ONE_AND_A_BIT + 2);
  const running = start([...TRAIN, "--max-steps", "3", "--run-dir", runDir]);
  await running.until(
    /The last checkpoint could not be written, trying again in 2 s \(try 2 of 5\): .*file system is full/,
  );
  disk.free();
  const { code, output } = await running.finished;
  t.equal(code, 0, output);
  t.equal(bits(runDir), await calmBits(t.testdir(), 3));
});

t.test(
  "a last checkpoint that cannot be written fails the run; the workers save it elsewhere",
  { skip },
  async (t) => {
    const disk = new SmallDisk(2);
    t.teardown(() => disk.remove());
    const runDir = join(disk.path, "run");
    const cwd = t.testdir({});
    const { code, output } = await run([...TRAIN, "--max-steps", "3", "--run-dir", runDir], { cwd });
    t.equal(code, 1, output);
    t.match(
      output,
      /Trained to step 3, but its checkpoint could not be written\. Make room in .*, then resume/,
    );
    const saved = readdirSync(cwd).filter((name) => name.startsWith("lockstep-emergency-"));
    t.equal(saved.length, 1, output);
    disk.resize(100);
    cpSync(join(cwd, saved[0], "checkpoints"), join(runDir, "checkpoints"), { recursive: true });
    t.equal(bits(runDir), await calmBits(cwd, 3));
  },
);

t.test(
  "workers keep the last state that their coordinator could not write, for the next coordinator",
  { skip },
  async (t) => {
    const disk = new SmallDisk(2);
    t.teardown(() => disk.remove());
    const runDir = join(disk.path, "run");
    const first = start(["coordinator", ...TRAIN.slice(1), "--max-steps", "3", "--run-dir", runDir], { cwd });
    const endpoint = (await first.until(/listens on (tcp:\S+)/))[1];
    const worker = start(["worker", "--coordinator", endpoint], { cwd });
    t.equal((await first.finished).code, 1, first.output);
    t.match(first.output, /trying again in 8 s \(try 4 of 5\)/);
    disk.resize(100);
    const next = await run(["coordinator", "--resume", "--bind", endpoint, "--run-dir", runDir], { cwd });
    t.equal(next.code, 0, next.output);
    t.match(next.output, /joined .*holds step 3/);
    t.equal((await worker.finished).code, 0, worker.output);
    t.same(stepsOf(runDir), upTo(3));
    t.equal(bits(runDir), await calmBits(t.testdir(), 3));
  },
);

t.test("a run whose folder is deleted makes it anew and can be resumed", async (t) => {
  const runDir = join(t.testdir(), "run");
  const running = start([...TRAIN, "--checkpoint-every", "5", "--max-steps", "100000", "--run-dir", runDir]);
  await running.until(/Checkpoint of step 5:/);
  deleteAtOnce(runDir);
  await running.until(/config\.json was gone and is written again[^]*Checkpoint of step \d+:/);
  running.child.kill("SIGINT");
  const { code, output } = await running.finished;
  t.equal(code, 130, output);
  const { globalStep } = inspect(runDir);
  const rest = await run(["train", "--resume", "--run-dir", runDir, "--max-steps", String(globalStep + 2)]);
  t.equal(rest.code, 0, rest.output);
  t.equal(bits(runDir), await calmBits(t.testdirName, globalStep + 2));
});

t.test(
  "a coordinator that is killed at random moments while it writes checkpoints loses no bit",
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const random = mulberry32(3);
    const flags = ["--checkpoint-every", "1", "--keep-checkpoints", "2", "--max-steps", "100000"];
    const first = [...TRAIN, ...flags, "--run-dir", runDir];
    const NUM_KILLS = 5;
    for (let round = 0; round <= NUM_KILLS; round++) {
      const running = start(round === 0 ? first : ["train", "--resume", "--run-dir", runDir]);
      await running.until(/Checkpoint of step \d+:/);
      await sleep(400 * random.uniform());
      running.child.kill(round < NUM_KILLS ? "SIGKILL" : "SIGINT");
      const { code, output } = await running.finished;
      t.equal(code, round < NUM_KILLS ? null : 130, output.slice(-3000));
      t.same(
        inspect(runDir).checkpoints.filter(({ damage }) => damage !== null),
        [],
        `round ${round}`,
      );
    }
    const { globalStep } = inspect(runDir);
    t.same(stepsOf(runDir), upTo(globalStep));
    t.equal(bits(runDir), await calmBits(t.testdirName, globalStep));
    t.notOk(existsSync(join(runDir, "coordinator.lock")));
  },
);
