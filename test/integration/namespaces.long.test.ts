import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { bits, CLI, TRAINING_FLAGS, run, Running } from "./processes.ts";

const ip = (...args: string[]): void => void execFileSync("ip", args, { stdio: "pipe" });

/** Whether network namespaces can be made here: root, Linux, iproute2. */
function reasonToSkip(): string | false {
  if (process.platform !== "linux") return "network namespaces need Linux";
  if (process.getuid?.() !== 0) return "network namespaces need root";
  try {
    ip("netns", "add", "lockstep-probe");
    ip("netns", "del", "lockstep-probe");
    return false;
  } catch {
    return "network namespaces need iproute2 and a kernel that allows them";
  }
}

const skip = reasonToSkip();

for (const { version, network, prefixLength, host } of [
  { version: "IPv4", network: "10.99.7.", prefixLength: "24", host: (address: string) => address },
  // No host has another address, so that nothing can go another way.
  { version: "IPv6", network: "fd99:7::", prefixLength: "64", host: (address: string) => `[${address}]` },
]) {
  t.test(
    `coordinator and workers on three hosts of ${version} train together, with the bits of one host`,
    { skip },
    async (t) => {
      // Three namespaces on a bridge in a fourth, as machines on a switch.
      const prefix = `ls${process.pid % 10_000}`;
      const hosts = ["c", "a", "b"].map((name, i) => ({
        name: `${prefix}${name}`,
        address: `${network}${i + 1}`,
      }));
      const hub = `${prefix}h`;
      t.teardown(() => {
        for (const name of [hub, ...hosts.map((host) => host.name)]) {
          if (existsSync(`/var/run/netns/${name}`)) ip("netns", "del", name);
        }
      });
      ip("netns", "add", hub);
      ip("-n", hub, "link", "add", "bridge", "type", "bridge");
      ip("-n", hub, "link", "set", "bridge", "up");
      for (const [i, { name, address }] of hosts.entries()) {
        ip("netns", "add", name);
        ip("-n", name, "link", "set", "lo", "up");
        ip(
          "link",
          "add",
          `${name}0`,
          "netns",
          name,
          "type",
          "veth",
          "peer",
          "name",
          `port${i}`,
          "netns",
          hub,
        );
        // An address of IPv6 cannot be used before it is known that nobody else has it.
        const flags = version === "IPv6" ? ["nodad"] : [];
        ip("-n", name, "address", "add", `${address}/${prefixLength}`, "dev", `${name}0`, ...flags);
        ip("-n", name, "link", "set", `${name}0`, "up");
        ip("-n", hub, "link", "set", `port${i}`, "master", "bridge", "up");
      }
      const on = (host: { readonly name: string }, args: readonly string[]): Running =>
        new Running("ip", ["netns", "exec", host.name, process.execPath, CLI, ...args]);
      const [coordinatorHost, a, b] = hosts;
      const runDir = join(t.testdir(), "run");
      const key = join(t.testdirName, "run.key");
      t.equal((await run(["keygen", "--out", key])).code, 0);
      const flags = [...TRAINING_FLAGS, "--seed", "3", "--max-steps", "20", "--workers", "2"];
      const endpoint = `tcp://${host(coordinatorHost.address)}:29555`;
      // Workers may be started first: they wait for their coordinator.
      const workers = [
        on(a, ["worker", "--coordinator", endpoint, "--key", key]),
        on(b, ["worker", "--coordinator", endpoint, "--key", key]),
      ];
      const coordinator = on(coordinatorHost, [
        "coordinator",
        ...flags,
        "--bind",
        endpoint,
        "--run-dir",
        runDir,
        "--key",
        key,
      ]);
      // Has no key, and may not listen where others reach it either.
      const stranger = await on(a, ["worker", "--coordinator", endpoint]).finished;
      t.equal(stranger.code, 2);
      t.match(stranger.output, `Cannot listen on ${host(hosts[1].address)} (which faces the coordinator)`);
      const { code, output } = await coordinator.finished;
      t.equal(code, 0, output);
      t.match(output, /All connections need key/);
      t.notMatch(output, /without encryption or authentication/);
      for (const worker of workers) t.equal((await worker.finished).code, 0, worker.output);
      const local = join(t.testdirName, "local");
      t.equal((await run(["train", ...flags, "--run-dir", local])).code, 0);
      t.equal(bits(runDir), bits(local));
    },
  );
}
