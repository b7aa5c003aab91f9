/**
 * What a real run says of its steps in metrics.jsonl.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../../shared/errors.ts";
import { linesOf } from "../../shared/lines-of.ts";

const LineSchema = z.looseObject({
  workers: z.record(
    z.string(),
    z.looseObject({
      computeMs: z.number(),
      allReduceMs: z.number(),
      waitMs: z.number(),
      applyMs: z.number(),
    }),
  ),
});

export interface MeasuredStep {
  readonly workers: readonly {
    readonly computeMs: number;
    readonly allReduceMs: number;
    readonly waitMs: number;
    readonly applyMs: number;
  }[];
}

/** Steps at the beginning that do not count: code is compiled and caches are cold. */
const WARM_UP_STEPS = 5;

/** @throws {UsageError} If the folder is not a run of enough steps. */
export function readSteps(runDir: string): readonly MeasuredStep[] {
  const path = join(runDir, "metrics.jsonl");
  if (!existsSync(path)) throw new UsageError(`Cannot find metrics.jsonl in ${runDir}`);
  const steps: MeasuredStep[] = [];
  let numLines = 0;
  for (const line of linesOf(path)) {
    numLines += 1;
    if (numLines <= WARM_UP_STEPS) continue;
    steps.push({ workers: Object.values(LineSchema.parse(JSON.parse(line)).workers) });
  }
  if (steps.length === 0)
    throw new UsageError(`Cannot use ${path} as it must have more than ${WARM_UP_STEPS} steps`);
  return steps;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
}
