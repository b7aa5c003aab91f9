import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Test } from "tap";
import t from "tap";
import { checkpointName, loadCheckpoint, saveCheckpoint } from "../../coordinator/checkpoint-store.ts";
import { lastRecordedStep } from "../../coordinator/metrics-file.ts";
import { readRecord, runPaths, storeRecord } from "../../coordinator/run-directory.ts";
import { lockRun } from "../../coordinator/run-lock.ts";
import { parseRunConfig } from "../../shared/config.ts";
import type { StartMessage, StepReport } from "../../shared/protocol.ts";
import type { Orphan } from "../../worker/emergency-checkpoint.ts";
import { runOf, saveInEmergency } from "../../worker/emergency-checkpoint.ts";
import { contents, model, stateAt } from "../coordinator/small-checkpoint.ts";

const STEP = 73;
const home = process.cwd();
t.afterEach(() => process.chdir(home));

/** A run with checkpoints of some steps, metrics up to the last of them, and a worker of it that is left alone. */
async function orphanOf(t: Test, steps: readonly number[]) {
  process.chdir(t.testdir({ run: {} }));
  const paths = runPaths(join(t.testdirName, "run"));
  await storeRecord(paths, {
    identity: "this-run",
    hold: "its-coordinator",
    startedAt: "2026-01-01T00:00:00.000Z",
    savedStep: null,
  });
  for (const step of steps) await saveCheckpoint(paths.checkpoints, step, contents(step), Infinity);
  writeFileSync(paths.metrics, `{"globalStep":${STEP - 2}}\n{"globalS`);
  const start = {
    ...{ rank: 0, numImages: 10, dataset: { name: "mnist", sha256: "0".repeat(64) } },
    config: parseRunConfig({ workers: 1, maxSteps: 100, keepCheckpoints: 2 }),
    folder: { checkpoints: paths.checkpoints, identity: "this-run", hold: "its-coordinator" },
  } as unknown as StartMessage;
  const report = (globalStep: number): StepReport => ({ globalStep, metrics: {} }) as unknown as StepReport;
  const orphan: Orphan = {
    ...{ model, globalStep: STEP, state: stateAt(STEP), say: () => undefined },
    reports: [STEP - 2, STEP - 1, STEP].map(report),
  };
  const own = join(t.testdirName, "lockstep-emergency-this-run", "checkpoints", checkpointName(STEP));
  return { paths, start, orphan, own, saved: join(paths.checkpoints, checkpointName(STEP)) };
}

t.test("saveInEmergency() adds a checkpoint and the metrics before it, and removes nothing", async (t) => {
  const { paths, start, orphan, own, saved } = await orphanOf(t, [10, 20, 30, 40]);
  t.equal(
    (await saveInEmergency(start, orphan)).text,
    `Wrote an emergency checkpoint of step ${STEP}: ${saved}; continue with --resume`,
  );
  t.equal((await loadCheckpoint(saved)).manifest.globalStep, STEP);
  t.equal(readdirSync(paths.checkpoints).length, 5, "more than --keep-checkpoints");
  t.equal(await lastRecordedStep(paths.metrics), STEP);
  t.match(await readRecord(paths), { identity: "this-run", savedStep: STEP });
  t.notOk(existsSync(paths.lock));
  t.notOk(existsSync(own));
  t.equal(
    (await saveInEmergency(start, orphan)).text,
    `Step ${STEP} is saved in ${saved}; continue with --resume`,
  );
  t.equal(await runOf(start.folder), paths.root);
});

t.test("saveInEmergency() believes no folder that it is a checkpoint", async (t) => {
  const { start, orphan, saved } = await orphanOf(t, []);
  mkdirSync(saved, { recursive: true });
  t.match((await saveInEmergency(start, orphan)).text, /^Wrote an emergency checkpoint/);
  t.equal((await loadCheckpoint(saved)).manifest.globalStep, STEP);
});

t.test("saveInEmergency() saves elsewhere what is not the run's in the folder", async (t) => {
  const cases: readonly [RegExp, (paths: ReturnType<typeof runPaths>) => Promise<unknown>][] = [
    [
      /run holds another run by now\. /,
      async (paths) => {
        const record = await readRecord(paths);
        if (record !== null) await storeRecord(paths, { ...record, identity: "another-run" });
      },
    ],
    [/The run is not in .*run on this machine\. /, async (paths) => rmSync(paths.root, { recursive: true })],
    [
      /step-00000073 holds another state\. /,
      async (paths) => saveCheckpoint(paths.checkpoints, STEP, contents(5), Infinity),
    ],
    [
      /as another coordinator does .*\. /,
      async (paths) => {
        const lock = await lockRun(paths, { role: "coordinator", say: () => undefined });
        t.teardown(() => lock.release());
      },
    ],
  ];
  for (const [why, change] of cases) {
    const { paths, start, orphan, own } = await orphanOf(t, [10, 20, 30]);
    await change(paths);
    const before = existsSync(paths.checkpoints) ? readdirSync(paths.checkpoints) : [];
    const said = (await saveInEmergency(start, orphan)).text;
    t.match(said, why);
    t.match(
      said,
      `Wrote an emergency checkpoint of step ${STEP}: ${own}; copy it into the run's checkpoints`,
    );
    t.equal((await loadCheckpoint(own)).manifest.globalStep, STEP);
    t.same(existsSync(paths.checkpoints) ? readdirSync(paths.checkpoints) : [], before);
  }
});

t.test("saveInEmergency() saves beside its own coordinator, which has failed and waits for it", async (t) => {
  const { paths, start, orphan, saved } = await orphanOf(t, []);
  const lock = await lockRun(paths, { role: "coordinator", say: () => undefined });
  const folder = { ...start.folder, hold: lock.nonce };
  t.match(
    (await saveInEmergency({ ...start, folder }, orphan)).text,
    `Wrote an emergency checkpoint of step ${STEP}: ${saved}`,
  );
  t.equal(await lastRecordedStep(paths.metrics), STEP - 2, "the metrics are the coordinator's");
  await lock.release();
});

t.test("runOf() gives no run that another coordinator has or has had", async (t) => {
  const { paths, start } = await orphanOf(t, []);
  t.equal(await runOf(start.folder), paths.root);
  const lock = await lockRun(paths, { role: "coordinator", say: () => undefined });
  t.equal(await runOf(start.folder), null);
  await lock.release();
  const record = await readRecord(paths);
  if (record !== null) await storeRecord(paths, { ...record, hold: lock.nonce });
  t.equal(await runOf(start.folder), null);
});
