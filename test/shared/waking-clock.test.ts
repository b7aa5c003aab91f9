import t from "tap";
import { WakingClock } from "../../shared/waking-clock.ts";

t.test("WakingClock goes on by what a process lived, not by what it slept", async (t) => {
  let realMs = 5000;
  const clock = new WakingClock(() => realMs);
  const start = clock.now();
  for (let i = 0; i < 8; i++) {
    realMs += 250;
    clock.now();
  }
  t.equal(clock.now() - start, 2000, "all of its time while it looks often");
  realMs += 60_000;
  t.equal(clock.now() - start, 2000, "none of a minute that it slept");
  realMs += 900;
  t.equal(clock.now() - start, 2900);
  realMs += 5000;
  clock.now();
  realMs += 100;
  t.equal(clock.now() - start, 3000, "nor of the next sleep");
});
