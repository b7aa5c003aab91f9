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
import { addInJavaScript } from "../shared/tree-sum.ts";
import type { Kernels } from "./kernels/kernels.ts";
import { loadKernels } from "./kernels/kernels.ts";

const PAGE_BYTES = 65536;
/** Vectors start at multiples of a cache line. */
const ALIGNMENT = 64;

export class HostMemory {
  readonly #kernels: Kernels;
  /** Address 0 is left free, as kernels take it for "none". */
  #top = ALIGNMENT;

  private constructor(kernels: Kernels) {
    this.#kernels = kernels;
  }

  /** @param lengths Lengths of all vectors that will be allocated, in float32 values. */
  static async create(lengths: readonly number[]): Promise<HostMemory> {
    const bytes = lengths.reduce(
      (sum, length) => sum + Math.ceil((length * 4) / ALIGNMENT) * ALIGNMENT,
      ALIGNMENT,
    );
    const pages = Math.ceil(bytes / PAGE_BYTES);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    // Not relaxed: state is the same bits on every machine, whatever computes the gradients.
    return new HostMemory(await loadKernels({ memory, relaxed: false }));
  }

  /** @returns A vector of zeros. @throws {RangeError} If more is allocated than was announced. */
  allocate(length: number): Float32Array {
    const start = this.#top;
    this.#top += Math.ceil((length * 4) / ALIGNMENT) * ALIGNMENT;
    if (this.#top > this.#kernels.memory.buffer.byteLength) {
      throw new RangeError(`Cannot allocate ${length} values as the host memory is full`);
    }
    return new Float32Array(this.#kernels.memory.buffer, start, length);
  }

  /** Sums in WASM where all vectors lie here, else in JavaScript: the same bits. */
  readonly add: Add = (out, left, right) => {
    const { buffer } = this.#kernels.memory;
    if (out.buffer !== buffer || left.buffer !== buffer || right.buffer !== buffer) {
      addInJavaScript(out, left, right);
    } else {
      this.#kernels.add(out.length, left.byteOffset, right.byteOffset, out.byteOffset);
    }
  };

  /** The bits of adamStep() in shared/adam.ts. All vectors must lie here. */
  adamStep(parameters: Float32Array, gradient: Float32Array, state: AdamState, config: AdamConfig): void {
    const { learningRate, beta1, beta2, epsilon } = config;
    state.step += 1;
    this.#kernels.adam(
      parameters.length,
      this.#pointer(parameters),
      this.#pointer(state.m),
      this.#pointer(state.v),
      this.#pointer(gradient),
      learningRate,
      beta1,
      beta2,
      epsilon,
      1 - exactPower(beta1, state.step),
      1 - exactPower(beta2, state.step),
    );
  }

  /** Euclidean norm of the first `length` values, in float64; not finite exactly if a value is not. */
  norm(vector: Float32Array, length: number): number {
    return Math.sqrt(this.#kernels.sumSquares(length, this.#pointer(vector)));
  }

  /** Hash of all bits, for comparing replicas: sixteen hexadecimal digits. */
  hash(vector: Float32Array): string {
    return this.#kernels.hashWords(vector.length, this.#pointer(vector));
  }

  #pointer(vector: Float32Array): number {
    if (vector.buffer !== this.#kernels.memory.buffer) {
      throw new RangeError("Cannot use vector as it must lie in the host memory");
    }
    return vector.byteOffset;
  }
}
