import t from "tap";
import { markdownOf } from "../../../scripts/bench/table.ts";
import { mean, median, medianStepMs, ratioOfRounds, summarize } from "../../../scripts/bench/statistics.ts";

t.test(
  "median() is the middle value, or the mean of the two middle ones, and leaves its input alone",
  async (t) => {
    const values = [10, 2, 33];
    t.equal(median(values), 10);
    t.same(values, [10, 2, 33]);
    t.equal(median([4, 1, 100, 2]), 3);
    t.equal(median([7]), 7);
    t.throws(() => median([]), RangeError);
    t.equal(mean([1, 2, 6]), 3);
    t.throws(() => mean([]), RangeError);
  },
);

t.test("summarize() gives median and extremes", async (t) => {
  t.same(summarize([3, 9, 1, 4, 5]), { median: 4, min: 1, max: 9 });
});

t.test("ratioOfRounds() is the median of the ratios, not the ratio of the medians", async (t) => {
  // The second round met a busy machine: both sides were slow.
  t.same(ratioOfRounds([10, 2, 12], [5, 1, 4]), { median: 2, min: 2, max: 3 });
  t.same(ratioOfRounds([1, 10, 100], [10, 10, 50]), { median: 1, min: 0.1, max: 2 });
  t.throws(() => ratioOfRounds([1], [1, 2]), RangeError);
});

t.test("medianStepMs() divides whole blocks by their steps", async (t) => {
  // Blocks of two steps: 20, 40 and 300 ms; the last step is no whole block.
  t.equal(medianStepMs([0, 5, 20, 30, 60, 300, 360, 365], 2), 20);
  t.throws(() => medianStepMs([0, 1], 2), RangeError);
});

t.test("markdownOf() aligns numbers and shows spread only where there is some", async (t) => {
  const text = markdownOf({
    title: "Speeds",
    notes: ["Measured."],
    columns: ["batch", "ours", "theirs"],
    rows: [
      { name: "64", cells: [{ median: 1234.4, min: 1000, max: 2000 }, "none"] },
      { name: "256", cells: [12.34, null] },
      {
        name: "512",
        cells: [
          { median: 0.5, min: 0.5, max: 0.5 },
          { median: 3, min: 2, max: 4 },
        ],
      },
    ],
  });
  t.equal(
    text,
    [
      "### Speeds",
      "",
      "| batch |             ours |           theirs |",
      "| ----- | ---------------: | ---------------: |",
      "| 64    | 1234 (1000-2000) |             none |",
      "| 256   |             12.3 |                - |",
      "| 512   |             0.50 | 3.00 (2.00-4.00) |",
      "",
      "- Measured.",
    ].join("\n"),
  );
});
