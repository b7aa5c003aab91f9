/**
 * What the plot of a scaling shows: images per second and all-reduce time by
 * number of workers, both scalings, both schedules.
 *
 * @module
 */
import { SCHEDULE_NAMES } from "../../worker/schedule.ts";
import type { Panel, Series } from "./plot.ts";
import type { ScalingRow, ScheduleResult } from "./scaling.ts";
import { SCALINGS } from "./scaling.ts";

const COLOURS = { direct: "#c0392b", "halving-doubling": "#2266aa" } as const;

export function scalingPanels(rows: readonly ScalingRow[]): readonly Panel[] {
  const lines = (some: readonly ScalingRow[], value: (r: ScheduleResult) => number): readonly Series[] =>
    SCHEDULE_NAMES.map((name) => ({
      name,
      colour: COLOURS[name],
      dashed: false,
      points: some.flatMap(({ workers, schedules }) => {
        const result = schedules[name];
        return result === undefined ? [] : [[workers, value(result)] as const];
      }),
    })).filter(({ points }) => points.length > 0);
  const speeds = SCALINGS.map((scaling) => {
    const some = rows.filter((row) => row.scaling === scaling);
    const alone = some.find(({ workers }) => workers === 1)?.schedules.direct?.imagesPerSecond;
    const ideal: Series = {
      ...{ name: "ideal", colour: "#888888", dashed: true },
      points: alone === undefined ? [] : some.map(({ workers }) => [workers, workers * alone] as const),
    };
    return {
      ...{ title: `Images per second, ${scaling} scaling`, xLabel: "workers", yLabel: "images/s" },
      series: [...lines(some, (r) => r.imagesPerSecond), ...(ideal.points.length > 0 ? [ideal] : [])],
    };
  });
  const weak = rows.filter((row) => row.scaling === "weak" && row.workers > 1);
  return [
    ...speeds,
    {
      ...{ title: "All-reduce of a step, weak scaling", xLabel: "workers", yLabel: "ms" },
      series: lines(weak, (r) => r.allReduceMs),
    },
  ].filter(({ series }) => series.some(({ points }) => points.length > 0));
}
