import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import type { AddressInfo, Server } from "node:net";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { generateKey, readKeyFile } from "../../shared/keys.ts";
import type { RunStatus } from "../../shared/protocol.ts";
import { encodeHeader } from "../../shared/header.ts";
import { dealer, push, router } from "../../shared/sockets.ts";
import { bits, inspect, listeningPorts, TRAINING_FLAGS, processesWith, run, start } from "./processes.ts";

const TRAIN = [...TRAINING_FLAGS, "--seed", "2", "--global-batch-size", "16"];
const FLAGS = [...TRAIN, "--workers", "2", "--max-steps", "30"];
/** Of a run to compare with: one worker takes the least time for it. */
const CALM = ["train", ...TRAIN, "--workers", "1", "--max-steps"];

function filesIn(dir: string): readonly string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

async function statusOf(runDir: string, flags: readonly string[]): Promise<RunStatus> {
  return JSON.parse((await run(["status", runDir, "--json", ...flags])).output) as RunStatus;
}

interface Wiretap {
  readonly server: Server;
  readonly port: number;
  /** What each connection has sent to the port behind it. */
  readonly recordings: readonly (readonly Buffer[])[];
}

/** Passes on what comes and goes between whoever connects to it and a port of this machine, and keeps what comes. */
async function wiretap(port: number): Promise<Wiretap> {
  const recordings: Buffer[][] = [];
  const server = createServer((near) => {
    const chunks: Buffer[] = [];
    recordings.push(chunks);
    const far = connect(port, "127.0.0.1");
    near.on("data", (chunk) => {
      chunks.push(chunk);
      far.write(chunk);
    });
    far.pipe(near);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      one.on("error", () => undefined).on("close", () => other.destroy());
    }
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, port: (server.address() as AddressInfo).port, recordings };
}

/** Says what somebody else has said to a port, in the same pieces. */
async function replay(port: number, recording: readonly Buffer[]): Promise<void> {
  const socket = connect(port, "127.0.0.1").on("error", () => undefined);
  socket.resume();
  for (const chunk of recording) {
    if (!socket.destroyed) socket.write(chunk);
    await sleep(20);
  }
  await Promise.race([once(socket, "close"), sleep(500)]);
  socket.destroy();
}

