// npm run fuzz:parsers -- --runs 100000 --seed 1
import { parseArgs } from "node:util";
import { fuzzParsers } from "./parsers.ts";

const { values } = parseArgs({
  options: { runs: { type: "string", default: "100000" }, seed: { type: "string", default: "1" } },
});
const beganMs = performance.now();
const counts = fuzzParsers(Number(values.runs), Number(values.seed));
console.table(counts);
console.log(`${((performance.now() - beganMs) / 1000).toFixed(1)} s, no finding`);
