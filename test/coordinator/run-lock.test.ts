import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import t from "tap";
import { runPaths } from "../../coordinator/run-directory.ts";
import { lockRun } from "../../coordinator/run-lock.ts";

const MODULE = new URL("../../coordinator/run-lock.js", import.meta.url).href;

/** A process that takes the lock and keeps it until it is killed, or says that it cannot. */
const HOLDER = `
  const { lockRun } = await import(${JSON.stringify(MODULE)});
  lockRun({ lock: process.argv[1], root: "R", endpoint: process.argv[1] + ".endpoint" }).then(
    () => { console.log("held"); setInterval(() => {}, 1000); },
    (error) => console.log(error.name),
  );`;

function holder(lock: string): { readonly kill: () => Promise<void>; readonly said: Promise<string> } {
  const child = spawn(process.execPath, ["--input-type=module", "-e", HOLDER, lock]);
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const said = new Promise<string>((resolve) =>
    child.stdout.once("data", (text: Buffer) => resolve(text.toString().trim())),
  );
  return { said, kill: () => (child.kill("SIGKILL"), ended) };
}

t.test("lockRun() keeps living coordinators out, and takes over from dead ones", async (t) => {
  const paths = runPaths(t.testdir());
  writeFileSync(paths.lock, JSON.stringify({ pid: process.ppid, host: hostname() }));
  await t.rejects(lockRun(paths), /another coordinator does/);
  writeFileSync(paths.lock, JSON.stringify({ pid: 1, host: "elsewhere" }));
  await t.rejects(lockRun(paths), /remove .*coordinator\.lock/);
  for (const dead of [JSON.stringify({ pid: 2 ** 22 + 1, host: hostname() }), "", '{"pi', "null"]) {
    writeFileSync(paths.lock, dead);
    const unlock = await lockRun(paths);
    t.match(readFileSync(paths.lock, "utf8"), `"pid":${process.pid}`);
    await unlock();
    t.same(readdirSync(paths.root), []);
  }
});

t.test(
  "lockRun() takes over from a coordinator that was killed, though its process id is used again",
  async (t) => {
    const paths = runPaths(t.testdir());
    const first = holder(paths.lock);
    t.equal(await first.said, "held");
    await t.rejects(lockRun(paths), /another coordinator does/);
    await first.kill();
    const left = JSON.parse(readFileSync(paths.lock, "utf8")) as { pid: number; started: string | null };
    // The id now belongs to a process that lives but began at another time: this test's parent.
    if (left.started === null) t.comment("this system does not say when a process began");
    else {
      writeFileSync(paths.lock, JSON.stringify({ ...left, pid: process.ppid }));
      await (
        await lockRun(paths)
      )();
    }
    writeFileSync(paths.lock, JSON.stringify(left));
    await (
      await lockRun(paths)
    )();
    t.notOk(existsSync(paths.lock));
  },
);

t.test("lockRun() gives a lock that nobody holds to one of many that want it at once", async (t) => {
  const paths = runPaths(t.testdir());
  writeFileSync(paths.lock, JSON.stringify({ pid: 2 ** 22 + 1, host: hostname() }));
  const holders = Array.from({ length: 6 }, () => holder(paths.lock));
  const said = await Promise.all(holders.map((h) => h.said));
  t.equal(said.filter((text) => text === "held").length, 1, said.join());
  t.equal(said.filter((text) => text === "UsageError").length, 5);
  await Promise.all(holders.map((h) => h.kill()));
});
