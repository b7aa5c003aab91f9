import t from "tap";
import { Cluster } from "./cluster.ts";
import { isFailure, scenarioOf, shrink, simulate } from "./scenario.ts";
import { sweepSeeds } from "./sweep.ts";

t.test("simulated clusters keep every invariant under faults, and end", async (t) => sweepSeeds(t, 1, 500));

t.test("workers that are told to leave, some or all, cost no step and are not taken for lost", async (t) => {
  let numStopped = 0;
  for (let seed = 1; seed <= 300; seed++) {
    const { faults, ...scenario } = scenarioOf(seed);
    const { numHosts, withinMs } = { numHosts: scenario.workers, withinMs: 2000 };
    const leaves = faults.map((_, i) => ({
      ...({ type: "leave", atMs: (i * withinMs) / faults.length, target: i } as const),
      ...{ count: i % 2 === 0 ? 1 : numHosts, isCoordinatorTold: i % 5 === 4 },
    }));
    const cluster = new Cluster({ ...scenario, isLocal: false, faults: leaves });
    const { counts } = cluster.run();
    const lost = cluster.notes.filter((note) => /Lost worker|going back/.test(note));
    if (counts.rewound > 0 || lost.length > 0) t.fail(`seed ${seed}: ${lost.join("; ")}`);
    numStopped += counts.stopped;
  }
  t.ok(numStopped > 30, `${numStopped} runs have stopped and were started again`);
});

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
