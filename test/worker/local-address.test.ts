import type { NetworkInterfaceInfo } from "node:os";
import t from "tap";
import { addressFacing, localAddressTowards } from "../../worker/local-address.ts";

function at(cidr: string, internal = false): NetworkInterfaceInfo {
  const common = { address: cidr.split("/")[0], netmask: "", mac: "", internal, cidr };
  return cidr.includes(":") ? { ...common, family: "IPv6", scopeid: 0 } : { ...common, family: "IPv4" };
}

const INTERFACES = [at("127.0.0.1/8", true), at("::1/128", true), at("10.1.0.5/8"), at("10.2.0.5/16")];

t.test("addressFacing() takes the address in the target's network, else the only one", async (t) => {
  t.equal(addressFacing("127.0.0.1", INTERFACES), "127.0.0.1");
  t.equal(addressFacing("::1", INTERFACES), "::1");
  t.equal(addressFacing("10.2.9.9", INTERFACES), "10.2.0.5", "the narrower network");
  t.equal(addressFacing("10.3.9.9", INTERFACES), "10.1.0.5");
  t.equal(addressFacing("192.0.2.1", INTERFACES), null, "either of two");
  t.equal(addressFacing("192.0.2.1", INTERFACES.slice(0, 3)), "10.1.0.5");
  t.equal(addressFacing("2001:db8::1", INTERFACES), null);
});

t.test("localAddressTowards() asks the system, and says what to do where there is no route", async (t) => {
  t.equal(await localAddressTowards("tcp://127.0.0.1:1234", false), "127.0.0.1");
  await t.rejects(localAddressTowards("tcp://no-such-host.invalid:1234", false), {
    name: "UsageError",
    message: /no-such-host.invalid.*--data-host/,
  });
});
