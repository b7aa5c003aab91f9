import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import t from "tap";
import type { Test } from "tap";
import { downloadDataset, loadDataset } from "../../../coordinator/dataset/dataset.ts";
import { defaultCacheDir } from "../../../shared/cache-folder.ts";
import type { DatasetChoice } from "../../../shared/config.ts";
import type { Dataset, LoadOptions } from "../../../coordinator/dataset/dataset.ts";
import { encodeIdx } from "../../../coordinator/dataset/idx.ts";
import { DatasetError } from "../../../shared/errors.ts";
import { FASHION_MNIST, skipWithoutFashionMnist } from "../../real-data.ts";
import { REFUSING_URL, serveBytes, serveStatus, startMirror } from "./mirror-server.ts";
import type { MirrorServer } from "./mirror-server.ts";

const IMAGES = "train-images-idx3-ubyte";
const LABELS = "train-labels-idx1-ubyte";
const realDir = resolve(process.cwd(), "../shared/data/mnist");
const withRealFiles = existsSync(join(realDir, `${IMAGES}.gz`))
  ? {}
  : { skip: "no MNIST in ../shared/data/mnist" };
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

const ownPixels = Uint8Array.from({ length: 3 * 784 }, (_, i) => (i * 11) & 255);
const ownImages = Buffer.from(encodeIdx([3, 28, 28], ownPixels));
const ownLabels = Buffer.from(encodeIdx([3], Uint8Array.of(1, 2, 3)));

// Packages of this machine may have real data.
process.env["XDG_DATA_DIRS"] = "/nowhere";

/** What a test compares: the runner would print all 47 million pixels of a data set. */
const summary = ({ name, numImages }: Dataset): [string, number] => [name, numImages];

interface Logged {
  level: "info" | "warn";
  text: string;
}

/** Options without a network: the only mirror refuses connections. */
function offline(
  t: Test,
  dataset: DatasetChoice,
  dataDir: string | null,
  more: Partial<LoadOptions> = {},
): { options: LoadOptions; logged: Logged[]; cacheDir: string } {
  const logged: Logged[] = [];
  const cacheDir = more.cacheDir ?? t.testdir();
  const onLog = (level: Logged["level"], text: string): void => void logged.push({ level, text });
  return {
    options: { dataset, dataDir, cacheDir, mirrors: [REFUSING_URL], onLog, ...more },
    logged,
    cacheDir,
  };
}

/** A mirror of the real MNIST files. */
async function startRealMirror(t: Test): Promise<MirrorServer> {
  const mirror = await startMirror((request, response, requestIndex) => {
    const path = join(realDir, request.url ?? "");
    const answer = existsSync(path) ? serveBytes(readFileSync(path)) : serveStatus(404);
    answer(request, response, requestIndex);
  });
  t.teardown(() => mirror.close());
  return mirror;
}

t.test("loadDataset() loads the real MNIST", withRealFiles, async (t) => {
  const { options } = offline(t, "mnist", realDir);
  const dataset = await loadDataset(options);
  t.same(summary(dataset), ["mnist", 60_000]);
  t.equal(dataset.imagePixels, 784);
  t.equal(dataset.source, join(realDir, `${IMAGES}.gz`));
  t.type(dataset.pixels.buffer, SharedArrayBuffer);
  t.equal(dataset.pixels.length, 60_000 * 784);
  t.equal(dataset.labels?.length, 60_000);
  t.same(dataset.labels?.subarray(0, 10), Uint8Array.of(5, 0, 4, 1, 9, 2, 1, 3, 1, 4));
  t.equal(dataset.sha256, sha256(Uint8Array.from(dataset.pixels)));
  const unpacked = gunzipSync(readFileSync(join(realDir, `${IMAGES}.gz`)));
  t.equal(dataset.sha256, sha256(unpacked.subarray(16)));
});

