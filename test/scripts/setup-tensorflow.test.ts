import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { Test } from "tap";
import type { ProbeResult } from "../../scripts/commands/probe.ts";
import { RESULT_MARK } from "../../scripts/commands/probe.ts";
import { parseCudaRequirements } from "../../scripts/setup-tensorflow/install.ts";
import { probeTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { TFJS_NODE_PACKAGE, TFJS_NODE_VERSION } from "../../worker/engine/tensorflow-installation.ts";
import { CLI } from "../integration/processes.ts";
import { skipUnlessUsable } from "../engines.ts";

const SCRIPT = fileURLToPath(new URL("../../scripts/setup-tensorflow.js", import.meta.url));

/** Runs the set-up itself. @returns Its exit code and output. */
function setUp(args: readonly string[], env: Readonly<Record<string, string>>) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [SCRIPT, ...args], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  return { status, output: stdout + stderr };
}

/** Programs that are not in PATH. */
function missing(programs: readonly string[]): readonly string[] {
  const folders = (process.env["PATH"] ?? "").split(":");
  return programs.filter((program) => !folders.some((folder) => existsSync(join(folder, program))));
}

t.test(
  "without the programs that it needs, the set-up says what to install and leaves nothing",
  async (t) => {
    const dir = t.testdir({ bin: {}, cache: {} });
    const cache = join(dir, "cache");
    const nothing = setUp(["--cpu"], { PATH: join(dir, "bin"), XDG_CACHE_HOME: cache, CXX: "" });
    t.equal(nothing.status, 2, nothing.output);
    t.match(nothing.output, /Python 3 with pip.*apt install python3-pip/);
    t.match(nothing.output, /a C\+\+ compiler.*apt install g\+\+/);
    t.match(nothing.output, /the other engines work without it/);
    t.same(readdirSync(cache), []);

    const compiler = setUp(["--cpu"], { XDG_CACHE_HOME: cache, CXX: "no-such-compiler" });
    t.equal(compiler.status, 2, compiler.output);
    t.match(compiler.output, /a C\+\+ compiler.*CXX/);
    t.same(readdirSync(cache), []);
  },
);

const absent = missing(["python3", "pip", "g++", "npm"]);
const needsTools = { skip: absent.length > 0 && `this machine has no ${absent.join(", no ")}` };

t.test(
  "where pip finds no TensorFlow, the set-up passes on its words and leaves nothing",
  needsTools,
  async (t) => {
    const cache = t.testdir();
    const { status, output } = setUp(["--cpu"], {
      XDG_CACHE_HOME: cache,
      PIP_NO_INDEX: "1",
      PIP_FIND_LINKS: "",
    });
    t.equal(status, 1, output);
    t.match(output, /Cannot fetch tensorflow-cpu==2\.21\.\*: .*No matching distribution/s);
    t.same(readdirSync(join(cache, "lockstep", "tensorflow")), []);
  },
);

t.test("flags that exclude each other are refused", async (t) => {
  const { status, output } = setUp(["--cpu", "--cuda"], {});
  t.equal(status, 2, output);
  t.match(output, /cuda.*cpu.*mutually exclusive/);
});

t.test("--remove without a set-up has nothing to do", async (t) => {
  const { status, output } = setUp(["--remove"], { XDG_CACHE_HOME: t.testdir() });
  t.equal(status, 0, output);
  t.match(output, /Nothing to remove/);
});

t.test("the wheels for CUDA are those that TensorFlow's wheel names, but for the compiler", async (t) => {
  const metadata = [
    "Requires-Dist: h5py<3.15.0,>=3.11.0",
    "Provides-Extra: and-cuda",
    'Requires-Dist: nvidia-cublas-cu12<13.0,>=12.5.3.2; extra == "and-cuda"',
    'Requires-Dist: nvidia-cuda-nvcc-cu12<13.0,>=12.5.82; extra == "and-cuda"',
    'Requires-Dist: nvidia-nccl-cu12<3.0,>=2.27.7; extra == "and-cuda"',
    'Requires-Dist: tensorflow-io-gcs-filesystem>=0.23.1; extra == "gcs-filesystem"',
  ].join("\n");
  t.same(parseCudaRequirements(metadata), [
    "nvidia-cublas-cu12<13.0,>=12.5.3.2",
    "nvidia-nccl-cu12<3.0,>=2.27.7",
  ]);
});

