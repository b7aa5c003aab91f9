// node dist/worker/engine/tensorflow-check.js [tfjs_binding.node]
/**
 * Loads TensorFlow, multiplies two matrices, and prints what it found as one
 * line of JSON: in a process of its own, as a library that fails to load may
 * end the process, and one that loads takes memory until it ends.
 *
 * @module
 */
import { findInstallation } from "./tensorflow-installation.ts";
import { loadBinding } from "./tensorflow-binding.ts";
import { tensorflowEnvironment } from "./tensorflow-environment.ts";
import { TensorflowOps } from "./tensorflow-ops.ts";

Object.assign(process.env, tensorflowEnvironment({ device: null }));
const path = process.argv.at(2);
const binding = loadBinding(
  path === undefined ? findInstallation() : { binding: path, package: "", record: null },
);
const ops = new TensorflowOps(binding);
const out = new Float32Array(4);
ops.tidy(() => {
  const matrix = ops.tensor(Float32Array.of(1, 2, 3, 4), [2, 2]);
  ops.read([{ tensor: ops.matMul(matrix, matrix, { transB: true }), out }]);
});
if (out.join() !== "5,11,11,25")
  throw new Error(`Cannot trust TensorFlow: a product of two matrices is ${out.join()}`);
console.log(JSON.stringify({ tensorflow: binding.TF_Version, cuda: binding.isUsingGpuDevice() }));
