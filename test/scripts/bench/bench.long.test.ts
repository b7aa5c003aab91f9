import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { z } from "zod";
import { Running } from "../../integration/processes.ts";

const BENCH = fileURLToPath(new URL("../../../scripts/bench.js", import.meta.url));

const Summary = z.strictObject({ median: z.number(), min: z.number(), max: z.number() });
const Report = z.strictObject({
  title: z.string(),
  notes: z.array(z.string()),
  columns: z.array(z.string()),
  rows: z.array(
    z.strictObject({
      name: z.string(),
      cells: z.array(z.union([Summary, z.number(), z.string(), z.null()])),
    }),
  ),
});
const Results = z.strictObject({
  about: z.object({ date: z.iso.datetime(), cpu: z.string(), cores: z.int(), torch: z.null() }),
  measuring: z.object({ rounds: z.literal(1), batchSizes: z.array(z.int()) }),
  sections: z.strictObject({ c: Report, d: Report, e: Report }),
});

function bench(...args: readonly string[]): Running {
  return new Running(process.execPath, [BENCH, ...args]);
}

t.test("the benchmark measures, prints tables and writes JSON", async (t) => {
  const out = join(t.testdir(), "results", "bench.json");
  const tiny = ["--steps", "2", "--blocks", "1", "--warmup", "1", "--repetitions", "1", "--batch", "8"];
  const { code, output } = await bench(
    ...["--quick", "--rounds", "1", ...tiny, "--no-peer", "--only", "c,d,e", "--out", out],
  ).finished;
  t.equal(code, 0, output);
  const { sections } = Results.parse(JSON.parse(readFileSync(out, "utf8")));
  for (const [name, { title, columns, rows }] of Object.entries(sections)) {
    t.match(output, `### ${title}`);
    for (const { cells } of rows) {
      t.equal(cells.length, columns.length - 1, `a cell for every column of ${name}`);
    }
  }
  t.same(
    sections.c.rows.map(({ name }) => name),
    ["2", "4"],
  );
  t.same(
    sections.e.rows.map(({ name }) => name),
    ["1 x 8", "2 x 8"],
  );
  const [step, ...parts] = sections.e.rows[0].cells.map((cell) => Summary.parse(cell).median);
  t.ok(Math.abs(parts.reduce((sum, part) => sum + part, 0) - step) < 1e-6, "the parts add up to the step");
  t.equal(sections.d.rows.at(-1)?.name, "all");
});

t.test("the benchmark refuses what it does not know", async (t) => {
  const cases: [string[], RegExp][] = [
    [["--rond", "3"], /Unknown argument: rond/],
    [["--only", "a,x"], /sections are a, b, c, d, e, f, g, h, i: got "x"/],
    [["--rounds", "0"], /--rounds as it must be a whole number above 0: got 0/],
    [["--batch", "64,many"], /--batch as it must be a whole number above 0/],
    [["--python", "no-such-python", "--only", "d"], /--python no-such-python as it must import torch/],
  ];
  for (const [args, message] of cases) {
    const { code, output } = await bench(...args).finished;
    t.equal(code, 2, args.join(" "));
    t.match(output, message);
  }
});
