import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { join } from "node:path";
import type { Test } from "tap";
import t from "tap";
import { Dealer, Push } from "zeromq";
import { codeHash } from "../../shared/code-hash.ts";
import { decodeHeader, encodeHeader } from "../../shared/header.ts";
import type { StartMessage, WorkerMessage } from "../../shared/protocol.ts";
import { parseCoordinatorMessage, parseWorkerMessage } from "../../shared/protocol.ts";
import { encodeSequence } from "../../shared/sequence.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import type { Running } from "../integration/processes.ts";
import { bits, inspect, listeningPorts, run, start, TRAINING_FLAGS } from "../integration/processes.ts";
import { ALL_MESSAGES, BULK, CONTROL, DATA as PEER_MESSAGES } from "./messages.ts";
import { impossible } from "./impossible.ts";
import { FuzzRandom } from "./random.ts";

/** Messages sent in all; more on demand. */
const NUM_FRAMES = Number(process.env.LOCKSTEP_FUZZ_FRAMES ?? 20_000);
/** Messages of one stranger at most: a few more than are read of one that sends nothing right. */
const MAX_PER_STRANGER = 16;
/** Messages per connection that only speaks TCP. */
const FRAMES_PER_CONNECTION = 50;
const TRAIN = ["train", ...TRAINING_FLAGS, "--seed", "1", "--workers", "2", "--global-batch-size", "16"];

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
  if (valid === CONTROL && random.chance(0.7)) frames.push(encodeSequence(random.below(3)));
  if (valid === PEER_MESSAGES && random.chance(0.5)) frames.push(new Uint8Array(4096));
  while (random.chance(0.3)) frames.push(random.bytes(random.chance(0.02) ? 100_000 : random.below(40)));
  if (random.chance(0.02)) frames.unshift(new Uint8Array());
  return frames;
}

/** Strangers that send to a port by ZeroMQ, as whoever finds it can: one after the other, each a few messages. */
async function zeromqStorm(
  port: number,
  seed: number,
  count: number,
  valid: readonly object[],
): Promise<void> {
  for (let sent = 0; sent < count;) {
    // What a stranger has sent still goes out when its socket is closed. A port that is gone takes nothing.
    const options = { linger: 10_000, sendTimeout: 10_000, immediate: true };
    const socket = valid === PEER_MESSAGES ? new Push(options) : new Dealer(options);
    socket.connect(`tcp://127.0.0.1:${port}`);
    const end = Math.min(count, sent + 1 + new FuzzRandom(seed + sent).below(MAX_PER_STRANGER));
    for (; sent < end; sent++) await socket.send(message(new FuzzRandom(seed + sent), valid));
    socket.close();
  }
}

type Mechanism = "NULL" | "CURVE";

/** First bytes of a ZeroMQ connection without encryption, or with it (RFC 37). */
function greeting(mechanism: Mechanism): Buffer {
  return Buffer.concat([
    Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]),
    Buffer.from(mechanism.padEnd(20, "\0")),
    Buffer.alloc(32),
  ]);
}

/** A client's first command with encryption (RFC 26), of the right shape: version 1.0 and 192 bytes. */
function hello(random: FuzzRandom): Uint8Array {
  return Buffer.concat([
    Buffer.from([4, 200, 5]),
    Buffer.from("HELLO"),
    Buffer.from([1, 0]),
    random.bytes(192),
  ]);
}

/** Sends noise to a port over TCP, behind a valid greeting or not, in several connections. */
async function tcpStorm(port: number, seed: number, count: number, mechanism: Mechanism): Promise<void> {
  for (let sent = 0; sent < count; sent += FRAMES_PER_CONNECTION) {
    const random = new FuzzRandom(seed + sent);
    await new Promise<void>((resolve) => {
      const socket = connect(port, "127.0.0.1", () => {
        if (random.chance(0.7)) socket.write(greeting(mechanism));
        if (mechanism === "CURVE" && random.chance(0.7)) {
          socket.write(random.chance(0.5) ? hello(random) : random.damagedBytes(hello(random)));
        }
        for (let i = 0; i < FRAMES_PER_CONNECTION; i++) socket.write(random.bytes(1 + random.below(200)));
        socket.end();
      });
      socket.on("error", () => undefined);
      socket.on("close", () => resolve());
      socket.resume();
    });
  }
}

/** A worker's first words. @param holds What it claims to hold. */
function joining(workerId: string, holds: unknown): object {
  const [join] = CONTROL;
  return { ...join, workerId, process: workerId, codeHash: codeHash(), holds };
}

/** Joins as a worker does that then cannot go on. @returns What it was told of the generation. */
async function spy(port: number): Promise<StartMessage> {
  const socket = new Dealer({ routingId: randomUUID(), linger: 5000, receiveTimeout: 60_000 });
  socket.connect(`tcp://127.0.0.1:${port}`);
  let numSent = 0;
  const say = (message: object): Promise<void> =>
    socket.send([encodeHeader(message), encodeSequence(++numSent)]);
  await say(joining("spy", null));
  for (;;) {
    const message = parseCoordinatorMessage(decodeHeader((await socket.receive())[0]));
    if (message.type === "prepare") await say({ type: "prepared", runId: message.runId });
    if (message.type !== "start") continue;
    await say({ type: "failed", reason: "it only looked", byEngine: false });
    socket.close();
    return message;
  }
}