t.test(
  "loadDataset() finds unpacked files and either form of their names in a subfolder",
  withRealFiles,
  async (t) => {
    const directory = t.testdir({ data: { mnist: {} }, cache: {} });
    const folder = join(directory, "data", "mnist");
    const unpacked = gunzipSync(readFileSync(join(realDir, `${IMAGES}.gz`)));
    writeFileSync(join(folder, "train-images.idx3-ubyte"), unpacked);
    writeFileSync(join(folder, LABELS), gunzipSync(readFileSync(join(realDir, `${LABELS}.gz`))));
    const { options } = offline(t, "auto", join(directory, "data"), {
      cacheDir: join(directory, "cache"),
    });
    t.same(summary(await loadDataset(options)), ["mnist", 60_000]);
    await t.rejects(loadDataset({ ...options, dataset: "fashion-mnist" }), /must hold.*no train-images/);
    mkdirSync(join(directory, "data", "fashion-mnist"));
    writeFileSync(join(directory, "data", "fashion-mnist", IMAGES), unpacked);
    writeFileSync(join(directory, "data", "fashion-mnist", LABELS), ownLabels);
    await t.rejects(
      loadDataset({ ...options, dataset: "fashion-mnist" }),
      /must have SHA-256 c59f468a.*: got ba891046.*, a file of mnist;/,
    );
  },
);

t.test("loadDataset() downloads MNIST into the cache once", withRealFiles, async (t) => {
  const mirror = await startRealMirror(t);
  const { options, logged, cacheDir } = offline(t, "auto", null, {
    mirrors: [mirror.url.slice(0, -1)],
  });
  const files = new Set<string>();
  const dataset = await loadDataset({ ...options, onProgress: ({ file }) => void files.add(file) });
  t.same(summary(dataset), ["mnist", 60_000]);
  t.equal(dataset.source, join(cacheDir, "mnist", `${IMAGES}.gz`));
  t.same([...files], [`${IMAGES}.gz`, `${LABELS}.gz`]);
  t.same(readdirSync(join(cacheDir, "mnist")), [`${IMAGES}.gz`, `${LABELS}.gz`]);
  t.same(
    logged.map(({ level }) => level),
    ["info"],
  );
  const again = await loadDataset({ ...options, dataset: "mnist" });
  t.equal(again.sha256, dataset.sha256);
  t.equal(mirror.requests.length, 2);
});

t.test(
  "loadDataset() takes a damaged file in the cache for an error, also under auto",
  withRealFiles,
  async (t) => {
    const { options, logged, cacheDir } = offline(t, "auto", null);
    mkdirSync(join(cacheDir, "mnist"));
    const images = readFileSync(join(realDir, `${IMAGES}.gz`));
    writeFileSync(join(cacheDir, "mnist", `${LABELS}.gz`), readFileSync(join(realDir, `${LABELS}.gz`)));
    writeFileSync(join(cacheDir, "mnist", `${IMAGES}.gz`), images.subarray(0, 1_000_000));
    const rule = /train-images-idx3-ubyte\.gz as .*truncated or corrupt.*lockstep download/;
    await t.rejects(loadDataset(options), { name: "DatasetError", message: rule });
    t.same(logged, []);
  },
);

t.test("loadDataset() refuses data of another hash, unless told not to verify", async (t) => {
  const dataDir = t.testdir({ [`${IMAGES}.gz`]: gzipSync(ownImages), [LABELS]: ownLabels });
  for (const dataset of ["mnist", "auto", "fashion-mnist"] as const) {
    const { options } = offline(t, dataset, dataDir, { cacheDir: join(dataDir, "none") });
    await t.rejects(loadDataset(options), {
      name: "DatasetError",
      message: /SHA-256 [0-9a-f]{64}: got [0-9a-f]{64}.*--no-verify-data/,
    });
    const own = await loadDataset({ ...options, verify: false });
    t.equal(own.numImages, 3);
    t.ok(Buffer.from(own.pixels).equals(ownPixels));
    t.same(own.labels, Uint8Array.of(1, 2, 3));
  }
});

t.test("loadDataset() unpacks no more of a published file than it has", async (t) => {
  // It says of itself that it has so many.
  const large = encodeIdx([61_000, 28, 28], new Uint8Array(61_000 * 784));
  const dataDir = t.testdir({ [`${IMAGES}.gz`]: gzipSync(large, { level: 1 }), [LABELS]: ownLabels });
  const { options } = offline(t, "mnist", dataDir, { cacheDir: join(dataDir, "none") });
  await t.rejects(loadDataset(options), {
    name: "DatasetError",
    message: /got more than 47040016 unpacked bytes.*--no-verify-data/,
  });
});

