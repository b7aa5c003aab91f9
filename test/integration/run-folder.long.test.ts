import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import t from "tap";
import { shellCommand } from "../../shared/command-line.ts";
import {
  bits,
  CLI,
  deleteAtOnce,
  goneProcesses,
  inspect,
  metricsOf,
  processesWith,
  run,
  Running,
  start,
  TRAINING_FLAGS,
} from "./processes.ts";

const TRAIN = ["train", ...TRAINING_FLAGS, "--workers", "1", "--global-batch-size", "8", "--shards", "1"];
const ENDLESS = ["--max-steps", "100000"];

/** Whether processes can be given a process namespace and a host name of their own. */
function whyNoNamespaces(): string | false {
  const { status } = spawnSync("unshare", [...UNSHARE, "true"], { stdio: "ignore" });
  return status === 0 ? false : "process namespaces need Linux, root and util-linux";
}
const UNSHARE = ["--pid", "--fork", "--mount-proc", "--uts", "--kill-child"];

/** The command line as process 1 of a machine of that name, as in a container. */
function startOn(host: string, args: readonly string[]): Running {
  const shell = ["sh", "-c", `hostname ${host}; exec "$@"`, "sh"];
  return new Running("unshare", [...UNSHARE, ...shell, process.execPath, CLI, ...args]);
}

/** Every file below a folder, with a hash of what is in it. */
function contentsOf(folder: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .sort()
      .map((name) => {
        const path = join(folder, name);
        const isFile = statSync(path).isFile();
        return [name, isFile ? createHash("sha256").update(readFileSync(path)).digest("hex") : "folder"];
      }),
  );
}

const stepsOf = (runDir: string): readonly number[] => metricsOf(runDir).map((line) => line.globalStep);
const upTo = (step: number): readonly number[] => Array.from({ length: step }, (_, i) => i + 1);

t.test("a run whose coordinator lives is refused to one that cannot see its process", async (t) => {
  const why = whyNoNamespaces();
  if (why !== false) t.comment(`as plain processes: ${why}`);
  const begin = why === false ? (args: readonly string[]) => startOn("box", args) : start;
  const runDir = join(t.testdir(), "run");
  const first = begin([...TRAIN, ...ENDLESS, "--run-dir", runDir]);
  await first.until(/^step [1-9]/m);
  const second = await begin(["train", "--resume", "--run-dir", runDir]).finished;
  t.equal(second.code, 2, second.output);
  t.match(second.output, /Cannot use .*run as another coordinator does \(process \d+ on .*\): end it first/);
  if (why === false) t.match(second.output, "process 1 on box");
  t.equal((await run(["stop", runDir])).code, 0);
  t.equal((await first.finished).code, 0, first.output);
  t.same(stepsOf(runDir), upTo(inspect(runDir).globalStep), "every line of the metrics once");
});

t.test(
  "a run whose coordinator was killed under one host name goes on under another, without help",
  { skip: whyNoNamespaces() },
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const first = startOn("one", [...TRAIN, ...ENDLESS, "--checkpoint-every", "5", "--run-dir", runDir]);
    await first.until(/Checkpoint of step 5:/);
    first.child.kill("SIGKILL");
    await first.finished;
    t.ok(existsSync(join(runDir, "coordinator.lock")));
    const next = startOn("two", ["train", "--resume", "--run-dir", runDir]);
    await next.until(/Taking over .*run: its holder \(process 1 on one\) gave no sign of life for 10\.0 s/);
    await next.until(/Resuming from [^]*^step [1-9]/m);
    t.equal((await run(["stop", runDir])).code, 0);
    t.equal((await next.finished).code, 0, next.output);
    t.same(stepsOf(runDir), upTo(inspect(runDir).globalStep));
  },
);

