/**
 * All ranks of an all-reduce in one process, over a network that delivers in
 * any order and does not copy what it carries, phase after phase.
 *
 * @module
 */
import { rankShards } from "../../shared/sharding.ts";
import { roundToBf16 } from "../../shared/bf16.ts";
import type { Add, Partial } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import type { Collective, CollectivePlan, CopyTo, Outgoing } from "../../worker/collective.ts";
import { SEGMENT_FLOATS, SegmentPool } from "../../worker/collective.ts";
import type { DataMessage } from "../../worker/data-messages.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import type { ScheduleName } from "../../worker/schedule.ts";
import { createCollective } from "../../worker/schedule.ts";
import { mulberry32 } from "../reference/mulberry32.ts";
import { sameBits } from "../same-bits.ts";

export interface World {
  readonly schedule: ScheduleName;
  readonly numShards: number;
  readonly worldSize: number;
  readonly length: number;
  readonly segmentFloats: number;
  /** Values below this index are rounded to bfloat16 in every sum. */
  readonly numRounded: number;
  /** Of the order of delivery. */
  readonly seed: number;
  readonly numPhases: number;
}

/** Values of many magnitudes, so that another order of sums has other bits. */
function shardOf(shard: number, phase: number, length: number): Float32Array {
  const random = mulberry32(1000 * phase + shard + 1);
  return Float32Array.from(
    { length },
    () => (random.uniform() - 0.5) * 10 ** Math.floor(random.uniform() * 8),
  );
}

export function partialsOf({
  numShards,
  worldSize,
  rank,
  length,
  phase,
  numRounded = 0,
}: {
  readonly numShards: number;
  readonly worldSize: number;
  readonly rank: number;
  readonly length: number;
  readonly phase: number;
  readonly numRounded?: number;
}): readonly Partial[] {
  const rounded = (values: Float32Array): Float32Array => {
    roundToBf16(values.subarray(0, numRounded));
    return values;
  };
  const add: Add = (out, left, right) => {
    addInJavaScript(out, left, right);
    rounded(out);
  };
  const sum = new TreeSum(numShards, add, () => new Float32Array(length));
  const { start, end } = rankShards(numShards, worldSize, rank);
  for (let s = start; s < end; s++) {
    sum.push({ start: s, end: s + 1 }, rounded(shardOf(s, phase, length)), true);
  }
  return sum.take();
}

export function buffersFor(numShards: number, segmentFloats = SEGMENT_FLOATS): readonly Float32Array[] {
  return Array.from({ length: SegmentPool.buffersFor(numShards) }, () => new Float32Array(segmentFloats));
}

export function poolFor(numShards: number, segmentFloats = SEGMENT_FLOATS): SegmentPool {
  return new SegmentPool(buffersFor(numShards, segmentFloats));
}

interface InFlight extends Outgoing {
  readonly valuesWhenSent: Float32Array;
}

/** A worker as far as the all-reduce sees it: overwrites each buffer at the first moment that it may. */
class Rank {
  readonly copies: Float32Array[] = [];
  readonly #world: World;
  readonly #rank: number;
  readonly #send: (outgoing: readonly Outgoing[]) => void;
  readonly #results: Float32Array[] = [];
  /** Messages of the next phase: a peer can be done before this rank is. */
  #early: { readonly message: DataMessage; readonly copyTo: CopyTo }[] = [];
  #partials: readonly Partial[] = [];
  #collective: Collective | null = null;

  constructor(world: World, rank: number, send: (outgoing: readonly Outgoing[]) => void) {
    this.#world = world;
    this.#rank = rank;
    this.#send = send;
  }

  /** Whether the next phase can start. */
  get idle(): boolean {
    return this.#collective === null && this.copies.length < this.#world.numPhases;
  }

  get missing(): string | null {
    return this.#collective?.describeMissing() ?? null;
  }

  start(): void {
    const { schedule, numShards, worldSize, length, segmentFloats, numRounded } = this.#world;
    const plan: CollectivePlan = {
      ...{ term: "t", generation: 1, worldSize, rank: this.#rank, numShards, length, segmentFloats },
      add: addInJavaScript,
      round: roundToBf16,
      numRounded,
      pool: poolFor(numShards, segmentFloats),
    };
    const phase = this.copies.length;
    const result = new Float32Array(length).fill(NaN);
    this.#results.push(result);
    this.#partials = partialsOf({ numShards, worldSize, rank: this.#rank, length, phase, numRounded });
    const collective = createCollective(plan, 5, phase, result, schedule);
    this.#collective = collective;
    this.#send(collective.start(this.#partials));
    const early = this.#early;
    this.#early = [];
    for (const { message, copyTo } of early) this.#send(collective.receive(message, copyTo));
    this.#settle();
  }

  receive(message: DataMessage, copyTo: CopyTo): void {
    const ahead = message.phase - this.copies.length;
    if (ahead < 0 || ahead > 1) throw new Error(`Cannot take message as it is ${ahead} phases ahead`);
    if (ahead === 1 || this.#collective === null) this.#early.push({ message, copyTo });
    else {
      this.#send(this.#collective.receive(message, copyTo));
      this.#settle();
    }
  }

  #settle(): void {
    if (this.#collective?.done !== true) return;
    this.#collective = null;
    for (const { values } of this.#partials) values.fill(NaN);
    this.copies.push(this.#results[this.copies.length].slice());
    this.#results.at(-2)?.fill(NaN);
  }
}

/**
 * @returns Results by rank and phase: `numPhases` arrays of (length,) each.
 * @throws {Error} If a buffer was overwritten before its receiver had it, or if a rank waits for ever.
 */
export function allReduce(world: World): readonly (readonly Float32Array[])[] {
  const random = mulberry32(world.seed);
  const network: InFlight[] = [];
  const ranks = Array.from(
    { length: world.worldSize },
    (_, rank) =>
      new Rank(world, rank, (outgoing) =>
        network.push(...outgoing.map((o) => ({ ...o, valuesWhenSent: o.values.slice() }))),
      ),
  );
  for (;;) {
    const idle = ranks.filter((rank) => rank.idle);
    if (idle.length + network.length === 0) break;
    const pick = Math.floor(random.uniform() * (idle.length + network.length));
    if (pick < idle.length) {
      idle[pick].start();
      continue;
    }
    const [{ to, message, values, valuesWhenSent }] = network.splice(pick - idle.length, 1);
    if (!sameBits(values, valuesWhenSent))
      throw new Error(`Overwritten in flight: ${JSON.stringify(message)}`);
    const parsed = parsePeerMessage({ ...message });
    if (parsed.type === "attached" || parsed.type === "state")
      throw new Error("Cannot be sent by a schedule");
    ranks[to].receive(parsed, (target) => target.set(valuesWhenSent));
  }
  const waiting = ranks.flatMap(({ missing }) => missing ?? []);
  if (waiting.length > 0) throw new Error(`Some ranks wait: ${waiting.join("; ")}`);
  return ranks.map(({ copies }) => copies);
}
