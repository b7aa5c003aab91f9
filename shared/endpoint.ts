/**
 * Addresses of sockets, as "tcp://host:port"; a host of IPv6 is in brackets.
 *
 * @module
 */
import { lookup } from "node:dns/promises";
import { BlockList, isIP, isIPv6 } from "node:net";

export interface Endpoint {
  /** A name, an address of IPv4 or "*", or one of IPv6 in brackets. */
  readonly host: string;
  /** A number, or "*" for any that is free. */
  readonly port: string;
}

/** @throws {RangeError} If it is no such endpoint. */
export function parseEndpoint(endpoint: string): Endpoint {
  const match = /^tcp:\/\/(\[[^\]]+\]|[^:[\]\p{Cc}\s]+):(\d+|\*)$/u.exec(endpoint);
  const [, host, port] = match ?? [];
  if (
    match === null ||
    (host.startsWith("[") && !isIPv6(bareHost(host))) ||
    (port !== "*" && Number(port) > 65535)
  ) {
    throw new RangeError(
      `Cannot use endpoint as it must look like tcp://host:port, or tcp://[::1]:port: got "${endpoint}"`,
    );
  }
  return { host, port };
}

/** A host without the brackets that an address of IPv6 has in an endpoint. */
export function bareHost(host: string): string {
  return host.replace(/^\[|\]$/g, "");
}

/** A host as it stands in an endpoint. */
export function bracketed(host: string): string {
  return isIPv6(host) ? `[${host}]` : host;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");
// Addresses of IPv4 as sockets of IPv6 write them.
LOOPBACK.addSubnet("::ffff:127.0.0.0", 104, "ipv6");

/** Whether only processes of this machine reach a host that somebody listens on. A name other than localhost may be anything. */
export function isLoopback(host: string): boolean {
  const bare = bareHost(host);
  const version = isIP(bare);
  if (version === 0) return bare === "localhost";
  return LOOPBACK.check(bare.replace(/%.*/, ""), version === 6 ? "ipv6" : "ipv4");
}

/** The address under which processes of this machine reach who listens on an endpoint. */
export function fromHere(endpoint: string): string {
  return endpoint.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
}

/** Whether a socket needs IPv6 for an endpoint: its host is such an address, or a name that has no other. */
export async function isIPv6Endpoint(endpoint: string): Promise<boolean> {
  const { host } = parseEndpoint(endpoint);
  if (host === "*" || isIP(bareHost(host)) > 0) return isIPv6(bareHost(host));
  try {
    return (await lookup(host, { all: true })).every(({ family }) => family === 6);
  } catch {
    // A network interface, or a name that is not known yet.
    return false;
  }
}