/** Workers that join, claim what cannot be, and say more of the kind. All of it is well formed. */
async function liarsStorm(port: number, seed: number, count: number, start: StartMessage): Promise<void> {
  const { runId, generation } = start;
  for (let sent = 0; sent < count;) {
    const random = new FuzzRandom(seed + sent);
    const socket = new Dealer({ routingId: randomUUID(), linger: 10_000, sendTimeout: 10_000 });
    socket.connect(`tcp://127.0.0.1:${port}`);
    const [join, ...others] = CONTROL as readonly [
      Extract<WorkerMessage, { type: "join" }>,
      ...WorkerMessage[],
    ];
    const holds = random.chance(0.7) && join.holds !== null ? { ...join.holds, runId } : null;
    // A claim to hold something that can be would be one that nobody can check.
    const first = impossible(random, joining(`liar-${seed + sent}`, holds), parseWorkerMessage);
    const end = Math.min(count, sent + 1 + random.below(MAX_PER_STRANGER));
    for (let number = 1; sent < end; sent++, number++) {
      const known = random.pick(others);
      const current = "generation" in known ? { ...known, generation: generation + random.below(3) } : known;
      const message =
        number === 1 ? first : random.chance(0.8) ? impossible(random, current, parseWorkerMessage) : current;
      await socket.send([encodeHeader(message), encodeSequence(number)]);
    }
    socket.close();
  }
}

/** Gradients and states of the generation under way and those after it, for ranks, phases and places that are none. */
async function lyingPeersStorm(
  port: number,
  seed: number,
  count: number,
  { term, generation }: StartMessage,
): Promise<void> {
  for (let sent = 0; sent < count;) {
    const socket = new Push({ linger: 10_000, sendTimeout: 10_000, immediate: true });
    socket.connect(`tcp://127.0.0.1:${port}`);
    const end = Math.min(count, sent + 100);
    for (; sent < end; sent++) {
      const random = new FuzzRandom(seed + sent);
      const known = { ...random.pick(PEER_MESSAGES), term, generation: generation + 1 };
      const message = impossible(random, known, parsePeerMessage);
      await socket.send([encodeHeader(message), new Uint8Array(4096)]);
    }
    socket.close();
  }
}

interface Target {
  readonly port: number;
  /** What the port takes. */
  readonly valid: readonly object[];
}

interface Training {
  readonly running: Running;
  readonly pids: readonly number[];
  readonly targets: readonly Target[];
}

/** Two workers in training, and all ports that anybody can reach. */
async function trainingIn(t: Test, runDir: string, flags: readonly string[]): Promise<Training> {
  const running = start([
    ...TRAIN,
    ...["--no-shared-memory", "--checkpoint-every", "50", "--max-steps", "1000000"],
    ...["--failure-timeout", "20", "--run-dir", runDir, ...flags],
  ]);
  await running.until(/^step [1-9]/m);
  const workers = ["worker-0", "worker-1"].map((id) =>
    Number(new RegExp(`"${id}" joined \\(pid (\\d+)`).exec(running.output)?.[1]),
  );
  const coordinator = running.child.pid as number;
  const control = Number(/listens on tcp:\S+:(\d+)/.exec(running.output)?.[1]);
  const bulk = listeningPorts(coordinator).filter((port) => port !== control);
  const data = workers.flatMap(listeningPorts);
  t.equal(bulk.length, 1, "one port for batches and states");
  t.equal(data.length, 2, "one port of each worker for gradients");
  return {
    running,
    pids: [coordinator, ...workers],
    targets: [
      { port: control, valid: CONTROL },
      ...bulk.map((port) => ({ port, valid: BULK })),
      ...data.map((port) => ({ port, valid: PEER_MESSAGES })),
    ],
  };
}

/** Waits for a storm; one that cannot go on says what the run said. */
async function stormOver(storms: readonly Promise<void>[], { running }: Training): Promise<void> {
  try {
    await Promise.all(storms);
  } catch (error) {
    throw new Error(`The storm was cut off:\n${running.output.slice(-5000)}`, { cause: error });
  }
}