t.test("a coordinator that was stopped and overtaken writes nothing more, and says why", async (t) => {
  const runDir = join(t.testdir(), "run");
  const flags = ["--checkpoint-every", "5", "--run-dir", runDir];
  const first = start([...TRAIN, ...ENDLESS, ...flags]);
  const endpoint = (await first.until(/listens on (tcp:\S+)/))[1];
  await first.until(/Checkpoint of step 5:/);
  first.child.kill("SIGSTOP");
  const next = start(["train", "--resume", "--run-dir", runDir]);
  await next.until(/Taking over .* no sign of life/);
  await next.until(/Resuming from [^]*^step [1-9]/m);
  next.child.kill("SIGINT");
  t.equal((await next.finished).code, 130, next.output);
  const before = contentsOf(runDir);
  const seen = first.output.length;
  first.child.kill("SIGCONT");
  const { code, output } = await first.finished;
  t.equal(code, 1, output);
  t.match(
    output.slice(seen),
    /^lockstep: Nothing more is written to .*run as another process has taken it over/m,
  );
  t.same(await goneProcesses(endpoint), [], "its workers end as well");
  t.same(contentsOf(runDir), before);
});

t.test("a run that is deleted under way comes back with its coordinator's lock and address", async (t) => {
  const runDir = join(t.testdir(), "run");
  const running = start([...TRAIN, ...ENDLESS, "--run-dir", runDir]);
  await running.until(/^step [1-9]/m);
  const identity = readFileSync(join(runDir, "run.json"), "utf8");
  deleteAtOnce(runDir);
  // Whatever it finds at that moment, it is no run to go on with.
  const second = await run(["train", "--resume", "--run-dir", runDir]);
  t.equal(second.code, 2, second.output);
  await running.until(/config\.json was gone and is written again/);
  t.equal(readFileSync(join(runDir, "run.json"), "utf8"), identity);
  const third = await run(["train", "--resume", "--run-dir", runDir]);
  t.match(third.output, /another coordinator does/);
  t.match((await run(["status", runDir])).output, /^training, /);
  t.equal((await run(["stop", runDir])).code, 0);
  t.equal((await running.finished).code, 0, running.output);
  t.ok(inspect(runDir).globalStep > 0);
});

t.test("of two new runs in one folder, the one that is refused changes nothing", async (t) => {
  const runDir = join(t.testdir(), "run");
  const both = ["1", "2"].map((seed) =>
    run([...TRAIN, "--max-steps", "2", "--seed", seed, "--run-dir", runDir]),
  );
  const ended = await Promise.all(both);
  const winner = ended.findIndex(({ code }) => code === 0);
  t.same(ended.map(({ code }) => code).sort(), [0, 2], ended.map(({ output }) => output).join());
  t.match(ended[1 - winner].output, /another coordinator does|already holds one/);
  const { seed } = JSON.parse(readFileSync(join(runDir, "config.json"), "utf8")) as { readonly seed: number };
  t.equal(seed, winner + 1);
});

t.test("a start that fails leaves nothing, and --resume takes the run that was trained", async (t) => {
  const cwd = t.testdir();
  t.equal((await run([...TRAIN, "--max-steps", "2"], { cwd })).code, 0);
  const [trained] = readdirSync(join(cwd, "runs")).filter((name) => name !== "latest");
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const taken = `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`;
  for (const where of [[], ["--run-dir", join("deep", "er", "run")]]) {
    const failed = await run([...TRAIN, "--bind", taken, ...where], { cwd });
    t.equal(failed.code, 2, failed.output);
    t.match(failed.output, /Cannot listen on tcp.*Give --bind another port/);
  }
  const resumed = await run(["train", "--resume", "--max-steps", "3", "--bind", taken], { cwd });
  t.match(resumed.output, /Cannot listen on/);
  server.close();
  t.same(readdirSync(cwd), ["runs"]);
  t.same(readdirSync(join(cwd, "runs")).sort(), [trained, "latest"].sort());
  t.equal(readlinkSync(join(cwd, "runs", "latest")), trained);
  t.equal(inspect(join(cwd, "runs", trained)).globalStep, 2);
  // A copy is made later, and so are its files, but it was not trained later.
  cpSync(join(cwd, "runs", trained), join(cwd, "runs", "0-copy"), { recursive: true });
  const again = await run([...TRAIN, "--max-steps", "1"], { cwd });
  t.equal(again.code, 0, again.output);
  const last = readlinkSync(join(cwd, "runs", "latest"));
  cpSync(join(cwd, "runs"), join(cwd, "copied", "runs"), { recursive: true, verbatimSymlinks: true });
  const rest = await run(["train", "--resume", "--max-steps", "4"], { cwd: join(cwd, "copied") });
  t.match(rest.output, `Run in ${join("runs", last)}`);
});

