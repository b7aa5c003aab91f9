/**
 * Hosts on a switch, as network namespaces of this machine: every link has a
 * limited rate (tc's token bucket), and the gradients' connections a latency
 * (a relay, since not every kernel has netem). Needs root, iproute2 and Linux.
 *
 * Worker i listens on DATA + i. In every other namespace that address is local
 * too, and a relay listens there; it passes on, late, over the limited link to
 * WIRE + i, where a second relay passes on to the worker.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process";
import { execFileSync, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const WIRE = "10.98.0.";
const DATA = "10.98.1.";
const COORDINATOR = 254;
/** Room of a link's queue: enough for a whole gradient, as a lost packet would cost TCP 200 ms. */
const QUEUE_MS = 4000;

const ip = (...args: readonly string[]): string => execFileSync("ip", args, { stdio: "pipe" }).toString();

/** Why there can be no namespaces here, or null. */
export function whyNoNamespaces(): string | null {
  if (process.platform !== "linux") return "network namespaces need Linux";
  if (process.getuid?.() !== 0) return "network namespaces need root";
  try {
    const name = `lsprobe${process.pid}`;
    ip("netns", "add", name);
    ip("netns", "del", name);
    execFileSync("tc", ["-V"], { stdio: "pipe" });
    return null;
  } catch {
    return "network namespaces need iproute2 and a kernel that allows them";
  }
}

export class EmulatedNetwork {
  readonly #hub: string;
  readonly #hosts: readonly string[];
  readonly #latencyMs: number;
  readonly #relays: ChildProcess[] = [];

  /** @throws {Error} If a command of iproute2 fails; what was made is removed. */
  constructor(numHosts: number, linkMbit: number, latencyMs: number) {
    const prefix = `sim${process.pid % 100_000}`;
    this.#hub = `${prefix}h`;
    this.#hosts = Array.from({ length: numHosts }, (_, i) => `${prefix}${i}`);
    this.#latencyMs = latencyMs;
    try {
      this.#make(linkMbit);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #make(linkMbit: number): void {
    const hub = this.#hub;
    ip("netns", "add", hub);
    ip("-n", hub, "link", "set", "lo", "up");
    ip("-n", hub, "link", "add", "bridge", "type", "bridge");
    ip("-n", hub, "address", "add", `${WIRE}${COORDINATOR}/24`, "dev", "bridge");
    ip("-n", hub, "link", "set", "bridge", "up");
    for (const [i, host] of this.#hosts.entries()) {
      const port = `port${i}`;
      ip("netns", "add", host);
      ip("-n", host, "link", "set", "lo", "up");
      ip("link", "add", "wire", "netns", host, "type", "veth", "peer", "name", port, "netns", hub);
      ip("-n", host, "address", "add", `${WIRE}${i + 1}/24`, "dev", "wire");
      ip("-n", host, "link", "set", "wire", "up");
      ip("-n", hub, "link", "set", port, "master", "bridge", "up");
      for (const other of this.#hosts.keys())
        ip("-n", host, "address", "add", `${DATA}${other + 1}/32`, "dev", "lo");
      const limit = ["rate", `${linkMbit}mbit`, "burst", "128kb", "latency", `${QUEUE_MS}ms`];
      for (const [namespace, device] of [
        [host, "wire"],
        [hub, port],
      ]) {
        const qdisc = ["qdisc", "add", "dev", device, "root", "tbf", ...limit];
        ip("netns", "exec", namespace, "tc", ...qdisc);
      }
    }
  }

  /** Where the coordinator listens. */
  get endpoint(): string {
    return `tcp://${WIRE}${COORDINATOR}:29555`;
  }

  startCoordinator(args: readonly string[]): ChildProcess {
    return this.#node(this.#hub, args);
  }

  startWorker(host: number, args: readonly string[]): ChildProcess {
    return this.#node(this.#hosts[host], [...args, "--data-host", `${DATA}${host + 1}`]);
  }

  /** Connects the workers' data planes, once all workers listen. @throws {Error} If they do not within 30 seconds. */
  async connectWorkers(): Promise<void> {
    const ports: number[] = [];
    const deadlineMs = performance.now() + 30_000;
    while (ports.length < this.#hosts.length) {
      const port = this.#listeningPort(ports.length);
      if (port !== null) ports.push(port);
      else if (performance.now() > deadlineMs) throw new Error(`Worker ${ports.length} does not listen`);
      else await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const relay = fileURLToPath(new URL("relay.js", import.meta.url));
    const address = (net: string, host: number): string => `${net}${host + 1}:${ports[host]}`;
    for (const [i, host] of this.#hosts.entries()) {
      const away = this.#hosts.flatMap((_, j) => (j === i ? [] : [address(DATA, j), address(WIRE, j)]));
      this.#relays.push(
        this.#node(host, [relay, "0", address(WIRE, i), address(DATA, i)]),
        this.#node(host, [relay, String(this.#latencyMs), ...away]),
      );
    }
  }

  close(): void {
    for (const relay of this.#relays) relay.kill("SIGKILL");
    const known = ip("netns", "list");
    for (const name of [...this.#hosts, this.#hub]) {
      if (new RegExp(`^${name}\\b`, "m").test(known)) ip("netns", "del", name);
    }
  }

  #node(namespace: string, args: readonly string[]): ChildProcess {
    return spawn("ip", ["netns", "exec", namespace, process.execPath, ...args], {
      stdio: ["pipe", "pipe", "pipe"],
    });
  }

  /** Port on which a worker listens for gradients, or null. */
  #listeningPort(host: number): number | null {
    const table = ip("netns", "exec", this.#hosts[host], "cat", "/proc/net/tcp");
    // The kernel prints addresses as little-endian hexadecimal words; 0A is LISTEN.
    const bytes = `${DATA}${host + 1}`.split(".").map((byte) => Number(byte).toString(16).padStart(2, "0"));
    const local = bytes.reverse().join("").toUpperCase();
    const match = new RegExp(`: ${local}:([0-9A-F]{4}) [0-9A-F:]+ 0A `).exec(table);
    return match === null ? null : parseInt(match[1], 16);
  }
}