t.test("loadDataset() still checks the form of data that it need not verify", async (t) => {
  const dataDir = t.testdir({ [IMAGES]: ownImages, [LABELS]: ownLabels });
  const { options } = offline(t, "mnist", dataDir, { verify: false, cacheDir: join(dataDir, "none") });
  writeFileSync(join(dataDir, LABELS), encodeIdx([2], Uint8Array.of(1, 2)));
  await t.rejects(loadDataset(options), /one label for each of 3 images: got 2/);
  writeFileSync(join(dataDir, LABELS), ownImages);
  await t.rejects(loadDataset(options), /0x00000801: got 0x00000803/);
});

t.test("loadDataset() takes data of the user's own with any labels, or without", async (t) => {
  const dataDir = t.testdir({ [IMAGES]: ownImages });
  const withLabels = join(dataDir, LABELS);
  for (const dataset of ["mnist", "fashion-mnist", "auto"] as const) {
    const { options } = offline(t, dataset, dataDir, { verify: false, cacheDir: join(dataDir, "none") });
    t.equal((await loadDataset(options)).labels, null);
    await t.rejects(loadDataset({ ...options, dataset: "mnist", verify: true }), /no train-labels/);
    writeFileSync(withLabels, encodeIdx([3], Uint8Array.of(1, 26, 255)));
    t.same((await loadDataset(options)).labels, Uint8Array.of(1, 26, 255));
    rmSync(withLabels);
  }
});

t.test("loadDataset() refuses images of another size, also those of the user's own", async (t) => {
  const dataDir = t.testdir({ [IMAGES]: Buffer.from(encodeIdx([2, 32, 32], new Uint8Array(2 * 32 * 32))) });
  const { options } = offline(t, "mnist", dataDir, { verify: false, cacheDir: join(dataDir, "none") });
  await t.rejects(loadDataset(options), /must have 28x28 pixels: got 32x32 pixels/);
});

t.test("loadDataset() finds files where torchvision puts them", async (t) => {
  const raw = () => ({ raw: { [IMAGES]: ownImages, [LABELS]: ownLabels } });
  const dataDir = t.testdir({ MNIST: raw(), FashionMNIST: raw() });
  const more = { verify: false, cacheDir: join(dataDir, "none") };
  for (const [dataset, folder] of [
    ["mnist", "MNIST"],
    ["fashion-mnist", "FashionMNIST"],
  ] as const) {
    for (const given of [dataDir, join(dataDir, folder), join(dataDir, folder, "raw")]) {
      const { source } = await loadDataset(offline(t, dataset, given, more).options);
      t.equal(source, join(dataDir, folder, "raw", IMAGES));
    }
  }
});

t.test(
  "loadDataset() takes real Fashion-MNIST in any packing, also from the system",
  { skip: skipWithoutFashionMnist() },
  async (t) => {
    process.env["XDG_DATA_DIRS"] = "/nowhere:/usr/share";
    t.teardown(() => (process.env["XDG_DATA_DIRS"] = "/nowhere"));
    const { options } = offline(t, "fashion-mnist", null);
    const dataset = await loadDataset(options);
    t.same(summary(dataset), ["fashion-mnist", 60_000]);
    t.equal(dataset.source, join(FASHION_MNIST, `${IMAGES}.gz`));
    const given = t.testdir({
      [IMAGES]: gunzipSync(readFileSync(join(FASHION_MNIST, `${IMAGES}.gz`))),
      [`${LABELS}.gz`]: gzipSync(gunzipSync(readFileSync(join(FASHION_MNIST, `${LABELS}.gz`))), { level: 1 }),
    });
    t.equal((await loadDataset({ ...options, dataDir: given })).sha256, dataset.sha256);
    await t.rejects(loadDataset({ ...options, dataset: "mnist", dataDir: given }), /a file of fashion-mnist/);
  },
);

t.test(
  "loadDataset() names the folder and the files that a data folder lacks, and asks no mirror",
  async (t) => {
    const mirror = await startMirror(serveStatus(404));
    t.teardown(() => mirror.close());
    const dataDir = t.testdir({ [`${LABELS}.gz`]: gzipSync(ownLabels) });
    const { options } = offline(t, "mnist", dataDir, {
      mirrors: [mirror.url],
      cacheDir: join(dataDir, "none"),
    });
    const error: unknown = await loadDataset(options).catch((thrown: unknown) => thrown);
    if (!(error instanceof DatasetError)) throw new Error("no DatasetError", { cause: error });
    t.match(error.message, `Cannot load mnist from ${dataDir}`);
    t.match(error.message, `no ${IMAGES}.gz in ${dataDir};`);
    t.match(error.message, `lockstep download --dataset mnist --data-dir ${dataDir}`);
    t.equal(mirror.requests.length, 0);
  },
);

