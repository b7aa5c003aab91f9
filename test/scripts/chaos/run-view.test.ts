import { appendFileSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Test } from "tap";
import t from "tap";
import { Journal } from "../../../scripts/chaos/journal.ts";
import { RunView } from "../../../scripts/chaos/run-view.ts";

interface Viewed {
  readonly view: RunView;
  /** The coordinator says something. */
  readonly say: (...lines: readonly string[]) => void;
  /** The coordinator commits steps. */
  readonly commit: (...steps: readonly number[]) => void;
  /** Metrics of later steps are forgotten: another file takes their place. */
  readonly rewind: (globalStep: number) => void;
}

function viewOf(t: Test): Viewed {
  const dir = t.testdir();
  const runDir = join(dir, "run");
  mkdirSync(runDir);
  const metrics = join(runDir, "metrics.jsonl");
  writeFileSync(metrics, "");
  const journal = new Journal(join(dir, "journal.txt"));
  const view = new RunView(journal, runDir);
  t.teardown(async () => {
    view.close();
    await journal.close();
  });
  const line = (globalStep: number): string => `{"globalStep":${globalStep}}\n`;
  return {
    view,
    say: (...lines) => lines.forEach((line) => journal.add("coordinator", line)),
    commit: (...steps) => steps.forEach((step) => appendFileSync(metrics, line(step))),
    rewind: (globalStep) => {
      const steps = Array.from({ length: globalStep }, (_, i) => i + 1);
      writeFileSync(`${metrics}.new`, steps.map(line).join(""));
      renameSync(`${metrics}.new`, metrics);
    },
  };
}

const joined = (id: string, pid: number): string =>
  `Worker "${id}" joined (pid ${pid} on vm, node 20): now 2`;
const lost = (id: string, pid: number): string =>
  `WARN: Lost worker "${id}" (rank 0, pid ${pid} on vm) after step 5: killed by SIGKILL`;
const generation = (number: number, worldSize: number, step: number): string =>
  `Generation ${number}: ${worldSize} workers hold the same state (a-b) at step ${step}, 20 ms after the loss`;

t.test("RunView knows the members and the generation that trains", (t) => {
  const { view, say } = viewOf(t);
  say(joined("b", 2), joined("a", 1), generation(1, 2, 0));
  t.same(view.workers, [
    ["a", 1],
    ["b", 2],
  ]);
  t.match(view.generation, { generation: 1, worldSize: 2, startStep: 0 });
  say(lost("a", 1));
  t.same(view.workers, [["b", 2]]);
  t.equal(view.generation, null);
  say(generation(2, 1, 5), joined("c", 3), generation(3, 2, 7), `"b", "c" leave: scaled to 0 workers`);
  t.same(view.workers, []);
  t.same(view.violations, []);
  t.end();
});

t.test("RunView finds committed steps that are lost", (t) => {
  const { view, say, commit } = viewOf(t);
  say(joined("a", 1), joined("b", 2), generation(1, 2, 0));
  commit(1, 2, 3);
  say(lost("a", 1), generation(2, 1, 3));
  t.same(view.violations, []);
  commit(4);
  say(joined("a", 3), generation(3, 2, 3));
  t.same(view.violations, ["Lost committed steps: generation 3 begins at step 3 after 4"]);
  t.end();
});

t.test("RunView lets a run go back only if every replica is gone", (t) => {
  const { view, say, commit, rewind } = viewOf(t);
  const back =
    "WARN: Every worker that held the state is gone: going back 2 steps to the checkpoint of step 2";
  say(joined("a", 1), joined("b", 2), generation(1, 2, 0));
  commit(1, 2, 3, 4);
  say(lost("a", 1), lost("b", 2), joined("a", 3), back);
  rewind(2);
  say(generation(2, 1, 2));
  t.same(view.violations, []);
  t.equal(view.numGoneBack, 1);
  t.equal(view.globalStep, 2);
  say(joined("b", 4), generation(3, 2, 2), lost("a", 3), back, generation(4, 1, 0));
  t.match(view.violations, [/^Went back although b held the state/]);
  t.end();
});

t.test("Journal fails what waits in vain, with the last lines", async (t) => {
  const journal = new Journal(join(t.testdir(), "journal.txt"));
  journal.add("coordinator", "WARN: first");
  const found = await journal.line("coordinator", /^fir(st)/, 0, 1000);
  t.equal(found.match[1], "st");
  await t.rejects(
    journal.line("coordinator", /second/, 0, 20),
    /Waited 0.02 s in vain for "second"[^]*first/,
  );
  await t.rejects(journal.line("worker", /first/, 0, 20), /in vain/);
  const waiting = journal.line("coordinator", /third/, 0, 60_000);
  journal.fail(new Error("The coordinator has ended"));
  await t.rejects(waiting, /The coordinator has ended/);
  await journal.close();
});
