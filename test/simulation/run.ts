/**
 * `npm run fuzz:protocol -- --runs N --seed S`: simulated clusters under
 * faults. A seed that fails replays exactly; its plan is shrunk and printed.
 *
 * @module
 */
import yargs from "yargs";
import { FAULT_TYPES } from "./faults.ts";
import { isFailure, scenarioOf, shrink, simulate } from "./scenario.ts";
import { PLAIN_PARSING, plainWords } from "../../scripts/plain-words.ts";

const OPTIONS = {
  runs: { type: "number", default: 1000, describe: "Clusters to simulate" },
  seed: { type: "number", default: 1, describe: "Seed of the first; each next one's is higher by 1" },
  notes: {
    type: "boolean",
    default: false,
    describe: "Print what happened, also in a run that is well",
  },
} as const;

const { runs, seed, notes } = await yargs(plainWords(process.argv.slice(2), OPTIONS))
  .scriptName("npm run fuzz:protocol --")
  .usage("$0 [flags]\n\nSimulates clusters under faults and checks the invariants after every event.")
  .options(OPTIONS)
  .parserConfiguration(PLAIN_PARSING)
  .strict()
  .parse();

const startMs = performance.now();
const fired = new Map<string, number>(FAULT_TYPES.map((type) => [type, 0]));
const totals = { events: 0, simulatedMs: 0, applied: 0, restored: 0, commits: 0, begun: 0, stopped: 0 };
for (let i = 0; i < runs; i++) {
  const outcome = simulate(scenarioOf(seed + i));
  if (isFailure(outcome)) {
    const { scenario, message, notes: said } = shrink(outcome);
    // What leads to a hang is said at its beginning.
    const shown = said.length > 70 ? [...said.slice(0, 60), "...", ...said.slice(-5)] : said;
    console.error(shown.join("\n"));
    console.error(`\nSeed ${seed + i}: ${message}`);
    console.error(`Cluster: ${JSON.stringify({ ...scenario, faults: undefined })}`);
    console.error(`Faults: ${JSON.stringify(scenario.faults, null, 1)}`);
    console.error(`To repeat: npm run fuzz:protocol -- --runs 1 --seed ${seed + i}`);
    process.exit(1);
  }
  totals.events += outcome.numEvents;
  totals.simulatedMs += outcome.simulatedMs;
  for (const type of outcome.fired) fired.set(type, (fired.get(type) ?? 0) + 1);
  for (const key of ["applied", "restored", "commits", "begun", "stopped"] as const) {
    totals[key] += outcome.counts[key];
  }
  if ((i + 1) % 1000 === 0)
    console.log(`${i + 1} runs, ${((performance.now() - startMs) / 1000).toFixed(0)} s`);
  if (notes) console.log(`Seed ${seed + i}: ${JSON.stringify(outcome)}`);
}
const never = [...fired].filter(([, count]) => count === 0).map(([type]) => type);
console.log(`Faults that hit: ${[...fired].map(([type, count]) => `${type} ${count}`).join(", ")}`);
console.log(
  `${runs} clusters, no invariant broken: ${totals.begun} generations, ${totals.commits} commits, ${totals.stopped} stops, ${totals.applied} updates and ${totals.restored} transfers of state checked; ${totals.events} events in ${(totals.simulatedMs / 3.6e6).toFixed(1)} h of simulated time`,
);
if (runs >= 1000 && never.length > 0) {
  console.error(`Never hit: ${never.join(", ")}`);
  process.exit(1);
}