t.test("a run whose checkpoints are gone begins again only if it is told to", async (t) => {
  const runDir = join(t.testdir(), "run");
  const checkpoints = join(runDir, "checkpoints");
  const away = join(t.testdirName, "away");
  t.equal((await run([...TRAIN, "--max-steps", "3", "--run-dir", runDir])).code, 0);
  const expected = bits(runDir);
  renameSync(checkpoints, away);
  const resume = ["train", "--resume", "--run-dir", runDir, "--max-steps"];
  for (const make of [() => undefined, () => mkdirSync(checkpoints)]) {
    make();
    const refused = await run([...resume, "4"]);
    t.equal(refused.code, 2, refused.output);
    t.match(
      refused.output,
      /its checkpoints are gone, the newest of step 3: put them back into .*or add --restart/,
    );
    t.same(stepsOf(runDir), [1, 2, 3], "no line of metrics is dropped");
  }
  rmSync(checkpoints, { recursive: true });
  cpSync(away, checkpoints, { recursive: true });
  const needless = await run([...resume, "4", "--restart"]);
  t.equal(needless.code, 2);
  t.match(needless.output, /Cannot restart .* as it has the checkpoint/);
  rmSync(checkpoints, { recursive: true });
  const again = await run([...resume, "3", "--restart"]);
  t.equal(again.code, 0, again.output);
  t.equal(bits(runDir), expected);
  t.same(stepsOf(runDir), [1, 2, 3]);
  t.match((await run(["train", "--restart", "--run-dir", runDir])).output, /resume/);
});

t.test(
  "a run that loses its checkpoints under way, then its workers, ends and does not begin again",
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const [checkpoints, away] = [join(runDir, "checkpoints"), join(t.testdirName, "away")];
    t.equal((await run([...TRAIN, "--max-steps", "3", "--run-dir", runDir])).code, 0);
    const running = start([
      "train",
      "--resume",
      ...ENDLESS,
      "--checkpoint-every",
      "100000",
      "--run-dir",
      runDir,
    ]);
    const pid = Number((await running.until(/joined \(pid (\d+)/))[1]);
    await running.until(/^step [4-9]/m);
    renameSync(checkpoints, away);
    process.kill(pid, "SIGKILL");
    const { code, output } = await running.finished;
    t.equal(code, 1, output);
    t.match(
      output,
      /No worker is left, and the checkpoint of step 3 is gone from .*checkpoints: put it back, then resume/,
    );
    t.same(stepsOf(runDir).slice(0, 4), [1, 2, 3, 4], "no line of metrics is dropped");
    renameSync(away, checkpoints);
    const rest = await run(["train", "--resume", "--run-dir", runDir, "--max-steps", "4"]);
    t.equal(rest.code, 0, rest.output);
    t.same(stepsOf(runDir), [1, 2, 3, 4]);
  },
);

