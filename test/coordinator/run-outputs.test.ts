import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import type { Piscina } from "piscina";
import t from "tap";
import type { Dataset } from "../../coordinator/dataset/dataset.ts";
import { holdNewRun } from "../../coordinator/held-run.ts";
import type { CheckpointTask } from "../../coordinator/pool-tasks.ts";
import { Reporter } from "../../coordinator/reporter.ts";
import { RunOutputs } from "../../coordinator/run-outputs.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { model } from "./small-checkpoint.ts";

/** What was asked of the file system since a file was opened, by the order of the calls: "sync PATH" and "write PATH". */
const calls: string[] = [];
const open = fs.open;
fs.open = async (path, ...rest) => {
  const file = await open(path, ...rest);
  const [sync, write] = [file.sync.bind(file), file.write.bind(file)];
  file.sync = async () => {
    await sync();
    calls.push(`sync ${String(path)}`);
  };
  file.write = (async (...args: Parameters<typeof write>) => {
    calls.push(`write ${String(path)}`);
    return write(...args);
  }) as typeof file.write;
  return file;
};
syncBuiltinESMExports();

t.test("metrics are on the medium, with their name, before a checkpoint counts on them", async (t) => {
  const config = parseRunConfig({ workers: 1, maxSteps: 4 });
  const run = await holdNewRun(join(t.testdir(), "run"), () => undefined);
  await run.begin(config);
  const written = new Promise<readonly string[]>((resolve) => {
    const pool = {
      run: async (task: CheckpointTask) => {
        resolve([...calls]);
        return { path: task.directory, freeBytes: null, warning: null };
      },
    };
    const outputs = new RunOutputs({
      ...{ config, model, run, pool: pool as unknown as Piscina, recordedStep: 0, savedStep: null },
      dataset: { name: "mnist", numImages: 10, sha256: "0".repeat(64) } as unknown as Dataset,
      reporter: new Reporter("text", process.stderr),
      ...{
        isLast: () => true,
        committedStep: () => 2,
        onWritten: () => undefined,
        onGivenUp: (why) => t.fail(why),
      },
    });
    const frames = [model.generator, model.discriminator].flatMap(({ numParameters }) =>
      Array.from({ length: 3 }, () => Buffer.alloc(4 * numParameters)),
    );
    for (const step of [1, 2]) outputs.writeMetrics(step, { globalStep: step });
    const state = {
      type: "state",
      generation: 1,
      globalStep: 2,
      generatorSteps: 2,
      discriminatorSteps: 2,
    } as const;
    outputs.saveState(state, frames);
    t.teardown(async () => {
      await outputs.close();
      await run.release();
    });
  });
  const { root, metrics } = run.paths;
  const order = (await written).filter((call) => call.endsWith(` ${metrics}`) || call.endsWith(` ${root}`));
  t.equal(order.lastIndexOf(`write ${metrics}`) >= 0, true, order.join());
  t.ok(order.indexOf(`sync ${metrics}`) > order.lastIndexOf(`write ${metrics}`), order.join());
  t.ok(order.indexOf(`sync ${root}`) > order.lastIndexOf(`write ${metrics}`), order.join());
});
