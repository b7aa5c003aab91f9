// npm run simulate -- --help
/**
 * Predicts how the cost of a training step grows with the number of workers,
 * from measured speeds and the real sharding and all-reduce; see docs/scaling.md.
 *
 * @module
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { describeError, UsageError } from "../shared/errors.ts";
import { IMAGE_PIXELS } from "../shared/image.ts";
import { MODELS } from "../shared/nn/models.ts";
import { SCHEDULE_NAMES } from "../worker/schedule.ts";
import { check } from "./simulate/check.ts";
import {
  parseMachines,
  parseSpeed,
  parseWorkers,
  positiveInteger,
  SIMULATE_OPTIONS,
} from "./simulate/options.ts";
import { plot } from "./simulate/plot.ts";
import { scalingPanels } from "./simulate/scaling-panels.ts";
import { SCALINGS, simulateScaling } from "./simulate/scaling.ts";
import { StepSimulator } from "./simulate/step.ts";
import { scalingTable } from "./simulate/table.ts";
import { PLAIN_PARSING, plainWords } from "./plain-words.ts";
import { columnsOf } from "../shared/text.ts";

const LATENT_DIM = 100;

async function main(): Promise<void> {
  const argv = await yargs(plainWords(hideBin(process.argv), SIMULATE_OPTIONS))
    .scriptName("simulate")
    .usage("$0 [flags]\n\nCost of a training step for any number of workers, by simulation.")
    .parserConfiguration(PLAIN_PARSING)
    .options(SIMULATE_OPTIONS)
    .strict()
    .version(false)
    .help()
    .wrap(Math.min(110, columnsOf(process.stdout, 110)))
    .exitProcess(false)
    .fail((message, error) => {
      throw new UsageError(error?.message ?? message);
    })
    .parseAsync();
  if (argv.help === true) return;
  const model = MODELS[argv.model]({ latentDim: LATENT_DIM, imagePixels: IMAGE_PIXELS });
  if (argv.check) {
    await check({ model, numSteps: positiveInteger("check-steps", argv.checkSteps), out: argv.out });
    return;
  }
  const machines = parseMachines(argv);
  const speed = parseSpeed(argv);
  const scalingCase = {
    model,
    workers: parseWorkers(argv.workers),
    shardsPerWorker: positiveInteger("shards-per-worker", argv.shardsPerWorker),
    localBatchSize: positiveInteger("local-batch-size", argv.localBatchSize),
    globalBatchSize: positiveInteger("global-batch-size", argv.globalBatchSize),
    schedules: argv.schedule === "both" ? SCHEDULE_NAMES : [argv.schedule],
  };
  const rows = simulateScaling(new StepSimulator(machines, speed), scalingCase, (row) => {
    console.error(`Simulated ${row.scaling} scaling with ${row.workers} workers`);
  });
  for (const scaling of SCALINGS) {
    const what =
      scaling === "weak"
        ? `Weak scaling: ${scalingCase.localBatchSize} images per worker`
        : `Strong scaling: ${scalingCase.globalBatchSize} images over all workers`;
    console.log(`\n${what}\n\n${scalingTable(rows, scaling)}`);
  }
  mkdirSync(argv.out, { recursive: true });
  const { model: modelName, ...parameters } = { ...scalingCase, model: argv.model };
  const json = { model: modelName, ...parameters, machines, speed, rows };
  writeFileSync(join(argv.out, "scaling.json"), `${JSON.stringify(json, null, 2)}\n`);
  writeFileSync(join(argv.out, "scaling.svg"), plot(scalingPanels(rows)));
  console.log(
    `\ndirect / halving-doubling, * what a run takes. Written to ${argv.out}: scaling.json, scaling.svg`,
  );
}

try {
  await main();
} catch (error) {
  const expected = error instanceof UsageError;
  console.error(`simulate: ${expected ? describeError(error) : ((error as Error).stack ?? String(error))}`);
  process.exitCode = expected ? 2 : 1;
}
