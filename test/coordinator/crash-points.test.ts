import type { FileHandle } from "node:fs/promises";
import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import {
  listCheckpoints,
  loadNewest,
  removeTemporaries,
  saveCheckpoint,
  stateOf,
} from "../../coordinator/checkpoint-store.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import { contents, model } from "./small-checkpoint.ts";

/**
 * Counts the calls that change a file system, and lets the one of the given
 * number, and all after it, never return: what a crash leaves at that point.
 */
class CrashPoint {
  readonly reached: Promise<void>;
  readonly opened: FileHandle[] = [];
  numCalls = 0;
  #limit = Infinity;
  #isTorn = false;
  #arrive!: () => void;

  constructor() {
    this.reached = new Promise((resolve) => (this.#arrive = resolve));
  }

  /** @param isTorn Whether half of what the call would write is written. */
  at(limit: number, isTorn: boolean): this {
    this.#limit = limit;
    this.#isTorn = isTorn;
    return this;
  }

  async before(tear: () => Promise<unknown>): Promise<void> {
    this.numCalls += 1;
    if (this.numCalls < this.#limit) return;
    if (this.#isTorn && this.numCalls === this.#limit) await tear();
    this.#arrive();
    await new Promise(() => undefined);
  }
}

let crash = new CrashPoint();
const real = { mkdir: fs.mkdir, open: fs.open, rename: fs.rename, rm: fs.rm };
const nothing = async (): Promise<void> => undefined;
type AnyCall = (...args: unknown[]) => Promise<unknown>;

for (const name of ["mkdir", "rename", "rm"] as const) {
  const call = real[name] as AnyCall;
  Object.assign(fs, {
    [name]: async (...args: unknown[]) => {
      await crash.before(nothing);
      return call(...args);
    },
  });
}
fs.open = async (...args) => {
  await crash.before(nothing);
  const file = await real.open(...args);
  crash.opened.push(file);
  const writeFile = file.writeFile.bind(file);
  const sync = file.sync.bind(file);
  file.writeFile = async (data, options) => {
    const bytes = data as Uint8Array;
    await crash.before(() => writeFile(bytes.subarray(0, bytes.byteLength >> 1)));
    return writeFile(data, options);
  };
  file.sync = async () => {
    await crash.before(nothing);
    return sync();
  };
  return file;
};
syncBuiltinESMExports();

t.test(
  "saveCheckpoint() that is cut off at any point leaves the newest whole checkpoint to be found",
  async (t) => {
    const root = t.testdir();
    const prepare = async (name: string): Promise<string> => {
      crash = new CrashPoint();
      const directory = join(root, name);
      for (const step of [1, 2]) await saveCheckpoint(directory, step, contents(step), 2);
      // A damaged one of the same step, which is replaced.
      await fs.mkdir(join(directory, "step-00000003"));
      crash = new CrashPoint();
      return directory;
    };
    const calm = await prepare("calm");
    await saveCheckpoint(calm, 3, contents(3), 2);
    const { numCalls } = crash;
    t.ok(numCalls > 20, `${numCalls} calls that change files`);
    const found = new Set<number>();
    for (const isTorn of [false, true]) {
      for (let point = 1; point <= numCalls; point++) {
        const directory = await prepare(`point-${point}-${isTorn}`);
        const { reached } = crash.at(point, isTorn);
        void saveCheckpoint(directory, 3, contents(3), 2);
        await reached;
        crash = new CrashPoint();
        const newest = await loadNewest(directory, () => undefined);
        const { globalStep } = newest.manifest;
        found.add(globalStep);
        const where = `point ${point}, torn: ${isTorn}`;
        t.equal(stateOf(newest, model).generator.step, globalStep, where);
        t.ok(globalStep >= 2, where);
        await removeTemporaries(directory);
        await saveCheckpoint(directory, 3, contents(3), 2);
        t.same(await fs.readdir(directory), ["step-00000002", "step-00000003"], where);
      }
    }
    t.same([...found].sort(), [2, 3], "both outcomes were seen");
  },
);

t.test("checkpoints of a process that is killed at random moments are whole or not there", async (t) => {
  crash = new CrashPoint();
  const directory = join(t.testdir(), "checkpoints");
  const script = fileURLToPath(new URL("./save-for-ever.js", import.meta.url));
  const random = mulberry32(1);
  let numSaved = 0;
  for (let round = 0; round < 12; round++) {
    const child = spawn(process.execPath, [script, directory, String(numSaved + 1)]);
    let output = "";
    const started = new Promise<void>((resolve) =>
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        output += text;
        resolve();
      }),
    );
    const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
    await started;
    await sleep(50 * random.uniform());
    child.kill("SIGKILL");
    await ended;
    const said = Number(output.trimEnd().split("\n").at(-1));
    const newest = await loadNewest(directory, (reason) => t.fail(reason));
    const { globalStep } = newest.manifest;
    t.ok(globalStep >= said, `step ${globalStep} is there, ${said} was told`);
    t.equal(stateOf(newest, model).generator.step, globalStep);
    for (const stored of await listCheckpoints(directory)) t.ok(stored.globalStep <= globalStep);
    await removeTemporaries(directory);
    numSaved = globalStep;
  }
  t.ok(numSaved >= 12, `${numSaved} checkpoints`);
});
