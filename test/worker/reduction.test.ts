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
  const refused = (target: Float32Array): void => {
    target.fill(7);
    t.fail("its values are not taken");
  };
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
    t.throws(() => reduction.receive(bad, refused), ProtocolError);
  }
  reduction.receive(good, (target) => void target.fill(1));
  t.throws(() => reduction.receive(good, refused), ProtocolError, "a second copy");
  t.ok(
    result.every((x) => x === 0),
    "until its own part is there",
  );
  const own = new Float32Array(LENGTH).fill(2);
  reduction.start([{ node: { start: 0, end: 2 }, values: own }]);
  t.same(result.slice(0, 501), new Float32Array(501).fill(3), "what was good is summed");
  t.ok(
    result.subarray(501).every((x) => x === 0),
    "the rest is the other rank's",
  );
  const rest = { ...good, type: "gather" as const, firstShard: 0, endShard: 4, start: 501, end: LENGTH };
  reduction.receive(rest, (target) => void target.fill(4));
  t.ok(reduction.done);
  t.same(result.slice(501), new Float32Array(LENGTH - 501).fill(4));
  t.throws(() => reduction.receive(rest, refused), ProtocolError, "once it is there");
});

t.test("parsePeerMessage() refuses headers of any other form", async (t) => {
  for (const header of [null, 3, {}, { type: "scatter" }, { type: "gather", start: -1 }]) {
    t.throws(() => parsePeerMessage(header), ProtocolError);
  }
});
