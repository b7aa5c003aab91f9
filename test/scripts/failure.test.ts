import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { failureOf } from "../../scripts/failure.ts";
import { CheckpointError, describeError, UsageError } from "../../shared/errors.ts";
import { explainError, isSystemError } from "../../shared/system-errors.ts";

const FLAGS = {
  out: { type: "string", default: "samples.png" },
  "run-dir": { type: "string" },
  count: { type: "number" },
} as const;

async function errorOf(action: Promise<unknown>): Promise<Error> {
  const error: unknown = await action.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Error)) throw new Error("It did not fail");
  return error;
}

t.test(
  "failureOf() names the flag of the path, the system's reason and the remedy in one line",
  async (t) => {
    const dir = t.testdir({ file: "" });
    const out = join(dir, "not", "there.png");
    const absent = await errorOf(open(out, "w"));
    t.same(failureOf(absent, ["generate", `--out=${out}`], FLAGS), {
      text: `Cannot use --out ${out}: ENOENT: no such file or directory, open '${out}': see whether the path is right, and the folder that it lies in is there`,
      exitCode: 1,
    });
    const isFolder = await errorOf(open(dir, "w"));
    t.match(
      failureOf(isFolder, [`--out=${dir}`, "--count=1"], FLAGS).text,
      /^Cannot use --out .*EISDIR.*name a file$/,
    );
    const below = await errorOf(mkdir(join(dir, "file", "samples")));
    const words = ["train", `--run-dir=${join(dir, "file")}`];
    t.match(failureOf(below, words, FLAGS).text, /^Cannot use --run-dir .*\/file: ENOTDIR/);
    t.match(failureOf(below, ["train"], FLAGS).text, /^ENOTDIR/);
    const byDefault = Object.assign(new Error("EACCES: x"), {
      code: "EACCES",
      errno: -13,
      path: "samples.png",
    });
    t.match(
      failureOf(byDefault, [], FLAGS).text,
      /^Cannot use --out samples\.png: EACCES: x: give this user/,
    );
  },
);

t.test("failureOf() shows a stack only where the fault is ours", async (t) => {
  t.same(failureOf(new UsageError("no"), [], {}), { text: "no", exitCode: 2 });
  t.same(failureOf(new CheckpointError("no"), [], {}), { text: "no", exitCode: 1 });
  const ours = failureOf(new TypeError("x is undefined"), [], {});
  t.match(
    ours.text,
    /^TypeError: x is undefined\n\s+at [^]*\nThis is a fault of lockstep itself: please report it/,
  );
  t.equal(ours.exitCode, 1);
  // Node's own errors have codes too.
  t.notOk(isSystemError(Object.assign(new Error("x"), { code: "ERR_INVALID_ARG_TYPE" })));
  t.match(failureOf("text", [], {}).text, /^text\nThis is a fault/);
});

t.test("explainError() is one line, and describeError() says a cause once", async (t) => {
  t.equal(explainError(new Error("a\nb")), "a");
  const cause = new Error("why");
  t.equal(describeError(new Error("what", { cause })), "what (why)");
  t.equal(describeError(new Error("what: why", { cause })), "what: why");
});
