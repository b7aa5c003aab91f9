import { fileURLToPath } from "node:url";
import t from "tap";
import "../worker/software-gpu.ts";
import type { EngineName } from "../../shared/config.ts";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import { CAPABILITIES, checkCapabilities } from "../../worker/engine/engine.ts";
import { skipUnlessUsable } from "../engines.ts";
import { Running } from "../integration/processes.ts";
import type { Outcome } from "./suite.ts";

const RUN = fileURLToPath(new URL("run.js", import.meta.url));
const DENO = fileURLToPath(new URL("../../../node_modules/.bin/deno", import.meta.url));

/** Must be usable wherever the package is installed. */
const EMBEDDED: readonly EngineName[] = ["wasm", "cpu"];

const RUNTIMES: readonly {
  readonly name: string;
  readonly command: readonly string[];
  readonly engines: readonly EngineName[];
}[] = [
  { name: "Node", command: [process.execPath], engines: ENGINE_NAMES },
  { name: "Deno", command: [DENO, "run", "-A"], engines: ["webgpu", "wasm", "cpu"] },
];

for (const { name, command, engines } of RUNTIMES) {
  for (const engine of engines) {
    t.test(`engine ${engine} in ${name} computes what the float64 reference does`, async (t) => {
      const [program, ...flags] = command;
      const args = [...flags, RUN, "--engine", engine, "--json"];
      const { code, output } = await new Running(program, args).finished;
      if (code === 2 && !EMBEDDED.includes(engine)) {
        const status = { usable: false, reason: output.trim(), fix: null };
        t.pass("usable here", { skip: skipUnlessUsable(engine, status) });
        return;
      }
      const line = output.split("\n").find((text) => text.startsWith('{"engine"'));
      if (line === undefined) {
        t.fail(`no result, exit code ${code}`, { output });
        return;
      }
      const { outcomes } = JSON.parse(line) as { readonly outcomes: readonly Outcome[] };
      for (const { name, order, error, message, passed } of outcomes) {
        const what = message ?? `error ${error}`;
        // What an engine says that it cannot do may fail: it is not offered for that.
        const isOffered =
          order !== "gradient-of-gradient" || CAPABILITIES[engine].includes("gradient-of-gradient");
        t.ok(passed || !isOffered, `${name}, ${order}: ${what}`);
      }
      t.ok(outcomes.length > 100, `${outcomes.length} cases`);
      t.equal(code, outcomes.every(({ passed }) => passed) ? 0 : 1, "exit code");
    });
  }
}

t.test("an engine that lacks what an objective needs is refused with the ones that have it", async (t) => {
  const capabilities = {
    tensorflow: [],
    webgpu: [],
    wasm: ["gradient-of-gradient"],
    cpu: ["gradient-of-gradient"],
  } as const;
  t.throws(() => checkCapabilities("webgpu", OBJECTIVES["wgan-gp"], capabilities), {
    name: "UsageError",
    message: /engine webgpu as it needs gradient-of-gradient: use --engine wasm or cpu/,
  });
  checkCapabilities("wasm", OBJECTIVES["wgan-gp"], capabilities);
  checkCapabilities("webgpu", OBJECTIVES.hinge, capabilities);
});

t.test("run.js says how to use it", async (t) => {
  const { code, output } = await new Running(process.execPath, [RUN, "--engine", "abacus"]).finished;
  t.equal(code, 2);
  t.match(output, /--engine must be one of tensorflow, webgpu, wasm, cpu/);
});
