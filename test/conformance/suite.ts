/**
 * The conformance suite: what an engine must compute before it may be offered.
 *
 * @module
 */
import { MODELS } from "../../shared/nn/models.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import { loadEngine } from "../../worker/engine/engine.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import type { Case, Order } from "./case.ts";
import { TOLERANCES } from "./case.ts";
import type { Device } from "./gan-cases.ts";
import { ganCases } from "./gan-cases.ts";

export interface Outcome {
  readonly name: string;
  readonly order: Order;
  /** Relative to the largest value; Infinity for values that are not finite, null if the case threw. */
  readonly error: number | null;
  readonly tolerance: number;
  /** What the case threw, or null. */
  readonly message: string | null;
  readonly passed: boolean;
}

/**
 * The engine with an objective for which it needs tfjs, whose backend is then the engine's, until it is disposed of.
 *
 * @throws {Error} If the engine cannot be used here.
 */
export async function loadWithTfjs({ engine: name, device }: Device): Promise<Engine> {
  const config = {
    engine: name,
    deterministicKernels: name === "wasm" && !fusesMultiplyAdd(),
    gradientDtype: "fp32",
  } as const;
  const model = MODELS.mlp({ latentDim: 1, imagePixels: 1 });
  const options = { model, objective: OBJECTIVES["wgan-gp"], maxSamples: 1, device };
  return (await loadEngine(config, options, [])).engine;
}

/**
 * Runs all cases on an engine.
 *
 * @param withTfjs From {@linkcode loadWithTfjs}; is disposed of.
 * @param onOutcome Told of each as it ends.
 */
export async function runSuite(
  device: Device,
  withTfjs: Engine,
  onOutcome: (outcome: Outcome) => void,
): Promise<readonly Outcome[]> {
  // Not before: it loads tfjs, whose backend the engine prepares.
  const { operationCases } = await import("./operation-cases.ts");
  const operations = await outcomesOf(operationCases(device.engine), onOutcome);
  withTfjs.dispose();
  return [...operations, ...(await outcomesOf(ganCases(device), onOutcome))];
}

async function outcomesOf(
  cases: readonly Case[],
  onOutcome: (outcome: Outcome) => void,
): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const { name, order, run } of cases) {
    const tolerance = TOLERANCES[order];
    let outcome: Outcome;
    try {
      const error = await run();
      outcome = { name, order, error, tolerance, message: null, passed: error <= tolerance };
    } catch (thrown) {
      const message = thrown instanceof Error ? thrown.message : String(thrown);
      outcome = { name, order, error: null, tolerance, message, passed: false };
    }
    outcomes.push(outcome);
    onOutcome(outcome);
  }
  return outcomes;
}
