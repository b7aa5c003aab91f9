/**
 * Images per second of this version beside those of another one, built in a
 * clone of its own: what a change costs where nothing happens, for example the
 * checks and the readiness for faults in a calm run.
 *
 * @module
 */
import { UsageError } from "../../shared/errors.ts";
import type { Row, Section } from "./section.ts";
import { ratioOfRounds, summarize } from "./statistics.ts";
import { ourStepMs } from "./throughput.ts";

const WORKERS = [1, 2] as const;

export const versus: Section = async (options) => {
  const { batchSizes, progress, rounds, versus: other } = options;
  if (other === null)
    throw new UsageError("Cannot measure section h as it needs another version: give --versus");
  const rows: Row[] = [];
  for (const workers of WORKERS) {
    for (const batchSize of batchSizes) {
      const images = workers * batchSize;
      const speeds: { readonly here: number[]; readonly there: number[] } = { here: [], there: [] };
      for (let round = 0; round < rounds; round++) {
        progress(`${workers} x ${batchSize}, round ${round + 1} of ${rounds}`);
        // Whoever comes first in a round may meet another machine than the second: they take turns.
        const order = round % 2 === 0 ? (["here", "there"] as const) : (["there", "here"] as const);
        for (const side of order) {
          const variant = side === "there" ? { root: other } : {};
          speeds[side].push((images * 1000) / (await ourStepMs(options, workers, images, variant)));
        }
      }
      const { here, there } = speeds;
      const cells = [summarize(there), summarize(here), ratioOfRounds(here, there)];
      rows.push({ name: `${workers} x ${batchSize}`, cells });
    }
  }
  return {
    title: "(h) This version and another one [images/s]",
    notes: [
      `The other one: ${other}. Both sides take turns; the ratio is taken within a round. Above 1 means that this one is faster.`,
    ],
    columns: ["workers x batch", "other", "this", "ratio"],
    rows,
  };
};
