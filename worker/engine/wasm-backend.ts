/**
 * The tfjs wasm backend with our kernels in the places where its own are too
 * slow to train with: products with a transposed operand (40 times slower),
 * convolutions, activations, transposes and sums over rows. They work on the backend's own
 * memory without a copy, and tfjs's gradients use them too.
 *
 * @module
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type {
  KernelConfig,
  KernelFunc,
  NamedAttrMap,
  NamedTensorInfoMap,
  Tensor,
  TensorInfo,
} from "@tensorflow/tfjs";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import type { Kernels, Leaves, Pointer } from "../kernels/kernels.ts";
import { loadKernels } from "../kernels/kernels.ts";
import type { OwnKernel } from "./wasm-convolutions.ts";
import { convolutionKernels } from "./wasm-convolutions.ts";
import { registerFallbacks } from "./wasm-fallbacks.ts";

const require = createRequire(import.meta.url);

/** The parts of tfjs's wasm backend that we build on (tfjs 4.22, backend_wasm.ts). */
interface Backend {
  readonly wasm: WasmModule;
  readonly dataIdMap: { get(dataId: object): { readonly memoryOffset: number; readonly id: number } };
  makeOutput(shape: readonly number[], dtype: "float32"): TensorInfo;
}

interface WasmModule {
  readonly HEAPU8: Uint8Array;
  readonly asm: { readonly memory: WebAssembly.Memory };
  _malloc(bytes: number): number;
  _free(pointer: number): void;
}

/** Copies between flat vectors and tensors without tfjs's detours. */
export interface TensorAccess {
  /** Writes a float32 tensor's values to out[offset...]; where there is settle(), when that is done. */
  read(tensor: Tensor, out: Float32Array, offset: number): void;
  /** Overwrites a float32 tensor's values. */
  write(tensor: Tensor, values: Float32Array): void;
  /** Does all reads that were asked for. Absent where read() does so at once. */
  settle?(): Promise<void>;
  /** Frees what the backend holds. */
  close?(): void;
  /**
   * Runs `compute` so that sums over the rows of a batch (products with a transposed left operand, sums
   * over rows) are taken shard by shard and added in the canonical tree: the bits of a TreeSum over
   * passes of one shard each, as a row's bits do not depend on the rows around it. Absent where the
   * backend cannot do that.
   *
   * @param shardRows Rows of each shard, in order.
   */
  readonly sumOverShards?: (shardRows: readonly number[], compute: () => void) => void;
}

/**
 * Makes wasm the backend.
 *
 * @param fused Whether matrix products use fused multiply-adds.
 * @throws {Error} If the runtime lacks the SIMD that is needed.
 */
