/**
 * Kernels that gradients need and that tfjs's wasm backend does not have, or
 * has wrong (MaxPoolGrad, where a maximum is not positive): tfjs's cpu kernels
 * on copies. Right rather than fast; they only add and multiply, so their bits
 * do not depend on the machine.
 *
 * @module
 */
import type { DataType, KernelFunc, NamedAttrMap, TensorInfo } from "@tensorflow/tfjs";
import type { TensorFlow } from "../../shared/nn/layers.ts";

const FALLBACKS = [
  "DepthwiseConv2dNativeBackpropFilter",
  "DepthwiseConv2dNativeBackpropInput",
  "MaxPoolGrad",
  "UnsortedSegmentSum",
] as const;

/** The parts that we use of tfjs's backends (tfjs 4.22, backend_cpu.ts and backend_wasm.ts). */
interface Backend {
  readSync(dataId: object): Float32Array;
}

interface CpuBackend extends Backend {
  makeTensorInfo(shape: readonly number[], dtype: DataType, values: Float32Array): TensorInfo;
  disposeIntermediateTensorInfo(info: TensorInfo): void;
}

interface WasmBackend extends Backend {
  makeOutput(shape: readonly number[], dtype: DataType): TensorInfo;
  typedArrayFromHeap(info: TensorInfo): Float32Array;
}

/** To be called once the wasm backend runs. */
export function registerFallbacks(tf: TensorFlow): void {
  // Without this the cpu backend prints advice to install tfjs-node.
  tf.env().set("IS_NODE", false);
  for (const kernelName of FALLBACKS) {
    if (tf.getKernel(kernelName, "wasm") !== undefined) tf.unregisterKernel(kernelName, "wasm");
    tf.registerKernel({ kernelName, backendName: "wasm", kernelFunc: onCpu(tf, kernelName) });
  }
}

function onCpu(tf: TensorFlow, kernelName: string): KernelFunc {
  const { kernelFunc } = tf.getKernel(kernelName, "cpu");
  return ({ inputs, attrs, backend }) => {
    const wasm = backend as WasmBackend;
    const cpu = tf.engine().findBackend("cpu") as unknown as CpuBackend;
    const copies = Object.entries(inputs as Readonly<Record<string, TensorInfo>>).map(
      ([name, { shape, dtype, dataId }]) =>
        [name, cpu.makeTensorInfo(shape, dtype, wasm.readSync(dataId))] as const,
    );
    const result = kernelFunc({
      inputs: Object.fromEntries(copies),
      attrs: attrs as NamedAttrMap,
      backend: cpu,
    }) as TensorInfo;
    const output = wasm.makeOutput(result.shape, result.dtype);
    wasm.typedArrayFromHeap(output).set(cpu.readSync(result.dataId));
    for (const info of [result, ...copies.map(([, copy]) => copy)]) cpu.disposeIntermediateTensorInfo(info);
    return output;
  };
}
