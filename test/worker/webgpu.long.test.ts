import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import "./software-gpu.ts";
import { probeWebgpu } from "../../worker/engine/webgpu-device.ts";
import { skipUnlessUsable } from "../engines.ts";
import { CHECKS } from "./webgpu-checks.ts";

// On a software driver, compiling takes seconds.
t.setTimeout(600_000);

const skip = skipUnlessUsable("webgpu", await probeWebgpu());

for (const [name, check] of Object.entries(CHECKS)) t.test(name, { skip }, check);

t.test("the same checks pass in Deno", { skip }, (t) => {
  const deno = join(dirname(createRequire(import.meta.url).resolve("deno/package.json")), "deno");
  const program = fileURLToPath(new URL("webgpu-deno.js", import.meta.url));
  const { status, stdout, stderr } = spawnSync(deno, ["run", "-A", program], { encoding: "utf8" });
  t.equal(status, 0, `${stdout}${stderr}`);
  t.match(stdout, /all checks passed\n$/);
  t.end();
});

t.test("a process that has used the GPU ends by itself", { skip }, (t) => {
  const source = `
    const { probeWebgpu, openDevice } = await import(${JSON.stringify(new URL("../../worker/engine/webgpu-device.js", import.meta.url).href)});
    await probeWebgpu();
    (await openDevice(null)).close();
    console.log("done");`;
  const { status, signal, stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", source], {
    encoding: "utf8",
    timeout: 60_000,
  });
  t.equal(signal, null);
  t.equal(status, 0);
  t.match(stdout, /done/);
  t.end();
});
