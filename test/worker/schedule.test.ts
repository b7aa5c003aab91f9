import t from "tap";
import { roundToBf16 } from "../../shared/bf16.ts";
import { ProtocolError } from "../../shared/errors.ts";
import { isTreeNode, rankShards, treeSplit } from "../../shared/sharding.ts";
import { addInJavaScript } from "../../shared/tree-sum.ts";
import type { CollectivePlan } from "../../worker/collective.ts";
import { DataPlane } from "../../worker/data-plane.ts";
import { canHalveAndDouble, HalvingDoubling } from "../../worker/halving-doubling.ts";
import { arePartners, chooseSchedule, createCollective, SCHEDULE_NAMES } from "../../worker/schedule.ts";
import { allReduce, buffersFor, partialsOf, poolFor } from "./all-reduce.ts";
import { sameBits } from "../same-bits.ts";

const planOf = (worldSize: number, rank: number, length: number, segmentFloats: number): CollectivePlan => ({
  ...{ term: "t", generation: 1, worldSize, rank, numShards: 4, length, segmentFloats },
  add: addInJavaScript,
  round: () => undefined,
  numRounded: 0,
  pool: poolFor(4),
});

t.test(
  "createCollective() gives every rank the same bits, for any schedule, number of ranks and order of arrival",
  async (t) => {
    const numPhases = 3;
    const length = 203;
    for (const numRounded of [0, 200]) {
      let numHalved = 0;
      for (const numShards of [1, 2, 4, 7, 8, 16, 24, 32]) {
        const expected = Array.from({ length: numPhases }, (_, phase) =>
          partialsOf({ numShards, worldSize: 1, rank: 0, length, phase, numRounded }),
        );
        for (let worldSize = 1; worldSize <= Math.min(16, numShards); worldSize++) {
          for (const schedule of SCHEDULE_NAMES) {
            if (schedule === "halving-doubling" && !canHalveAndDouble(worldSize, numShards)) continue;
            numHalved += schedule === "halving-doubling" ? 1 : 0;
            // The smallest segments are the most messages.
            const segmentSizes = numShards > 8 ? [1000, 37] : [1000, 37, 6];
            for (const [seed, segmentFloats] of segmentSizes.entries()) {
              const sizes = { numShards, worldSize, length, segmentFloats, seed, numPhases };
              const world = { ...sizes, schedule, numRounded };
              const wrong = allReduce(world).filter((results) =>
                results.some((result, phase) => !sameBits(result, expected[phase][0].values)),
              );
              if (wrong.length > 0) t.fail(`${JSON.stringify(world)}: ${wrong.length} ranks differ`);
            }
          }
        }
      }
      t.equal(numHalved, 1 + 2 + 3 + 4 + 4);
    }
  },
);

t.test("arePartners() is true exactly for ranks that send each other messages", async (t) => {
  const length = 64;
  for (const worldSize of [1, 2, 3, 8, 16]) {
    for (let rank = 0; rank < worldSize; rank++) {
      const plan = { ...planOf(worldSize, rank, length, length), numShards: 16 };
      const collective = createCollective(plan, 0, 0, new Float32Array(length));
      const partners = plan.worldSize === 16 ? [1, 2, 4, 8].map((distance) => rank ^ distance) : null;
      const all = Array.from({ length: worldSize }, (_, other) => other);
      t.same(
        all.filter((other) => arePartners(worldSize, 16, rank, other)),
        (partners ?? all.filter((other) => other !== rank)).sort((a, b) => a - b),
      );
      const sent = collective.start(partialsOf({ numShards: 16, worldSize, rank, length, phase: 0 }));
      t.ok(sent.every(({ to }) => arePartners(worldSize, 16, rank, to)));
    }
  }
});

t.test("DataPlane reduces over real sockets by halving and doubling", async (t) => {
  const [worldSize, length] = [16, 5000];
  const shared = { numShards: 16, worldSize, length };
  t.equal(chooseSchedule(worldSize, shared.numShards), "halving-doubling");
  const fail = (reason: Error | string): void => void t.fail(String(reason));
  const planes = await Promise.all(
    Array.from({ length: worldSize }, () => DataPlane.bind("127.0.0.1", fail, fail)),
  );
  const peers = planes.map((plane, rank) => ({ rank, workerId: `w${rank}`, data: plane.address }));
  for (const [rank, plane] of planes.entries())
    plane.connect({
      ...{
        term: "t",
        generation: 1,
        rank,
        peers,
        numShards: shared.numShards,
        position: { globalStep: 0, phase: 0 },
        numPhases: 3,
        add: addInJavaScript,
        round: roundToBf16,
      },
      shared: true,
      buffers: buffersFor(shared.numShards),
    });
  for (let phase = 0; phase < 3; phase++) {
    const results = planes.map(() => new Float32Array(length));
    await Promise.all(
      planes.map((plane, rank) =>
        plane.reduce(0, phase, partialsOf({ ...shared, rank, phase }), results[rank], 0),
      ),
    );
    const [expected] = partialsOf({ ...shared, worldSize: 1, rank: 0, phase });
    t.ok(results.every((result) => sameBits(result, expected.values)));
  }
  for (const plane of planes) plane.close();
});

