import t from "tap";
import {
  coveringNodes,
  fittingNodes,
  isTreeNode,
  largestNode,
  part,
  rankSamples,
  rankShards,
  samplesOf,
  shardSamples,
  treeSplit,
} from "../../shared/sharding.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";

t.test("part() cuts into contiguous parts whose sizes differ by at most one", async (t) => {
  for (const [length, n] of [
    [64, 4],
    [7, 3],
    [3, 3],
    [1000, 7],
  ]) {
    let position = 0;
    for (let i = 0; i < n; i++) {
      const { start, end } = part(length, n, i);
      t.equal(start, position);
      t.ok(end - start >= Math.floor(length / n) && end - start <= Math.ceil(length / n));
      position = end;
    }
    t.equal(position, length);
  }
});

t.test("rankSamples() covers the global batch once, whatever the number of workers", async (t) => {
  for (const numShards of [1, 3, 4, 8, 13]) {
    for (let worldSize = 1; worldSize <= numShards; worldSize++) {
      let position = 0;
      for (let rank = 0; rank < worldSize; rank++) {
        const { start, end } = rankSamples(61, numShards, worldSize, rank);
        t.equal(start, position);
        const shards = rankShards(numShards, worldSize, rank);
        t.equal(start, shardSamples(61, numShards, shards.start).start);
        position = end;
      }
      t.equal(position, 61);
    }
  }
});

t.test("isTreeNode() knows the nodes that treeSplit() makes", async (t) => {
  for (const numShards of [1, 2, 3, 5, 8, 11]) {
    const nodes = new Set<string>();
    const walk = (start: number, end: number): void => {
      nodes.add(`${start}-${end}`);
      if (end - start < 2) return;
      const split = treeSplit({ start, end });
      walk(start, split);
      walk(split, end);
    };
    walk(0, numShards);
    t.equal(nodes.size, 2 * numShards - 1);
    for (let start = 0; start < numShards; start++) {
      for (let end = start + 1; end <= numShards; end++) {
        t.equal(
          isTreeNode({ start, end }, numShards),
          nodes.has(`${start}-${end}`),
          `${start}-${end} of ${numShards}`,
        );
      }
    }
  }
  t.throws(() => treeSplit({ start: 2, end: 3 }), RangeError);
});

t.test("coveringNodes() covers a range exactly with tree nodes", async (t) => {
  t.same(coveringNodes({ start: 0, end: 8 }, 8), [{ start: 0, end: 8 }]);
  t.same(coveringNodes({ start: 3, end: 8 }, 8), [
    { start: 3, end: 4 },
    { start: 4, end: 8 },
  ]);
  for (let start = 0; start < 13; start++) {
    for (let end = start + 1; end <= 13; end++) {
      let position = start;
      for (const node of coveringNodes({ start, end }, 13)) {
        t.equal(node.start, position);
        t.ok(isTreeNode(node, 13));
        position = node.end;
      }
      t.equal(position, end);
    }
  }
});

t.test("largestNode() is the largest node that any rank of any allowed world computes", async (t) => {
  const differsFromFirstRank = new Set<string>();
  for (const numShards of [1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 23]) {
    for (const globalBatchSize of [numShards, numShards + 1, 64, 1000, 1021]) {
      // Of every node in every world, by brute force.
      const sizes = Array.from({ length: numShards }, (_, i) => {
        const ofRank = (rank: number): number[] =>
          coveringNodes(rankShards(numShards, i + 1, rank), numShards).map((node) => {
            const { start, end } = samplesOf(globalBatchSize, numShards, node);
            return end - start;
          });
        return Math.max(...Array.from({ length: i + 1 }, (_, rank) => ofRank(rank)).flat());
      });
      for (let minWorkers = 1; minWorkers <= numShards; minWorkers++) {
        const first = rankSamples(globalBatchSize, numShards, minWorkers, 0);
        for (let maxWorkers = minWorkers; maxWorkers <= numShards; maxWorkers++) {
          const most = Math.max(...sizes.slice(minWorkers - 1, maxWorkers));
          const what = `${globalBatchSize} in ${numShards} shards, ${minWorkers} to ${maxWorkers} workers`;
          const found = largestNode(globalBatchSize, numShards, minWorkers, maxWorkers);
          if (found !== most) t.equal(found, most, what);
          if (most > first.end - first.start)
            differsFromFirstRank.add(`${globalBatchSize}/${numShards}/${minWorkers}`);
        }
      }
    }
  }
  t.ok(differsFromFirstRank.has("64/4/3"), "the first rank's part is no measure");
  t.equal(largestNode(64, 4, 3, 4), 32);
  t.equal(largestNode(1 << 20, 4096, 1500, 4096), 512, "of many workers, in no time");
});

t.test("fittingNodes() cuts a node into tree nodes that fit", async (t) => {
  const node = { start: 4, end: 11 };
  t.same(
    fittingNodes(node, ({ start, end }) => end - start <= 2),
    [
      [4, 6],
      [6, 8],
      [8, 10],
      [10, 11],
    ].map(([start, end]) => ({ start, end })),
  );
  t.same(
    fittingNodes(node, () => true),
    [node],
  );
  t.equal(fittingNodes(node, () => false).length, 7, "shards are not cut");
});

t.test("TreeSum gives the same bits for every split into ranks, where a plain sum does not", async (t) => {
  const numShards = 13;
  const length = 50;
  // Values of very different size, so that the order of additions shows.
  const shard = (s: number): Float32Array =>
    Float32Array.from({ length }, (_, i) => ((s * 7919 + i * 104729) % 1000) * 10 ** ((s + i) % 9) - 3e6);
  const tree = (): TreeSum => new TreeSum(numShards, addInJavaScript, () => new Float32Array(length));
  const reference = tree();
  for (let s = 0; s < numShards; s++) reference.push({ start: s, end: s + 1 }, shard(s), false);
  const [expected] = reference.take();
  t.same(expected.node, { start: 0, end: numShards });
  const plain = new Float32Array(length);
  for (let s = 0; s < numShards; s++) addInJavaScript(plain, plain, shard(s));
  t.notSame(plain, expected.values, "the test's values tell orders apart");
  for (let worldSize = 1; worldSize <= numShards; worldSize++) {
    const owner = tree();
    for (let rank = 0; rank < worldSize; rank++) {
      const { start, end } = rankShards(numShards, worldSize, rank);
      const local = tree();
      for (let s = start; s < end; s++) local.push({ start: s, end: s + 1 }, shard(s), true);
      for (const { node, values } of local.take()) owner.push(node, values, false);
    }
    t.same(owner.take()[0].values, expected.values, `${worldSize} ranks`);
  }
});

t.test(
  "TreeSum refuses a node that is not the next one, and never writes to what it does not own",
  async (t) => {
    const sum = new TreeSum(4, addInJavaScript, () => new Float32Array(2));
    const first = new Float32Array([1, 2]);
    sum.push({ start: 0, end: 1 }, first, false);
    t.throws(() => sum.push({ start: 2, end: 3 }, first, false), RangeError);
    t.throws(() => sum.push({ start: 1, end: 3 }, first, false), RangeError);
    sum.push({ start: 1, end: 2 }, new Float32Array([10, 20]), false);
    t.same([...first], [1, 2]);
    t.same([...sum.take()[0].values], [11, 22]);
  },
);
