/** Batch systems limit the address space of processes, of which Node reserves much for WebAssembly. */
import { spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { encodeIdx } from "../../coordinator/dataset/idx.ts";
import { bits, CLI } from "./processes.ts";

const dir = t.testdir();
writeFileSync(join(dir, "train-images-idx3-ubyte"), encodeIdx([8, 28, 28], new Uint8Array(8 * 784).fill(9)));
const TRAINING = [
  ...["train", "--engine", "wasm", "--workers", "2", "--max-steps", "2", "--global-batch-size", "8"],
  ...["--dataset", "mnist", "--data-dir", dir, "--no-verify-data"],
];

/** A command in 8 GB of addresses. @param before Words of the shell before it. */
function limited(args: readonly string[], before = "") {
  const script = `unset NODE_OPTIONS; ulimit -v 8000000; ${before} exec "$0" "$@"`;
  const { status, stdout, stderr } = spawnSync("sh", ["-c", script, process.execPath, CLI, ...args], {
    encoding: "utf8",
    cwd: dir,
  });
  return { code: status, stdout, stderr, output: stdout + stderr };
}

const FLAG = "--disable-wasm-trap-handler";
const room = spawnSync("sh", ["-c", `ulimit -v 8000000; "$0" ${FLAG} -e ""`, process.execPath]);
const skip = room.status === 0 ? false : "no ulimit -v here, or a Node without the flag";

t.test(
  "in a small address space a run trains to the same bits, and says what it costs",
  { skip },
  async (t) => {
    const small = limited([...TRAINING, "--run-dir", "small"]);
    t.equal(small.code, 0, small.output);
    t.match(small.output, `WARN: Workers run on Node with ${FLAG}`);
    t.match(small.output, "a limit of 8.2 GB (ulimit -v): raise it (ulimit -v unlimited)");
    const usual = spawnSync(process.execPath, [CLI, ...TRAINING, "--run-dir", "usual"], {
      encoding: "utf8",
      cwd: dir,
    });
    t.equal(usual.status, 0, usual.stderr);
    t.notMatch(usual.stdout, FLAG);
    t.equal(bits(join(dir, "small")), bits(join(dir, "usual")));
  },
);

t.test("a command that cannot have its memory names limit and flag in one line", { skip }, async (t) => {
  const said = new RegExp(
    `^lockstep: Cannot reserve memory for WebAssembly .* a limit of 8\\.2 GB .*NODE_OPTIONS=${FLAG}\\n$`,
  );
  const commands = [
    ["generate", "small", "--count", "1"],
    ["worker", "--coordinator", "tcp://127.0.0.1:1"],
  ];
  for (const args of commands) {
    const { code, stderr } = limited(args);
    t.equal(code, 2);
    t.match(stderr, said);
  }
  const download = limited(["download", "--mirror", "http://127.0.0.1:1023", "--data-dir", "data"]);
  t.equal(download.code, 1);
  t.match(download.stderr, `NODE_OPTIONS=${FLAG}`);
  t.notMatch(download.stderr, /\n\s+at /);
  const drawn = limited(["generate", "small", "--count", "1"], `NODE_OPTIONS=${FLAG}`);
  t.equal(drawn.code, 0, drawn.output);
});

t.test("doctor says how the engine runs there", { skip }, async (t) => {
  const { code, stdout } = limited(["doctor", "--json"]);
  t.equal(code, 0);
  const { engines } = JSON.parse(stdout) as {
    readonly engines: readonly {
      readonly engine: string;
      readonly usable: boolean;
      readonly description: string;
    }[];
  };
  const wasm = engines.find(({ engine }) => engine === "wasm");
  t.ok(wasm?.usable);
  t.match(wasm?.description, `bounds checked in software (${FLAG})`);
});

t.test("no run is begun where the engine has no room even so", { skip }, async (t) => {
  // Workers on a Node that has no such flag.
  writeFileSync(
    join(dir, "node.sh"),
    '#!/bin/sh\n[ "$1" = --version ] && echo v20.19.0 && exit\necho "bad option: $1" >&2\nexit 9\n',
    {
      mode: 0o755,
    },
  );
  const { code, stderr } = limited(
    [...TRAINING, "--run-dir", "none"],
    `LOCKSTEP_NODE=${join(dir, "node.sh")}`,
  );
  t.equal(code, 2, stderr);
  t.match(stderr, /Cannot use --engine wasm: its probe ended with 9: bad option/);
  t.notOk(existsSync(join(dir, "none")));
});
