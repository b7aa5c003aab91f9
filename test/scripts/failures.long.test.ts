/** Every command of the command line under what the system refuses: one line with path and remedy, and no stack. */
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { Test } from "tap";
import { encodeIdx } from "../../coordinator/dataset/idx.ts";
import { COMMAND_FLAGS } from "../../scripts/commands/options.ts";
import { CLI } from "../integration/processes.ts";

const dir = t.testdir({ file: "", "folder.png": {}, data: {}, empty: {} });
writeFileSync(join(dir, "data", "train-images-idx3-ubyte"), encodeIdx([8, 28, 28], new Uint8Array(8 * 784)));
symlinkSync("loop", join(dir, "loop"));
// Other users look into it.
chmodSync(dir, 0o755);

const OWN_DATA = ["--dataset", "mnist", "--data-dir", join(dir, "data"), "--no-verify-data"];
const TRAINING = ["--engine", "wasm", "--workers", "1", "--max-steps", "1", "--global-batch-size", "8"];
const RUN = join(dir, "run");

/** For a shell: otherwise the test runner watches what it starts, which takes open files, and folders of its own. */
const ALONE = "unset NODE_OPTIONS";

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Circumstances {
  readonly uid?: number;
  /** Limits of the shell that starts the command. */
  readonly limits?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
}

