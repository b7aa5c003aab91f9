import t from "tap";
import { FAULT_KIND_NAMES, plan } from "../../../scripts/chaos/plan.ts";

function first(seed: number, count: number): readonly { readonly kind: string; readonly pause: number }[] {
  const faults = plan(seed, FAULT_KIND_NAMES);
  return Array.from({ length: count }, () => faults.next().value).map(({ kind, draw }) => ({
    kind,
    pause: draw("pause"),
  }));
}

t.test("plan() is decided by the seed", (t) => {
  t.same(first(1, 40), first(1, 40));
  t.notSame(first(1, 40), first(2, 40));
  t.end();
});

t.test("plan() gives every kind once in each round, in changing order", (t) => {
  const size = FAULT_KIND_NAMES.length;
  const kinds = first(3, 3 * size).map(({ kind }) => kind);
  const rounds = [0, 1, 2].map((i) => kinds.slice(i * size, (i + 1) * size));
  for (const round of rounds) t.same(round.toSorted(), FAULT_KIND_NAMES.toSorted());
  t.notSame(rounds[0], rounds[1]);
  const pauses = first(3, 100).map(({ pause }) => pause);
  t.ok(pauses.every((pause) => pause >= 0 && pause < 1));
  t.equal(new Set(pauses).size, 100);
  t.end();
});
