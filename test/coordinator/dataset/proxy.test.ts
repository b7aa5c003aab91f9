import { execFile } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { connect } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Test } from "tap";
import t from "tap";
import { serveBytes, startMirror } from "./mirror-server.ts";

const CONTENT = Uint8Array.from({ length: 200_000 }, (_, i) => i >>> 3);
const MODULE = new URL("../../../coordinator/dataset/download.js", import.meta.url).href;

const execFileAsync = promisify(execFile);

interface Proxy {
  readonly url: string;
  /** Hosts and ports to which it has made connections. */
  readonly targets: readonly string[];
}

/** A proxy that only makes connections (RFC 9110, section 9.3.6). */
async function startProxy(t: Test): Promise<Proxy> {
  const targets: string[] = [];
  const server = createServer((_, response) => response.writeHead(405).end());
  server.on("connect", ({ url = "" }, near, head) => {
    targets.push(url);
    const [host, port] = url.split(":");
    const far = connect(Number(port), host, () => {
      near.write("HTTP/1.1 200 Connection established\r\n\r\n");
      far.write(head);
      far.pipe(near).pipe(far);
    });
    for (const socket of [near, far]) socket.on("error", () => undefined);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, targets };
}

/** Downloads in a process with an environment of its own. @returns What it says of its failure; empty if it has none. */
async function download(
  url: string,
  destination: string,
  variables: Record<string, string>,
): Promise<string> {
  const script = `import { downloadFile } from ${JSON.stringify(MODULE)};
    const [url, destination] = process.argv.slice(1);
    await downloadFile({ urls: [url], destination, verify: () => undefined }).catch((e) => console.log(e.message));
    process.exit(0);`;
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name)));
  const args = ["--input-type=module", "--eval", script, url, destination];
  return (await execFileAsync(process.execPath, args, { env: { ...env, ...variables } })).stdout;
}

t.test("downloads go by way of the proxy that the environment names, but for NO_PROXY", async (t) => {
  const proxy = await startProxy(t);
  const mirror = await startMirror(serveBytes(CONTENT));
  t.teardown(() => mirror.close());
  const dir = t.testdir();
  const { host } = new URL(mirror.url);
  for (const [variables, targets] of [
    [{}, []],
    [{ HTTP_PROXY: proxy.url }, [host]],
    [{ http_proxy: proxy.url }, [host, host]],
    [{ HTTP_PROXY: proxy.url, NO_PROXY: "127.0.0.1" }, [host, host]],
  ] as const) {
    const destination = join(dir, String(Math.random()));
    t.equal(await download(`${mirror.url}file.gz`, destination, variables), "", JSON.stringify(variables));
    t.ok(readFileSync(destination).equals(CONTENT));
    t.same(proxy.targets, targets);
  }
});

t.test("a proxy that is none is named in the error", async (t) => {
  const mirror = await startMirror(serveBytes(CONTENT));
  t.teardown(() => mirror.close());
  const destination = join(t.testdir(), "file");
  const said = await download(`${mirror.url}file.gz`, destination, { HTTP_PROXY: "no proxy" });
  t.match(said, /HTTP_PROXY must name a proxy, as http:\/\/host:port/);
  const refused = await download(`${mirror.url}file.gz`, destination, {
    HTTP_PROXY: "http://127.0.0.1:1023",
  });
  t.match(refused, /ECONNREFUSED 127\.0\.0\.1:1023/);
});
