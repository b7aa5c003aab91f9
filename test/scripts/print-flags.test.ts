import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

t.test("docs/flags.md is what the definition of the flags gives", async (t) => {
  const script = fileURLToPath(new URL("../../scripts/print-flags.js", import.meta.url));
  const out = join(t.testdir(), "flags.md");
  execFileSync(process.execPath, [script, "--out", out]);
  t.equal(readFileSync("docs/flags.md", "utf8"), readFileSync(out, "utf8"), "else: npm run print-flags");
});
