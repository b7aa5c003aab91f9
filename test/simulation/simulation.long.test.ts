import t from "tap";
import { sweepSeeds } from "./sweep.ts";

t.test("many simulated clusters keep every invariant under faults, and end", async (t) =>
  sweepSeeds(t, 501, 10_000),
);