const status = await probeTensorflow();
const { description } = status;

t.test("a second run only checks", { skip: skipUnlessUsable("tensorflow", status) }, async (t) => {
  t.match(description, /^TensorFlow \d+\.\d+\.\d+, (CPU|CUDA \(.+\))$/);
  const { status, output } = setUp([description.endsWith("CPU") ? "--cpu" : "--cuda"], {});
  t.equal(status, 0, output);
  t.match(output, /Nothing to do: .* works/);
});

t.test("a probe without a set-up names the command that helps", async (t) => {
  const before = process.env["XDG_CACHE_HOME"];
  t.teardown(() => {
    if (before === undefined) delete process.env["XDG_CACHE_HOME"];
    else process.env["XDG_CACHE_HOME"] = before;
  });
  process.env["XDG_CACHE_HOME"] = t.testdir();
  const probe = await probeTensorflow();
  t.same([probe.usable, probe.fix], [false, "npm run setup:tensorflow"]);
});

/** What a probe says where somebody has put a package of tfjs-node. @param version Of the package. */
function probeBeside(t: Test, version: string, hasBinding: boolean): ProbeResult {
  const binding = hasBinding ? { "napi-v8": { "tfjs_binding.node": "no library" } } : {};
  const own = { "package.json": JSON.stringify({ name: TFJS_NODE_PACKAGE, version }), lib: binding };
  const dir = t.testdir({ cache: {}, node_modules: { "@tensorflow": { "tfjs-node-gpu": own } } });
  const { stdout } = spawnSync(process.execPath, [CLI, "probe", "--engine", "tensorflow"], {
    encoding: "utf8",
    env: { ...process.env, NODE_PATH: join(dir, "node_modules"), XDG_CACHE_HOME: join(dir, "cache") },
  });
  const line = stdout.split("\n").find((text) => text.startsWith(RESULT_MARK)) ?? "";
  return JSON.parse(line.slice(RESULT_MARK.length)) as ProbeResult;
}

t.test("a package of tfjs-node that somebody has installed is used, or it is said why not", async (t) => {
  const withoutBinding = probeBeside(t, TFJS_NODE_VERSION, false);
  t.match(
    withoutBinding.reason,
    /not set up, and @tensorflow\/tfjs-node-gpu in .* has no binding.*npm rebuild/,
  );
  t.equal(withoutBinding.fix, "npm run setup:tensorflow");
  const old = probeBeside(t, "3.21.1", true);
  t.match(old.reason, /is not used as it must have version 4\.22\.0.*: got 3\.21\.1/);
  const broken = probeBeside(t, TFJS_NODE_VERSION, true);
  t.match(broken.reason, /tfjs_binding\.node/, "it is tried");
  t.match(broken.fix, /^Mend or remove the package in .*tfjs-node-gpu$/);
});

t.test(
  "the package is an optional peer, of the version that the set-up builds, and never installed by npm ci",
  async (t) => {
    const read = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"));
    const wanted = {
      peerDependencies: { [TFJS_NODE_PACKAGE]: TFJS_NODE_VERSION },
      peerDependenciesMeta: { [TFJS_NODE_PACKAGE]: { optional: true } },
    };
    t.match(read("package.json"), { ...wanted, allowScripts: { [TFJS_NODE_PACKAGE]: false } });
    const { packages } = read("package-lock.json") as { readonly packages: Readonly<Record<string, object>> };
    t.match(packages[""], wanted);
    t.notOk(Object.keys(packages).some((path) => path.endsWith(TFJS_NODE_PACKAGE)));
  },
);
