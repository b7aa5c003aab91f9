/**
 * At which of this machine's addresses other workers reach it.
 *
 * @module
 */
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { BlockList, isIPv6 } from "node:net";
import type { NetworkInterfaceInfo } from "node:os";
import { networkInterfaces } from "node:os";
import { describeError, UsageError } from "../shared/errors.ts";
import { bareHost, parseEndpoint } from "../shared/endpoint.ts";

/**
 * The address of this machine that faces the coordinator.
 *
 * @param ipv6 Whether the endpoint needs IPv6.
 * @throws {UsageError} If it cannot be found out; the message says what to do.
 */
export async function localAddressTowards(endpoint: string, ipv6: boolean): Promise<string> {
  const { host, port } = parseEndpoint(endpoint);
  const bare = bareHost(host);
  let address: string;
  try {
    address = await sourceAddress(bare, Number(port), ipv6);
  } catch (error) {
    throw new UsageError(
      `Cannot find a route to the coordinator's host "${host}": ${describeError(error)}. Check its name, or give --data-host`,
    );
  }
  // Deno connects such a socket only when it sends.
  if (address === "0.0.0.0" || address === "::") {
    const target = await lookup(bare, { family: ipv6 ? 6 : 4 });
    const facing = addressFacing(target.address, Object.values(networkInterfaces()).flat());
    if (facing === null) {
      throw new UsageError(
        `Cannot tell which address of this machine faces the coordinator's host "${host}": give --data-host`,
      );
    }
    address = facing;
  }
  return address;
}

/** What the system would send from. Nothing is sent. */
function sourceAddress(host: string, port: number, ipv6: boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(ipv6 ? "udp6" : "udp4");
    socket.once("error", (error) => {
      socket.close();
      reject(error);
    });
    socket.once("connect", () => {
      const { address } = socket.address();
      socket.close();
      resolve(address);
    });
    socket.connect(port, host);
  });
}

/**
 * The address in the narrowest network that the target is in; else the only one that is no loopback. Exported for tests.
 *
 * @returns Null if there are several and none is in the target's network.
 */
export function addressFacing(
  target: string,
  interfaces: readonly (NetworkInterfaceInfo | undefined)[],
): string | null {
  const family = isIPv6(target) ? "IPv6" : "IPv4";
  const ofFamily = interfaces.filter((one) => one !== undefined).filter((one) => one.family === family);
  const prefixOf = ({ cidr }: NetworkInterfaceInfo): number => Number(cidr?.split("/")[1] ?? 0);
  const [nearest] = ofFamily
    .filter((one) => {
      const network = new BlockList();
      const type = family === "IPv6" ? "ipv6" : "ipv4";
      network.addSubnet(one.address, prefixOf(one), type);
      return one.cidr !== null && network.check(target, type);
    })
    .sort((a, b) => prefixOf(b) - prefixOf(a));
  if (nearest !== undefined) return nearest.address;
  const others = ofFamily.filter(({ internal }) => !internal);
  return others.length === 1 ? others[0].address : null;
}
