/**
 * How a run is cut: samples into shards, shards onto ranks, a gradient into
 * the chunks that ranks own, and the canonical binary tree in which shard
 * gradients are summed. The number of shards belongs to the run; the number of
 * ranks does not, so nothing here that decides bits depends on worldSize.
 *
 * @module
 */

/** Half-open range of indices. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** The i-th of n nearly equal, contiguous parts of 0..length-1. */
export function part(length: number, n: number, i: number): Range {
  return { start: Math.floor((i * length) / n), end: Math.floor(((i + 1) * length) / n) };
}

/** Samples of the global batch that form a shard. Sizes differ by at most one. */
export function shardSamples(globalBatchSize: number, numShards: number, shard: number): Range {
  return part(globalBatchSize, numShards, shard);
}

/** Samples of the global batch that form consecutive shards. */
export function samplesOf(globalBatchSize: number, numShards: number, { start, end }: Range): Range {
  return {
    start: shardSamples(globalBatchSize, numShards, start).start,
    end: shardSamples(globalBatchSize, numShards, end - 1).end,
  };
}

/** Shards that a rank computes: contiguous, so that it holds few, large subtrees. */
export function rankShards(numShards: number, worldSize: number, rank: number): Range {
  return part(numShards, worldSize, rank);
}

/** Samples of the global batch that a rank needs. */
export function rankSamples(
  globalBatchSize: number,
  numShards: number,
  worldSize: number,
  rank: number,
): Range {
  return samplesOf(globalBatchSize, numShards, rankShards(numShards, worldSize, rank));
}

/**
 * Where the canonical tree splits the node start..end: after the largest power
 * of two below its size. So every aligned block of 2^k shards is a node, and a
 * tree over fewer shards is a prefix of the tree over more.
 */
export function treeSplit(node: Range): number {
  const size = node.end - node.start;
  if (size < 2) throw new RangeError(`Cannot split a tree node as its size must be >= 2: got ${size}`);
  return node.start + 2 ** (31 - Math.clz32(size - 1));
}

/** True if start..end is a node of the canonical tree over numShards leaves. */
export function isTreeNode(range: Range, numShards: number): boolean {
  let node: Range = { start: 0, end: numShards };
  while (node.start !== range.start || node.end !== range.end) {
    if (range.start < node.start || range.end > node.end || node.end - node.start < 2) return false;
    const split = treeSplit(node);
    if (range.end <= split) node = { start: node.start, end: split };
    else if (range.start >= split) node = { start: split, end: node.end };
    else return false;
  }
  return true;
}

/** A node where it fits, else its largest descendants that do, left to right; a leaf always fits. */
export function fittingNodes(node: Range, fits: (node: Range) => boolean): readonly Range[] {
  if (node.end - node.start === 1 || fits(node)) return [node];
  const split = treeSplit(node);
  return [
    ...fittingNodes({ start: node.start, end: split }, fits),
    ...fittingNodes({ start: split, end: node.end }, fits),
  ];
}

/**
 * Samples of the largest node that any rank computes, in a world of minWorkers to maxWorkers ranks: the room
 * that an engine needs.
 */
export function largestNode(
  globalBatchSize: number,
  numShards: number,
  minWorkers: number,
  maxWorkers: number,
): number {
  const isComputed = ({ start, end }: Range): boolean => {
    for (let worldSize = minWorkers; worldSize <= maxWorkers; worldSize++) {
      // Ranks of this world and of larger ones have fewer shards.
      if (Math.ceil(numShards / worldSize) < end - start) return false;
      const rank = Math.floor(((start + 1) * worldSize - 1) / numShards);
      if (rankShards(numShards, worldSize, rank).end >= end) return true;
    }
    return false;
  };
  const computed = fittingNodes({ start: 0, end: numShards }, isComputed);
  return computed.reduce((most, node) => {
    const { start, end } = samplesOf(globalBatchSize, numShards, node);
    return Math.max(most, end - start);
  }, 0);
}

/** The fewest tree nodes that cover the range exactly, left to right: what a rank can sum on its own. */
export function coveringNodes(range: Range, numShards: number): readonly Range[] {
  const cover = (node: Range): readonly Range[] => {
    if (range.end <= node.start || range.start >= node.end) return [];
    if (range.start <= node.start && node.end <= range.end) return [node];
    const split = treeSplit(node);
    return [...cover({ start: node.start, end: split }), ...cover({ start: split, end: node.end })];
  };
  return cover({ start: 0, end: numShards });
}
