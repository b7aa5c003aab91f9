/**
 * The tfjs wasm backend, with its one operation that is too slow to train
 * with replaced: a matrix product with a transposed operand runs in a naive
 * loop there, 40 times slower than a transpose and a plain product.
 *
 * @module
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { KernelConfig, Tensor } from "@tensorflow/tfjs";
import type { TensorFlow } from "../../shared/nn/layers.ts";

const require = createRequire(import.meta.url);

export async function loadWasmBackend(tf: TensorFlow): Promise<void> {
  const wasm = (await import("@tensorflow/tfjs-backend-wasm")) as typeof import("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(join(dirname(require.resolve("@tensorflow/tfjs-backend-wasm")), "/"));
  replaceTransposedProducts(tf);
}

interface ProductAttributes {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

function replaceTransposedProducts(tf: TensorFlow): void {
  const stock = tf.getKernel("BatchMatMul", "wasm");
  const kernelFunc: KernelConfig["kernelFunc"] = (call) => {
    const { transposeA, transposeB } = call.attrs as unknown as ProductAttributes;
    const { a, b } = call.inputs as unknown as { readonly a: Tensor; readonly b: Tensor };
    if ((!transposeA && !transposeB) || a.shape.length !== 2 || b.shape.length !== 2) return stock.kernelFunc(call);
    const transpose = (x: Tensor): Tensor => tf.engine().runKernel("Transpose", { x }, { perm: [1, 0] });
    const left = transposeA ? transpose(a) : a;
    const right = transposeB ? transpose(b) : b;
    const attrs = { ...call.attrs, transposeA: false, transposeB: false };
    const product = stock.kernelFunc({ ...call, inputs: { a: left, b: right }, attrs });
    if (left !== a) left.dispose();
    if (right !== b) right.dispose();
    return product;
  };
  tf.unregisterKernel("BatchMatMul", "wasm");
  tf.registerKernel({ ...stock, kernelFunc });
}
