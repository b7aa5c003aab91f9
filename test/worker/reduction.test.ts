import t from "tap";
import { ProtocolError } from "../../shared/errors.ts";
import { roundToBf16 } from "../../shared/bf16.ts";
import { coveringNodes } from "../../shared/sharding.ts";
import { addInJavaScript } from "../../shared/tree-sum.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import { Reduction } from "../../worker/reduction.ts";
import { partialsOf, poolFor } from "./all-reduce.ts";

const LENGTH = 1003;

t.test("Reduction sends about 2 (W-1)/W vectors per rank", async (t) => {
  const worldSize = 4;
  const result = new Float32Array(LENGTH);
  const plan = {
    term: "t",
    generation: 1,
    worldSize,
    rank: 1,
    numShards: 4,
    length: LENGTH,
    add: addInJavaScript,
    round: roundToBf16,
    numRounded: 0,
    pool: poolFor(4),
  };
  const scattered = new Reduction(plan, 0, 0, result).start(
    partialsOf({ numShards: 4, worldSize, rank: 1, length: LENGTH, phase: 0 }),
  );
  const sent = scattered.reduce((sum, { values }) => sum + values.length, 0);
  t.ok(Math.abs(sent - (3 / 4) * LENGTH) < 2);
});

t.test("Reduction refuses what it did not ask for, and its result does not change", async (t) => {
  const result = new Float32Array(LENGTH);
  const plan = {
    term: "t",
    generation: 1,
    worldSize: 2,
    rank: 0,
    numShards: 4,
    length: LENGTH,
    segmentFloats: 2000,
    add: addInJavaScript,
    round: roundToBf16,
    numRounded: 0,
    pool: poolFor(4),
  };
  const reduction = new Reduction(plan, 0, 0, result);
  const node = coveringNodes({ start: 2, end: 4 }, 4)[0];
  const good = {
    type: "scatter" as const,
    term: "t",
    generation: 1,
    globalStep: 0,
    phase: 0,
    from: 1,
    firstShard: node.start,
    endShard: node.end,
    at: null,
    numRounded: 0,
    start: 0,
    end: 501,
  };
  const values = (target: Float32Array): void => void target.fill(0);
  t.match(reduction.describeMissing(), /segments from rank 0.*segments from rank 1/);
  for (const bad of [
    { ...good, start: 1 },
    { ...good, end: 502 },
    { ...good, from: 0 },
    { ...good, firstShard: 0, endShard: 2 },
    { ...good, endShard: 3 },
    { ...good, type: "gather" as const },
    { ...good, type: "gather" as const, from: 0 },
    { ...good, start: 501, end: LENGTH, type: "gather" as const, from: 0 },
  ]) {
    t.throws(() => reduction.receive(bad, values), ProtocolError);
  }
  reduction.receive(good, values);
  t.throws(() => reduction.receive(good, values), ProtocolError, "a second copy");
  t.ok(result.every((x) => x === 0));
});

t.test("parsePeerMessage() refuses headers of any other form", async (t) => {
  for (const header of [null, 3, {}, { type: "scatter" }, { type: "gather", start: -1 }]) {
    t.throws(() => parsePeerMessage(header), ProtocolError);
  }
});