/** Checks that training goes on after a storm, in the same processes, to the bits of a calm run. @returns Its output. */
async function checkUnharmed(
  t: Test,
  runDir: string,
  { running, pids }: Training,
  signal: "SIGINT" | "SIGTERM" = "SIGINT",
): Promise<string> {
  const last = [...running.output.matchAll(/Checkpoint of step (\d+):/g)].at(-1)?.[1] ?? "0";
  await running.until(
    new RegExp(`Checkpoint of step (?!${last}:)\\d+:[^]*Checkpoint of step (?!${last}:)\\d+:`),
  );
  for (const pid of pids) t.doesNotThrow(() => process.kill(pid, 0), "no process has ended");
  running.child.kill(signal);
  const { code, output } = await running.finished;
  t.equal(code, signal === "SIGINT" ? 130 : 143, output.slice(-5000));
  t.notMatch(output, /The coordinator failed|Data plane failed|UnhandledPromise|Lost worker "worker-/);
  const calm = `${runDir}-calm`;
  const { globalStep } = inspect(runDir);
  await run([...TRAIN, "--max-steps", String(globalStep), "--run-dir", calm]);
  t.equal(bits(runDir), bits(calm));
  return output;
}

const SKIP = process.platform === "linux" ? false : "ports of processes are found by /proc";

t.test("a storm of malformed messages to every port changes no bit", { skip: SKIP }, async (t) => {
  const runDir = join(t.testdir(), "run");
  const training = await trainingIn(t, runDir, ["--max-workers", "2"]);
  const { targets } = training;
  const each = Math.ceil(NUM_FRAMES / targets.length / 2);
  const beganMs = performance.now();
  await stormOver(
    targets.flatMap(({ port, valid }, i) => [
      zeromqStorm(port, 2_000_000 * i, each, valid),
      tcpStorm(port, 2_000_000 * i + 1_000_000, each, "NULL"),
    ]),
    training,
  );
  const seconds = (performance.now() - beganMs) / 1000;
  t.comment(`${2 * each * targets.length} messages in ${seconds.toFixed(1)} s`);
  const output = await checkUnharmed(t, runDir, training);
  const refused =
    /Refused in all: \d+ connections, (\d+) joins, (\d+) malformed.*\((\d+) of them unread/.exec(output);
  t.comment(String(refused?.[0]));
  const [numJoins, numMessages, numUnread] = (refused ?? []).slice(1).map(Number);
  t.ok(numJoins > 0, `${numJoins} joins`);
  // Noise without a greeting may be taken for messages of the first version of ZeroMQ, so that there are more.
  t.ok(numMessages > each, `${numMessages} messages refused by the coordinator`);
  t.ok(numUnread > 0 && numUnread < numMessages / 2, `${numUnread} of them unread`);
  t.match(output, /\[worker-\d\] Refused by the data plane/);
});

t.test(
  "a storm of well-formed messages that say what cannot be changes no bit; status and SIGTERM are answered",
  { skip: SKIP },
  async (t) => {
    const runDir = join(t.testdir(), "run");
    const training = await trainingIn(t, runDir, ["--max-workers", "4"]);
    const { targets } = training;
    const start = await spy(targets[0].port);
    // Whoever joins while a generation is formed is in it.
    await training.running.until(/Lost worker "spy"[^]*Generation \d+: 2 workers/);
    const each = Math.ceil(NUM_FRAMES / targets.length / 2);
    let isOver = false;
    const storm = stormOver(
      targets.map(({ port, valid }, i) => {
        const seed = 30_000_000 + 1_000_000 * i;
        if (valid === CONTROL) return liarsStorm(port, seed, each, start);
        return valid === PEER_MESSAGES
          ? lyingPeersStorm(port, seed, each, start)
          : zeromqStorm(port, seed, each, valid);
      }),
      training,
    ).finally(() => (isOver = true));
    do {
      const { code, output } = await run(["status", runDir]);
      t.equal(code, 0, output);
      t.match(output, /rank 1 {2}"worker-1"/);
    } while (!isOver);
    await storm;
    const output = await checkUnharmed(t, runDir, training, "SIGTERM");
    const refused = /Refused in all: \d+ connections, (\d+) joins, (\d+) malformed/.exec(output);
    t.comment(String(refused?.[0]));
    t.ok(Number(refused?.[1]) > 0, "claims of far steps are refused");
    t.ok(Number(refused?.[2]) > 0, "and messages that no worker can send");
    t.match(output, /Refused worker "liar-\d+" .*of a run that ends after step 1000000/);
    t.match(output, /\[worker-\d\] Refused by the data plane: Cannot use/);
  },
);

t.test("a storm of noise to every port of a run with a key changes no bit", { skip: SKIP }, async (t) => {
  const runDir = join(t.testdir(), "run");
  const keyFile = join(t.testdirName, "run.key");
  t.equal((await run(["keygen", "--out", keyFile])).code, 0);
  const training = await trainingIn(t, runDir, [...["--max-workers", "2", "--key", keyFile]]);
  const { targets } = training;
  const each = Math.ceil(NUM_FRAMES / targets.length / 4);
  await stormOver(
    targets.map(({ port }, i) => tcpStorm(port, 20_000_000 + 1_000_000 * i, each, "CURVE")),
    training,
  );
  const output = await checkUnharmed(t, runDir, training);
  const refused = /Refused in all: (\d+) connections, 0 joins, 0 malformed/.exec(output);
  t.comment(String(refused?.[0]));
  t.ok(
    Number(refused?.[1]) > each / FRAMES_PER_CONNECTION,
    "connections are counted, and no message is read",
  );
});