async function lockstep(args: readonly string[], circumstances: Circumstances = {}): Promise<Ended> {
  const { uid, limits = "true", env = process.env, cwd = dir } = circumstances;
  const child = spawn("sh", ["-c", `${ALONE}; ${limits}; exec "$0" "$@"`, process.execPath, CLI, ...args], {
    ...{ cwd, env, stdio: ["ignore", "pipe", "pipe"] },
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  const ended = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (ended.stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (ended.stderr += text));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, ...ended };
}

/** @param said What the line must have. */
function isOneLine(t: Test, { code, stderr }: Ended, said: RegExp, what: string): void {
  t.ok(code === 1 || code === 2, `${what}: exit code ${code}`);
  t.match(stderr, /^lockstep: [^\n]+\n$/, `${what}: ${stderr}`);
  t.match(stderr, said, what);
}

const text = (path: string): RegExp => new RegExp(path.replaceAll(".", "\\.").slice(0, 100));

t.test("a short run, for commands that read one", async (t) => {
  const { code, stderr } = await lockstep(["train", ...TRAINING, ...OWN_DATA, "--run-dir", RUN]);
  t.equal(code, 0, stderr);
});

/** Commands that take a path, and kinds of places where it cannot be. */
const PATHS: readonly (readonly [readonly (keyof typeof PLACES)[], (path: string) => readonly string[]])[] = [
  [["file", "loop", "long"], (path) => ["train", ...TRAINING, ...OWN_DATA, "--run-dir", path]],
  [
    ["file", "loop", "long"],
    (path) => ["coordinator", ...TRAINING, ...OWN_DATA, "--bind", "tcp://127.0.0.1:*", "--run-dir", path],
  ],
  [["absent", "folder", "file", "loop", "long"], (path) => ["train", "--resume", "--run-dir", path]],
  [
    ["absent", "folder", "file", "loop", "long"],
    (path) => ["train", ...TRAINING, "--dataset", "mnist", "--data-dir", path],
  ],
  [["absent", "folder", "file", "loop", "long"], (path) => ["train", "--config", path]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["train", "--key", path]],
  [
    ["absent", "folder", "file", "loop", "long"],
    (path) => ["worker", "--coordinator", "tcp://127.0.0.1:1", "--key", path],
  ],
  [["absent", "folder", "file", "loop", "long"], (path) => ["generate", RUN, "--count", "1", "--out", path]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["generate", path]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["inspect", path]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["status", path]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["scale", path, "--workers", "2"]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["stop", path]],
  [["absent", "folder", "file", "loop", "long"], (path) => ["keygen", "--out", path]],
  [["file", "loop", "long"], (path) => ["download", "--mirror", "http://127.0.0.1:1023", "--data-dir", path]],
];

const PLACES = {
  absent: "not/there/x.png",
  folder: "folder.png",
  file: "file/x.png",
  loop: "loop/x.png",
  long: `${"x".repeat(300)}.png`,
} as const;

t.test("a path that cannot be is named in one line, by every command that takes one", async (t) => {
  const tested = new Set<string>();
  for (const [kinds, commandOf] of PATHS) {
    for (const kind of kinds) {
      const args = commandOf(PLACES[kind]);
      tested.add(args[0]);
      isOneLine(t, await lockstep(args), text(PLACES[kind]), `${kind}: ${args.join(" ").slice(0, 200)}`);
    }
  }
  const pathless = ["doctor", "probe"];
  t.same([...tested, ...pathless].toSorted(), Object.keys(COMMAND_FLAGS).toSorted(), "every command is here");
});

const STRANGER = 12_345;
const homeless: NodeJS.ProcessEnv = { ...process.env, XDG_DATA_DIRS: "/nowhere" };
delete homeless["HOME"];
delete homeless["XDG_CACHE_HOME"];

async function whyNoStranger(): Promise<string | false> {
  if (process.getuid?.() !== 0) return "only root can become another user";
  const { code } = await lockstep(["--version"], { uid: STRANGER, env: homeless });
  return code === 0 ? false : "another user may not read this checkout";
}
const otherUser = { skip: await whyNoStranger() };

t.test("a folder where this user may not write, or read, is named with the remedy", otherUser, async (t) => {
  const stranger = { uid: STRANGER, env: { ...homeless, XDG_CACHE_HOME: join(dir, "cache") } };
  const denied = /EACCES.*give this user the right to it/;
  for (const args of [
    ["train", ...TRAINING, ...OWN_DATA],
    ["train", ...TRAINING, ...OWN_DATA, "--run-dir", "mine"],
    ["coordinator", ...TRAINING, ...OWN_DATA, "--bind", "tcp://127.0.0.1:*", "--run-dir", "mine"],
    ["generate", RUN, "--count", "1"],
    ["keygen"],
    ["download", "--mirror", "http://127.0.0.1:1023"],
    ["download", "--mirror", "http://127.0.0.1:1023", "--data-dir", "mine"],
  ]) {
    isOneLine(t, await lockstep(args, stranger), denied, args.join(" "));
  }
  chmodSync(RUN, 0o700);
  for (const args of [
    ["train", "--resume", "--run-dir", RUN],
    ["generate", RUN],
    ["inspect", RUN],
    ["status", RUN],
    ["scale", RUN, "--workers", "2"],
    ["stop", RUN],
  ]) {
    isOneLine(t, await lockstep(args, stranger), denied, args.join(" "));
  }
  chmodSync(RUN, 0o755);
});

t.test(
  "without a home folder auto draws digits, and what needs the cache names XDG_CACHE_HOME",
  otherUser,
  async (t) => {
    const cwd = join(dir, "empty");
    chmodSync(cwd, 0o777);
    const stranger = { uid: STRANGER, env: homeless, cwd };
    for (const args of [["download"], ["train", ...TRAINING, "--dataset", "mnist"]]) {
      isOneLine(
        t,
        await lockstep(args, stranger),
        /no home folder: name a folder in XDG_CACHE_HOME/,
        args.join(" "),
      );
    }
    t.same(readdirSync(cwd), [], "no run was begun");
    const { code, stdout, stderr } = await lockstep(["train", ...TRAINING, "--run-dir", "mine"], stranger);
    t.equal(code, 0, stderr);
    t.match(stdout, /SYNTHETIC DIGITS.*\n.*\n.*XDG_CACHE_HOME/);
  },
);

t.test("where few files may be open, every command says so", async (t) => {
  for (const command of Object.keys(COMMAND_FLAGS)) {
    for (const limit of [64, 40]) {
      const ended = await lockstep([command], { limits: `ulimit -n ${limit}` });
      isOneLine(t, ended, /too few files: got a limit of \d+; raise it \(ulimit -n 4096\)/, command);
    }
  }
  const { code, stderr } = await lockstep(["inspect", RUN], { limits: "ulimit -n 128" });
  t.equal(code, 0, stderr);
});

t.test(
  "output that cannot be printed is said, and a reader that has seen enough is no failure",
  async (t) => {
    const into = (target: string, ...args: readonly string[]): Promise<Ended> =>
      new Promise((resolve) => {
        const command = `"$0" "$@" ${target}`;
        const child = spawn("bash", [
          "-c",
          `${ALONE}; set -o pipefail; ${command}`,
          process.execPath,
          CLI,
          ...args,
        ]);
        let stderr = "";
        child.stderr.setEncoding("utf8").on("data", (said: string) => (stderr += said));
        child.once("close", (code) => resolve({ code, stdout: "", stderr }));
      });
    const closed = await into("| true", "inspect", RUN);
    t.same([closed.code, closed.stderr], [141, ""]);
    if (existsSync("/dev/full")) {
      for (const args of [["inspect", RUN], ["doctor"]]) {
        isOneLine(t, await into("> /dev/full", ...args), /Cannot print: ENOSPC.*make room/, args.join(" "));
      }
      mkdirSync(join(dir, "full"));
      const trained = await into(
        "> /dev/full",
        "train",
        ...TRAINING,
        ...OWN_DATA,
        "--run-dir",
        join(dir, "full", "run"),
      );
      t.equal(trained.code, 0, trained.stderr);
    }
  },
);
