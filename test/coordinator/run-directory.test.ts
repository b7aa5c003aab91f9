import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decode } from "fast-png";
import t from "tap";
import { gridPng } from "../../coordinator/picture.ts";
import {
  createRun,
  defaultRunDirectory,
  runPaths,
  storedConfig,
  trimMetrics,
} from "../../coordinator/run-directory.ts";
import { parseRunConfig } from "../../shared/config.ts";

const config = parseRunConfig({ workers: 2, maxSteps: 4 });

t.test("createRun() stores the configuration and refuses a folder that holds a run", async (t) => {
  const root = join(t.testdir(), "run");
  await createRun(root, config);
  t.same(await storedConfig(root), config);
  await t.rejects(createRun(root, config), /already holds one: add --resume/);
  await t.rejects(storedConfig(join(root, "none")), /Cannot find a run/);
  writeFileSync(runPaths(root).config, '{ "workers": 0 }');
  await t.rejects(storedConfig(root), /config\.json.*--workers/s);
  t.equal(defaultRunDirectory(new Date(2026, 0, 2, 3, 4, 5)), join("runs", "20260102-030405"));
});

t.test("trimMetrics() keeps whole lines up to the step", async (t) => {
  const paths = runPaths(t.testdir());
  writeFileSync(paths.metrics, '{"globalStep":1}\n{"globalStep":2}\nnoise\n{"globalStep":3}\n{"globalSte');
  await trimMetrics(paths, 2);
  t.equal(readFileSync(paths.metrics, "utf8"), '{"globalStep":1}\n{"globalStep":2}\n');
  const none = runPaths(t.testdir({}));
  await trimMetrics(none, 2);
  t.equal(readFileSync(none.metrics, "utf8"), "");
});

t.test("gridPng() lays images out in rows", async (t) => {
  const pixels = Uint8Array.from({ length: 5 * 9 }, (_, i) => 100 + Math.floor(i / 9));
  const { width, height, data, channels } = decode(gridPng(pixels, 3));
  t.same([width, height, channels], [3 * 5 + 2, 2 * 5 + 2, 1]);
  const at = (image: number): number => data[(2 + Math.floor(image / 3) * 5) * width + 2 + (image % 3) * 5];
  t.same([0, 1, 2, 3, 4].map(at), [100, 101, 102, 103, 104]);
});
