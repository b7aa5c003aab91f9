import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import t from "tap";
import type { Test } from "tap";
import { downloadFile } from "../../../coordinator/dataset/download.ts";
import { DatasetError } from "../../../shared/errors.ts";
import { Cutter, REFUSING_URL, serveBytes, serveStatus, startMirror } from "./mirror-server.ts";
import type { Answer, MirrorServer } from "./mirror-server.ts";

const content = Uint8Array.from({ length: 300_000 }, (_, i) => (i * i) >>> 5);
const corrupted = Uint8Array.from(content, (byte, i) => (i === 123_456 ? byte ^ 1 : byte));
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

function verify(bytes: Uint8Array): void {
  if (sha256(bytes) !== sha256(content)) throw new DatasetError(`got hash ${sha256(bytes)}`);
}

/** Starts mirrors that end with the test. */
async function startMirrors(t: Test, ...answers: Answer[]): Promise<MirrorServer[]> {
  const mirrors = await Promise.all(answers.map(startMirror));
  t.teardown(() => Promise.all(mirrors.map((mirror) => mirror.close())));
  return mirrors;
}

const urls = (mirrors: readonly MirrorServer[]): string[] => mirrors.map(({ url }) => `${url}file.gz`);

t.test("downloadFile() fetches, verifies and reports progress", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(content));
  const directory = t.testdir();
  const destination = join(directory, "new", "folder", "file.gz");
  const progress: [number, number | null][] = [];
  await downloadFile({
    urls: urls(mirrors),
    destination,
    verify,
    onProgress: (receivedBytes, totalBytes) => progress.push([receivedBytes, totalBytes]),
  });
  t.ok(readFileSync(destination).equals(content));
  t.same(readdirSync(join(directory, "new", "folder")), ["file.gz"], "nothing else is left");
  t.same(progress[0], [0, content.length]);
  t.same(progress.at(-1), [content.length, content.length]);
  t.same(mirrors[0].requests, [{ path: "/file.gz", range: null }]);
});

t.test("downloadFile() continues after a cut connection", async (t) => {
  const cutter = new Cutter();
  const mirrors = await startMirrors(t, (request, response, requestIndex) => {
    if (requestIndex === 0) cutter.send(response, content, 0, 100_000);
    else serveBytes(content)(request, response, requestIndex);
  });
  const destination = join(t.testdir(), "file.gz");
  await downloadFile({ urls: urls(mirrors), destination, verify, onProgress: cutter.onProgress });
  t.ok(readFileSync(destination).equals(content));
  t.same(
    mirrors[0].requests.map(({ range }) => range),
    [null, "bytes=100000-"],
  );
});

t.test("downloadFile() leaves what it got of a cut file, and a later call continues it", async (t) => {
  const cutter = new Cutter();
  const [broken, good] = await startMirrors(
    t,
    (_request, response, requestIndex) => {
      if (requestIndex === 0) cutter.send(response, content, 0, 100_000);
      else response.writeHead(503).end();
    },
    serveBytes(content),
  );
  const destination = join(t.testdir(), "file.gz");
  await t.rejects(
    downloadFile({ urls: urls([broken]), destination, verify, onProgress: cutter.onProgress }),
    /HTTP 503/,
  );
  t.notOk(existsSync(destination));
  t.ok(readFileSync(`${destination}.partial`).equals(content.subarray(0, 100_000)));
  await downloadFile({ urls: urls([good]), destination, verify });
  t.ok(readFileSync(destination).equals(content));
  t.notOk(existsSync(`${destination}.partial`));
  t.same(good.requests[0].range, "bytes=100000-");
});

t.test("downloadFile() starts over where the server ignores Range", async (t) => {
  const mirrors = await startMirrors(t, (_request, response) => {
    response.writeHead(200, { "content-length": content.length }).end(content);
  });
  const destination = join(
    t.testdir({ "file.gz.partial": Buffer.from(content.subarray(0, 777)) }),
    "file.gz",
  );
  await downloadFile({ urls: urls(mirrors), destination, verify });
  t.ok(readFileSync(destination).equals(content));
  t.equal(mirrors[0].requests.length, 1);
});

t.test("downloadFile() starts over where the server answers another range", async (t) => {
  const mirrors = await startMirrors(t, (request, response, requestIndex) => {
    if (request.headers.range === undefined) return serveBytes(content)(request, response, requestIndex);
    const range = `bytes 0-${content.length - 1}/${content.length}`;
    response.writeHead(206, { "content-length": content.length, "content-range": range }).end(content);
  });
  const destination = join(
    t.testdir({ "file.gz.partial": Buffer.from(content.subarray(0, 777)) }),
    "file.gz",
  );
  await downloadFile({ urls: urls(mirrors), destination, verify });
  t.ok(readFileSync(destination).equals(content));
});

