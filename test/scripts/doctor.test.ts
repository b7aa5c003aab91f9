import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import t from "tap";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";
import { fastest, probeEngines, requireEngine } from "../../scripts/commands/engines.ts";
import type { ProbeResult } from "../../scripts/commands/probe.ts";

const CLI = fileURLToPath(new URL("../../scripts/lockstep.js", import.meta.url));

const cli = (...args: readonly string[]): ReturnType<typeof spawnSync> & { stdout: string; stderr: string } =>
  spawnSync(process.execPath, [CLI, ...args], { encoding: "utf8" });

const result = (engine: ProbeResult["engine"], fields: Partial<ProbeResult>): ProbeResult => ({
  ...{ engine, usable: true, description: "", reason: null, fix: null, gpus: [], software: false },
  imagesPerSecond: null,
  runtime: null,
  ...fields,
});

t.test("fastest() takes the engine with most images per second that works and is real", async (t) => {
  const wasm = result("wasm", { imagesPerSecond: 10 });
  const tensorflow = result("tensorflow", { imagesPerSecond: 20 });
  t.equal(fastest([wasm, tensorflow])?.engine, "tensorflow");
  t.equal(fastest([wasm, { ...tensorflow, usable: false }])?.engine, "wasm");
  t.equal(fastest([wasm, result("webgpu", { imagesPerSecond: 50, software: true })])?.engine, "wasm");
  t.equal(fastest([result("wasm", {})])?.engine, "wasm");
  t.equal(fastest([]), null);
});

t.test("lockstep doctor --json lists every engine, with speed or with a reason", async (t) => {
  const { status, stdout, stderr } = cli("doctor", "--json");
  t.equal(status, 0, stderr);
  const { engines, auto, machine } = JSON.parse(stdout) as {
    engines: readonly ProbeResult[];
    auto: string;
    machine: { cores: number };
  };
  t.same(engines.map(({ engine }) => engine).toSorted(), [...ENGINE_NAMES].toSorted());
  for (const { engine, usable, reason, fix, imagesPerSecond } of engines) {
    t.equal(usable, reason === null, engine);
    if (usable) t.ok((imagesPerSecond ?? 0) > 0, `${engine}: ${imagesPerSecond} images/s`);
    else t.ok((reason ?? "").length > 0 && fix !== "", `${engine}: ${reason}`);
  }
  t.ok(engines.find(({ engine }) => engine === "wasm")?.usable);
  t.ok(engines.some(({ engine }) => engine === auto));
  t.ok(machine.cores >= 1);
});

t.test("lockstep doctor prints a line for every engine and what auto takes", async (t) => {
  const { status, stdout } = cli("doctor");
  t.equal(status, 0);
  for (const engine of ENGINE_NAMES) t.match(stdout, new RegExp(`^  ${engine} +(yes|no): `, "m"));
  t.match(stdout, /--engine auto takes \w+/);
  t.match(stdout, /NVIDIA GPUs:/);
});

t.test("a probe that crashes is an engine that cannot be used, with the reason", async (t) => {
  const { NODE_OPTIONS } = process.env;
  process.env.NODE_OPTIONS = "--require=/nowhere/at-all.cjs";
  t.teardown(() => {
    if (NODE_OPTIONS === undefined) delete process.env.NODE_OPTIONS;
    else process.env.NODE_OPTIONS = NODE_OPTIONS;
  });
  const probing = { batchSize: 4, shards: 1, runtime: "node" } as const;
  const [{ usable, reason }] = await probeEngines(["wasm"], { ...probing, speedMs: 0 });
  t.notOk(usable);
  t.match(reason, /its probe ended with 1: /);
  await t.rejects(requireEngine("wasm", probing), UsageError);
  await t.rejects(requireEngine("wasm", probing), /Cannot use --engine wasm: .*lockstep doctor/);
});
