/**
 * Compiles the binding of tfjs-node against TensorFlow's libraries. It uses
 * nothing of Node but Node-API, so one build serves every version of Node, and
 * neither node-gyp nor Node's own headers are needed.
 *
 * @module
 */
import { mkdirSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { PARTS } from "../../worker/engine/tensorflow-installation.ts";
import { runTool } from "./tools.ts";

const { include_dir: nodeApiHeaders } = createRequire(import.meta.url)("node-api-headers") as {
  readonly include_dir: string;
};

/** Libraries that TensorFlow opens by name while it runs. Those that they open themselves lie beside them. */
const CUDA_LIBRARIES =
  /^lib(cudart|cublas|cublasLt|cudnn|cufft|curand|cusolver|cusparse|cupti|nccl|nvJitLink)\.so\.\d+$/;

/**
 * @param sources Folder with the binding's sources.
 * @param folder Folder of the set-up, with TensorFlow's headers and libraries.
 */
export async function buildBinding(compiler: string, sources: string, folder: string): Promise<void> {
  const target = join(folder, PARTS.binding);
  const tensorflow = join(folder, PARTS.tensorflow);
  mkdirSync(dirname(target), { recursive: true });
  const files = readdirSync(sources).filter((name) => name.endsWith(".cc"));
  const cuda = cudaLibraries(join(folder, PARTS.nvidia));
  const searched = [
    PARTS.tensorflow,
    ...new Set(cuda.map(({ package: name }) => join(PARTS.nvidia, name, "lib"))),
  ];
  await runTool("build the binding", compiler, [
    ...["-std=c++17", "-O2", "-shared", "-fPIC", "-DNAPI_VERSION=8"],
    ...[`-I${nodeApiHeaders}`, `-I${join(tensorflow, "include")}`],
    ...files.map((name) => join(sources, name)),
    ...["-o", target],
    ...["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"].map((name) => join(tensorflow, name)),
    // Outside Python nobody loads CUDA's libraries: named as needed here, they are there when TensorFlow asks.
    ...["-Wl,--no-as-needed", ...cuda.map(({ path }) => path)],
    ...searched.map((path) => `-Wl,-rpath,$ORIGIN/../${path}`),
  ]);
}

function cudaLibraries(nvidia: string): readonly { readonly package: string; readonly path: string }[] {
  return listOf(nvidia).flatMap((name) =>
    listOf(join(nvidia, name, "lib"))
      .filter((file) => CUDA_LIBRARIES.test(file))
      .map((file) => ({ package: name, path: join(nvidia, name, "lib", file) })),
  );
}

function listOf(folder: string): readonly string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