t.test("loadDataset() never falls back when a data set is asked for by name", async (t) => {
  for (const dataset of ["mnist", "fashion-mnist"] as const) {
    const { options } = offline(t, dataset, null);
    await t.rejects(loadDataset(options), { name: "DatasetError", message: /no mirror gave it whole/ });
  }
});

t.test("loadDataset() draws digits under auto without MNIST, and says so loudly", async (t) => {
  const directory = t.testdir({ empty: {}, cache: {} });
  const { options, logged } = offline(t, "auto", join(directory, "empty"), {
    cacheDir: join(directory, "cache"),
  });
  const dataset = await loadDataset(options);
  t.same(summary(dataset), ["synthetic", 60_000]);
  t.type(dataset.pixels.buffer, SharedArrayBuffer);
  t.equal(dataset.sha256, "c49f3acb32ae33580b1bf588288f3fd272a6dc0f4083ba064a2a84695346df6b");
  const warnings = logged.filter(({ level }) => level === "warn").map(({ text }) => text);
  t.equal(warnings.length, 2);
  t.match(warnings[0], /--data-dir does not hold MNIST/);
  t.match(
    warnings[1],
    /SYNTHETIC DIGITS, NOT ON MNIST[^]*ECONNREFUSED[^]*npx lockstep download[^]*--dataset mnist/,
  );
});

t.test("loadDataset() takes a mistyped mirror and an abort for what they are, also under auto", async (t) => {
  const { options, logged } = offline(t, "auto", null);
  await t.rejects(
    loadDataset({ ...options, mirrors: ["mirror.example"] }),
    /http or https URL: got mirror\.example/,
  );
  const silent = await startMirror(() => controller.abort(reason));
  t.teardown(() => silent.close());
  const controller = new AbortController();
  const reason = new Error("stop");
  await t.rejects(loadDataset({ ...options, mirrors: [silent.url], signal: controller.signal }), reason);
  t.same(
    logged.map(({ level }) => level),
    ["info"],
  );
});

t.test(
  "downloadDataset() fetches all four files, keeps whole ones and sets others aside",
  withRealFiles,
  async (t) => {
    const mirror = await startRealMirror(t);
    const directory = t.testdir({ [`${LABELS}.gz`]: "my own notes" });
    const logged: Logged[] = [];
    const options = {
      dataset: "mnist" as const,
      directory,
      mirrors: [mirror.url],
      onLog: (level: Logged["level"], text: string): void => void logged.push({ level, text }),
    };
    const first = await downloadDataset(options);
    t.same(
      first.map(({ downloaded }) => downloaded),
      [true, true, true, true],
    );
    t.equal(readFileSync(join(directory, `${LABELS}.gz.unverified`), "utf8"), "my own notes");
    for (const { path } of first) {
      t.ok(readFileSync(path).equals(readFileSync(path.replace(directory, realDir))));
    }
    t.equal(logged.filter(({ level }) => level === "warn").length, 1);
    const second = await downloadDataset(options);
    t.same(
      second.map(({ downloaded }) => downloaded),
      [false, false, false, false],
    );
    t.equal(mirror.requests.length, 4);
  },
);

t.test("downloadDataset() refuses the files of another data set", withRealFiles, async (t) => {
  const mirror = await startRealMirror(t);
  const directory = t.testdir();
  const options = {
    dataset: "fashion-mnist" as const,
    directory,
    mirrors: [mirror.url],
    onLog: () => undefined,
  };
  await t.rejects(downloadDataset(options), {
    name: "DatasetError",
    message: /its unpacked bytes must have SHA-256 c59f468a.*, a file of mnist/,
  });
  t.same(readdirSync(directory), []);
});

t.test("defaultCacheDir() follows XDG_CACHE_HOME", (t) => {
  const before = process.env["XDG_CACHE_HOME"];
  t.teardown(() => {
    if (before === undefined) delete process.env["XDG_CACHE_HOME"];
    else process.env["XDG_CACHE_HOME"] = before;
  });
  process.env["XDG_CACHE_HOME"] = "/some/cache";
  t.equal(defaultCacheDir(), join("/some/cache", "lockstep"));
  process.env["XDG_CACHE_HOME"] = "";
  t.match(defaultCacheDir(), /lockstep$/);
  t.notMatch(defaultCacheDir(), "/some/cache");
  t.end();
});
