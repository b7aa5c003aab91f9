/**
 * What came of a chaos run, by kind of fault.
 *
 * @module
 */
import { formatTable } from "../simulate/table.ts";
import { median } from "../bench/statistics.ts";
import type { FaultRecord } from "./chaos-run.ts";
import { FAULT_KIND_NAMES } from "./plan.ts";

export interface KindSummary {
  readonly kind: string;
  readonly count: number;
  readonly fired: number;
  /** From the fault to the next committed step, in milliseconds. Null if none fired. */
  readonly medianMs: number | null;
  readonly maxMs: number | null;
}

export function summarizeKinds(faults: readonly FaultRecord[]): readonly KindSummary[] {
  return FAULT_KIND_NAMES.flatMap((kind) => {
    const ofKind = faults.filter((fault) => fault.kind === kind);
    if (ofKind.length === 0) return [];
    const times = ofKind.flatMap(({ fired }) => (fired === null ? [] : [fired.recoveredMs]));
    const isEmpty = times.length === 0;
    return [
      {
        ...{ kind, count: ofKind.length, fired: times.length },
        medianMs: isEmpty ? null : Math.round(median(times)),
        maxMs: isEmpty ? null : Math.round(Math.max(...times)),
      },
    ];
  });
}

export function chaosTable(faults: readonly FaultRecord[]): string {
  const text = (value: number | null): string => (value === null ? "-" : String(value));
  const rows = summarizeKinds(faults).map(({ kind, count, fired, medianMs, maxMs }) => [
    ...[kind, String(count), String(fired), text(medianMs), text(maxMs)],
  ]);
  return formatTable([["kind", "injected", "fired and recovered", "median ms", "max ms"], ...rows]);
}
