import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { fastNode } from "../../coordinator/runtime-command.ts";
import { knowsRevectorizer } from "../../worker/kernels/kernel-builds.ts";
import { probeTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { skipUnlessUsable } from "../engines.ts";
import { bits, CLI, TRAINING_FLAGS, run, Running } from "./processes.ts";

/** Paths of other versions of Node, with colons. */
const NODES = (process.env.LOCKSTEP_TEST_NODES ?? "").split(":").filter(Boolean);

const NO_NODES = NODES.length === 0 ? "LOCKSTEP_TEST_NODES names no other Node" : false;

t.test(
  "the kernels pass their tests on every Node, as each compiles them anew",
  { skip: NO_NODES },
  async (t) => {
    for (const test of ["gemm", "conv", "activations", "adam", "kernels"]) {
      const file = fileURLToPath(new URL(`../worker/kernels/${test}.test.js`, import.meta.url));
      for (const node of NODES) {
        const { code, output } = await new Running(node, [file]).finished;
        t.equal(code, 0, `${test} on ${node}: ${output}`);
        t.match(output, /^ok 1 /m);
      }
    }
  },
);

const ENGINES = { wasm: false, tensorflow: skipUnlessUsable("tensorflow", await probeTensorflow()) } as const;

for (const [engine, why] of Object.entries(ENGINES)) {
  const skip = NO_NODES === false ? why : NO_NODES;
  t.test(`every Node gives the same bits on engine ${engine}`, { skip }, async (t) => {
    const dir = t.testdir();
    const args = (name: string): readonly string[] => [
      ...["train", ...TRAINING_FLAGS, "--engine", engine, "--workers", "2", "--global-batch-size", "16"],
      ...["--shards", "2", "--max-steps", "6", "--runtime", "node", "--run-dir", join(dir, name)],
    ];
    const here = await run(args("here"));
    t.equal(here.code, 0, here.output);
    for (const node of NODES) {
      const version = execFileSync(node, ["--version"], { encoding: "utf8" }).trim();
      const { code, output } = await new Running(node, [CLI, ...args(version)]).finished;
      t.equal(code, 0, output);
      t.match(output, `node ${version.slice(1)}`, "workers run on it, too");
      t.equal(bits(join(dir, version)), bits(join(dir, "here")), version);
    }
  });
}

const FAST_NODE = fastNode();
const NO_FAST_NODE = knowsRevectorizer()
  ? "this Node is fast itself"
  : FAST_NODE === null || !existsSync(FAST_NODE)
    ? "npm ci has fetched no faster Node here"
    : false;

t.test(
  "workers run on the Node that npm ci has fetched, with the same bits, unless they may not",
  { skip: NO_FAST_NODE },
  async (t) => {
    const dir = t.testdir();
    const train = async (name: string, ...flags: string[]): Promise<string> => {
      const args = [
        "train",
        ...TRAINING_FLAGS,
        "--workers",
        "2",
        "--global-batch-size",
        "16",
        "--max-steps",
        "6",
      ];
      const { code, output } = await run([...args, "--run-dir", join(dir, name), ...flags]);
      t.equal(code, 0, output);
      return output;
    };
    const version = execFileSync(FAST_NODE ?? "", ["--version"], { encoding: "utf8" })
      .trim()
      .slice(1);
    t.match(await train("fast"), `node ${version})`);
    t.match(await train("own", "--runtime", "node"), `node ${process.versions.node})`);
    t.equal(bits(join(dir, "fast")), bits(join(dir, "own")));
    t.match(
      await train("other-engine", "--engine", "cpu"),
      `node ${process.versions.node})`,
      "bits of cpu may differ",
    );
  },
);
