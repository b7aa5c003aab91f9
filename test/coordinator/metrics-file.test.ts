import { appendFileSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { addMetrics, lastRecordedStep, trimMetrics } from "../../coordinator/metrics-file.ts";
import { linesOf } from "../../shared/lines-of.ts";
import { AppendedLines } from "../../scripts/bench/appended-lines.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

const line = (globalStep: number): string => `{"globalStep":${globalStep}}\n`;

t.test("trimMetrics() keeps whole lines up to the step", async (t) => {
  const path = join(t.testdir(), "metrics.jsonl");
  writeFileSync(path, '{"globalStep":1}\n{"globalStep":2}\nnoise\n{"globalStep":3}\n{"globalSte');
  t.equal(await trimMetrics(path, 2), 2);
  t.equal(readFileSync(path, "utf8"), line(1) + line(2));
  t.equal(await trimMetrics(path, 0), 0);
  t.equal(readFileSync(path, "utf8"), "");
  const none = join(t.testdirName, "none.jsonl");
  t.equal(await lastRecordedStep(none), 0);
  t.equal(await trimMetrics(none, 2), 0);
  t.equal(readFileSync(none, "utf8"), "");
});

t.test("metrics read in pieces of any size are as they are read whole", async (t) => {
  const path = join(t.testdir(), "metrics.jsonl");
  const random = mulberry32(22);
  const ends = ["", "\n", "{", '{"globalStep":9', "\0\0\0", "null\n", "7\n\n", `${"x".repeat(70)}\n`];
  for (let round = 0; round < 150; round++) {
    const numLines = Math.floor(random.uniform() * 6);
    const lines = Array.from({ length: numLines }, (_, i) => {
      const text = "é".repeat(Math.floor(random.uniform() * 9));
      return `${JSON.stringify({ globalStep: 2 * (i + 1), text })}\n`;
    });
    const end = ends[Math.floor(random.uniform() * ends.length)];
    const limit = Math.floor(random.uniform() * 14);
    const chunkBytes = 1 + Math.floor(random.uniform() * 40);
    const kept = lines.slice(0, Math.floor(limit / 2));
    const where = JSON.stringify({ lines, end, limit, chunkBytes });
    writeFileSync(path, lines.join("") + end);
    t.same([...linesOf(path, chunkBytes)].join("\n"), (lines.join("") + end).replace(/\n$/, ""), where);
    t.equal(await lastRecordedStep(path, chunkBytes), 2 * numLines, where);
    t.equal(await trimMetrics(path, limit, chunkBytes), 2 * kept.length, where);
    t.equal(readFileSync(path, "utf8"), kept.join(""), where);
    appendFileSync(path, end);
    const added = [1, 5, 99].map((globalStep) => ({ globalStep }));
    await addMetrics(path, added, chunkBytes);
    const new_ = added.filter(({ globalStep }) => globalStep > 2 * kept.length);
    t.equal(readFileSync(path, "utf8"), kept.join("") + new_.map((l) => line(l.globalStep)).join(""), where);
  }
});

t.test("metrics that are longer than a string can be are read, cut in place, and added to", async (t) => {
  const path = join(t.testdir(), "metrics.jsonl");
  const SIZE = 700 * 2 ** 20;
  writeFileSync(path, line(1));
  // Takes no room on the disk. A hole is no line, and it is longer than a string as well.
  truncateSync(path, SIZE);
  appendFileSync(path, `\n${line(5)}${line(6)}${line(7)}{"glob`);
  t.throws(() => readFileSync(path, "utf8"), { code: "ERR_STRING_TOO_LONG" });
  const { ino } = statSync(path);
  t.equal(await lastRecordedStep(path), 7);
  t.equal(await trimMetrics(path, 6), 6);
  await addMetrics(path, [{ globalStep: 6 }, { globalStep: 7 }, { globalStep: 8 }]);
  t.equal(await lastRecordedStep(path), 8);
  t.equal(statSync(path).size, SIZE + 1 + 4 * line(5).length);
  t.equal(statSync(path).ino, ino, "no other file was put in its place");
  t.equal(await trimMetrics(path, 4), 1, "across the hole");
  t.equal(readFileSync(path, "utf8"), line(1));
});

t.test("AppendedLines notices that a file was cut, also if it has grown again", async (t) => {
  const path = join(t.testdir(), "metrics.jsonl");
  writeFileSync(path, `${line(1)}${line(2)}{"glo`);
  const lines = new AppendedLines(path);
  t.teardown(() => lines.close());
  t.same(
    lines.read(),
    [line(1), line(2)].map((text) => text.trimEnd()),
  );
  t.notOk(lines.isCut());
  appendFileSync(path, 'balStep":3}\n');
  t.notOk(lines.isCut());
  t.same(lines.read(), [line(3).trimEnd()]);
  truncateSync(path, line(1).length);
  t.ok(lines.isCut());
  appendFileSync(path, '{"globalStep":2,"again":true}\n{"globalStep":3,"again":true}\n');
  t.ok(lines.isCut());
});