t.test("downloadFile() takes a whole partial file as it is (416)", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(content));
  const destination = join(t.testdir({ "file.gz.partial": Buffer.from(content) }), "file.gz");
  await downloadFile({ urls: urls(mirrors), destination, verify });
  t.ok(readFileSync(destination).equals(content));
  t.equal(mirrors[0].requests.length, 1);
});

t.test("downloadFile() starts over with a partial file longer than the file (416)", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(content));
  const long = Buffer.concat([content, Buffer.from("more")]);
  const destination = join(t.testdir({ "file.gz.partial": long }), "file.gz");
  await downloadFile({ urls: urls(mirrors), destination, verify });
  t.ok(readFileSync(destination).equals(content));
  t.equal(mirrors[0].requests.length, 2);
});

t.test("downloadFile() fetches once more from zero when a continued file fails its hash", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(content), serveBytes(content));
  const partial = Buffer.from(corrupted.subarray(0, 200_000));
  const destination = join(t.testdir({ "file.gz.partial": partial }), "file.gz");
  await downloadFile({ urls: urls(mirrors), destination, verify });
  t.ok(readFileSync(destination).equals(content));
  t.same(
    mirrors.map(({ requests }) => requests.map(({ range }) => range)),
    [["bytes=200000-", null], []],
  );
});

t.test("downloadFile() asks the second mirror when the first sends corrupted bytes", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(corrupted), serveBytes(content));
  const destination = join(t.testdir(), "file.gz");
  await downloadFile({ urls: urls(mirrors), destination, verify });
  t.ok(readFileSync(destination).equals(content));
  t.same(
    mirrors.map(({ requests }) => requests.map(({ range }) => range)),
    [[null], [null]],
    "none of the corrupted bytes is kept",
  );
});

t.test("downloadFile() asks the next mirror when one stalls, and continues there", async (t) => {
  const silent: Answer = () => undefined;
  const stalling: Answer = (_request, response) => {
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(0, 50_000));
  };
  const mirrors = await startMirrors(t, silent, stalling, serveBytes(content));
  const destination = join(t.testdir(), "file.gz");
  await downloadFile({
    urls: urls(mirrors),
    destination,
    verify,
    connectTimeoutMs: 1000,
    idleTimeoutMs: 1000,
  });
  t.ok(readFileSync(destination).equals(content));
  t.same(
    mirrors.map(({ requests }) => requests.map(({ range }) => range)),
    [[null], [null], ["bytes=50000-"]],
  );
});

t.test(
  "downloadFile() gives up a mirror that sends a little now and then, and continues elsewhere",
  async (t) => {
    const dripping: Answer = (_request, response) => {
      response.writeHead(200, { "content-length": content.length });
      response.write(content.subarray(0, 100));
      let at = 100;
      const timer = setInterval(() => response.write(content.subarray(at, ++at)), 5);
      response.on("close", () => clearInterval(timer));
    };
    const limits = { minBytesPerSecond: 1_000_000, speedWindowMs: 50 };
    const [alone] = await startMirrors(t, dripping);
    const destination = join(t.testdir(), "file.gz");
    await t.rejects(downloadFile({ urls: urls([alone]), destination, verify, ...limits }), {
      name: "DatasetError",
      message: /slower than 1000000 bytes a second/,
    });
    const mirrors = await startMirrors(t, dripping, serveBytes(content));
    await downloadFile({ urls: urls(mirrors), destination, verify, ...limits });
    t.ok(readFileSync(destination).equals(content));
    t.match(mirrors[1].requests, [{ range: /^bytes=\d+-$/ }], "what it gave is kept");
  },
);

t.test("downloadFile() names every mirror with its reason when all fail", async (t) => {
  const mirrors = await startMirrors(
    t,
    serveStatus(404),
    serveBytes(corrupted),
    () => undefined,
    (_request, response) => void response.socket?.destroy(),
    serveBytes(new Uint8Array(400_000)),
  );
  const directory = t.testdir();
  const destination = join(directory, "file.gz");
  const all = [...urls(mirrors), `${REFUSING_URL}file.gz`];
  const error: unknown = await downloadFile({
    urls: all,
    destination,
    verify,
    connectTimeoutMs: 1000,
    maxBytes: 350_000,
  }).catch((thrown: unknown) => thrown);
  if (!(error instanceof DatasetError)) throw new Error("no DatasetError", { cause: error });
  const lines = error.message.split("\n");
  t.equal(lines[0], "Cannot download file.gz as no mirror gave it whole:");
  t.equal(lines[1], `  ${all[0]}: HTTP 404`);
  t.equal(lines[2], `  ${all[1]}: got hash ${sha256(corrupted)}`);
  t.equal(lines[3], `  ${all[2]}: no answer within 1000 ms`);
  t.match(lines[4], /closed|ECONNRESET/);
  t.equal(lines[5], `  ${all[4]}: a file of 400000 bytes, more than 350000`);
  t.match(lines[6], /ECONNREFUSED/);
  t.match(error.message, /--data-dir/);
  t.match(error.message, /--dataset synthetic/);
  t.same(readdirSync(directory), [], "no empty partial file is left");
});

