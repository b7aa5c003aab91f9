import t from "tap";
import { bracketed, fromHere, isIPv6Endpoint, isLoopback, parseEndpoint } from "../../shared/endpoint.ts";

t.test("parseEndpoint() takes names and addresses of both versions", async (t) => {
  t.same(parseEndpoint("tcp://host:1"), { host: "host", port: "1" });
  t.same(parseEndpoint("tcp://0.0.0.0:*"), { host: "0.0.0.0", port: "*" });
  t.same(parseEndpoint("tcp://[::1]:29555"), { host: "[::1]", port: "29555" });
  t.same(parseEndpoint("tcp://[fe80::1%eth0]:1"), { host: "[fe80::1%eth0]", port: "1" });
  for (const text of [
    ...["host:1", "tcp://host", "tcp://:1", "tcp://host:65536", "tcp://::1:29555", "tcp://[host]:1"],
    ...["tcp://[127.0.0.1]:1", "tcp://a b:1", "tcp://a\u001b:1", "tcp://a\n:1", "ipc:///tmp/x", ""],
  ]) {
    t.throws(() => parseEndpoint(text), RangeError, JSON.stringify(text));
  }
});

t.test("isLoopback() knows the addresses that nobody else reaches", async (t) => {
  for (const host of [
    ...["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "::1", "[0:0:0:0:0:0:0:1]"],
    ...["[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
  ]) {
    t.equal(isLoopback(host), true, host);
  }
  for (const host of ["0.0.0.0", "*", "[::]", "10.0.0.1", "[::2]", "[::ffff:10.0.0.1]", "127.0.0.1.a"])
    t.equal(isLoopback(host), false, host);
});

t.test("fromHere() and bracketed() give addresses that can be connected to", async (t) => {
  t.equal(fromHere("tcp://0.0.0.0:5"), "tcp://127.0.0.1:5");
  t.equal(fromHere("tcp://[::]:5"), "tcp://[::1]:5");
  t.equal(fromHere("tcp://[fd00::]:5"), "tcp://[fd00::]:5");
  t.equal(bracketed("::1"), "[::1]");
  t.equal(bracketed("[::1]"), "[::1]");
  t.equal(bracketed("10.0.0.1"), "10.0.0.1");
});

t.test("isIPv6Endpoint() asks for IPv6 only where there is no other way", async (t) => {
  t.equal(await isIPv6Endpoint("tcp://[::1]:1"), true);
  t.equal(await isIPv6Endpoint("tcp://127.0.0.1:1"), false);
  t.equal(await isIPv6Endpoint("tcp://*:1"), false);
  t.equal(await isIPv6Endpoint("tcp://no-such-host.invalid:1"), false);
});
