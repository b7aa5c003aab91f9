import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { EventRing } from "../../shared/event-ring.ts";

t.test("EventRing keeps the last thousand events in order, and writes them", async (t) => {
  const ring = new EventRing();
  t.same(ring.lines, []);
  for (let i = 0; i < 1003; i++) ring.add("step", { i });
  const path = join(t.testdir(), "events", "w.ndjson");
  await ring.write(path);
  const lines = readFileSync(path, "utf8").trim().split("\n");
  t.equal(lines.length, 1000);
  t.match(JSON.parse(lines[0]), { what: "step", event: { i: 3 }, at: /^\d{4}-/ });
  t.match(JSON.parse(lines[999]), { event: { i: 1002 } });
});

t.test("EventRing leaves out what only fills pages", async (t) => {
  const ring = new EventRing();
  ring.add("start", { config: { seed: 1 }, reports: Array<number>(17).fill(0), peers: [1, 2] });
  t.match(JSON.parse(ring.lines[0]), { event: { reports: "17 items", peers: [1, 2] } });
  t.notMatch(ring.lines[0], /seed/);
});
