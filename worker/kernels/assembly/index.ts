/**
 * The training kernels: everything here works on raw pointers (byte offsets)
 * into an imported memory. There is no data segment, no allocation and no
 * static address, so the module can share a memory with another module (the
 * tfjs wasm backend's) without a clash.
 *
 * AssemblyScript, compiled twice by scripts/build-kernels.ts: MADD = 0 is plain
 * WASM SIMD, MADD = 1 uses relaxed multiply-adds, in the matrix product only.
 */
export { conv2d, conv2dBackpropFilter, conv2dBackpropInput, convScratchBytes } from "./conv";
export { gemm, gemmScratchBytes } from "./gemm";
export {
  biasActivation,
  leakyReluBackward,
  leakyReluForward,
  sigmoidBackward,
  sigmoidForward,
  softplusBackward,
  softplusForward,
  tanhBackward,
  tanhForward,
} from "./activations";
export { adam } from "./adam";
export { add, addScaled, pixelsToReal, scale } from "./elementwise";
export { addBf16, addF16, bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, roundToBf16 } from "./half";
export { hashWords } from "./hash";
export { allFinite, columnSums, sumSquares } from "./sums";
export { transpose } from "./transpose";
