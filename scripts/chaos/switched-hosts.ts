/**
 * Hosts on a switch, as network namespaces of this machine, whose links can be
 * cut: from one host to another, one way or both, or whole. Needs Linux, root
 * and iproute2, and no firewall.
 *
 * What is cut is lost without a word, as on a real network: the route to the
 * other host leads into a device whose far end takes nothing. The device counts
 * what it swallows, which proves that the cut was one.
 *
 * @module
 */
import { execFileSync } from "node:child_process";

const NETWORK = "10.99.7.";

const ip = (...args: readonly string[]): string =>
  execFileSync("ip", args, { stdio: ["ignore", "pipe", "pipe"], encoding: "utf8" });

export class SwitchedHosts {
  readonly #hub: string;
  readonly #hosts: readonly string[];

  /** @throws {Error} If a command of iproute2 fails; what was made is removed. */
  constructor(count: number) {
    const prefix = `ls${process.pid}`;
    this.#hub = `${prefix}h`;
    this.#hosts = Array.from({ length: count }, (_, i) => `${prefix}n${i}`);
    try {
      this.#make();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #make(): void {
    const hub = this.#hub;
    ip("netns", "add", hub);
    ip("-n", hub, "link", "add", "bridge", "type", "bridge");
    ip("-n", hub, "link", "set", "bridge", "up");
    for (const [i, host] of this.#hosts.entries()) {
      ip("netns", "add", host);
      ip("-n", host, "link", "set", "lo", "up");
      ip("link", "add", "wire", "netns", host, "type", "veth", "peer", "name", `port${i}`, "netns", hub);
      ip("-n", host, "address", "add", `${this.addressOf(i)}/24`, "dev", "wire");
      ip("-n", host, "link", "set", "wire", "up");
      ip("-n", hub, "link", "set", `port${i}`, "master", "bridge", "up");
      // Without ARP its packets carry its own address, which the far end does not answer to.
      ip("-n", host, "link", "add", "hole", "type", "veth", "peer", "name", "end");
      ip("-n", host, "link", "set", "hole", "arp", "off", "addrgenmode", "none", "up");
      ip("-n", host, "link", "set", "end", "addrgenmode", "none", "up");
    }
  }

  addressOf(host: number): string {
    return `${NETWORK}${host + 1}`;
  }

  /** Command and arguments that run a command on a host; the process is the command's. */
  commandOn(host: number, command: string, args: readonly string[]): readonly [string, readonly string[]] {
    return ["ip", ["netns", "exec", this.#hosts[host], command, ...args]];
  }

  /** Ids of the processes that run on a host. */
  processesOn(host: number): readonly number[] {
    return ip("netns", "pids", this.#hosts[host]).trim().split("\n").filter(Boolean).map(Number);
  }

  /** From now on nothing that `from` sends reaches `to`. */
  cut(from: number, to: number): void {
    ip("-n", this.#hosts[from], "route", "add", `${this.addressOf(to)}/32`, "dev", "hole");
  }

  heal(from: number, to: number): void {
    ip("-n", this.#hosts[from], "route", "del", `${this.addressOf(to)}/32`, "dev", "hole");
  }

  /** Packets of a host that cuts have swallowed so far. */
  numSwallowed(host: number): number {
    const [link] = JSON.parse(ip("-n", this.#hosts[host], "-s", "-j", "link", "show", "hole")) as readonly [
      { readonly stats64: { readonly tx: { readonly packets: number } } },
    ];
    return link.stats64.tx.packets;
  }

  /** Pulls a host's cable out, or puts it in. */
  setLink(host: number, state: "up" | "down"): void {
    ip("-n", this.#hub, "link", "set", `port${host}`, state);
  }

  /** What the host itself sees of its cable, such as UP or LOWERLAYERDOWN. */
  linkState(host: number): string {
    const [link] = JSON.parse(ip("-n", this.#hosts[host], "-j", "link", "show", "wire")) as readonly [
      { readonly operstate: string },
    ];
    return link.operstate;
  }

  close(): void {
    const known = ip("netns", "list");
    for (const name of [...this.#hosts, this.#hub]) {
      if (new RegExp(`^${name}\\b`, "m").test(known)) ip("netns", "del", name);
    }
  }
}
