import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { loadCheckpoint, loadNewest, saveCheckpoint, stateOf } from "../../coordinator/checkpoint-store.ts";
import { MANIFEST_FILE, STATE_FILES } from "../../shared/checkpoint.ts";
import { CheckpointError } from "../../shared/errors.ts";
import { contents, model } from "../coordinator/small-checkpoint.ts";
import { FuzzRandom } from "./random.ts";

/** Damages per kind; LOCKSTEP_FUZZ_RUNS takes more. */
const NUM_RUNS = Number(process.env.LOCKSTEP_FUZZ_RUNS ?? 1000);

interface Stored {
  readonly path: string;
  readonly file: (name: string) => string;
  readonly whole: (name: string) => Buffer;
}

async function stored(directory: string): Promise<Stored> {
  mkdirSync(directory, { recursive: true });
  const { path } = await saveCheckpoint(directory, 2, contents(2), 9);
  const wholes = new Map(
    [MANIFEST_FILE, ...STATE_FILES].map((name) => [name, readFileSync(join(path, name))]),
  );
  return { path, file: (name) => join(path, name), whole: (name) => wholes.get(name) as Buffer };
}

/** Loads what was damaged. @returns Whether it was refused; else its state is the undamaged one. */
async function isRefused(path: string): Promise<boolean> {
  try {
    const state = stateOf(await loadCheckpoint(path), model);
    if (state.generator.step !== 2 || state.generator.parameters.some((x) => x !== 2.5)) {
      throw new Error("a damaged checkpoint was taken for whole");
    }
    return false;
  } catch (error) {
    if (error instanceof CheckpointError) return true;
    throw error;
  }
}

t.test(
  "a checkpoint cut at any byte of its manifest, or anywhere in its tensors, is never whole",
  async (t) => {
    const { path, file, whole } = await stored(t.testdir());
    const manifest = whole(MANIFEST_FILE);
    // The last byte is a line's end, which means nothing.
    const numMeant = manifest.toString().trimEnd().length;
    for (let length = 0; length < numMeant; length++) {
      truncateSync(file(MANIFEST_FILE), length);
      if (!(await isRefused(path))) t.fail(`manifest cut to ${length} bytes`);
      writeFileSync(file(MANIFEST_FILE), manifest);
    }
    t.notOk(await isRefused(path), `whole again after ${numMeant} cuts`);
    const random = new FuzzRandom(1);
    for (let run = 0; run < NUM_RUNS; run++) {
      const name = random.pick(STATE_FILES);
      const length = random.below(whole(name).byteLength);
      truncateSync(file(name), length);
      if (!(await isRefused(path))) t.fail(`${name} cut to ${length} bytes`);
      writeFileSync(file(name), whole(name));
    }
    t.notOk(await isRefused(path), `whole again after ${NUM_RUNS} cuts`);
  },
);

t.test(
  "a checkpoint with changed bytes is never taken for whole, and the one before it is found",
  async (t) => {
    const directory = t.testdir();
    await saveCheckpoint(directory, 1, contents(1), 9);
    const { path, file, whole } = await stored(directory);
    const random = new FuzzRandom(2);
    let numRefused = 0;
    for (let run = 0; run < NUM_RUNS; run++) {
      const name = random.pick([MANIFEST_FILE, ...STATE_FILES]);
      const bytes = Buffer.from(whole(name));
      if (random.chance(0.7)) bytes[random.below(bytes.length)] ^= 1 << random.below(8);
      const damaged = random.chance(0.3) ? random.damagedBytes(bytes) : bytes;
      writeFileSync(file(name), damaged);
      if (await isRefused(path)) {
        numRefused += 1;
        const newest = await loadNewest(directory, () => undefined);
        if (newest.manifest.globalStep !== 1) t.fail(`run ${run} found step ${newest.manifest.globalStep}`);
      } else if (name !== MANIFEST_FILE && !whole(name).equals(damaged)) {
        t.fail(`run ${run}: ${name} was taken`);
      }
      writeFileSync(file(name), whole(name));
    }
    t.ok(numRefused > NUM_RUNS / 2, `${numRefused} of ${NUM_RUNS} refused`);
  },
);
