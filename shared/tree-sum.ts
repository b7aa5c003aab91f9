/**
 * Sums vectors in the canonical binary tree over shard index. Floating-point
 * addition is not associative: with one fixed tree the sum has the same bits
 * whoever computed which shard. Workers use it on their shards, and the owner
 * of a chunk uses it again on the workers' partial sums.
 *
 * @module
 */
import type { Range } from "./sharding.ts";
import { isTreeNode, treeSplit } from "./sharding.ts";

/** The sum of the shards `node`, one float32 per parameter. */
export interface Partial {
  readonly node: Range;
  readonly values: Float32Array;
}

/** out[i] = left[i] + right[i], rounded to float32; out may be one of the inputs. */
export type Add = (out: Float32Array, left: Float32Array, right: Float32Array) => void;

export const addInJavaScript: Add = (out, left, right) => {
  for (let i = 0; i < out.length; i++) out[i] = left[i] + right[i];
};

interface Entry extends Partial {
  /** Whether this sum may overwrite `values`. */
  readonly owned: boolean;
}

export class TreeSum {
  readonly #numShards: number;
  readonly #add: Add;
  readonly #allocate: () => Float32Array;
  readonly #release: (values: Float32Array) => void;
  readonly #root: Float32Array | null;
  #stack: Entry[] = [];

  /**
   * @param allocate Gives a buffer of the vectors' length, contents undefined.
   * @param release Takes back an owned buffer that has been summed into another.
   * @param root Receives the sum of all shards, if that is a sum of two nodes.
   */
  constructor(
    numShards: number,
    add: Add,
    allocate: () => Float32Array,
    release: (values: Float32Array) => void = () => undefined,
    root: Float32Array | null = null,
  ) {
    this.#numShards = numShards;
    this.#add = add;
    this.#allocate = allocate;
    this.#release = release;
    this.#root = root;
  }

  /**
   * Adds the next node to the right of all nodes so far, and sums whatever siblings are then complete.
   *
   * @param owned Whether `values` may be overwritten.
   * @throws {RangeError} If `node` is not a tree node or not the next one.
   */
  push(node: Range, values: Float32Array, owned: boolean): void {
    const last = this.#stack.at(-1);
    if (!isTreeNode(node, this.#numShards) || (last !== undefined && last.node.end !== node.start)) {
      throw new RangeError(
        `Cannot sum shards ${node.start}..${node.end} as the next node of ${this.#numShards} must start at ${last?.node.end ?? 0}`,
      );
    }
    this.#stack.push({ node, values, owned });
    for (;;) {
      const right = this.#stack.at(-1);
      const left = this.#stack.at(-2);
      if (right === undefined || left === undefined) return;
      const parent: Range = { start: left.node.start, end: right.node.end };
      if (!isTreeNode(parent, this.#numShards) || treeSplit(parent) !== right.node.start) return;
      const root = parent.end - parent.start === this.#numShards ? this.#root : null;
      const target = root ?? (left.owned ? left.values : right.owned ? right.values : this.#allocate());
      this.#add(target, left.values, right.values);
      for (const { values, owned } of [left, right]) if (owned && values !== target) this.#release(values);
      this.#stack.splice(-2, 2, { node: parent, values: target, owned: true });
    }
  }

  /** The sums so far: the covering nodes of all that was pushed. Empties the sum. */
  take(): readonly Partial[] {
    const partials = this.#stack.map(({ node, values }) => ({ node, values }));
    this.#stack = [];
    return partials;
  }
}
