/**
 * The halving-doubling schedule of the all-reduce, for worlds and runs whose
 * sizes are powers of two: 2 log2(worldSize) messages per rank, where the
 * direct schedule sends 2 (worldSize - 1), for the same bytes.
 *
 * Reduce-scatter: at level j a rank exchanges with rank ^ 2^j. Both hold sums
 * of the same range of the vector; each gives one half of it away, keeps the
 * other, and adds the partner's sum to it. After the last level each rank has
 * the complete sum of 1/worldSize of the vector. All-gather: the same exchanges
 * in reverse order, with complete values.
 *
 * Same bits as the canonical tree. Let numShards = S and worldSize = W = 2^k.
 * If S = 2^s with s >= k, a rank holds the shards r 2^(s-k) .. (r+1) 2^(s-k), and
 * the 2^j ranks whose numbers agree above bit j hold an aligned block of
 * 2^(s-k+j) shards. treeSplit() splits a node of 2^i shards in halves, so these
 * blocks are exactly the nodes of the tree of that size, and level j adds a
 * left child to its sibling: every addition is one of the tree's. No other S
 * will do: the last level adds the sums of ranks 0..W/2 and W/2..W, that is of
 * shards 0..floor(S/2) and the rest. treeSplit() gives the root's left child the
 * largest power of two p < S, with p >= S/2; so floor(S/2) = p only if S = 2p.
 *
 * Buffers. Sums of a level are written to the result, in the kept half only,
 * and sent from there; the given half is not written before the complete
 * values of it arrive, and those can only exist once the partner has used what was sent.
 * So the result needs no second buffer, and partial sums are never written.
 *
 * Source of the scheme: Rabenseifner 2004 and Thakur, Rabenseifner and Gropp
 * 2005, with distances that double instead of halve, for the order of the sums.
 *
 * @module
 */
import { ProtocolError } from "../shared/errors.ts";
import type { Range } from "../shared/sharding.ts";
import { rankShards } from "../shared/sharding.ts";
import type { Partial } from "../shared/tree-sum.ts";
import type { Collective, CollectivePlan, CopyTo, Outgoing } from "./collective.ts";
import { CollectiveContext } from "./collective.ts";
import type { DataMessage } from "./data-messages.ts";
import { describeDataMessage } from "./data-messages.ts";

/** Part of the kept half: the partner's sum of it comes in, the complete values go out. */
interface KeptPiece extends Range {
  /** The partner's sum, until it is added. */
  theirs: CopyTo | null;
  /** Whether the sum of this rank's own block is ready. */
  ready: boolean;
  summed: boolean;
  /** Values that are not complete yet. */
  numOpen: number;
}

/** Part of the given half: this rank's sum of it goes out, the complete values come in. */
interface GivenPiece extends Range {
  state: "waiting" | "sent" | "complete";
}

/** The exchanges with one partner. */
interface Level {
  readonly partner: number;
  /** Whether the partner's shards lie to the right of this rank's. */
  readonly partnerIsRight: boolean;
  /** Shards summed in what this rank, and what the partner, sends for reduce-scatter. */
  readonly ownNode: Range;
  readonly partnerNode: Range;
  readonly kept: readonly KeptPiece[];
  readonly given: readonly GivenPiece[];
}

export class HalvingDoubling implements Collective {
  readonly #context: CollectiveContext;
  readonly #levels: readonly Level[];
  #partial: Float32Array | null = null;
  /** Values that are not complete yet. */
  #numOpen: number;

  /**
   * @param result Receives the sum: (length,), in use until {@linkcode done} and as long as peers may still receive it.
   * @throws {RangeError} If sums in this order would not be those of the canonical tree.
   */
  constructor(plan: CollectivePlan, globalStep: number, phase: number, result: Float32Array) {
    const { worldSize, numShards } = plan;
    if (!canHalveAndDouble(worldSize, numShards)) {
      throw new RangeError(
        `Cannot reduce by halving and doubling as ranks and shards must be powers of two: got ${worldSize} and ${numShards}`,
      );
    }
    this.#context = new CollectiveContext(plan, globalStep, phase, result);
    this.#levels = levelsOf(plan, this.#context.segmentFloats);
    this.#numOpen = plan.length;
  }

  get done(): boolean {
    return this.#numOpen === 0;
  }

  start(partials: readonly Partial[]): readonly Outgoing[] {
    if (partials.length !== 1) {
      throw new RangeError(
        `Cannot reduce by halving and doubling as there must be one partial sum: got ${partials.length}`,
      );
    }
    this.#partial = partials[0].values;
    return this.#ready(0, { start: 0, end: this.#context.plan.length });
  }

