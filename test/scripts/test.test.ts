import { execFile } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";

const SCRIPT = fileURLToPath(new URL("../../scripts/test.js", import.meta.url));

/** Runs the script and gives its exit code, and the lines behind those of tap. */
async function lastLines(args: readonly string[]): Promise<{ code: number; lines: readonly string[] }> {
  // This test is a test of tap's itself, which its own tests must not know.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("TAP")));
  const { code, stdout } = await promisify(execFile)(process.execPath, [SCRIPT, ...args], { env }).then(
    ({ stdout }) => ({ code: 0, stdout }),
    (error: { code: number; stdout: string }) => error,
  );
  const lines = stdout.trimEnd().split("\n");
  return { code, lines: lines.slice(lines.findLastIndex((line) => /^#|^$/.test(line)) + 1) };
}

const GOOD = `import t from "tap";
t.test("works", async (t) => t.equal(1, 1));
t.test("needs a GPU", { skip: "no GPU is here" }, async () => {});
t.test("needs one, too", async (t) => { t.pass("x"); t.pass("usable", { skip: "no GPU is here" }); });`;

const BAD = `import t from "tap";
t.test("outer", async (t) => {
  t.test("inner", async (t) => t.equal("ok 1 - # SKIP\\n  ...\\nnot ok 7 - quoted", "other", "differs"));
  t.test("later", { skip: "not today" }, async () => {});
});`;

t.test("the last lines say how many passed, failed and were skipped, and why", async (t) => {
  const dir = t.testdir({ "good.test.js": GOOD, "bad.test.js": BAD, "broken.test.js": "process.exit(3);" });
  const [good, bad, broken] = ["good", "bad", "broken"].map((name) => join(dir, `${name}.test.js`));
  const [goodResults, badResults] = ["good.tap", "bad.tap"].map((name) => join(dir, name));
  t.same(await lastLines(["quick", good, `--output-file=${goodResults}`]), {
    code: 0,
    lines: ["2 skipped: no GPU is here", "2 passed, 0 failed, 2 skipped"],
  });
  const both = await lastLines(["long", bad, broken, `--output-file=${badResults}`]);
  t.equal(both.code, 1);
  t.match(both.lines, [
    /^failed: \S*bad\.test\.js > outer > inner > differs$/,
    /^failed: \S*broken\.test\.js$/,
    "1 skipped: not today",
    "0 passed, 2 failed, 1 skipped",
  ]);
  const joined = await lastLines(["report", goodResults, badResults]);
  t.equal(joined.code, 1);
  t.equal(joined.lines.at(-1), "2 passed, 2 failed, 3 skipped");
});

t.test("a run in which nothing was tested has failed", async (t) => {
  const dir = t.testdir({
    "none.test.js": `import t from "tap"; t.test("it", { skip: "never" }, async () => {});`,
  });
  t.same(await lastLines(["quick", join(dir, "none.test.js")]), {
    code: 1,
    lines: ["1 skipped: never", "no test was executed", "0 passed, 0 failed, 1 skipped"],
  });
});
