import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { bits, Running } from "./processes.ts";

t.test("npm pack gives a package that installs elsewhere and trains there", async (t) => {
  const dir = t.testdir({ app: { "package.json": '{ "name": "app", "private": true }' } });
  const app = join(dir, "app");
  const npm = (cwd: string, ...args: string[]): string =>
    execFileSync("npm", args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  // The test runs on a finished build, so the package is packed from it as it is.
  const [{ filename, files }] = JSON.parse(
    npm(".", "pack", "--ignore-scripts", "--json", "--pack-destination", dir),
  ) as [{ filename: string; files: { path: string }[] }];
  const paths = files.map((file) => file.path);
  for (const needed of [
    "README.md",
    "LICENSE",
    "dist/scripts/lockstep.js",
    "dist/scripts/api.d.ts",
    "dist/worker/kernels/kernels.wasm",
  ]) {
    t.ok(paths.includes(needed), needed);
  }
  t.notOk(
    paths.some((path) => path.startsWith("dist/test/") || path.startsWith("test/")),
    "no tests",
  );
  npm(app, "install", "--no-audit", "--no-fund", "--prefer-offline", join(dir, filename));
  t.notOk(existsSync(join(app, "node_modules", "typescript")), "no development dependencies");
  const train = new Running(
    "npx",
    ["lockstep", "train", "--dataset", "synthetic", "--max-steps", "3", "--workers", "2", "--run-dir", "r"],
    { cwd: app },
  );
  const { code, output } = await train.finished;
  t.equal(code, 0, output);
  t.match(bits(join(app, "r")), /^3 /);
  writeFileSync(
    join(app, "use.mjs"),
    `import { parseRunConfig, MODELS, loadCheckpoint } from "lockstep-gan";
     console.log(parseRunConfig({ workers: 1 }).globalBatchSize, Object.keys(MODELS).join(), typeof loadCheckpoint);`,
  );
  t.equal(execFileSync(process.execPath, ["use.mjs"], { cwd: app, encoding: "utf8" }), "64 mlp function\n");
  t.match(JSON.parse(readFileSync(join(app, "node_modules", "lockstep-gan", "package.json"), "utf8")), {
    license: "MIT",
  });
});