  receive(message: DataMessage, copyTo: CopyTo): readonly Outgoing[] {
    const index = this.#levels.findIndex(({ partner }) => partner === message.from);
    if (index < 0) {
      throw new ProtocolError(`Cannot use ${describeDataMessage(message)}: not from a partner`);
    }
    const level = this.#levels[index];
    const { numShards } = this.#context.plan;
    const isPiece = (piece: Range): boolean => piece.start === message.start && piece.end === message.end;
    const hasNode = (node: Range): boolean =>
      node.start === message.firstShard && node.end === message.endShard;
    if (message.type === "scatter") {
      const piece = level.kept.find(isPiece);
      if (piece === undefined || piece.theirs !== null || piece.summed || !hasNode(level.partnerNode)) {
        throw new ProtocolError(`Cannot use ${describeDataMessage(message)}: no such open segment`);
      }
      piece.theirs = copyTo;
      return this.#add(index, piece);
    }
    const piece = level.given.find(isPiece);
    // Complete values hold what this rank gave, so they cannot come before it was sent.
    if (piece?.state !== "sent" || !hasNode({ start: 0, end: numShards })) {
      throw new ProtocolError(`Cannot use ${describeDataMessage(message)}: no such open segment`);
    }
    copyTo(this.#context.result.subarray(piece.start, piece.end));
    piece.state = "complete";
    return this.#complete(index, piece);
  }

  describeMissing(): string | null {
    return this.done ? null : this.#context.describeMissing(this.missingFrom());
  }

  missingFrom(): readonly number[] {
    return this.#levels.flatMap(({ partner, kept, given }) => [
      ...kept.filter(({ theirs, summed }) => theirs === null && !summed).map(() => partner),
      ...given.filter(({ state }) => state !== "complete").map(() => partner),
    ]);
  }

  /** Goes on with a range of which the sum of this rank's block at a level is ready. */
  #ready(index: number, range: Range): readonly Outgoing[] {
    const level = this.#levels.at(index);
    if (level === undefined) return this.#complete(index, range);
    const outgoing: Outgoing[] = [];
    for (const piece of level.given.filter((p) => contains(range, p))) {
      piece.state = "sent";
      outgoing.push({
        to: level.partner,
        message: this.#context.header("scatter", { start: piece.start, end: piece.end }, level.ownNode),
        values: this.#own(index, piece),
      });
    }
    for (const piece of level.kept.filter((p) => contains(range, p))) {
      piece.ready = true;
      outgoing.push(...this.#add(index, piece));
    }
    return outgoing;
  }

  /** Adds the partner's sum of a piece to this rank's, where both are there. */
  #add(index: number, piece: KeptPiece): readonly Outgoing[] {
    const { theirs, ready } = piece;
    if (theirs === null || !ready) return [];
    const own = this.#own(index, piece);
    const target = this.#context.result.subarray(piece.start, piece.end);
    const { pool } = this.#context.plan;
    const add = this.#context.addIn(piece);
    const values = pool.take(target.length);
    theirs(values);
    if (this.#levels[index].partnerIsRight) add(target, own, values);
    else add(target, values, own);
    pool.give(values);
    piece.theirs = null;
    piece.summed = true;
    return this.#ready(index + 1, piece);
  }

  /** This rank's sum of a range, before a level's exchange. */
  #own(index: number, { start, end }: Range): Float32Array {
    const values = index === 0 ? this.#partial : this.#context.result;
    if (values === null) throw new Error("Cannot send or add before the start");
    return values.subarray(start, end);
  }

  /** Passes complete values on to the partners of all levels below `index`, whose kept halves hold them. */
  #complete(index: number, range: Range): readonly Outgoing[] {
    const size = range.end - range.start;
    this.#numOpen -= size;
    const outgoing: Outgoing[] = [];
    for (const { partner, kept } of this.#levels.slice(0, index).reverse()) {
      const piece = kept.find((p) => contains(p, range));
      if (piece === undefined) throw new Error("Cannot pass values on as no kept piece holds them");
      piece.numOpen -= size;
      if (piece.numOpen > 0) continue;
      const all = { start: 0, end: this.#context.plan.numShards };
      const { start, end } = piece;
      outgoing.push({
        to: partner,
        message: this.#context.header("gather", { start, end }, all),
        values: this.#context.result.subarray(start, end),
      });
    }
    return outgoing;
  }
}

/** Whether sums by halving and doubling are those of the canonical tree; proof above. */
export function canHalveAndDouble(worldSize: number, numShards: number): boolean {
  return worldSize >= 2 && worldSize <= numShards && isPowerOfTwo(worldSize) && isPowerOfTwo(numShards);
}

export function isPowerOfTwo(n: number): boolean {
  return n > 0 && (n & (n - 1)) === 0;
}

function levelsOf({ worldSize, rank, numShards, length }: CollectivePlan, size: number): readonly Level[] {
  const shardsOf = (firstRank: number, numRanks: number): Range => ({
    start: rankShards(numShards, worldSize, firstRank).start,
    end: rankShards(numShards, worldSize, firstRank + numRanks - 1).end,
  });
  const levels: Level[] = [];
  let range: Range = { start: 0, end: length };
  for (let distance = 1; distance < worldSize; distance *= 2) {
    const partnerIsRight = (rank & distance) === 0;
    const partner = rank ^ distance;
    const [lower, upper] = halves(range);
    const [keep, give] = partnerIsRight ? [lower, upper] : [upper, lower];
    levels.push({
      partner,
      partnerIsRight,
      ownNode: shardsOf(rank - (rank % distance), distance),
      partnerNode: shardsOf(partner - (partner % distance), distance),
      kept: pieces(keep, size).map((piece) => ({
        ...piece,
        theirs: null,
        ready: false,
        summed: false,
        numOpen: piece.end - piece.start,
      })),
      given: pieces(give, size).map((piece) => ({ ...piece, state: "waiting" })),
    });
    range = keep;
  }
  return levels;
}

function halves({ start, end }: Range): readonly [Range, Range] {
  const middle = start + Math.floor((end - start) / 2);
  return [
    { start, end: middle },
    { start: middle, end },
  ];
}

/**
 * Messages that carry a range: it is halved until no part is larger than
 * `size`. So every piece of one level lies within one piece of the level
 * before, and can go on as soon as that one is there.
 */
function pieces(range: Range, size: number): readonly Range[] {
  const length = range.end - range.start;
  if (length === 0) return [];
  return length <= size ? [range] : halves(range).flatMap((half) => pieces(half, size));
}

function contains(outer: Range, inner: Range): boolean {
  return outer.start <= inner.start && inner.end <= outer.end;
}
