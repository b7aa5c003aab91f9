/**
 * Sums of the shards' gradients in the canonical tree, on the GPU: groups of
 * MAX_LEAVES shards, which are nodes of the tree, one after the other in the
 * same memory, then groups of their sums.
 *
 * @module
 */
import type { OpenDevice } from "./webgpu-device.ts";
import type { Dispatch } from "./webgpu-dispatch.ts";
import { bind, linearWorkgroups, storageBuffer } from "./webgpu-dispatch.ts";
import type { BatchHeaders } from "./webgpu-headers.ts";
import { treeLevels } from "./webgpu-headers.ts";
import type { LeafGroup } from "./webgpu-network.ts";
import { treeSumShader } from "./webgpu-shaders.ts";
import { MAX_LEAVES } from "./webgpu-wgsl.ts";

export interface TreeSumsOptions {
  readonly open: OpenDevice;
  readonly headers: BatchHeaders;
  /** Values of a vector. */
  readonly length: number;
  /** From one vector to the next. */
  readonly stride: number;
  readonly bf16: boolean;
  /** Receives the sum, and behind it the batch's token. */
  readonly results: GPUBuffer;
}

/** Records the gradients of a group of shards into `leaves` (shards, stride). */
type LeafGradients = (group: LeafGroup, leaves: GPUBuffer) => readonly Dispatch[];

export class TreeSums {
  readonly #options: TreeSumsOptions;
  /** By the number of shards: a worker has few different ones. */
  readonly #plans = new Map<number, Promise<readonly Dispatch[]>>();
  #inner: Promise<GPUComputePipeline> | null = null;
  #root: Promise<GPUComputePipeline> | null = null;

  constructor(options: TreeSumsOptions) {
    this.#options = options;
  }

  /** What computes the gradients of so many shards and their sum, from the batch's headers. */
  plan(numLeaves: number, gradients: LeafGradients): Promise<readonly Dispatch[]> {
    let plan = this.#plans.get(numLeaves);
    if (plan === undefined) {
      plan = this.#make(numLeaves, gradients);
      this.#plans.set(numLeaves, plan);
    }
    return plan;
  }

  async #make(numLeaves: number, gradients: LeafGradients): Promise<readonly Dispatch[]> {
    const { open, headers, length, stride, bf16, results } = this.#options;
    const shader = (what: string, token: number | null): Promise<GPUComputePipeline> =>
      open.compile(`tree sum, ${what}`, treeSumShader(length, stride, bf16, token));
    const levels = treeLevels(numLeaves);
    const root = await (this.#root ??= shader("root", length));
    const inner = levels.length === 2 ? root : await (this.#inner ??= shader("inner", null));
    return open.checked(`reserve memory for ${numLeaves} shards`, () => {
      const dispatches: Dispatch[] = [];
      let header = 0;
      let vectors = storageBuffer(open.device, "gradients", Math.min(numLeaves, MAX_LEAVES) * stride);
      for (const [level, numVectors] of levels.slice(0, -1).entries()) {
        const isRoot = level === levels.length - 2;
        const numSums = levels[level + 1];
        const sums = isRoot ? results : storageBuffer(open.device, `sums ${level}`, numSums * stride);
        const pipeline = isRoot ? root : inner;
        for (let i = 0; i < numSums; i++) {
          const first = i * MAX_LEAVES;
          const n = Math.min(MAX_LEAVES, numVectors - first);
          const group = { header: headers.binding(header++), numLeaves: n };
          if (level === 0) dispatches.push(...gradients(group, vectors));
          const source = { buffer: vectors, offset: level === 0 ? 0 : first * stride * 4 };
          const target = { buffer: sums, offset: i * stride * 4 };
          const bindings = bind(open.device, pipeline, [group.header, source, target]);
          dispatches.push({ pipeline, bindings, workgroups: linearWorkgroups(length) });
        }
        vectors = sums;
      }
      return dispatches;
    });
  }
}
