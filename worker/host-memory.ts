/**
 * The host's side of training: vectors in one WebAssembly memory, and the
 * kernels that work on them in place (optimizer, sums, hash). The memory has
 * its final size from the start, so views of it stay valid.
 *
 * @module
 */
import type { AdamConfig, AdamState } from "../shared/adam.ts";
import { exactPower } from "../shared/adam.ts";
import type { Add } from "../shared/tree-sum.ts";
import { roundToBf16 } from "../shared/bf16.ts";
import { wasmMemory } from "../shared/address-space.ts";
import { addInJavaScript } from "../shared/tree-sum.ts";
import type { Kernels, Pointer } from "./kernels/kernels.ts";
import { loadKernels } from "./kernels/kernels.ts";

const PAGE_BYTES = 65536;
/** 4 GiB, the most that a 32-bit memory can have. */
const MAX_PAGES = 65536;
/** Vectors start at multiples of a cache line. */
const ALIGNMENT = 64;

export interface HostMemoryOptions {
  /** Whether matrix products use fused multiply-adds. Everything else has the same bits either way. */
  readonly fused: boolean;
}

export class HostMemory {
  /** Work on pointers into this memory. */
  readonly kernels: Kernels;
  /** Address 0 is left free, as kernels take it for "none". */
  #top = ALIGNMENT;

  private constructor(kernels: Kernels) {
    this.kernels = kernels;
  }

  /** An empty memory. @throws {Error} If fused multiply-adds are asked for where there are none. */
  static async create({ fused }: HostMemoryOptions): Promise<HostMemory> {
    const memory = wasmMemory({ initial: 1, maximum: MAX_PAGES });
    return new HostMemory(await loadKernels({ memory, fused }));
  }

  /**
   * Makes room, once and before anything is allocated, since views do not survive growth.
   *
   * @param lengths Lengths of all vectors that will be allocated, in float32 values.
   */
  reserve(lengths: readonly number[]): void {
    if (this.#top !== ALIGNMENT) throw new Error("Cannot reserve host memory as some is allocated");
    const bytes = lengths.reduce((sum, length) => sum + paddedBytes(length), ALIGNMENT);
    const { memory } = this.kernels;
    const pages = Math.ceil(bytes / PAGE_BYTES) - memory.buffer.byteLength / PAGE_BYTES;
    if (pages > 0) memory.grow(pages);
  }

  /** @returns A vector of zeros. @throws {RangeError} If more is allocated than was reserved. */
  allocate(length: number): Float32Array {
    const start = this.#top;
    this.#top += paddedBytes(length);
    if (this.#top > this.kernels.memory.buffer.byteLength) {
      throw new RangeError(`Cannot allocate ${length} values as the host memory is full`);
    }
    return new Float32Array(this.kernels.memory.buffer, start, length);
  }

  /** Sums in WASM where all vectors lie here, else in JavaScript: the same bits. */
  readonly add: Add = (out, left, right) => {
    if ([out, left, right].every((vector) => this.holds(vector))) {
      this.kernels.add(out.length, left.byteOffset, right.byteOffset, out.byteOffset);
    } else {
      addInJavaScript(out, left, right);
    }
  };

  /** Rounds to bfloat16, in place. */
  readonly roundToBf16 = (vector: Float32Array): void => {
    if (this.holds(vector)) this.kernels.roundToBf16(vector.length, vector.byteOffset);
    else roundToBf16(vector);
  };

  /**
   * The bits of adamStep() in shared/adam.ts. All vectors must lie here.
   *
   * @returns Whether parameters and moments are finite afterwards: a gradient may be, and its square not.
   */
  adamStep(parameters: Float32Array, gradient: Float32Array, state: AdamState, config: AdamConfig): boolean {
    const { learningRate, beta1, beta2, epsilon } = config;
    state.step += 1;
    const isFinite = this.kernels.adam(
      parameters.length,
      this.pointer(parameters),
      this.pointer(state.m),
      this.pointer(state.v),
      this.pointer(gradient),
      learningRate,
      beta1,
      beta2,
      epsilon,
      1 - exactPower(beta1, state.step),
      1 - exactPower(beta2, state.step),
    );
    return isFinite === 1;
  }

  /** Euclidean norm of the first `length` values, in float64; not finite exactly if a value is not. */
  norm(vector: Float32Array, length: number): number {
    return Math.sqrt(this.kernels.sumSquares(length, this.pointer(vector)));
  }

  /** Hash of all bits, for comparing replicas: sixteen hexadecimal digits. */
  hash(vector: Float32Array): string {
    return this.kernels.hashWords(vector.length, this.pointer(vector));
  }

  /** Whether a vector lies here. */
  holds(vector: Float32Array): boolean {
    return vector.buffer === this.kernels.memory.buffer;
  }

  /** @throws {RangeError} If the vector lies elsewhere. */
  pointer(vector: Float32Array): Pointer {
    if (!this.holds(vector)) throw new RangeError("Cannot use vector as it must lie in the host memory");
    return vector.byteOffset;
  }
}

function paddedBytes(length: number): number {
  return Math.ceil((length * 4) / ALIGNMENT) * ALIGNMENT;
}
