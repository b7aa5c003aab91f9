/**
 * The tfjs webgpu backend on a device of our choice, for networks and
 * objectives that our own kernels do not compute. Its reads are promises, and
 * each waits for the device: so what a pass wants read is collected, joined
 * on the device and read at once.
 *
 * @module
 */
import type { Tensor } from "@tensorflow/tfjs";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import type { TensorAccess } from "./wasm-backend.ts";
import type { OpenDevice } from "./webgpu-device.ts";

/** The parts of tfjs's WebGPU backend that we build on (tfjs 4.22, backend_webgpu.ts). */
interface Backend {
  readonly commandEncoder: GPUCommandEncoder | null;
  readonly tensorMap: {
    get(dataId: object): { readonly resource?: GPUBuffer | null; values: Float32Array | null };
  };
  uploadToGPU(dataId: object): void;
  submitQueue(): void;
  dispose(): void;
}

interface BackendModule {
  readonly WebGPUBackend: new (device: GPUDevice, info: object) => Backend;
}

/** Makes webgpu the backend. @throws {Error} If tfjs cannot start it. */
export async function loadWebgpuBackend(tf: TensorFlow, open: OpenDevice): Promise<TensorAccess> {
  const backend = await withNavigatorGpu(async () => {
    const module = (await import("@tensorflow/tfjs-backend-webgpu")) as unknown as
      BackendModule | { readonly default: BackendModule };
    const { WebGPUBackend } = "default" in module ? module.default : module;
    // In Deno the module registers one for a device of its own choice.
    tf.removeBackend("webgpu");
    return new WebGPUBackend(open.device, {});
  });
  tf.registerBackend("webgpu", () => backend as never);
  if (!(await tf.setBackend("webgpu")))
    throw new Error("Cannot use engine webgpu as tfjs must start its backend");
  // Small tensors too: the processor rounds differently.
  tf.env().set("WEBGPU_CPU_FORWARD", false);
  return new DeferredAccess(tf, backend, open);
}

interface Wanted {
  /** Flat, and kept until it is read. */
  readonly tensor: Tensor;
  readonly out: Float32Array;
  readonly offset: number;
}

class DeferredAccess implements TensorAccess {
  readonly #tf: TensorFlow;
  readonly #backend: Backend;
  readonly #open: OpenDevice;
  #wanted: Wanted[] = [];

  constructor(tf: TensorFlow, backend: Backend, open: OpenDevice) {
    this.#tf = tf;
    this.#backend = backend;
    this.#open = open;
  }

  read(tensor: Tensor, out: Float32Array, offset: number): void {
    this.#wanted.push({ tensor: this.#tf.keep(this.#tf.reshape(tensor, [-1])), out, offset });
  }

  async settle(): Promise<void> {
    const wanted = this.#wanted;
    this.#wanted = [];
    if (wanted.length === 0) return;
    const tensors = wanted.map(({ tensor }) => tensor);
    const all = tensors.length === 1 ? tensors[0] : this.#tf.concat(tensors);
    try {
      const values = await this.#open.checked("compute with tfjs", () => all.data<"float32">());
      let start = 0;
      for (const { tensor, out, offset } of wanted) {
        out.set(values.subarray(start, start + tensor.size), offset);
        start += tensor.size;
      }
    } finally {
      this.#tf.dispose([...tensors, all]);
    }
  }

  write(tensor: Tensor, values: Float32Array): void {
    // Commands that use the old values must be under way before.
    if (this.#backend.commandEncoder !== null) this.#backend.submitQueue();
    this.#backend.uploadToGPU(tensor.dataId);
    const { resource } = this.#backend.tensorMap.get(tensor.dataId);
    if (!resource) throw new Error("Cannot write a tensor as tfjs has no buffer for it");
    if (this.#backend.commandEncoder !== null) this.#backend.submitQueue();
    this.#open.device.queue.writeBuffer(resource, 0, values.buffer, values.byteOffset, values.byteLength);
  }

  close(): void {
    this.#backend.dispose();
    this.#open.close();
  }
}

/** tfjs asks for navigator.gpu when it loads and when a backend is made; Node has none. */
async function withNavigatorGpu<T>(work: () => Promise<T>): Promise<T> {
  if (typeof navigator !== "undefined" && "gpu" in navigator) return work();
  const isMissing = typeof navigator === "undefined";
  const gpu = { configurable: true, value: {} };
  if (isMissing)
    Object.defineProperty(globalThis, "navigator", {
      configurable: true,
      value: Object.defineProperty({}, "gpu", gpu),
    });
  else Object.defineProperty(navigator, "gpu", gpu);
  try {
    return await work();
  } finally {
    Reflect.deleteProperty(isMissing ? globalThis : navigator, isMissing ? "navigator" : "gpu");
  }
}