t.test("downloadFile() stops believing a mirror that sends without end", async (t) => {
  const mirrors = await startMirrors(t, (_request, response) => {
    const more = (): void => {
      if (!response.destroyed) response.write(content, more);
    };
    more();
  });
  const destination = join(t.testdir(), "file.gz");
  await t.rejects(downloadFile({ urls: urls(mirrors), destination, verify, maxBytes: 1_000_000 }), {
    message: /more than 1000000 bytes/,
  });
  t.notOk(existsSync(destination));
});

t.test("downloadFile() gives up on a mirror that breaks again and again", async (t) => {
  const cutter = new Cutter();
  const breaking: Answer = (request, response) => {
    cutter.send(response, content, Number(/\d+/.exec(request.headers.range ?? "0")?.[0]), 10);
  };
  const mirrors = await startMirrors(t, breaking, serveBytes(content));
  const destination = join(t.testdir(), "file.gz");
  await downloadFile({ urls: urls(mirrors), destination, verify, onProgress: cutter.onProgress });
  t.ok(readFileSync(destination).equals(content));
  t.equal(mirrors[0].requests.length, 3);
  t.same(mirrors[1].requests[0].range, "bytes=30-");
});

t.test("downloadFile() reads an answer that the server packed once more", async (t) => {
  const packed = gzipSync(content);
  const mirrors = await startMirrors(t, (_request, response) => {
    response.writeHead(200, { "content-encoding": "gzip", "content-length": packed.length }).end(packed);
  });
  const destination = join(t.testdir(), "file.gz");
  const totals: (number | null)[] = [];
  await downloadFile({
    urls: urls(mirrors),
    destination,
    verify,
    onProgress: (_receivedBytes, totalBytes) => totals.push(totalBytes),
  });
  t.ok(readFileSync(destination).equals(content));
  t.same([...new Set(totals)], [null]);
});

t.test("downloadFile() stops when told to, leaves no final file, and can be continued", async (t) => {
  const mirrors = await startMirrors(
    t,
    (_request, response) => {
      response.writeHead(200, { "content-length": content.length });
      response.write(content.subarray(0, 50_000));
    },
    serveBytes(content),
  );
  const destination = join(t.testdir(), "file.gz");
  const controller = new AbortController();
  const reason = new Error("the user pressed a key");
  await t.rejects(
    downloadFile({
      urls: urls(mirrors),
      destination,
      verify,
      signal: controller.signal,
      onProgress: (receivedBytes) => {
        if (receivedBytes === 50_000) controller.abort(reason);
      },
    }),
    reason,
  );
  t.notOk(existsSync(destination));
  t.equal(mirrors[1].requests.length, 0, "no other mirror is asked");
  t.ok(readFileSync(`${destination}.partial`).equals(content.subarray(0, 50_000)));
  await t.rejects(
    downloadFile({ urls: urls(mirrors), destination, verify, signal: AbortSignal.abort(reason) }),
    reason,
  );
  await downloadFile({ urls: urls([mirrors[1]]), destination, verify });
  t.ok(readFileSync(destination).equals(content));
});

t.test("downloadFile() serves two callers of one file at once", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(content));
  const destination = join(t.testdir(), "file.gz");
  const options = { urls: urls(mirrors), destination, verify };
  await Promise.allSettled([downloadFile(options), downloadFile(options)]);
  t.ok(!existsSync(destination) || readFileSync(destination).equals(content), "never anything but the file");
  await downloadFile(options);
  t.ok(readFileSync(destination).equals(content));
});

t.test("downloadFile() names the file that it cannot write", async (t) => {
  const mirrors = await startMirrors(t, serveBytes(content));
  const directory = t.testdir();
  writeFileSync(join(directory, "not-a-folder"), "");
  const destination = join(directory, "not-a-folder", "file.gz");
  await t.rejects(downloadFile({ urls: urls(mirrors), destination, verify }), {
    name: "DatasetError",
    message: /Cannot write .*not-a-folder/,
  });
});
