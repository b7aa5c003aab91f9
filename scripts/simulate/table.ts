/**
 * Rows of text as a table that reads well in a terminal and in Markdown.
 *
 * @module
 */
import { SCHEDULE_NAMES } from "../../worker/schedule.ts";
import type { Scaling, ScalingRow, ScheduleResult } from "./scaling.ts";

/** @param rows The first one is the header. Numbers stand to the right, so all cells do. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padStart(widths[column])).join(" | ")} |`;
  const rule = `| ${widths.map((width) => `${"-".repeat(width - 1)}:`).join(" | ")} |`;
  const [header, ...body] = rows;
  return [line(header), rule, ...body.map(line)].join("\n");
}

/** The rows of one scaling; "direct / halving-doubling" where they differ, * what a run takes. */
export function scalingTable(rows: readonly ScalingRow[], scaling: Scaling): string {
  const header = ["workers", "batch", "compute ms", "messages", "all-reduce ms", "step ms", "images/s"];
  const body = rows
    .filter((row) => row.scaling === scaling)
    .map(({ workers, globalBatchSize, computeMs, schedules, chosen }) => {
      const each = (text: (result: ScheduleResult) => string): string =>
        SCHEDULE_NAMES.flatMap((name) => {
          const result = schedules[name];
          return result === undefined ? [] : [text(result)];
        }).join(" / ");
      return [
        ...[String(workers), String(globalBatchSize), computeMs.toFixed(1)],
        each((r) => String(r.numMessages)),
        each((r) => r.allReduceMs.toFixed(1)),
        each((r) => `${r.stepMs.toFixed(1)}${r === schedules[chosen] ? "*" : ""}`),
        each((r) => r.imagesPerSecond.toFixed(0)),
        each((r) => `${(100 * r.efficiency).toFixed(0)}%`),
      ];
    });
  return formatTable([[...header, "efficiency"], ...body]);
}
