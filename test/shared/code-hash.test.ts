import { appendFileSync, cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { codeHash, hashOf } from "../../shared/code-hash.ts";

t.test("codeHash() tells builds apart by what members run, wherever they lie", async (t) => {
  const dir = t.testdir();
  const build = fileURLToPath(new URL("../../", import.meta.url));
  for (const folder of ["coordinator", "shared", "worker"])
    cpSync(join(build, folder), join(dir, folder), { recursive: true });
  const root = `${dir}/`;
  t.equal(hashOf(root), codeHash());
  writeFileSync(join(dir, "worker", "notes.txt"), "no code");
  t.equal(hashOf(root), codeHash());
  const hashes = new Set([codeHash()]);
  for (const file of ["worker/kernels/kernels.wasm", "shared/adam.js"]) {
    appendFileSync(join(dir, file), " ");
    hashes.add(hashOf(root));
  }
  rmSync(join(dir, "shared/bf16.js"));
  hashes.add(hashOf(root));
  t.equal(hashes.size, 4);
});
