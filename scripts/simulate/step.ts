/**
 * Simulation of one training step: for each phase, every rank computes the
 * gradients of its shards, all-reduces, and applies the sum.
 *
 * @module
 */
import type { Model } from "../../shared/nn/models.ts";
import { phasesOfStep } from "../../shared/phases.ts";
import { coveringNodes, rankSamples, rankShards } from "../../shared/sharding.ts";
import type { ScheduleName } from "../../worker/schedule.ts";
import { vectorLength } from "../../worker/train-step.ts";
import type { AllReduceTimes, Machines } from "./all-reduce.ts";
import { simulateAllReduce, slowdownOf } from "./all-reduce.ts";

/** What one worker on an own core takes. */
export interface WorkerSpeed {
  /** Gradients of a step, per sample, over all phases. */
  readonly computeMs: number;
  /** Gradients of a step, whatever the number of samples, over all phases. */
  readonly fixedMs: number;
  /** Optimizer of a step, over all phases. */
  readonly applyMs: number;
}

export interface StepCase {
  readonly model: Model;
  readonly discriminatorSteps: number;
  readonly worldSize: number;
  readonly numShards: number;
  readonly globalBatchSize: number;
  readonly schedule: ScheduleName;
}

export interface StepTimes {
  /** Mean over ranks. */
  readonly computeMs: number;
  /** From a rank's own partial sums to its result: mean over ranks, so waiting for slower ranks counts. */
  readonly allReduceMs: number;
  /** The same for the rank that waits least. */
  readonly leastAllReduceMs: number;
  /** Until the last rank is done. */
  readonly stepMs: number;
  /** Sent by rank 0. */
  readonly numMessages: number;
  readonly valueBytes: number;
}

export class StepSimulator {
  readonly #machines: Machines;
  readonly #speed: WorkerSpeed;
  /** All-reduces that all ranks begin at moment 0. */
  readonly #known = new Map<string, AllReduceTimes>();

  constructor(machines: Machines, speed: WorkerSpeed) {
    this.#machines = machines;
    this.#speed = speed;
  }

  /**
   * The network is idle when a phase begins: computing takes longer than the last messages.
   *
   * @param computeMs What each rank takes for its gradients, over all phases.
   */
  step(stepCase: StepCase, computeMs = this.computeMs(stepCase)): StepTimes {
    const { model, discriminatorSteps, worldSize } = stepCase;
    const slowdown = slowdownOf(this.#machines, worldSize);
    const phases = phasesOfStep(discriminatorSteps);
    const lengths = phases.map((phase) => vectorLength(model, phase.network));
    const totalLength = lengths.reduce((sum, length) => sum + length, 0);
    let nowMs = computeMs.map(() => 0);
    const waitedMs = computeMs.map(() => 0);
    let numMessages = 0;
    let valueBytes = 0;
    for (const length of lengths) {
      const readyMs = nowMs.map((ms, rank) => ms + computeMs[rank] / phases.length);
      const reduced = this.#allReduce(stepCase, length, readyMs);
      const applyMs = (this.#speed.applyMs * slowdown * length) / totalLength;
      for (const [rank, ms] of reduced.doneMs.entries()) waitedMs[rank] += ms - readyMs[rank];
      nowMs = reduced.doneMs.map((ms) => ms + applyMs);
      numMessages += reduced.numMessages[0];
      valueBytes += reduced.valueBytes[0];
    }
    return {
      computeMs: mean(computeMs),
      allReduceMs: mean(waitedMs),
      leastAllReduceMs: Math.min(...waitedMs),
      stepMs: Math.max(...nowMs),
      numMessages,
      valueBytes,
    };
  }

  /** What each rank takes for its gradients, over all phases. */
  computeMs({ worldSize, numShards, globalBatchSize }: StepCase): readonly number[] {
    const slowdown = slowdownOf(this.#machines, worldSize);
    return Array.from({ length: worldSize }, (_, rank) => {
      const { start, end } = rankSamples(globalBatchSize, numShards, worldSize, rank);
      // An engine is called once per tree node.
      const numCalls = coveringNodes(rankShards(numShards, worldSize, rank), numShards).length;
      return (numCalls * this.#speed.fixedMs + (end - start) * this.#speed.computeMs) * slowdown;
    });
  }

  #allReduce(
    { schedule, worldSize, numShards }: StepCase,
    length: number,
    readyMs: readonly number[],
  ): AllReduceTimes {
    const [firstMs] = readyMs;
    const allReduce = { schedule, worldSize, numShards, length };
    if (readyMs.some((ms) => Math.abs(ms - firstMs) > 1e-9))
      return simulateAllReduce(this.#machines, { ...allReduce, readyMs });
    const key = JSON.stringify(allReduce);
    const known =
      this.#known.get(key) ??
      simulateAllReduce(this.#machines, { ...allReduce, readyMs: readyMs.map(() => 0) });
    this.#known.set(key, known);
    return { ...known, doneMs: known.doneMs.map((ms) => ms + firstMs) };
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