export async function loadWasmBackend(tf: TensorFlow, fused: boolean): Promise<TensorAccess> {
  const wasm =
    (await import("@tensorflow/tfjs-backend-wasm")) as typeof import("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(join(dirname(require.resolve("@tensorflow/tfjs-backend-wasm")), "/"));
  if (!(await tf.setBackend("wasm")))
    throw new Error("Cannot use engine wasm as tfjs must start its backend");
  const backend = tf.backend() as unknown as Backend;
  const kernels = await loadKernels({ memory: backend.wasm.asm.memory, fused });
  const registry = new KernelRegistry(tf, backend, kernels);
  registry.replaceAll();
  registerFallbacks(tf);
  const pointerOf = ({ dataId }: TensorInfo): number => backend.dataIdMap.get(dataId).memoryOffset;
  return {
    read(tensor, out, offset) {
      out.set(new Float32Array(backend.wasm.HEAPU8.buffer, pointerOf(tensor), tensor.size), offset);
    },
    write(tensor, values) {
      new Float32Array(backend.wasm.HEAPU8.buffer, pointerOf(tensor), tensor.size).set(values);
    },
    sumOverShards: (shardRows, compute) => registry.sumOverShards(shardRows, compute),
  };
}

type Elementwise = (n: number, x: number, y: number) => void;

class KernelRegistry {
  readonly #tf: TensorFlow;
  readonly #backend: Backend;
  readonly #kernels: Kernels;
  /** Where each shard's rows begin, and where the last one's end; null outside of sumOverShards. */
  #shardStarts: readonly number[] | null = null;
  readonly #scratch: Workspace;
  readonly #leaves: Workspace;
  readonly #ones: Workspace;

  constructor(tf: TensorFlow, backend: Backend, kernels: Kernels) {
    this.#tf = tf;
    this.#backend = backend;
    this.#kernels = kernels;
    this.#scratch = new Workspace(backend.wasm);
    this.#leaves = new Workspace(backend.wasm);
    this.#ones = new Workspace(backend.wasm);
  }

  replaceAll(): void {
    const { leakyReluForward, tanhForward, sigmoidForward, softplusForward } = this.#kernels;
    this.#replace("BatchMatMul", (inputs, attrs) => this.#product(inputs, attrs));
    this.#replace("Transpose", (inputs, attrs) => this.#transpose(inputs, attrs));
    this.#replace("Sum", (inputs, attrs) => this.#sumOverRows(inputs, attrs));
    this.#replace("Tanh", ({ x }) => this.#elementwise(x, tanhForward));
    this.#replace("Sigmoid", ({ x }) => this.#elementwise(x, sigmoidForward));
    this.#replace("Softplus", ({ x }) => this.#elementwise(x, softplusForward));
    this.#replace("LeakyRelu", ({ x }, { alpha }) =>
      this.#elementwise(x, (n, from, to) => leakyReluForward(n, from, to, alpha as number)),
    );
    const convolutions = convolutionKernels({
      tf: this.#tf,
      kernels: this.#kernels,
      output: (shape) => this.#output(shape),
      at: (tensor) => this.#at(tensor),
      scratch: (bytes) => this.#scratch.at(bytes),
    });
    for (const [kernelName, ours] of Object.entries(convolutions)) this.#replace(kernelName, ours);
  }

  /** @param ours Returns null for what it does not do; the stock kernel, if there is one, does that. */
  #replace(kernelName: string, ours: OwnKernel): void {
    const stock: KernelConfig | undefined = this.#tf.getKernel(kernelName, "wasm");
    const kernelFunc: KernelFunc = (call) => {
      const inputs = call.inputs;
      const isFloat = Object.values(inputs).every((input) => input?.dtype === "float32");
      const output = isFloat ? ours(inputs, call.attrs ?? {}) : null;
      if (output !== null) return output;
      if (stock === undefined)
        throw new Error(`Cannot compute ${kernelName} of these inputs on backend wasm`);
      return stock.kernelFunc(call);
    };
    if (stock !== undefined) this.#tf.unregisterKernel(kernelName, "wasm");
    this.#tf.registerKernel({ ...stock, kernelName, backendName: "wasm", kernelFunc });
  }

  #product({ a, b }: NamedTensorInfoMap, attrs: NamedAttrMap): TensorInfo | null {
    // tfjs gives matrices a batch of one.
    if (a === undefined || b === undefined) return null;
    const rank = a.shape.length;
    const isMatrix = (x: TensorInfo): boolean => x.shape.slice(0, -2).every((n) => n === 1);
    if (!isMatrix(a) || !isMatrix(b) || rank !== b.shape.length) return null;
    const transA = attrs["transposeA"] === true;
    const transB = attrs["transposeB"] === true;
    const [aRows, aColumns] = a.shape.slice(-2);
    const [bRows, bColumns] = b.shape.slice(-2);
    const M = transA ? aColumns : aRows;
    const K = transA ? aRows : aColumns;
    const N = transB ? bRows : bColumns;
    const output = this.#output([...a.shape.slice(0, -2), M, N]);
    const leaves = transA && !transB ? this.#leavesOf(K) : undefined;
    const mode = leaves === undefined ? "store" : "tree";
    const scratch = this.#scratch.at(this.#kernels.gemmScratchBytes(M, K, mode));
    const [aAt, bAt, c] = [this.#at(a), this.#at(b), this.#at(output)];
    this.#kernels.gemm({ transA, transB, M, N, K, a: aAt, b: bAt, c, scratch, mode, leaves });
    return output;
  }

  sumOverShards(shardRows: readonly number[], compute: () => void): void {
    const starts = [0];
    for (const rows of shardRows) starts.push(starts[starts.length - 1] + rows);
    this.#shardStarts = starts;
    try {
      compute();
    } finally {
      this.#shardStarts = null;
    }
  }

  /** The shards as leaves of a sum over so many rows, if these are the batch's. */
  #leavesOf(rows: number): Leaves | undefined {
    const starts = this.#shardStarts;
    if (starts?.at(-1) !== rows) return undefined;
    const pointer = this.#leaves.at(starts.length * 4);
    new Int32Array(this.#backend.wasm.HEAPU8.buffer, pointer, starts.length).set(starts);
    return { starts: pointer, count: starts.length - 1 };
  }

  #transpose({ x }: NamedTensorInfoMap, attrs: NamedAttrMap): TensorInfo | null {
    const perm = attrs["perm"] as readonly number[];
    if (x === undefined || perm.length !== 2 || perm[0] !== 1) return null;
    const [rows, columns] = x.shape;
    const y = this.#output([columns, rows]);
    this.#kernels.transpose(rows, columns, this.#at(x), this.#at(y));
    return y;
  }

  #sumOverRows({ x }: NamedTensorInfoMap, attrs: NamedAttrMap): TensorInfo | null {
    const axis = this.#tf.util.parseAxisParam(attrs["axis"] as number[], x?.shape ?? []);
    if (x === undefined || x.shape.length !== 2 || axis.length !== 1 || axis[0] !== 0) return null;
    const [K, N] = x.shape;
    const out = this.#output(attrs["keepDims"] === true ? [1, N] : [N]);
    const [b, c] = [this.#at(x), this.#at(out)];
    const leaves = this.#leavesOf(K);
    if (leaves === undefined) {
      this.#kernels.columnSums(K, N, b, c);
    } else {
      // A row of ones times x: products with 1 are exact, so these are tree sums of the rows.
      const a = this.#ones.at(K * 4);
      new Float32Array(this.#backend.wasm.HEAPU8.buffer, a, K).fill(1);
      const scratch = this.#scratch.at(this.#kernels.gemmScratchBytes(1, K, "tree"));
      this.#kernels.gemm({ M: 1, N, K, a, b, c, scratch, mode: "tree", leaves });
    }
    return out;
  }

  #elementwise(x: TensorInfo | undefined, kernel: Elementwise): TensorInfo | null {
    if (x === undefined) return null;
    const y = this.#output(x.shape);
    kernel(this.#tf.util.sizeFromShape([...x.shape]), this.#at(x), this.#at(y));
    return y;
  }

  #output(shape: readonly number[]): TensorInfo {
    return this.#backend.makeOutput(shape, "float32");
  }

  #at({ dataId }: TensorInfo): number {
    return this.#backend.dataIdMap.get(dataId).memoryOffset;
  }
}

/** A piece of the backend's memory that lives as long as the backend and only grows. */
class Workspace {
  readonly #wasm: WasmModule;
  #pointer = 0;
  #bytes = 0;

  constructor(wasm: WasmModule) {
    this.#wasm = wasm;
  }

  /** @returns Where at least so many bytes are; what was written there before may be gone. */
  at(bytes: number): Pointer {
    if (bytes > this.#bytes) {
      if (this.#pointer !== 0) this.#wasm._free(this.#pointer);
      this.#pointer = this.#wasm._malloc(bytes);
      this.#bytes = bytes;
    }
    return this.#pointer;
  }
}
