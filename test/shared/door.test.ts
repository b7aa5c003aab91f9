import { execFileSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { Dealer, Pull, Router } from "zeromq";
import { lockstepCommand } from "../../coordinator/runtime-command.ts";
import { openDoor, requireKey } from "../../shared/door.ts";
import { generateKey } from "../../shared/keys.ts";
import { dealer, pull, push, receiveAll, router, send } from "../../shared/sockets.ts";
import { answer, guard } from "../../shared/zap.ts";
import type { Report } from "./door-checks.ts";
import { report } from "./door-checks.ts";

const EXPECTED: Omit<Report, "codeHash"> = {
  keyed: {
    received: ["member"],
    refused: ["a peer has another key", "a peer has no key"],
    told: { nobody: "mechanism", stranger: "closed" },
  },
  open: {
    received: ["anybody"],
    refused: ["a peer has a key, and this run has none"],
    told: { member: "mechanism" },
  },
  pushed: "gradient",
  spied: "127.0.0.1 has another key",
};

t.test("a door lets in who has its key, and says why it refuses others; Node and Deno alike", async (t) => {
  const { codeHash, ...inNode } = await report();
  t.strictSame(inNode, EXPECTED);
  // The last of the arguments is the command line's script.
  const { command, args, variables } = lockstepCommand("deno");
  const script = fileURLToPath(new URL("./door-report.js", import.meta.url));
  const output = execFileSync(command, [...args.slice(0, -1), script], {
    encoding: "utf8",
    env: { ...process.env, ...variables },
  });
  const { codeHash: inDeno, ...doors } = JSON.parse(output) as Report;
  t.strictSame(doors, EXPECTED);
  t.equal(inDeno, codeHash, "the build has one hash on every runtime");
});

t.test("a socket with a key lets nobody in before it has a guard", async (t) => {
  const key = generateKey();
  const socket = router({ maxFrameBytes: 1000, key });
  t.ok(socket.curveServer);
  t.ok(socket.zapEnforceDomain);
  const request = (domain: string, mechanism: string, credentials: Buffer) => [
    ...[Buffer.from("path"), Buffer.alloc(0), Buffer.from("1.0"), Buffer.from("7"), Buffer.from(domain)],
    ...[Buffer.from("10.0.0.9"), Buffer.alloc(0), Buffer.from(mechanism), credentials],
  ];
  t.match(answer(request(socket.zapDomain ?? "", "CURVE", Buffer.alloc(32))), { 4: "400" });
  socket.close();
  const refused: string[] = [];
  const guarding = await guard(key, (address) => refused.push(address));
  for (const [mechanism, credentials] of [
    ["CURVE", Buffer.alloc(32)],
    ["CURVE", Buffer.alloc(0)],
    ["NULL", Buffer.alloc(32)],
  ] as const) {
    const frames = answer(request(guarding.domain, mechanism, credentials));
    t.strictSame(frames, [
      Buffer.from("path"),
      Buffer.alloc(0),
      "1.0",
      Buffer.from("7"),
      "400",
      "No member of this run",
      "",
      "",
    ]);
  }
  t.strictSame(refused, ["10.0.0.9", "10.0.0.9", "10.0.0.9"]);
  t.match(answer([]), { 2: "400" }, "nonsense is refused too");
  guarding.close();
});

t.test("requireKey() asks for a key wherever others may reach the address", async (t) => {
  for (const host of ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
    t.doesNotThrow(() => requireKey(host, "--bind", null, false), host);
  for (const host of ["0.0.0.0", "*", "10.0.0.1", "[::]", "a-host", "127.0.0.1.example.org"]) {
    t.throws(() => requireKey(host, "--bind", null, false), {
      name: "UsageError",
      message: /\(--bind\).*lockstep keygen.*--key FILE.*--insecure/,
    });
    t.doesNotThrow(() => requireKey(host, "--bind", null, true));
    t.doesNotThrow(() => requireKey(host, "--bind", generateKey(), false));
  }
});

async function disconnected(socket: Dealer): Promise<void> {
  while ((await socket.events.receive()).type !== "disconnect");
}

t.test(
  "a frame over a socket's limit never arrives, and those behind it come on a new connection",
  async (t) => {
    const limits = { maxFrameBytes: 1000, key: null };
    const bind = async (socket: Router | Pull): Promise<string> =>
      (await openDoor(socket, "tcp://127.0.0.1:*", null, () => undefined)).endpoint;
    /** Sends a frame that is too large, then small ones until one arrives. */
    const arriving = async (receiver: Router | Pull, sendFrame: (frame: Buffer) => Promise<void>) => {
      const arrived = new Promise<number>((resolve) => {
        void receiveAll(receiver, (frames) => resolve(frames.at(-1)?.length ?? 0));
      });
      await sendFrame(Buffer.alloc(1001));
      for (;;) {
        const length = await Promise.race([arrived, sleep(50, null)]);
        if (length !== null) return length;
        await sendFrame(Buffer.alloc(7)).catch(() => undefined);
      }
    };
    const control = router(limits);
    const worker = dealer("w", limits);
    worker.connect(await bind(control));
    t.equal(await arriving(control, (frame) => send(worker, [frame])), 7, "router");
    const hungUp = disconnected(worker);
    await send(control, ["w", Buffer.alloc(1001)]);
    await hungUp;
    const data = pull(limits);
    const peer = push(null);
    peer.connect(await bind(data));
    t.equal(await arriving(data, (frame) => send(peer, [frame])), 7, "pull");
    for (const socket of [control, worker, data, peer]) socket.close();
  },
);
