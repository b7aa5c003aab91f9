import t from "tap";
import { Cluster } from "./cluster.ts";
import { isFailure, scenarioOf, shrink, simulate } from "./scenario.ts";
import { sweepSeeds } from "./sweep.ts";

t.test("simulated clusters keep every invariant under faults, and end", async (t) => sweepSeeds(t, 1, 500));

t.test("a seed replays exactly", async (t) => {
  const seed = Array.from({ length: 100 }, (_, i) => i + 1).find((s) => scenarioOf(s).faults.length > 4) ?? 0;
  const [first, second] = [0, 1].map(() => {
    const cluster = new Cluster(scenarioOf(seed));
    return { result: cluster.run(), notes: cluster.notes };
  });
  t.ok(first.notes.some((note) => note.includes("FAULT")));
  t.same(first, second);
});

t.test("a broken invariant is found, and its plan shrunk", async (t) => {
  // Everything heals but a disk on which one write takes a week.
  const scenario = {
    ...{ ...scenarioOf(3), workers: 2, minWorkers: 2, shards: 2, isLocal: false, steps: 200 },
    ...{ checkpointEvery: 5 },
    faults: [
      { atMs: 500, type: "stop", target: 0, forMs: 10 } as const,
      { atMs: 600, type: "diskSlow", writeMs: 6e8, forMs: 500 } as const,
      { atMs: 700, type: "stop", target: 1, forMs: 10 } as const,
    ],
  };
  const outcome = simulate(scenario);
  t.ok(isFailure(outcome), "a run that stands still is noticed");
  if (!isFailure(outcome)) return;
  const smallest = shrink(outcome);
  t.same(
    smallest.scenario.faults.map(({ type }) => type),
    ["diskSlow"],
  );
});
