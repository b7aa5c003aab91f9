import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import t from "tap";
import { Dealer, Push } from "zeromq";
import { encodeHeader } from "../../shared/protocol.ts";
import { bits, inspect, run, start, TRAINING_FLAGS } from "../integration/processes.ts";
import { ALL_MESSAGES, BULK, CONTROL, DATA as PEER_MESSAGES } from "./messages.ts";
import { FuzzRandom } from "./random.ts";

/** Messages sent in all; more on demand. */
const NUM_FRAMES = Number(process.env.LOCKSTEP_FUZZ_FRAMES ?? 20_000);
/** Messages per connection that only speaks TCP. */
const FRAMES_PER_CONNECTION = 50;
const TRAIN = ["train", ...TRAINING_FLAGS, "--seed", "1", "--workers", "2", "--global-batch-size", "16"];

/** TCP ports on which a process listens. */
function listeningPorts(pid: number): readonly number[] {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
      } catch {
        return [];
      }
    }),
  );
  return readFileSync(`/proc/${pid}/net/tcp`, "utf8")
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === "0A" && inodes.has(fields[9]))
    .map((fields) => parseInt(fields[1].split(":")[1], 16));
}

/** A message for a port: valid and then damaged, or noise. "stop" and "scale" are not damage but orders. */
function message(random: FuzzRandom, valid: readonly object[]): Uint8Array[] {
  const known = random.chance(0.8) ? valid : ALL_MESSAGES;
  let header = random.pick(known);
  if (random.chance(0.5)) header = random.damaged(header) as typeof header;
  const { type } = (header ?? {}) as { readonly type?: unknown };
  if (type === "stop" || type === "scale") header = { type: "status" };
  let frame: Uint8Array;
  try {
    frame = encodeHeader(header);
  } catch {
    // Not every random value can be encoded.
    frame = random.bytes(20);
  }
  if (random.chance(0.4)) frame = random.damagedBytes(frame);
  if (random.chance(0.1)) frame = random.bytes(random.below(50));
  const frames = [frame];
  while (random.chance(0.3)) frames.push(random.bytes(random.chance(0.02) ? 100_000 : random.below(40)));
  if (random.chance(0.02)) frames.unshift(new Uint8Array());
  return frames;
}

/** Sends messages to a port by ZeroMQ, as whoever finds the port can. */
async function zeromqStorm(
  socket: Dealer | Push,
  port: number,
  seed: number,
  count: number,
  valid: readonly object[],
): Promise<void> {
  socket.connect(`tcp://127.0.0.1:${port}`);
  for (let i = 0; i < count; i++) {
    await socket.send(message(new FuzzRandom(seed + i), valid));
    // The sockets share this process's thread.
    if (i % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The first bytes of a ZeroMQ connection without encryption. */
const GREETING = Buffer.concat([
  Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]),
  Buffer.from("NULL".padEnd(20, "\0")),
  Buffer.alloc(32),
]);

/** Sends noise to a port over TCP, behind a valid greeting or not, in several connections. */
async function tcpStorm(port: number, seed: number, count: number): Promise<void> {
  for (let sent = 0; sent < count; sent += FRAMES_PER_CONNECTION) {
    const random = new FuzzRandom(seed + sent);
    await new Promise<void>((resolve) => {
      const socket = connect(port, "127.0.0.1", () => {
        if (random.chance(0.7)) socket.write(GREETING);
        for (let i = 0; i < FRAMES_PER_CONNECTION; i++) socket.write(random.bytes(1 + random.below(200)));
        socket.end();
      });
      socket.on("error", () => undefined);
      socket.on("close", () => resolve());
      socket.resume();
    });
  }
}

t.test(
  "a storm of malformed messages to every port changes no bit",
  { skip: process.platform === "linux" ? false : "ports of processes are found by /proc" },
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const running = start([
      ...TRAIN,
      ...["--max-workers", "2", "--no-shared-memory", "--checkpoint-every", "50", "--max-steps", "1000000"],
      ...["--failure-timeout", "20", "--run-dir", runDir],
    ]);
    await running.until(/^step [1-9]/m);
    const pids = ["worker-0", "worker-1"].map((id) =>
      Number(new RegExp(`"${id}" joined \\(pid (\\d+)`).exec(running.output)?.[1]),
    );
    const control = Number(/listens on tcp:\S+:(\d+)/.exec(running.output)?.[1]);
    const bulk = listeningPorts(running.child.pid as number).filter((port) => port !== control);
    const data = pids.flatMap(listeningPorts);
    t.equal(bulk.length, 1, "one port for batches and states");
    t.equal(data.length, 2, "one port of each worker for gradients");
    const targets = [
      { ports: [control], valid: CONTROL },
      { ports: bulk, valid: BULK },
      { ports: data, valid: PEER_MESSAGES },
    ].flatMap(({ ports, valid }) => ports.map((port) => ({ port, valid })));
    const each = Math.ceil(NUM_FRAMES / targets.length / 2);
    const options = { linger: 0, sendHighWaterMark: 1000 };
    const sockets: (Dealer | Push)[] = [];
    const beganMs = performance.now();
    await Promise.all(
      targets.flatMap(({ port, valid }, i) => {
        const socket = valid === PEER_MESSAGES ? new Push(options) : new Dealer(options);
        sockets.push(socket);
        return [
          zeromqStorm(socket, port, 1_000_000 * i, each, valid),
          tcpStorm(port, 1_000_000 * i + 500_000, each),
        ];
      }),
    );
    const seconds = (performance.now() - beganMs) / 1000;
    t.comment(`${2 * each * targets.length} messages in ${seconds.toFixed(1)} s`);
    for (const socket of sockets) socket.close();
    // It trains on, and writes what it should.
    const last = [...running.output.matchAll(/Checkpoint of step (\d+):/g)].at(-1)?.[1] ?? "0";
    await running.until(
      new RegExp(`Checkpoint of step (?!${last}:)\\d+:[^]*Checkpoint of step (?!${last}:)\\d+:`),
    );
    for (const pid of [running.child.pid as number, ...pids]) {
      t.doesNotThrow(() => process.kill(pid, 0), "no process has ended");
    }
    running.child.kill("SIGINT");
    const { code, output } = await running.finished;
    t.equal(code, 130, output.slice(-5000));
    const numRefused = Number(/Refused in all: \d+ connections, (\d+) malformed/.exec(output)?.[1]);
    t.ok(numRefused > each / 2, `${numRefused} refused by the coordinator`);
    t.match(output, /\[worker-\d\] Refused by the data plane/);
    t.notMatch(output, /The coordinator failed|Data plane failed|UnhandledPromise/);
    const calm = join(t.testdirName, "calm");
    const { globalStep } = inspect(runDir);
    await run([...TRAIN, "--max-steps", String(globalStep), "--run-dir", calm]);
    t.equal(bits(runDir), bits(calm));
  },
);
