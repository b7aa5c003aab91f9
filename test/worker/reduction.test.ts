import t from "tap";
import { ProtocolError } from "../../shared/errors.ts";
import { coveringNodes, rankShards } from "../../shared/sharding.ts";
import type { Partial } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Outgoing } from "../../worker/reduction.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import { Reduction, SEGMENT_FLOATS, SegmentPool } from "../../worker/reduction.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

const LENGTH = 1003;

const shardOf = (s: number): Float32Array => {
  const random = mulberry32(s + 1);
  return Float32Array.from(
    { length: LENGTH },
    () => (random.uniform() - 0.5) * 10 ** Math.floor(random.uniform() * 8),
  );
};

function partialsOf(numShards: number, worldSize: number, rank: number): readonly Partial[] {
  const sum = new TreeSum(numShards, addInJavaScript, () => new Float32Array(LENGTH));
  const { start, end } = rankShards(numShards, worldSize, rank);
  for (let s = start; s < end; s++) sum.push({ start: s, end: s + 1 }, shardOf(s), true);
  return sum.take();
}

const poolFor = (numShards: number): SegmentPool =>
  new SegmentPool(
    Array.from({ length: SegmentPool.buffersFor(numShards) }, () => new Float32Array(SEGMENT_FLOATS)),
  );

/** All ranks in one process over a network that delivers in random order. @returns Each rank's result. */
function allReduce(numShards: number, worldSize: number, seed: number): readonly Float32Array[] {
  const random = mulberry32(seed);
  const results = Array.from({ length: worldSize }, () => new Float32Array(LENGTH).fill(NaN));
  const ranks = results.map(
    (result, rank) =>
      new Reduction(
        {
          generation: 1,
          worldSize,
          rank,
          numShards,
          length: LENGTH,
          segmentFloats: 97,
          add: addInJavaScript,
          pool: poolFor(numShards),
        },
        5,
        1,
        result,
      ),
  );
  const network: Outgoing[] = [];
  const toStart = ranks.map((_, rank) => rank);
  while (toStart.length > 0 || network.length > 0) {
    const pick = Math.floor(random.uniform() * (network.length + toStart.length));
    if (pick < toStart.length) {
      const [rank] = toStart.splice(pick, 1);
      network.push(...ranks[rank].start(partialsOf(numShards, worldSize, rank)));
    } else {
      const [{ to, message, values }] = network.splice(pick - toStart.length, 1);
      const parsed = parsePeerMessage({ ...message });
      if (parsed.type === "attached") throw new Error("Cannot be");
      const copy = values.slice();
      network.push(...ranks[to].receive(parsed, (target) => target.set(copy)));
    }
  }
  for (const [rank, reduction] of ranks.entries()) {
    t.ok(reduction.done, `rank ${rank} is done`);
    t.equal(reduction.describeMissing(), null);
  }
  return results;
}

t.test(
  "Reduction gives every rank the same bits, for any number of ranks and any order of arrival",
  async (t) => {
    for (const numShards of [1, 4, 7]) {
      const [expected] = partialsOf(numShards, 1, 0);
      for (let worldSize = 1; worldSize <= numShards; worldSize++) {
        for (let seed = 0; seed < 3; seed++) {
          for (const result of allReduce(numShards, worldSize, seed)) {
            t.ok(
              Buffer.from(result.buffer).equals(Buffer.from(expected.values.buffer)),
              `${worldSize} of ${numShards}`,
            );
          }
        }
      }
    }
  },
);

t.test("Reduction sends about 2 (W-1)/W vectors per rank", async (t) => {
  const worldSize = 4;
  const result = new Float32Array(LENGTH);
  const plan = {
    generation: 1,
    worldSize,
    rank: 1,
    numShards: 4,
    length: LENGTH,
    add: addInJavaScript,
    pool: poolFor(4),
  };
  const scattered = new Reduction(plan, 0, 0, result).start(partialsOf(4, worldSize, 1));
  const sent = scattered.reduce((sum, { values }) => sum + values.length, 0);
  t.ok(Math.abs(sent - (3 / 4) * LENGTH) < 2);
});

t.test("Reduction refuses what it did not ask for, and its result does not change", async (t) => {
  const result = new Float32Array(LENGTH);
  const plan = {
    generation: 1,
    worldSize: 2,
    rank: 0,
    numShards: 4,
    length: LENGTH,
    segmentFloats: 2000,
    add: addInJavaScript,
    pool: poolFor(4),
  };
  const reduction = new Reduction(plan, 0, 0, result);
  const node = coveringNodes({ start: 2, end: 4 }, 4)[0];
  const good = {
    type: "scatter" as const,
    generation: 1,
    globalStep: 0,
    phase: 0,
    from: 1,
    firstShard: node.start,
    endShard: node.end,
    start: 0,
    at: null,
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
