/**
 * node dist/test/conformance/run.js --engine wasm [--device 0] [--json]
 * deno run -A dist/test/conformance/run.js --engine wasm
 *
 * Runs the conformance suite on one engine. Exit code 0: it passes; 1: it does not; 2: it cannot be used here.
 */
import { parseArgs } from "node:util";
import type { EngineName } from "../../shared/config.ts";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { describeError } from "../../shared/errors.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import type { Outcome } from "./suite.ts";
import { loadWithTfjs, runSuite } from "./suite.ts";

const { values } = parseArgs({
  options: { engine: { type: "string" }, device: { type: "string" }, json: { type: "boolean" } },
});
const engine = ENGINE_NAMES.find((name) => name === values.engine);
const index = values.device === undefined ? null : Number(values.device);
if (engine === undefined || (index !== null && !Number.isInteger(index))) {
  console.error(`Cannot run as --engine must be one of ${ENGINE_NAMES.join(", ")}, and --device an integer`);
  process.exit(2);
}
process.exit(await main(engine, index, values.json === true));

async function main(engine: EngineName, device: number | null, json: boolean): Promise<number> {
  const runtime = "Deno" in globalThis ? "deno" : "node";
  let withTfjs: Engine;
  try {
    withTfjs = await loadWithTfjs({ engine, device });
  } catch (error) {
    console.error(describeError(error));
    return 2;
  }
  const { description } = withTfjs;
  if (!json) console.log(`${description} in ${runtime}`);
  const outcomes = await runSuite({ engine, device }, withTfjs, (outcome) => {
    if (!json) console.log(lineOf(outcome));
  });
  const failed = outcomes.filter(({ passed }) => !passed).length;
  if (json) console.log(JSON.stringify({ engine, runtime, description, failed, outcomes }));
  else console.log(`${outcomes.length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

function lineOf({ name, order, error, tolerance, message, passed }: Outcome): string {
  const result =
    message ?? `error ${(error as number).toExponential(1)}, at most ${tolerance.toExponential(0)}`;
  return `${passed ? "ok  " : "FAIL"} ${name}: ${order}: ${result}`;
}
