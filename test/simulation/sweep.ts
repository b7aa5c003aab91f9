/**
 * Simulated clusters of consecutive seeds, as a test.
 *
 * @module
 */
import type { Test } from "tap";
import { FAULT_TYPES } from "./faults.ts";
import { isFailure, scenarioOf, shrink, simulate } from "./scenario.ts";

/** Passes if no invariant breaks in any, all end, and every kind of fault has hit. */
export function sweepSeeds(t: Test, firstSeed: number, lastSeed: number): void {
  const fired = new Set<string>();
  for (let seed = firstSeed; seed <= lastSeed; seed++) {
    const outcome = simulate(scenarioOf(seed));
    if (isFailure(outcome)) {
      const { message, scenario } = shrink(outcome);
      t.fail(`seed ${seed}: ${message}, faults ${JSON.stringify(scenario.faults)}`);
      return;
    }
    for (const type of outcome.fired) fired.add(type);
  }
  t.same([...fired].sort(), [...FAULT_TYPES].sort(), "every kind of fault has hit");
}
