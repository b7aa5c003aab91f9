import t from "tap";
import { pauseAfter, Poller } from "../../shared/poller.ts";

t.test(
  "pauseAfter() spins at first, prolongs a wait by a sixteenth at most, and lets a long wait rest",
  (t) => {
    t.equal(pauseAfter(0), 0);
    t.equal(pauseAfter(0.1), 0);
    for (const quietMs of [0.3, 1, 10, 50, 1000, 1e6])
      t.ok(pauseAfter(quietMs) <= quietMs / 16, `${quietMs}`);
    t.ok(pauseAfter(1) > 0);
    t.equal(pauseAfter(1000), 5);

    // A wait of ten seconds, where asking takes 10 microseconds: the share of it that is not pause.
    let numQuestions = 0;
    for (let nowMs = 0; nowMs < 10_000; nowMs += 0.01 + pauseAfter(nowMs)) numQuestions += 1;
    t.ok(numQuestions < 2200, `${numQuestions} questions in ten seconds`);
    t.end();
  },
);

t.test(
  "Poller.until() resolves once it is ready, whichever comes first, and asks no more when nobody waits",
  async (t) => {
    const poller = new Poller();
    const ready = new Set<string>();
    const resolved: string[] = [];
    const wait = (name: string): Promise<unknown> =>
      poller.until(() => ready.has(name)).then(() => resolved.push(name));
    const waits = ["a", "b", "c"].map(wait);
    t.equal(poller.numTurns, 0, "not in the same turn of the event loop");
    // Long enough that the poller sleeps by timer.
    await new Promise((resolve) => setTimeout(resolve, 60));
    t.same(resolved, []);
    ready.add("b");
    poller.noteActivity();
    await waits[1];
    t.same(resolved, ["b"]);
    ready.add("a").add("c");
    await Promise.all(waits);
    t.same(resolved, ["b", "a", "c"]);
    const { numTurns } = poller;
    t.ok(numTurns > 2);
    await new Promise((resolve) => setTimeout(resolve, 20));
    t.equal(poller.numTurns, numTurns);
    await wait("a");
    t.ok(poller.numTurns > numTurns, "it begins again");
  },
);

/** Resolves when a timer of 5 ms has fired so many times. */
function ticks(count: number): Promise<void> {
  return new Promise((resolve) => {
    let numTicks = 0;
    const timer = setInterval(() => {
      numTicks += 1;
      if (numTicks < count) return;
      clearInterval(timer);
      resolve();
    }, 5);
  });
}

t.test("Poller rests in a long wait, and lets other work of the process through", async (t) => {
  const poller = new Poller();
  let isReady = false;
  const waiting = poller.until(() => isReady);
  await ticks(60);
  const { numTurns } = poller;
  isReady = true;
  await waiting;

  // The same without pauses, on a machine as fast and as busy.
  let numSpins = 0;
  let isSpinning = true;
  const spin = (): void => {
    numSpins += 1;
    if (isSpinning) setImmediate(spin);
  };
  spin();
  await ticks(60);
  isSpinning = false;
  t.ok(numTurns < numSpins / 5, `${numTurns} turns, ${numSpins} without pauses`);
});
