import t from "tap";
import { Refusals } from "../../shared/refusals.ts";

t.test(
  "Refusals counts all, and says the first of ten seconds with the number of those before it",
  async (t) => {
    const said: string[] = [];
    const refusals = new Refusals((text) => said.push(text));
    for (let ms = 0; ms < 25_000; ms += 100) refusals.note(`at ${ms}`, ms);
    t.equal(refusals.count, 250);
    t.same(said, [
      "at 0",
      "at 10000 (and 99 before it that were not said)",
      "at 20000 (and 99 before it that were not said)",
    ]);
  },
);
