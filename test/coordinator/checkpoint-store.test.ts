import { chmod, cp, mkdir, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import {
  listCheckpoints,
  loadCheckpoint,
  loadNewest,
  removeTemporaries,
  saveCheckpoint,
  stateOf,
} from "../../coordinator/checkpoint-store.ts";
import { MANIFEST_FILE, sha256 } from "../../shared/checkpoint.ts";
import { contents, model } from "./small-checkpoint.ts";

t.test("saveCheckpoint() keeps the newest and leaves nothing temporary", async (t) => {
  const directory = join(t.testdir(), "checkpoints");
  for (const step of [5, 10, 15, 100_000_000]) await saveCheckpoint(directory, step, contents(step), 3);
  t.same(
    (await listCheckpoints(directory)).map((c) => c.globalStep),
    [100_000_000, 15, 10],
  );
  t.notOk((await readdir(directory)).some((name) => name.startsWith(".")));
  const loaded = await loadNewest(directory, () => t.fail("nothing is damaged"));
  t.equal(stateOf(loaded, model).generator.step, 100_000_000);
});

t.test("saveCheckpoint() that fails leaves the others whole and nothing temporary", async (t) => {
  const directory = t.testdir();
  await saveCheckpoint(directory, 1, contents(1), 3);
  const broken = new Map([...contents(2), ["no/such/folder", new Uint8Array(1)]]);
  await t.rejects(saveCheckpoint(directory, 2, broken, 3), { cause: { code: "ENOENT" } });
  t.same(await readdir(directory), ["step-00000001"]);
});

t.test("saveCheckpoint() never takes what does not read back as it was meant to be", async (t) => {
  const directory = t.testdir();
  await saveCheckpoint(directory, 1, contents(1), 3);
  const other = new Map([...contents(2), ["generator.safetensors", new Uint8Array(9)]]);
  await t.rejects(saveCheckpoint(directory, 2, other, 3), /Cannot write .*step-00000002/);
  t.same(await readdir(directory), ["step-00000001"]);
});

t.test("saveCheckpoint() does not count damaged ones of later steps as those to keep", async (t) => {
  const directory = t.testdir();
  for (const step of [5, 10, 12]) await saveCheckpoint(directory, step, contents(step), 9);
  for (const step of [10, 12]) await truncate(join(directory, `step-000000${step}`, MANIFEST_FILE), 9);
  for (const step of [6, 7]) {
    await saveCheckpoint(directory, step, contents(step), 2);
    const { manifest } = await loadNewest(directory, () => undefined);
    t.equal(manifest.globalStep, step);
  }
  t.same(
    (await listCheckpoints(directory)).map((c) => c.globalStep),
    [12, 10, 7, 6],
  );
});

t.test("loadNewest() names a damaged checkpoint and takes the one before it", async (t) => {
  const directory = t.testdir();
  for (const step of [1, 2, 3, 4, 5]) await saveCheckpoint(directory, step, contents(step), 9);
  const path = (step: number, file: string): string => join(directory, `step-0000000${step}`, file);
  await truncate(path(5, MANIFEST_FILE), 100);
  const bytes = await readFile(path(4, "generator.safetensors"));
  bytes[bytes.length - 2] ^= 4;
  await writeFile(path(4, "generator.safetensors"), bytes);
  await truncate(path(3, "discriminator-optimizer.safetensors"), 3);
  await cp(path(1, "generator.safetensors"), path(2, "generator.safetensors"));
  const reasons: string[] = [];
  const loaded = await loadNewest(directory, (reason) => reasons.push(reason));
  t.equal(loaded.manifest.globalStep, 1);
  t.match(reasons, [
    /step-00000005 is damaged.*manifest\.json/,
    /step-00000004 is damaged.*generator\.safetensors.*SHA-256/,
    /step-00000003 is damaged.*discriminator-optimizer\.safetensors.*bytes/,
    /step-00000002 is damaged.*generator\.safetensors/,
  ]);
});

t.test("a state that is not finite is not saved, and one of before is named and passed over", async (t) => {
  const directory = t.testdir();
  await saveCheckpoint(directory, 1, contents(1), 3);
  const notFinite =
    /Cannot use discriminator-optimizer\.safetensors as all values must be finite: "exp_avg_sq\.model\.0\.\w+" has (NaN|Infinity)/;
  for (const moment of [NaN, Infinity]) {
    await t.rejects(saveCheckpoint(directory, 2, contents(2, moment), 3), { cause: { message: notFinite } });
    t.same(await readdir(directory), ["step-00000001"]);
    const path = join(directory, "step-00000003");
    await mkdir(path);
    for (const [name, bytes] of contents(3, moment)) await writeFile(join(path, name), bytes);
    const reasons: string[] = [];
    const loaded = await loadNewest(directory, (reason) => reasons.push(reason));
    t.equal(loaded.manifest.globalStep, 1);
    t.match(reasons, [notFinite]);
    t.match(reasons, [/step-00000003 is damaged/]);
    await rm(path, { recursive: true });
  }
});

t.test("loadNewest() stops at another format instead of taking an older checkpoint", async (t) => {
  const directory = t.testdir();
  for (const step of [1, 2]) await saveCheckpoint(directory, step, contents(step), 9);
  const path = join(directory, "step-00000002", MANIFEST_FILE);
  const text = await readFile(path, "utf8");
  // A bit that the disk has changed is no other format.
  await writeFile(path, text.replace('"formatVersion": 1', '"formatVersion": 9'));
  t.equal((await loadNewest(directory, () => undefined)).manifest.globalStep, 1);
  const other = { ...(JSON.parse(text) as Record<string, unknown>), formatVersion: 9 };
  delete (other as Record<string, unknown>).manifestSha256;
  await writeFile(path, JSON.stringify({ ...other, manifestSha256: sha256(JSON.stringify(other)) }));
  await t.rejects(
    loadNewest(directory, () => undefined),
    { name: "CheckpointError", reason: "incompatible" },
  );
});

t.test("loadNewest() does not pass over a checkpoint that this user may not read", async (t) => {
  const directory = t.testdir();
  for (const step of [1, 2]) await saveCheckpoint(directory, step, contents(step), 9);
  await chmod(join(directory, "step-00000002", MANIFEST_FILE), 0);
  // Root may read everything, so this process is for a moment somebody else.
  const isRoot = process.getuid?.() === 0;
  if (isRoot) process.seteuid?.(65534);
  const newest = await loadNewest(directory, (reason) => t.fail(reason)).catch((error: unknown) => error);
  if (isRoot) process.seteuid?.(0);
  t.match(newest, { code: "EACCES" });
});

t.test("loadNewest() says when there is none, or none that is whole", async (t) => {
  const directory = t.testdir();
  await t.rejects(
    loadNewest(join(directory, "none"), () => undefined),
    /Cannot find a checkpoint/,
  );
  await mkdir(join(directory, "step-00000001"));
  await t.rejects(
    loadNewest(directory, () => undefined),
    /all 1 are damaged/,
  );
  await t.rejects(loadCheckpoint(join(directory, "step-00000001")), {
    name: "CheckpointError",
    reason: "damaged",
    message: /step-00000001 is damaged.*manifest\.json/,
  });
  for (const path of [join(directory, "step-00000002"), join(directory, "no", "such")]) {
    await t.rejects(loadCheckpoint(path), {
      name: "CheckpointError",
      reason: "none",
      message: `Cannot find a checkpoint in ${path}: there is no such folder`,
    });
  }
});

t.test("removeTemporaries() removes what a killed coordinator left, and only that", async (t) => {
  const directory = t.testdir({ ".tmp-step-00000009-77": { a: "x" } });
  await saveCheckpoint(directory, 1, contents(1), 3);
  await removeTemporaries(directory);
  t.same(await readdir(directory), ["step-00000001"]);
});