t.test("HalvingDoubling reduces vectors that are shorter than the world is large", async (t) => {
  for (let length = 1; length < 20; length++) {
    const world = {
      numShards: 16,
      worldSize: 16,
      length,
      segmentFloats: 2,
      seed: length,
      numPhases: 2,
      numRounded: 0,
    };
    const [expected] = partialsOf({ numShards: 16, worldSize: 1, rank: 0, length, phase: 0 });
    for (const [first] of allReduce({ ...world, schedule: "halving-doubling" })) {
      t.ok(sameBits(first, expected.values));
    }
  }
});

t.test("canHalveAndDouble() is true exactly where all sums are siblings of the canonical tree", async (t) => {
  for (let numShards = 1; numShards <= 70; numShards++) {
    for (let worldSize = 2; worldSize <= numShards; worldSize *= 2) {
      let siblings = true;
      for (let size = 2; size <= worldSize; size *= 2) {
        for (let first = 0; first < worldSize; first += size) {
          const { start } = rankShards(numShards, worldSize, first);
          const middle = rankShards(numShards, worldSize, first + size / 2).start;
          const { end } = rankShards(numShards, worldSize, first + size - 1);
          siblings &&= isTreeNode({ start, end }, numShards) && treeSplit({ start, end }) === middle;
        }
      }
      t.equal(canHalveAndDouble(worldSize, numShards), siblings, `${worldSize} of ${numShards}`);
    }
  }
  for (const worldSize of [0, 1, 3, 6, 12]) t.notOk(canHalveAndDouble(worldSize, 64));
});

t.test("chooseSchedule() exchanges directly in small worlds and where the tree asks for it", async (t) => {
  t.equal(chooseSchedule(1, 4), "direct");
  t.equal(chooseSchedule(4, 4), "direct");
  t.equal(chooseSchedule(64, 256), "halving-doubling");
  t.equal(chooseSchedule(64, 192), "direct");
  t.equal(chooseSchedule(48, 256), "direct");
  t.throws(() => createCollective(planOf(3, 0, 5, 5), 0, 0, new Float32Array(5), "halving-doubling"), {
    name: "RangeError",
    message: /powers of two: got 3 and 4/,
  });
  for (const schedule of SCHEDULE_NAMES) {
    t.throws(() => createCollective(planOf(4, 0, 5, 5), 0, 0, new Float32Array(4), schedule), RangeError);
  }
});

t.test("HalvingDoubling sends each part of the vector once per level, in few messages", async (t) => {
  const length = 1024;
  const sent = new HalvingDoubling(planOf(4, 1, length, length), 0, 0, new Float32Array(length)).start(
    partialsOf({ numShards: 4, worldSize: 4, rank: 1, length, phase: 0 }),
  );
  t.same(
    sent.map(({ to, message: { start, end, firstShard, endShard } }) => [
      to,
      start,
      end,
      firstShard,
      endShard,
    ]),
    [[0, 0, 512, 1, 2]],
  );
});

t.test("HalvingDoubling refuses what it did not ask for, and its result does not change", async (t) => {
  const length = 8;
  const result = new Float32Array(length);
  // Rank 1 keeps 4..8 of rank 0, then 4..6 of rank 3.
  const reduction = new HalvingDoubling(planOf(4, 1, length, 100), 0, 0, result);
  const header = { term: "t", generation: 1, globalStep: 0, phase: 0 };
  const fromNeighbour = {
    ...{ ...header, type: "scatter" as const, from: 0 },
    ...{ firstShard: 0, endShard: 1, at: null, numRounded: 0, start: 4, end: 8 },
  };
  const fromPair = { ...fromNeighbour, from: 3, firstShard: 2, endShard: 4, end: 6 };
  const complete = { ...fromNeighbour, type: "gather" as const, endShard: 4, start: 0, end: 4 };
  const values = (target: Float32Array): void => void target.fill(0);
  const refuses = (bad: typeof fromNeighbour | typeof complete, why: string): void =>
    void t.throws(() => reduction.receive(bad, values), ProtocolError, why);
  t.match(reduction.describeMissing(), /2 segments from rank 0, 2 segments from rank 3/);
  refuses({ ...fromNeighbour, from: 1 }, "from itself");
  refuses({ ...fromNeighbour, from: 2 }, "from no partner");
  refuses({ ...fromNeighbour, start: 5 }, "other values");
  refuses({ ...fromNeighbour, start: 0, end: 4 }, "values that it gave away");
  refuses({ ...fromNeighbour, endShard: 2 }, "other shards");
  refuses({ ...fromPair, firstShard: 3 }, "other shards of the second level");
  refuses(complete, "complete values before it has given its own");
  t.same(reduction.receive(fromNeighbour, values), []);
  refuses(fromNeighbour, "a second copy");
  t.ok(result.every((x) => x === 0));
  const partials = partialsOf({ numShards: 4, worldSize: 4, rank: 1, length, phase: 0 });
  t.equal(reduction.start(partials).length, 2);
  refuses(fromNeighbour, "a second copy, after it was summed");
  refuses({ ...complete, endShard: 2 }, "complete values of some shards only");
  reduction.receive(fromPair, values);
  reduction.receive(complete, values);
  refuses(complete, "a second copy of complete values");
  t.notOk(reduction.done);
  reduction.receive({ ...complete, from: 3, start: 6, end: 8 }, values);
  t.ok(reduction.done);
  t.throws(() => new HalvingDoubling(planOf(2, 0, length, 8), 0, 0, result).start([]), RangeError);
});
