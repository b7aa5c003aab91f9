/**
 * Runs of simulated clusters by seed, and the smallest plan of faults that
 * still fails.
 *
 * @module
 */
import { mulberry32 } from "../reference/mulberry32.ts";
import { InvariantError } from "./checks.ts";
import type { ClusterOptions, RunResult } from "./cluster.ts";
import { Cluster } from "./cluster.ts";
import { planOf } from "./faults.ts";

/** A cluster and its faults, all from the seed. */
export function scenarioOf(seed: number): ClusterOptions {
  const random = mulberry32(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995);
  const upTo = (n: number): number => 1 + Math.floor(random.uniform() * n);
  const workers = upTo(5);
  const minWorkers = random.uniform() < 0.6 ? 1 : upTo(workers);
  const shards = workers + upTo(4) - 1;
  const steps = 2 + upTo(18);
  const isLocal = random.uniform() < 0.4;
  const numFaults = Math.floor(random.uniform() ** 2 * 12);
  // Some runs are hit while they begin, some when they are under way.
  const withinMs = random.uniform() < 0.5 ? 500 : upTo(20_000);
  return {
    ...{ seed, workers, minWorkers, shards, steps, isLocal },
    discriminatorSteps: upTo(2),
    checkpointEvery: upTo(8),
    maxDelayMs: random.uniform() < 0.8 ? 5 : 300,
    faults: planOf(random, { numFaults, withinMs, numHosts: workers, maxWorkers: shards }),
  };
}

export interface Failure {
  readonly scenario: ClusterOptions;
  readonly message: string;
  readonly notes: readonly string[];
}

/** @returns What happened, or how the run failed. */
export function simulate(scenario: ClusterOptions): RunResult | Failure {
  const cluster = new Cluster(scenario);
  try {
    return cluster.run();
  } catch (error) {
    // Any error of the product's code is a failure too.
    const message = error instanceof InvariantError ? error.message : String((error as Error).stack);
    return { scenario, message, notes: cluster.notes };
  }
}

export function isFailure(outcome: RunResult | Failure): outcome is Failure {
  return "message" in outcome;
}

/** Leaves faults away as long as the run still fails. */
export function shrink(failure: Failure): Failure {
  let smallest = failure;
  for (let size = Math.ceil(failure.scenario.faults.length / 2); size >= 1;) {
    const { faults } = smallest.scenario;
    let isSmaller = false;
    for (let start = 0; start < faults.length; start += size) {
      const fewer = [...faults.slice(0, start), ...faults.slice(start + size)];
      const outcome = simulate({ ...smallest.scenario, faults: fewer });
      if (!isFailure(outcome)) continue;
      smallest = outcome;
      isSmaller = true;
      break;
    }
    if (!isSmaller) size = size === 1 ? 0 : Math.ceil(size / 2);
  }
  return smallest;
}
