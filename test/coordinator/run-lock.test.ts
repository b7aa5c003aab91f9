import { spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { holderHere, isGone, lockText, look } from "../../coordinator/lease.ts";
import { runPaths } from "../../coordinator/run-directory.ts";
import type { LockOptions } from "../../coordinator/run-lock.ts";
import { lockRun } from "../../coordinator/run-lock.ts";

const MODULE = new URL("../../coordinator/run-lock.js", import.meta.url).href;
/** A watch of 40 looks takes 4 s, in which a holder has 80 times the time it needs, also on a machine that is busy. */
const QUICK = { renewMs: 50, lookMs: 100 };
const said: string[] = [];
const options = (role: LockOptions["role"] = "coordinator"): LockOptions => ({
  ...{ role, ...QUICK },
  say: (text) => said.push(text),
});
t.beforeEach(() => void (said.length = 0));

/** A process that takes the lock and keeps it until it is killed, or says that it cannot. */
const HOLDER = `
  const { lockRun } = await import(${JSON.stringify(MODULE)});
  const paths = { lock: process.argv[1], root: "R", endpoint: process.argv[1] + ".endpoint" };
  lockRun(paths, { role: process.argv[2], say: () => {}, ...${JSON.stringify(QUICK)} }).then(
    () => { console.log("held"); setInterval(() => {}, 1000); },
    (error) => console.log(error.name),
  );`;

function holder(lock: string, role: LockOptions["role"] = "coordinator") {
  const child = spawn(process.execPath, ["--input-type=module", "-e", HOLDER, lock, role]);
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const first = new Promise<string>((resolve) =>
    child.stdout.once("data", (text: Buffer) => resolve(text.toString().trim())),
  );
  return { child, said: first, kill: () => (child.kill("SIGKILL"), ended) };
}

t.test("lockRun() keeps living coordinators out, and takes over from dead ones at once", async (t) => {
  const paths = runPaths(t.testdir());
  const first = holder(paths.lock);
  t.equal(await first.said, "held");
  await t.rejects(lockRun(paths, options()), {
    name: "UsageError",
    message: /another coordinator does \(process \d+ on .*\): end it first, with npx lockstep stop /,
  });
  await first.kill();
  const left = look(paths.lock)?.holder;
  if (left === null || left === undefined) throw new Error("the lock is left by who was killed");
  const isTold = left.started !== null;
  t.equal(isGone(left), isTold);
  const lock = await lockRun(paths, options());
  if (isTold) t.same(said, [], "without a watch, where the system tells who has ended");
  t.match(readFileSync(paths.lock, "utf8"), `"pid":${process.pid}`);
  await lock.release();
  t.same(readdirSync(paths.root), []);
});

t.test(
  "isGone() believes no id of a process that is used again, or of another namespace or kernel",
  async (t) => {
    const here = holderHere("n", "coordinator");
    if (here.started === null || here.pidNamespace === null || here.boot === null) {
      t.notOk(isGone(here));
      t.comment("this system does not tell who runs");
      return;
    }
    t.notOk(isGone(here));
    t.ok(isGone({ ...here, started: "1" }), "the id belongs to another process now");
    t.ok(isGone({ ...here, pid: 2 ** 22 + 1 }));
    for (const other of [
      { pidNamespace: "pid:[1]" },
      { boot: "another" },
      { boot: null },
      { started: null },
    ]) {
      t.notOk(isGone({ ...here, pid: 2 ** 22 + 1, ...other }), JSON.stringify(other));
    }
  },
);

t.test(
  "lockRun() watches a lock of which nobody can tell whose it is, and takes it without a sign of life",
  async (t) => {
    const here = holderHere("n", "coordinator");
    const texts = ["", '{"pi', "null", lockText({ ...here, boot: "another machine" })];
    const root = t.testdir({ 0: {}, 1: {}, 2: {}, 3: {} });
    await Promise.all(
      texts.map(async (text, i) => {
        const paths = runPaths(join(root, String(i)));
        writeFileSync(paths.lock, text);
        const lock = await lockRun(paths, options());
        t.match(readFileSync(paths.lock, "utf8"), `"pid":${process.pid}`);
        await lock.release();
        t.same(readdirSync(paths.root), []);
      }),
    );
    t.equal(
      said.filter((text) => /Taking over .* no sign of life for 4\.0 s/.test(text)).length,
      texts.length,
    );
  },
);

t.test("a sign of life counts, not a time: the clock of the holder may be anything", async (t) => {
  const paths = runPaths(t.testdir());
  writeFileSync(paths.lock, lockText({ ...holderHere("n", "coordinator"), boot: "another machine" }));
  let year = 2100;
  const timer = setInterval(() => utimesSync(paths.lock, new Date(year, 0), new Date(year--, 0)), 100);
  t.teardown(() => clearInterval(timer));
  await t.rejects(lockRun(paths, options()), /another coordinator does/);
});

t.test("a holder whose times are not its own to change counts in the file", async (t) => {
  const paths = runPaths(t.testdir());
  const lock = await lockRun(paths, options());
  const before = look(paths.lock);
  t.match(before?.text, /"beat":"0+"\}\n$/);
  // What lease.ts does where it may not: the same length, so that no reader sees a torn file.
  const { renew } = await import("../../coordinator/lease.ts");
  const fs = (await import("node:fs")).default;
  const { syncBuiltinESMExports } = await import("node:module");
  const real = fs.futimesSync;
  fs.futimesSync = () => {
    throw Object.assign(new Error("not permitted"), { code: "EPERM" });
  };
  syncBuiltinESMExports();
  t.equal(renew(paths.lock, lock.nonce), true);
  t.equal(renew(paths.lock, lock.nonce), true);
  fs.futimesSync = real;
  syncBuiltinESMExports();
  t.match(look(paths.lock)?.text, /"beat":"0+2"\}\n$/);
  t.equal(look(paths.lock)?.text.length, before?.text.length);
  t.equal(renew(paths.lock, "another"), false);
  await lock.release();
  t.equal(renew(paths.lock, lock.nonce), null);
});

