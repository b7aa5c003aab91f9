/**
 * (i) What a key costs: the same run with every connection encrypted, and in the open.
 *
 * @module
 */
import { join } from "node:path";
import { writeKeyFile } from "../../shared/keys.ts";
import type { Row, Section } from "./section.ts";
import { ratioOfRounds, summarize } from "./statistics.ts";
import { ourStepMs } from "./throughput.ts";

const WORKERS = 2;
/** Between hosts gradients travel by tcp, as they do here without shared memory. */
const TRANSPORTS = [
  { name: "shared memory", flags: [] },
  { name: "tcp", flags: ["--no-shared-memory"] },
] as const;

export const keyCost: Section = async (options) => {
  const { batchSizes, progress, rounds, scratchDir } = options;
  const keyFile = join(scratchDir, "bench.key");
  writeKeyFile(keyFile);
  const rows: Row[] = [];
  for (const { name, flags } of TRANSPORTS) {
    for (const batchSize of batchSizes) {
      const images = WORKERS * batchSize;
      const open: number[] = [];
      const keyed: number[] = [];
      for (let round = 0; round < rounds; round++) {
        progress(`${name}, ${WORKERS} x ${batchSize}, round ${round + 1} of ${rounds}`);
        open.push((images * 1000) / (await ourStepMs(options, WORKERS, images, { flags })));
        const withKey = { flags: [...flags, "--key", keyFile] };
        keyed.push((images * 1000) / (await ourStepMs(options, WORKERS, images, withKey)));
      }
      const cells = [summarize(open), summarize(keyed), ratioOfRounds(keyed, open)];
      rows.push({ name: `${name}, ${WORKERS} x ${batchSize}`, cells });
    }
  }
  return {
    title: "(i) Two workers without and with a key [images/s]",
    notes: [
      "With a key all messages are encrypted and authenticated by CURVE; values in shared memory are not messages. The ratio is taken within a round.",
    ],
    columns: ["transport, workers x batch", "open", "with a key", "ratio"],
    rows,
  };
};
