import { existsSync, mkdirSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decode } from "fast-png";
import t from "tap";
import { checkpointName, saveCheckpoint } from "../../coordinator/checkpoint-store.ts";
import { holdNewRun, holdRun } from "../../coordinator/held-run.ts";
import { gridPng } from "../../coordinator/picture.ts";
import {
  defaultRunName,
  lastTrainedRun,
  readRecord,
  runPaths,
  storeConfig,
  storedConfig,
  storeRecord,
} from "../../coordinator/run-directory.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { contents } from "./small-checkpoint.ts";

const config = parseRunConfig({ workers: 2, maxSteps: 4 });
const say = (): void => undefined;
const home = process.cwd();
t.afterEach(() => process.chdir(home));

t.test("holdNewRun() makes a run, which has an identity, and refuses a folder that holds one", async (t) => {
  const root = join(t.testdir(), "run");
  const run = await holdNewRun(root, say);
  t.notOk(existsSync(runPaths(root).config), "nothing of a run before it begins");
  await run.begin(config);
  await run.release();
  t.same(await storedConfig(root), config);
  t.match(await readRecord(runPaths(root)), { identity: run.identity, savedStep: null });
  await t.rejects(holdNewRun(root, say), /already holds one: add --resume/);
  const again = await holdRun(root, say);
  t.equal(again.identity, run.identity);
  await again.release();
  await t.rejects(storedConfig(join(root, "none")), /Cannot find a run/);
  writeFileSync(runPaths(root).config, '{ "workers": 0 }');
  await t.rejects(storedConfig(root), /config\.json.*--workers/s);
});

t.test(
  "holdNewRun() refuses what is left of a run, whose lines and states are not the new one's",
  async (t) => {
    const root = t.testdir({ a: { "metrics.jsonl": "" }, b: { checkpoints: { [checkpointName(1)]: {} } } });
    for (const name of ["a", "b"]) {
      await t.rejects(holdNewRun(join(root, name), say), /already holds one/);
      t.notOk(existsSync(runPaths(join(root, name)).lock));
    }
  },
);

t.test("a run that does not begin leaves what was there before, and nothing else", async (t) => {
  const root = t.testdir({ mine: { "notes.txt": "mine" } });
  await (await holdNewRun(join(root, "deep", "er", "run"), say)).release();
  await (await holdNewRun(join(root, "mine"), say)).release();
  t.same(readdirSync(root), ["mine"]);
  t.same(readdirSync(join(root, "mine")), ["notes.txt"]);
  // It fails half-way: a file is where the run's samples shall be.
  writeFileSync(join(root, "mine", "checkpoints"), "");
  const run = await holdNewRun(join(root, "mine"), say);
  await t.rejects(run.begin(config), { name: "UsageError", message: /Cannot write the run in .*mine/ });
  await run.release();
  t.same(readdirSync(join(root, "mine")), ["checkpoints", "notes.txt"]);
});

t.test("runs that begin in one second get folders of their own, and the last is the latest", async (t) => {
  process.chdir(t.testdir());
  await (await holdNewRun(null, say)).release();
  t.same(readdirSync("."), [], "not even runs/ is left of one that does not begin");
  const runs = await Promise.all(Array.from({ length: 4 }, () => holdNewRun(null, say)));
  t.equal(new Set(runs.map(({ paths }) => paths.root)).size, 4);
  for (const run of runs) {
    await run.begin(config);
    t.equal(join("runs", readlinkSync("runs/latest")), run.paths.root);
    await run.release();
  }
  t.equal(defaultRunName(new Date(2026, 0, 2, 3, 4, 5)), "20260102-030405");
});

t.test("lastTrainedRun() takes the run that was trained last, whatever the times of files say", async (t) => {
  process.chdir(t.testdir());
  await t.rejects(lastTrainedRun(), /no run in .*runs has trained yet: give --run-dir/);
  const at = (hour: number): string => `2026-01-02T0${hour}:00:00.000Z`;
  const make = async (name: string, startedAt: string, steps: number): Promise<string> => {
    const paths = runPaths(join("runs", name));
    mkdirSync(paths.root, { recursive: true });
    await storeRecord(paths, { identity: name, hold: "h", startedAt, savedStep: null });
    await storeConfig(paths, config);
    writeFileSync(
      paths.metrics,
      Array.from({ length: steps }, (_, i) => `{"globalStep":${i + 1}}\n`).join(""),
    );
    return paths.checkpoints;
  };
  await make("empty", at(9), 0);
  await t.rejects(lastTrainedRun(), /has trained yet/);
  const old = await make("old", at(1), 3);
  await make("begun", at(2), 3);
  // Made last, as a copy is.
  await make("copy", at(1), 3);
  t.equal(await lastTrainedRun(), join("runs", "begun"));
  await saveCheckpoint(old, 3, contents(3, undefined, new Date(at(3))), 3);
  t.equal(await lastTrainedRun(), join("runs", "old"));
  // A damaged manifest says nothing.
  mkdirSync(join(old, checkpointName(4)));
  writeFileSync(join(old, checkpointName(4), "manifest.json"), "{}");
  t.equal(await lastTrainedRun(), join("runs", "old"));
});

t.test("gridPng() lays images out in rows", async (t) => {
  const pixels = Uint8Array.from({ length: 5 * 9 }, (_, i) => 100 + Math.floor(i / 9));
  const { width, height, data, channels } = decode(gridPng(pixels, 3));
  t.same([width, height, channels], [3 * 5 + 2, 2 * 5 + 2, 1]);
  const at = (image: number): number => data[(2 + Math.floor(image / 3) * 5) * width + 2 + (image % 3) * 5];
  t.same([0, 1, 2, 3, 4].map(at), [100, 101, 102, 103, 104]);
});
