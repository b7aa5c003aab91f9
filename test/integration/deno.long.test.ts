import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import t from "tap";
import { lockstepCommand } from "../../coordinator/runtime-command.ts";
import { bits, TRAINING_FLAGS, goneProcesses, inspect, run, Running, start } from "./processes.ts";

/** IPv6 where there is any: everything else here goes over IPv4. */
const LOOPBACK = Object.values(networkInterfaces())
  .flat()
  .some((one) => one?.address === "::1")
  ? "[::1]"
  : "127.0.0.1";

const TRAIN = ["train", ...TRAINING_FLAGS, "--seed", "1", "--shards", "4"];
const ENDLESS = ["--max-steps", "100000", "--checkpoint-every", "5"];

/** The command line on Deno. */
function startOnDeno(args: readonly string[]): Running {
  const { command, args: before, variables } = lockstepCommand("deno");
  return new Running(command, [...before, ...args], { env: { ...process.env, ...variables } });
}

t.test("Deno workers, or Node and Deno workers together, give the bits of Node workers", async (t) => {
  const dir = t.testdir();
  const calm = join(dir, "node");
  const flags = [...TRAIN, "--max-steps", "20"];
  await run([...flags, "--workers", "1", "--run-dir", calm]);
  for (const [cluster, runtimes] of [
    ["--runtime deno --workers 2", ["deno", "deno"]],
    ["--runtime deno --workers 2 --no-shared-memory", ["deno", "deno"]],
    ["--runtime mixed --workers 2", ["node", "deno"]],
    ["--runtime mixed --workers 2 --no-shared-memory", ["node", "deno"]],
    ["--runtime mixed --workers 4", ["node", "deno", "node", "deno"]],
  ] as const) {
    const runDir = join(dir, cluster.replaceAll(" ", ""));
    const { code, output } = await run([...flags, ...cluster.split(" "), "--run-dir", runDir]);
    t.equal(code, 0, output);
    for (const [i, runtime] of runtimes.entries()) {
      t.match(output, new RegExp(`"worker-${i}" joined \\(pid \\d+ on \\S+, ${runtime} \\d`), cluster);
    }
    const numShared = cluster.includes("no-shared") || !existsSync("/dev/shm") ? 0 : runtimes.length - 1;
    t.match(output, new RegExp(`with ${numShared} peers through shared memory`), cluster);
    t.equal(bits(runDir), bits(calm), cluster);
  }
});

