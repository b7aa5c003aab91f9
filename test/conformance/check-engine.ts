/**
 * The conformance suite as tests: an engine in a process of its own, in Node or Deno.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import type { Test } from "tap";
import type { EngineName } from "../../shared/config.ts";
import { CAPABILITIES } from "../../worker/engine/engine.ts";
import { skipUnlessUsable } from "../engines.ts";
import { Running } from "../integration/processes.ts";
import type { Outcome } from "./suite.ts";

export const RUN = fileURLToPath(new URL("run.js", import.meta.url));

const DENO = fileURLToPath(new URL("../../../node_modules/.bin/deno", import.meta.url));

const RUNTIMES = { Node: [process.execPath], Deno: [DENO, "run", "-A"] } as const;

/** Must be usable wherever the package is installed. */
const EMBEDDED: readonly EngineName[] = ["wasm", "cpu"];

/** Adds a test that the engine computes what the float64 reference does. */
export function checkEngine(t: Test, engine: EngineName, runtime: keyof typeof RUNTIMES): void {
  t.test(`engine ${engine} in ${runtime} computes what the float64 reference does`, async (t) => {
    const [program, ...flags] = RUNTIMES[runtime];
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
