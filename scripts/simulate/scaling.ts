/**
 * How a step's cost grows with the number of workers: weak scaling (every
 * worker keeps its batch) and strong scaling (all share one batch), for both
 * schedules of the all-reduce.
 *
 * @module
 */
import type { Model } from "../../shared/nn/models.ts";
import { canHalveAndDouble } from "../../worker/halving-doubling.ts";
import type { ScheduleName } from "../../worker/schedule.ts";
import { chooseSchedule, SCHEDULE_NAMES } from "../../worker/schedule.ts";
import type { StepSimulator, StepTimes } from "./step.ts";

export const SCALINGS = ["weak", "strong"] as const;
export type Scaling = (typeof SCALINGS)[number];

export interface ScalingCase {
  readonly model: Model;
  readonly workers: readonly number[];
  readonly shardsPerWorker: number;
  /** Images per worker, for weak scaling. */
  readonly localBatchSize: number;
  /** Images of all workers, for strong scaling. */
  readonly globalBatchSize: number;
  /** Schedules to simulate; "auto" is what a run would take. */
  readonly schedules: readonly (ScheduleName | "auto")[];
}

export interface ScheduleResult extends StepTimes {
  readonly imagesPerSecond: number;
  /** Images per second and worker, over those of one worker. */
  readonly efficiency: number;
}

export interface ScalingRow {
  readonly scaling: Scaling;
  readonly workers: number;
  readonly globalBatchSize: number;
  readonly computeMs: number;
  /** What a run would take. */
  readonly chosen: ScheduleName;
  /** A schedule that does not fit the number of workers is left out. */
  readonly schedules: Readonly<Partial<Record<ScheduleName, ScheduleResult>>>;
}

/** @param onRow Told of every row as it is known; worlds with less than one image per shard are left out. */
export function simulateScaling(
  simulator: StepSimulator,
  scalingCase: ScalingCase,
  onRow: (row: ScalingRow) => void,
): readonly ScalingRow[] {
  const { model, shardsPerWorker } = scalingCase;
  const rows: ScalingRow[] = [];
  for (const scaling of SCALINGS) {
    const batchOf = (workers: number): number =>
      scaling === "weak" ? workers * scalingCase.localBatchSize : scalingCase.globalBatchSize;
    const step = (workers: number, schedule: ScheduleName): StepTimes =>
      simulator.step({
        ...{ model, discriminatorSteps: 1, worldSize: workers, schedule },
        ...{ numShards: workers * shardsPerWorker, globalBatchSize: batchOf(workers) },
      });
    const alone = (1e3 * batchOf(1)) / step(1, "direct").stepMs;
    for (const workers of scalingCase.workers) {
      const numShards = workers * shardsPerWorker;
      if (numShards > batchOf(workers)) continue;
      const chosen = chooseSchedule(workers, numShards);
      const wanted = scalingCase.schedules.map((name) => (name === "auto" ? chosen : name));
      const results = SCHEDULE_NAMES.filter(
        (name) => wanted.includes(name) && (name === "direct" || canHalveAndDouble(workers, numShards)),
      ).map((name): readonly [ScheduleName, ScheduleResult] => {
        const times = step(workers, name);
        const imagesPerSecond = (1e3 * batchOf(workers)) / times.stepMs;
        return [name, { ...times, imagesPerSecond, efficiency: imagesPerSecond / workers / alone }];
      });
      const [first] = results;
      if (first === undefined) continue;
      const row: ScalingRow = {
        ...{ scaling, workers, globalBatchSize: batchOf(workers), chosen },
        computeMs: first[1].computeMs,
        schedules: Object.fromEntries(results),
      };
      rows.push(row);
      onRow(row);
    }
  }
  return rows;
}
