import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { Machines } from "../../../scripts/simulate/all-reduce.ts";
import { parseWorkers } from "../../../scripts/simulate/options.ts";
import { median, readSteps } from "../../../scripts/simulate/run-metrics.ts";
import { simulateScaling } from "../../../scripts/simulate/scaling.ts";
import { StepSimulator } from "../../../scripts/simulate/step.ts";
import { scalingTable } from "../../../scripts/simulate/table.ts";
import { UsageError } from "../../../shared/errors.ts";
import { MODELS } from "../../../shared/nn/models.ts";
import { Running } from "../../integration/processes.ts";

const script = (name: string): string =>
  fileURLToPath(new URL(`../../../scripts/${name}.js`, import.meta.url));

const MACHINES: Machines = {
  ...{ linkGbit: 10, latencyUs: 50, localGbit: 5, localLatencyUs: 100, workersPerHost: 1 },
  ...{ messageUs: 20, sumGbytes: 1, workersSharingCores: 1, cores: 1 },
};
const SPEED = { computeMs: 1, fixedMs: 4, applyMs: 5 };
const model = MODELS.mlp({ latentDim: 10, imagePixels: 784 });

const SCALING = {
  ...{ model, workers: [1, 2, 3, 4, 16], shardsPerWorker: 1, localBatchSize: 8, globalBatchSize: 12 },
  schedules: ["direct", "halving-doubling"] as const,
};

t.test("StepSimulator adds up a step of one worker", async (t) => {
  const stepCase = { model, discriminatorSteps: 1, worldSize: 1, numShards: 4, globalBatchSize: 64 };
  const simulator = new StepSimulator({ ...MACHINES, workersSharingCores: 1, cores: 0.5 }, SPEED);
  const { computeMs, allReduceMs, stepMs, numMessages } = simulator.step({ ...stepCase, schedule: "direct" });
  t.same([computeMs, allReduceMs, numMessages], [2 * (64 + 4), 0, 0]);
  t.ok(Math.abs(stepMs - 2 * (64 + 4 + 5)) < 1e-9);
});

t.test(
  "StepSimulator takes the slowest rank for the step, and what others wait for the all-reduce",
  async (t) => {
    const simulator = new StepSimulator(MACHINES, SPEED);
    const base = { model, discriminatorSteps: 1, worldSize: 4, numShards: 4, schedule: "direct" } as const;
    const even = simulator.step({ ...base, globalBatchSize: 40 });
    const uneven = simulator.step({ ...base, globalBatchSize: 40 }, [14, 14, 14, 64]);
    t.ok(Math.abs(uneven.stepMs - even.stepMs - 50) < 1, `${uneven.stepMs} ${even.stepMs}`);
    t.ok(uneven.allReduceMs > even.allReduceMs + 30);
    t.ok(uneven.leastAllReduceMs < even.leastAllReduceMs + 1);
  },
);

t.test("simulateScaling() leaves out what does not fit", async (t) => {
  const rows = simulateScaling(new StepSimulator(MACHINES, SPEED), SCALING, () => undefined);
  const by = (scaling: string) => rows.filter((row) => row.scaling === scaling);
  t.same(
    by("weak").map(({ workers, schedules }) => [workers, Object.keys(schedules).length]),
    [
      [1, 1],
      [2, 2],
      [3, 1],
      [4, 2],
      [16, 2],
    ],
  );
  t.same(
    by("strong").map(({ workers }) => workers),
    [1, 2, 3, 4],
    "no shard without an image",
  );
  t.equal(by("weak")[0].schedules.direct?.efficiency, 1);
  for (const { workers, schedules } of rows)
    for (const { efficiency } of Object.values(schedules))
      t.ok(efficiency > 0 && (workers === 1 || efficiency < 1));
  t.equal(by("weak")[4].chosen, "halving-doubling");
  t.match(scalingTable(rows, "weak"), /\| +16 \| +128 \| .*[\d.]+ \/ [\d.]+\* \|/);
});

t.test("parseWorkers() sorts, and refuses what is no list of numbers", async (t) => {
  t.same(parseWorkers("4,1,4,2"), [1, 2, 4]);
  for (const wrong of ["", "1,,2", "a", "0", "1.5", "5000"]) t.throws(() => parseWorkers(wrong), UsageError);
});

t.test("readSteps() leaves the first steps out", async (t) => {
  const line = (computeMs: number): string =>
    JSON.stringify({ workers: { a: { computeMs, allReduceMs: 2, waitMs: 0, applyMs: 1 } }, loss: 3 });
  const lines = Array.from({ length: 8 }, (_, i) => `${line(i)}\n`).join("");
  const dir = t.testdir({ "metrics.jsonl": lines });
  t.same(
    readSteps(dir).map(({ workers }) => workers[0].computeMs),
    [5, 6, 7],
  );
  writeFileSync(join(dir, "metrics.jsonl"), `${line(1)}\n`);
  t.throws(() => readSteps(dir), UsageError);
  t.throws(() => readSteps(join(dir, "none")), UsageError);
  t.equal(median([3, 1, 2]), 2);
  t.equal(median([4, 1, 2, 3]), 2.5);
});

t.test("the command writes a table, a plot and JSON, and refuses unknown flags", async (t) => {
  const dir = t.testdir();
  const simulate = (...args: string[]) =>
    spawnSync(process.execPath, [script("simulate"), "--out", dir, ...args], { encoding: "utf8" });
  const { status, stdout } = simulate("--workers", "1,2,16");
  t.equal(status, 0);
  t.match(stdout, /Weak scaling: 64 images per worker/);
  const json = JSON.parse(readFileSync(join(dir, "scaling.json"), "utf8")) as { readonly rows: unknown[] };
  t.equal(json.rows.length, 6);
  const svg = readFileSync(join(dir, "scaling.svg"), "utf8");
  t.equal(svg.match(/<polyline/g)?.length, 8);
  t.notMatch(svg, /NaN/);
  for (const [args, message] of [
    [["--wrkers", "3"], /Unknown argument: wrkers/],
    [["--link-gbit", "0"], /--link-gbit: must be a number > 0: got 0/],
    [["--cores", "1.5"], /--cores: must be an integer >= 1: got 1.5/],
    [["--run", "no/such/run"], /Cannot find metrics\.jsonl in no\/such\/run/],
  ] as const) {
    const refused = simulate(...args);
    t.equal(refused.status, 2, args.join(" "));
    t.match(refused.stderr, message);
  }
});

t.test("relay passes all bytes on in order", async (t) => {
  const received: Buffer[] = [];
  const server = createServer((socket) => socket.on("data", (chunk) => received.push(chunk)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  const target = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const relay = new Running(
    process.execPath,
    [...[script("simulate/relay"), "5", `127.0.0.1:${port}`, target]],
    { stdio: "pipe" },
  );
  t.teardown(() => relay.child.kill());
  const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 251));
  for (;;) {
    const socket = connect(port, "127.0.0.1");
    const connected = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    if (!connected) continue;
    await new Promise<void>((resolve) => socket.write(bytes, () => resolve()));
    while (Buffer.concat(received).length < bytes.length)
      await new Promise((resolve) => setTimeout(resolve, 5));
    socket.destroy();
    break;
  }
  t.ok(Buffer.concat(received).equals(bytes));
  server.close();
});
