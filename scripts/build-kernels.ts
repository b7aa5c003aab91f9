// npx tsc && node dist/scripts/build-kernels.js
/**
 * Compiles the training kernels, worker/kernels/assembly/ (AssemblyScript), to
 * dist/worker/kernels/kernels*.wasm: plain SIMD and relaxed multiply-adds, each
 * for vectors of 128 bits and for those that V8 joins to 256 (-wide).
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { kernelFile } from "../worker/kernels/kernel-builds.ts";

const require = createRequire(import.meta.url);
const packageRoot = fileURLToPath(new URL("../../", import.meta.url));
const compiler = require.resolve("assemblyscript/bin/asc.js");

const BUILDS = [false, true].flatMap((fused) =>
  [false, true].map((wide) => ({
    output: kernelFile({ fused, wide }),
    options: [
      ...["--use", `MADD=${Number(fused)}`, "--use", `WIDE=${Number(wide)}`],
      ...(fused ? ["--enable", "relaxed-simd"] : []),
    ],
  })),
);

await Promise.all(
  BUILDS.map(async ({ output, options }) => {
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
    const compiling = spawn(process.execPath, command, { cwd: packageRoot, stdio: "inherit" });
    const [code] = (await once(compiling, "exit")) as [number | null];
    if (code !== 0) throw new Error(`Cannot build ${output} as the AssemblyScript compiler failed`);
  }),
);
