// npx tsc && node dist/scripts/build-kernels.js
/**
 * Compiles the training kernels, worker/kernels/assembly/ (AssemblyScript), to
 * dist/worker/kernels/kernels*.wasm: plain SIMD and relaxed multiply-adds, each
 * for vectors of 128 bits and for those that V8 joins to 256 (-wide). Those that are
 * newer than all that they are made from are left as they are.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { kernelFile } from "../worker/kernels/kernel-builds.ts";

const require = createRequire(import.meta.url);
const packageUrl = new URL("../../", import.meta.url);
const compiler = require.resolve("assemblyscript/bin/asc.js");

const SOURCES = "worker/kernels/assembly/";
const outputPath = (file: string): string => `dist/worker/kernels/${file}`;

/** When a file was last changed; 0 if it is not there. Relative to the package. */
function changedMs(path: string): number {
  return statSync(new URL(path, packageUrl), { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

const newestSourceMs = Math.max(
  ...readdirSync(new URL(SOURCES, packageUrl)).map((name) => changedMs(SOURCES + name)),
  statSync(fileURLToPath(import.meta.url)).mtimeMs,
  statSync(compiler).mtimeMs,
);

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
  BUILDS.filter(({ output }) => changedMs(outputPath(output)) <= newestSourceMs).map(
    async ({ output, options }) => {
      const command = [
        compiler,
        `${SOURCES}index.ts`,
        ...["--outFile", outputPath(output)],
        // No data segment, no allocator, no start function: the memory belongs to somebody else.
        ...["--importMemory", "--runtime", "stub", "--noAssert"],
        ...["-O3", "--enable", "simd", ...options],
        // "Exchange of v128 values": about functions between our own files, inlined or internal.
        ...["--disableWarning", "112"],
      ];
      const compiling = spawn(process.execPath, command, {
        cwd: fileURLToPath(packageUrl),
        stdio: "inherit",
      });
      const [code] = (await once(compiling, "exit")) as [number | null];
      if (code !== 0) throw new Error(`Cannot build ${output} as the AssemblyScript compiler failed`);
    },
  ),
);
