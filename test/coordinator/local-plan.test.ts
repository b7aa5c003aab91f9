import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { nvidiaGpus, parseNvidiaSmi } from "../../coordinator/gpus.ts";
import { assignGpus, planLocalWorkers, selectGpus, workerRuntime } from "../../coordinator/local-plan.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";

t.test("selectGpus() takes all GPUs unless told, and names those that are missing", async (t) => {
  const names = ["A", "B", "C"];
  t.same(selectGpus(null, "tensorflow", names), [0, 1, 2]);
  t.same(selectGpus("all", "tensorflow", names), [0, 1, 2]);
  t.same(selectGpus("2,0", "tensorflow", names), [2, 0]);
  t.same(selectGpus(null, "wasm", []), []);
  t.throws(() => selectGpus("all", "wasm", []), UsageError);
  t.throws(
    () => selectGpus("1,4", "webgpu", names),
    /finds no GPU 4 here: it finds 0 \(A\), 1 \(B\), 2 \(C\)/,
  );
  t.throws(() => selectGpus("0", "wasm", []), /it finds none/);
  t.throws(() => selectGpus("1,1", "webgpu", names), /named twice/);
});

t.test("assignGpus() fills one GPU after the other", async (t) => {
  t.same(assignGpus(3, [], null), [null, null, null]);
  t.same(assignGpus(2, [0, 1], null), [0, 1]);
  t.same(assignGpus(4, [3, 1], null), [3, 3, 1, 1]);
  t.same(assignGpus(3, [0, 1], 2), [0, 0, 1]);
  t.same(assignGpus(1, [0, 1], 1), [0]);
  t.throws(() => assignGpus(3, [0, 1], 1), /raise --workers-per-gpu or lower --workers/);
});

t.test("workerRuntime() takes a faster Node for engine wasm alone, and only if it may choose", async (t) => {
  t.equal(workerRuntime("auto", "wasm", 0), "fastest-node");
  for (const engine of ["cpu", "tensorflow", "webgpu"] as const) {
    t.equal(workerRuntime("auto", engine, 0), "node", engine);
  }
  t.equal(workerRuntime("node", "wasm", 0), "node");
  t.equal(workerRuntime("mixed", "wasm", 0), "node");
  t.equal(workerRuntime("mixed", "wasm", 3), "deno");
});

t.test("planLocalWorkers() gives each worker its runtime, GPU and variables", async (t) => {
  const config = parseRunConfig({ workers: 4, runtime: "mixed", engine: "tensorflow", workersPerGpu: 2 });
  const plan = planLocalWorkers(config, [1, 0]);
  t.same(
    plan.map(({ runtime }) => runtime),
    ["node", "deno", "node", "deno"],
  );
  t.same(
    plan.map(({ device }) => device),
    [1, 1, 0, 0],
  );
  t.same(
    plan.map(({ environment }) => environment.CUDA_VISIBLE_DEVICES),
    ["1", "1", "0", "0"],
  );
  const wasm = planLocalWorkers({ ...config, engine: "wasm", runtime: "node" }, []);
  t.same(
    wasm,
    Array.from({ length: 4 }, () => ({ runtime: "node", device: null, environment: {} })),
  );
});

t.test("nvidiaGpus() reads what nvidia-smi prints, and finds none without it", async (t) => {
  t.same(parseNvidiaSmi("0, NVIDIA H100 80GB HBM3, 81559, 550.54.15\n1, Tesla T4, [N/A], 535.1\n"), [
    { index: 0, name: "NVIDIA H100 80GB HBM3", memoryMiB: 81559, driver: "550.54.15" },
    { index: 1, name: "Tesla T4", memoryMiB: 0, driver: "535.1" },
  ]);
  t.same(parseNvidiaSmi("NVIDIA-SMI has failed because it couldn't communicate with the driver.\n"), []);
  const { PATH } = process.env;
  t.teardown(() => (process.env.PATH = PATH));
  const tools = t.testdir({});
  process.env.PATH = tools;
  t.same(nvidiaGpus(), []);
  // Stands in for the driver's tool, which machines without a GPU lack.
  const tool = join(tools, "nvidia-smi");
  writeFileSync(tool, "#!/bin/sh\necho '0, Some GPU, 16384, 550.1'\n");
  chmodSync(tool, 0o755);
  t.same(nvidiaGpus(), [{ index: 0, name: "Some GPU", memoryMiB: 16384, driver: "550.1" }]);
});
