// npx tsc && node dist/scripts/build-kernels.js
/**
 * Compiles the training kernels, worker/kernels/assembly/ (AssemblyScript), to
 * dist/worker/kernels/kernels.wasm (plain SIMD) and kernels-fused.wasm
 * (relaxed multiply-adds).
 *
 * @module
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const packageRoot = fileURLToPath(new URL("../../", import.meta.url));
const compiler = require.resolve("assemblyscript/bin/asc.js");

const BUILDS = [
  { output: "kernels.wasm", options: ["--use", "MADD=0"] },
  { output: "kernels-fused.wasm", options: ["--use", "MADD=1", "--enable", "relaxed-simd"] },
];

for (const { output, options } of BUILDS) {
  const command = [
    compiler,
    "worker/kernels/assembly/index.ts",
    ...["--outFile", `dist/worker/kernels/${output}`],
    // No data segment, no allocator, no start function: the memory belongs to somebody else.
    ...["--importMemory", "--runtime", "stub", "--noAssert"],
    ...["-O3", "--enable", "simd", ...options],
    // "Exchange of v128 values": about functions between our own files, inlined or internal.
    ...["--disableWarning", "112"],
  ];
  const { status, error } = spawnSync(process.execPath, command, { cwd: packageRoot, stdio: "inherit" });
  if (status !== 0) {
    throw new Error(`Cannot build ${output} as the AssemblyScript compiler failed`, { cause: error });
  }
}