t.test(
  "a coordinator on Deno: same bits with workers of either runtime, SIGTERM, and --resume",
  async (t) => {
    const dir = t.testdir();
    const calm = join(dir, "node");
    await run([...TRAIN, "--max-steps", "60", "--workers", "2", "--run-dir", calm]);
    const other = join(dir, "other");
    const flags = [...TRAIN, "--max-steps", "60", "--workers", "2", "--run-dir"];
    const whole = await startOnDeno([...flags, other, "--runtime", "node"]).finished;
    t.equal(whole.code, 0, whole.output);
    t.match(whole.output, /"worker-0" joined \(pid \d+ on \S+, node /);
    t.equal(bits(other), bits(calm));

    const stopped = join(dir, "stopped");
    const running = startOnDeno([...flags, stopped]);
    await running.until(/^step [1-9]/m);
    running.child.kill("SIGTERM");
    const { code, output } = await running.finished;
    t.equal(code, 143, output);
    t.match(
      output,
      /"worker-0" joined \(pid \d+ on \S+, deno /,
      "workers run on what the coordinator runs on",
    );
    t.match(output, /SIGTERM: finishing/);
    t.equal(inspect(stopped).globalStep, Number(/Stopped at step (\d+)/.exec(output)?.[1]));
    const rest = await startOnDeno(["train", "--resume", "--run-dir", stopped]).finished;
    t.equal(rest.code, 0, rest.output);
    t.equal(bits(stopped), bits(calm));
  },
);

t.test("kill -9 of a Deno worker is healed; kill -9 of the coordinator ends Deno workers", async (t) => {
  const dir = t.testdir();
  const flags = [...TRAIN, ...ENDLESS, "--runtime", "mixed", "--workers", "2", "--run-dir"];
  const first = start([...flags, join(dir, "run")]);
  const pid = Number((await first.until(/"worker-1" joined \(pid (\d+) on \S+, deno/))[1]);
  await first.until(/Checkpoint of step 5/);
  process.kill(pid, "SIGKILL");
  await first.until(new RegExp(`Lost worker "worker-1" \\(rank 1, pid ${pid} .*killed by SIGKILL`));
  const [, generation] = await first.until(
    /killed by SIGKILL[^]*"worker-1" joined[^]*Generation (\d+): 2 workers hold the same state/,
  );
  await first.until(new RegExp(`Generation ${generation}: 2 workers[^]*Checkpoint of step`));
  const endpoint = (await first.until(/listens on (tcp:\S+)/))[1];
  first.child.kill("SIGKILL");
  await first.finished;
  t.same(await goneProcesses(endpoint), [], "no worker is left");
});

t.test(
  "workers by hand on Deno: Ctrl-C lets them leave, and one that is left alone saves its state",
  async (t) => {
    const coordinator = start([
      ...["coordinator", ...TRAINING_FLAGS, "--workers", "2", "--bind", `tcp://${LOOPBACK}:*`],
      ...["--failure-timeout", "4", "--orphan-timeout", "5", "--run-dir", join(t.testdir(), "run")],
    ]);
    const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
    const [lonely, stopped] = ["a", "b"].map((id) =>
      startOnDeno(["worker", "--coordinator", endpoint, "--worker-id", id]),
    );
    await coordinator.until(/"a" joined/);
    await coordinator.until(/step [1-9]\d*\//);
    stopped.child.kill("SIGINT");
    t.equal((await stopped.finished).code, 75, stopped.output);
    await coordinator.until(/"b" \(SIGINT\): told to leave, let go[^]*Generation \d+: 1 workers/);
    coordinator.child.kill("SIGKILL");
    const { code, output } = await lonely.finished;
    t.equal(code, 1);
    t.match(
      output,
      /Lost the coordinator at tcp:.*silent for \d[^]*Wrote an emergency checkpoint of step \d/,
    );
  },
);

t.test("a Deno that is missing or too old is refused before a run begins", async (t) => {
  const dir = t.testdir();
  const runDir = join(dir, "run");
  const old = join(dir, "deno");
  writeFileSync(old, "#!/bin/sh\necho 'deno 1.46.3 (stable, release)'\n", { mode: 0o755 });
  for (const [binary, message] of [
    [join(dir, "nothing"), /Cannot start workers on deno as .*nothing" does not run .*LOCKSTEP_DENO/],
    [old, /must be version 2 or later: got "deno 1\.46\.3 .*npm install deno/],
  ] as const) {
    const env = { ...process.env, LOCKSTEP_DENO: binary };
    const { code, output } = await run([...TRAIN, "--runtime", "deno", "--run-dir", runDir], { env });
    t.equal(code, 2, output);
    t.match(output, message);
    t.notOk(existsSync(runDir));
  }
});

t.test("on Deno a kernel that leaves its memory throws", async (t) => {
  // (memory 1) (func (export "f") (param i32) (i32.store (local.get 0) (i32.const 1)))
  const module = Uint8Array.of(
    ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 1, 127, 0, 3, 2, 1, 0, 5, 3, 1, 0, 1],
    ...[7, 5, 1, 1, 102, 0, 0, 10, 11, 1, 9, 0, 32, 0, 65, 1, 54, 2, 0, 11],
  );
  const program = join(t.testdir(), "program.mjs");
  writeFileSync(
    program,
    `const { f } = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.of(${module.join()}))).exports;
    for (const address of [0, 65532, 65533]) {
      try { f(address); console.log(address + " written"); } catch (error) { console.log(address + " " + error.message); }
    }`,
  );
  const { command, args, variables } = lockstepCommand("deno");
  const { code, output } = await new Running(command, [...args.slice(0, -1), program], {
    env: { ...process.env, ...variables },
  }).finished;
  t.equal(code, 0, output);
  t.equal(output, "0 written\n65532 written\n65533 memory access out of bounds\n");
});

t.test("every other command runs on Deno", async (t) => {
  const runDir = join(t.testdir(), "run");
  await run([...TRAIN, "--max-steps", "2", "--workers", "1", "--run-dir", runDir]);
  const inspected = await startOnDeno(["inspect", runDir, "--json"]).finished;
  t.same(JSON.parse(inspected.output), inspect(runDir));
  for (const [name, seed] of [
    ["node", 1],
    ["deno", 1],
  ] as const) {
    const args = ["generate", runDir, "--seed", `${seed}`, "--out", join(runDir, `${name}.png`)];
    const { code, output } = await (name === "deno" ? startOnDeno(args) : start(args)).finished;
    t.equal(code, 0, output);
  }
  t.ok(readFileSync(join(runDir, "deno.png")).equals(readFileSync(join(runDir, "node.png"))), "same picture");
  const download = await startOnDeno(["download", "--data-dir", runDir, "--mirror", "http://127.0.0.1:9/"])
    .finished;
  t.equal(download.code, 1);
  t.match(download.output, /no mirror gave it whole/);
  const wrong = await startOnDeno(["trane"]).finished;
  t.equal(wrong.code, 2);
  t.match(wrong.output, /Did you mean train/);
});
