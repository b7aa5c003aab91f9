import t from "tap";
import { Gate } from "../../coordinator/gate.ts";

/** Messages that are read of so many. */
function admitted(gate: Gate, from: string, count: number, nowMs: number, isMalformed: boolean): number {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    if (!gate.admits(from, nowMs)) continue;
    sum += 1;
    if (isMalformed) gate.noteMalformed(from);
  }
  return sum;
}

t.test(
  "Gate reads hundreds of messages of a stranger in a second, ten that are malformed, then none",
  async (t) => {
    const gate = new Gate();
    t.equal(admitted(gate, "loud", 1000, 0, false), 200);
    t.equal(admitted(gate, "noise", 1000, 500, true), 10);
    t.equal(admitted(gate, "polite", 5, 999, false), 5, "others are read meanwhile");
    t.equal(admitted(gate, "noise", 1000, 1000, true), 10, "the next second begins anew");
  },
);

t.test("Gate gives strangers beyond a thousand one budget, so that new names are of no use", async (t) => {
  const gate = new Gate();
  let sum = 0;
  for (let i = 0; i < 5000; i++) sum += admitted(gate, `name ${i}`, 1, 0, false);
  t.equal(sum, 1200);
});
