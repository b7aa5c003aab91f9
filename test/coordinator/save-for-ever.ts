// node save-for-ever.js DIRECTORY STEP: saves checkpoints from the step on and tells each, until it is killed.
import { saveCheckpoint } from "../../coordinator/checkpoint-store.ts";
import { contents } from "./small-checkpoint.ts";

const [directory, first] = process.argv.slice(2);
for (let step = Number(first); ; step++) {
  await saveCheckpoint(directory, step, contents(step), 2);
  process.stdout.write(`${step}\n`);
}