t.test("lockRun() gives a lock that nobody holds to one of many that want it at once", async (t) => {
  const paths = runPaths(t.testdir());
  const dead = holder(paths.lock);
  await dead.said;
  await dead.kill();
  const holders = Array.from({ length: 6 }, () => holder(paths.lock));
  const words = await Promise.all(holders.map((h) => h.said));
  t.equal(words.filter((text) => text === "held").length, 1, words.join());
  t.equal(words.filter((text) => text === "UsageError").length, 5);
  await Promise.all(holders.map((h) => h.kill()));
});

t.test("lockRun() waits for a worker that saves the state of the run", async (t) => {
  const paths = runPaths(t.testdir());
  const rescue = holder(paths.lock, "rescue");
  t.equal(await rescue.said, "held");
  const taken = lockRun(paths, options());
  while (said.length === 0) await sleep(20);
  t.match(said, [/Waiting for a worker \(process \d+ on .*\) that saves the state/]);
  await rescue.kill();
  await (await taken).release();
});

t.test("a holder that was stopped and overtaken finds that out before it writes", async (t) => {
  const paths = runPaths(t.testdir());
  const lock = await lockRun(paths, options());
  const lost: string[] = [];
  lock.events = {
    mayMakeAgain: async () => false,
    onMadeAgain: async () => undefined,
    onLost: (reason) => lost.push(reason),
  };
  t.ok(await lock.isHeld());
  // As one does who has seen no sign of life.
  rmSync(paths.lock);
  const other = lockText({ ...holderHere("other", "coordinator"), pid: 1234, host: "elsewhere" });
  writeFileSync(paths.lock, other);
  t.notOk(await lock.isHeld());
  t.match(lost, [
    /Nothing more is written to .* another process has taken it over \(process 1234 on elsewhere\)/,
  ]);
  rmSync(paths.lock);
  t.notOk(await lock.isHeld(), "for ever");
  writeFileSync(paths.lock, other);
  await lock.release();
  t.equal(readFileSync(paths.lock, "utf8"), other, "another's lock stays");
  t.equal(lost.length, 1);
});

t.test("a folder that is deleted comes back with the lock first, or not at all", async (t) => {
  const root = join(t.testdir(), "run");
  const paths = runPaths(root);
  await t.rejects(lockRun(paths, options()), {
    name: "UsageError",
    message: /Cannot make .*coordinator\.lock/,
  });
  mkdirSync(root);
  const lock = await lockRun(paths, options());
  const found: string[][] = [];
  lock.events = {
    mayMakeAgain: async () => true,
    onMadeAgain: async () => void found.push(readdirSync(root)),
    onLost: (reason) => t.fail(reason),
  };
  rmSync(root, { recursive: true });
  t.same(await Promise.all([lock.isHeld(), lock.isHeld(), lock.isHeld()]), [true, true, true]);
  t.same(found, [["coordinator.lock"]]);
  // Also if nobody asks: the thread that renews the lock finds out.
  rmSync(root, { recursive: true });
  while (found.length < 2) await sleep(20);
  t.ok(existsSync(paths.lock));
  lock.events = null;
  rmSync(root, { recursive: true });
  t.notOk(await lock.isHeld());
  t.notOk(existsSync(root));
  await lock.release();
});

t.test("the lock of a copied folder is not held, that of a moved one is", async (t) => {
  const [paths, copy, moved] = ["run", "copy", "moved"].map((name) => runPaths(`${t.testdirName}/${name}`));
  t.testdir({ run: {} });
  const first = holder(paths.lock);
  t.equal(await first.said, "held");
  cpSync(paths.root, copy.root, { recursive: true });
  await (await lockRun(copy, options())).release();
  t.match(said.at(-1), /Taking over .*copy/);
  t.ok(statSync(paths.lock).isFile());
  renameSync(paths.root, moved.root);
  await first.kill();
  await (await lockRun(moved, options())).release();
});