t.test(
  "with a key, whoever has none or another is kept out of every port, and no bit changes",
  { skip: process.platform === "linux" ? false : "looks for ports in /proc" },
  async (t) => {
    const dir = t.testdir();
    const keyFile = join(dir, "run.key");
    const otherFile = join(dir, "other.key");
    for (const out of [keyFile, otherFile]) t.equal((await run(["keygen", "--out", out])).code, 0);
    const key = readKeyFile(keyFile);
    const runDir = join(dir, "keyed");
    const coordinator = start([
      ...["coordinator", ...FLAGS, "--bind", "tcp://127.0.0.1:*", "--run-dir", runDir, "--key", keyFile],
    ]);
    const endpoint = (await coordinator.until(/listens on (tcp:\S+)/))[1];
    const worker = ["worker", "--coordinator", endpoint];
    const first = start([...worker, "--key", keyFile, "--worker-id", "first"]);
    await coordinator.until(/"first" joined/);

    // Strangers at every port: they ask to stop the run, and go on trying while it trains.
    const ports = [coordinator, first].map(({ child }) => listeningPorts(child.pid ?? 0));
    t.same(
      ports.map(({ length }) => length),
      [2, 1],
      "control and bulk plane, data plane",
    );
    const spy = generateKey();
    const sockets = ports.flat().flatMap((port) =>
      [null, spy, "public key only" as const].flatMap((other) => {
        const socketKey = other === "public key only" ? null : other;
        return [dealer(randomUUID(), { maxFrameBytes: 1000, key: socketKey }), push(socketKey)].map(
          (socket) => {
            if (other === "public key only") {
              socket.curveServerKey = key.publicKey;
              socket.curvePublicKey = spy.publicKey;
              socket.curveSecretKey = spy.secretKey;
            }
            socket.connect(`tcp://127.0.0.1:${port}`);
            socket.send([encodeHeader({ type: "stop" })]).catch(() => undefined);
            return socket;
          },
        );
      }),
    );
    await coordinator.until(/WARN: Refused a connection to the (control|bulk) plane at tcp:\S+: /);
    await first.until(/Refused by the data plane: connection: /);
    for (const [flags, message] of [
      [[], /it (hung up, as it does where it )?wants the run's key: give --key FILE/],
      [["--key", otherFile], /it has another key|it hung up, as it does where it has another key or none/],
    ] as const) {
      const stopped = await run(["stop", runDir, ...flags]);
      t.equal(stopped.code, 2, stopped.output);
      t.match(stopped.output, message);
      const late = start([...worker, ...flags, "--connect-timeout", "10"]);
      await late.until(message);
      t.equal((await late.finished).code, 1);
      t.match(late.output, /Cannot reach the coordinator/);
    }
    const { refused } = await statusOf(runDir, ["--key", keyFile]);
    t.ok(refused.connections > 10, `${refused.connections} are counted`);
    t.equal(refused.messages, 0, "nothing that they said was read");

    // The environment names the key as well.
    const second = start([...worker, "--worker-id", "second"], {
      env: { ...process.env, LOCKSTEP_KEY: keyFile },
    });
    const { code, output } = await coordinator.finished;
    t.equal(code, 0, output);
    t.match(output, /All connections need key [0-9a-f]{12}$/m);
    t.match(output, /Refused in all: \d+ connections, 0 joins, 0 malformed/);
    for (const { finished } of [first, second]) t.equal((await finished).code, 0);
    for (const socket of sockets) socket.close();

    const calm = join(dir, "open");
    t.equal((await run([...CALM, "30", "--run-dir", calm])).code, 0);
    t.equal(bits(runDir), bits(calm));
  },
);

for (const isKeyed of [true, false]) {
  t.test(
    `a recorded join that is sent again ${isKeyed ? "is refused and counted" : "takes nobody's place"}, and changes no bit`,
    async (t) => {
      const dir = t.testdir();
      const keyFile = join(dir, "run.key");
      t.equal((await run(["keygen", "--out", keyFile])).code, 0);
      const keyFlags = isKeyed ? ["--key", keyFile] : [];
      const runDir = join(dir, "run");
      const coordinator = start([
        ...["coordinator", ...FLAGS, "--max-steps", "100000", "--bind", "tcp://127.0.0.1:*"],
        ...["--run-dir", runDir, ...keyFlags],
      ]);
      const control = Number((await coordinator.until(/listens on tcp:\S+:(\d+)/))[1]);
      const tap = await wiretap(control);
      t.teardown(() => tap.server.close());
      const workers = ["first", "second"].map((id) =>
        start([
          ...["worker", "--coordinator", `tcp://127.0.0.1:${tap.port}`, "--worker-id", id, ...keyFlags],
        ]),
      );
      await coordinator.until(/^step [1-9]/m);
      const before = await statusOf(runDir, keyFlags);
      t.ok(tap.recordings.length >= 4, "a connection of each worker, and one of its pulse");
      const recordings = tap.recordings.map((chunks) => [...chunks]);
      t.ok(
        recordings.filter((chunks) => chunks.length > 5).length >= 2,
        "of many pieces: greeting, handshake, messages",
      );
      const NUM_REPLAYS = 5;
      for (let i = 0; i < NUM_REPLAYS; i++) {
        await Promise.all(recordings.map((recording) => replay(control, recording)));
      }
      const after = await statusOf(runDir, keyFlags);
      t.equal(after.generation, before.generation, "nobody has come or gone");
      t.ok(after.globalStep > before.globalStep, "training goes on");
      if (isKeyed) {
        const numRefused = after.refused.connections - before.refused.connections;
        t.ok(numRefused >= recordings.length * NUM_REPLAYS, `${numRefused} connections refused`);
      }
      t.equal((await run(["stop", runDir, ...keyFlags])).code, 0);
      t.equal((await coordinator.finished).code, 0, coordinator.output);
      for (const { finished } of workers) t.equal((await finished).code, 0);
      const calm = join(dir, "calm");
      const { globalStep } = inspect(runDir);
      await run([...CALM, `${globalStep}`, "--run-dir", calm]);
      t.equal(bits(runDir), bits(calm));
    },
  );
}

t.test(
  "the secret key is in no command line, no environment, no output and no file of the run",
  { skip: process.platform === "linux" ? false : "looks at processes in /proc" },
  async (t) => {
    const dir = t.testdir();
    const keyFile = join(dir, "run.key");
    t.equal((await run(["keygen", "--out", keyFile])).code, 0);
    const { secretKey } = readKeyFile(keyFile);
    const runDir = join(dir, "run");
    const training = start([
      ...["train", ...FLAGS, "--checkpoint-every", "10", "--run-dir", runDir, "--key", keyFile],
    ]);
    await training.until(/hold the same state/);
    const pids = processesWith(keyFile);
    t.equal(pids.length, 3, "the coordinator and two workers name the file");
    for (const pid of pids) {
      for (const file of ["cmdline", "environ"])
        t.notOk(readFileSync(`/proc/${pid}/${file}`, "latin1").includes(secretKey), file);
    }
    const { code, output } = await training.finished;
    t.equal(code, 0, output);
    t.notOk(output.includes(secretKey));
    const files = filesIn(runDir);
    t.ok(files.length > 10, `${files.length} files`);
    for (const file of files) t.notOk(readFileSync(file, "latin1").includes(secretKey), file);
  },
);

t.test(
  "a worker whose coordinator has no key goes on trying until one with the key takes its place",
  async (t) => {
    const dir = t.testdir();
    const keyFile = join(dir, "run.key");
    t.equal((await run(["keygen", "--out", keyFile])).code, 0);
    const wrong = router({ maxFrameBytes: 1000, key: null });
    await wrong.bind("tcp://127.0.0.1:*");
    const endpoint = wrong.lastEndpoint ?? "";
    const worker = start(["worker", "--coordinator", endpoint, "--key", keyFile]);
    await worker.until(/it has no key|it hung up, as it does where it has another key or none/);
    wrong.close();
    const { code, output } = await run([
      ...["coordinator", ...TRAINING_FLAGS, "--workers", "1", "--max-steps", "2", "--bind", endpoint],
      ...["--run-dir", join(dir, "run"), "--key", keyFile],
    ]);
    t.equal(code, 0, output);
    t.equal((await worker.finished).code, 0, worker.output);
  },
);

t.test("without a key nobody listens where others reach it, unless --insecure says so", async (t) => {
  const dir = t.testdir();
  const flags = [...TRAINING_FLAGS, "--workers", "1", "--max-steps", "2", "--run-dir", join(dir, "run")];
  const refusal =
    /Cannot listen on 0\.0\.0\.0 \((--bind|--data-host)\).*lockstep keygen.*--key FILE.*--insecure/;
  for (const command of ["train", "coordinator"]) {
    const { code, output } = await run([command, ...flags, "--bind", "tcp://0.0.0.0:*"]);
    t.equal(code, 2);
    t.match(output, refusal);
  }
  const worker = await run(["worker", "--coordinator", "tcp://127.0.0.1:9", "--data-host", "0.0.0.0"]);
  t.equal(worker.code, 2);
  t.match(worker.output, refusal);
  const insecure = await run(["train", ...flags, "--bind", "tcp://0.0.0.0:*", "--insecure"]);
  t.equal(insecure.code, 0, insecure.output);
  t.match(insecure.output, /WARN: Listening on 0\.0\.0\.0 without encryption or authentication/);
});