t.test("a worker that is left alone saves nothing into another run of the same folder", async (t) => {
  const cwd = t.testdir();
  const runDir = join(cwd, "run");
  const flags = ["--orphan-timeout", "2", "--failure-timeout", "1", "--keep-checkpoints", "2"];
  const bind = ["--bind", "tcp://127.0.0.1:*", "--run-dir", runDir];
  const coordinator = start(["coordinator", ...TRAIN.slice(1), ...ENDLESS, ...flags, ...bind]);
  const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
  const worker = start(["worker", "--coordinator", endpoint], { cwd });
  await coordinator.until(/^step [1-9]/m);
  worker.child.kill("SIGSTOP");
  coordinator.child.kill("SIGKILL");
  await coordinator.finished;
  rmSync(runDir, { recursive: true });
  const other = [...TRAIN, "--seed", "7", "--checkpoint-every", "1", "--max-steps", "3", "--run-dir", runDir];
  t.equal((await run(other)).code, 0);
  const before = contentsOf(runDir);
  worker.child.kill("SIGCONT");
  const { code, output } = await worker.finished;
  t.equal(code, 1, output);
  const saved = /holds another run by now\. Wrote an emergency checkpoint of step (\d+): (\S+);/.exec(output);
  t.match(saved?.[2], /lockstep-emergency-.*checkpoints/, output);
  t.equal(inspect(String(saved?.[2])).globalStep, Number(saved?.[1]), "the state is not lost");
  t.same(contentsOf(runDir), before);
});

t.test("what we print to continue can be pasted into a shell, from any folder", async (t) => {
  const cwd = t.testdir({ "it's here": {} });
  const name = "my run & $HOME";
  const running = start([...TRAIN, ...ENDLESS, "--run-dir", name], { cwd: join(cwd, "it's here") });
  await running.until(/^step [1-9]/m);
  running.child.kill("SIGINT");
  t.equal((await running.finished).code, 130, running.output);
  const command = /^To continue: (.*)$/m.exec(running.output)?.[1];
  t.match(command, /^npx lockstep train --resume --run-dir '/, running.output);
  const runDir = join(cwd, "it's here", name);
  const { globalStep } = inspect(runDir);
  // In a clone npx would build it first, under the other tests.
  const npx = join(cwd, "npx");
  writeFileSync(npx, `#!/bin/sh\nshift\nexec ${shellCommand([process.execPath, CLI])} "$@"\n`, {
    mode: 0o755,
  });
  const environment = { ...process.env, PATH: `${cwd}:${process.env.PATH ?? ""}` };
  const shell = ["-c", `${command ?? ""} --max-steps ${globalStep + 1}`];
  const pasted = new Running("sh", shell, { cwd: "/", env: environment });
  t.equal((await pasted.finished).code, 0, pasted.output);
  t.equal(inspect(runDir).globalStep, globalStep + 1);
  t.same(processesWith(runDir), []);
});

t.test("--data-dir is found again from another folder, and a moved one is asked for", async (t) => {
  const cwd = t.testdir({ a: { data: {} }, b: {} });
  const NUM_IMAGES = 64;
  const idx = (magic: number, ...shape: number[]): Buffer => {
    const header = Buffer.alloc(4 * (1 + shape.length));
    [magic, ...shape].forEach((value, k) => header.writeUInt32BE(value, 4 * k));
    return Buffer.concat([header, Buffer.alloc(shape.reduce((a, b) => a * b))]);
  };
  writeFileSync(join(cwd, "a/data/train-images-idx3-ubyte"), idx(0x803, NUM_IMAGES, 28, 28));
  writeFileSync(join(cwd, "a/data/train-labels-idx1-ubyte"), idx(0x801, NUM_IMAGES));
  const data = ["--dataset", "mnist", "--no-verify-data", "--data-dir", "data"];
  const flags = [...TRAIN, ...data, "--run-dir", "../run", "--max-steps", "1"];
  t.equal((await run(flags, { cwd: join(cwd, "a") })).code, 0);
  const resume = ["train", "--resume", "--run-dir", "../run", "--max-steps"];
  const next = await run([...resume, "2"], { cwd: join(cwd, "b") });
  t.equal(next.code, 0, next.output);
  renameSync(join(cwd, "a/data"), join(cwd, "b/data"));
  const moved = await run([...resume, "3"], { cwd: join(cwd, "b") });
  t.equal(moved.code, 1);
  t.match(moved.output, /if the run's data have moved, name their folder with --data-dir/);
  t.equal((await run([...resume, "3", "--data-dir", "data"], { cwd: join(cwd, "b") })).code, 0);
});
