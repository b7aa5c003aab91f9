/**
 * The binding of tfjs-node: TensorFlow's operations, one call each. Networks
 * of dense layers use it without tfjs; others through tfjs's tensorflow backend.
 *
 * @module
 */
import { createRequire } from "node:module";
import { join } from "node:path";
import util from "node:util";
import { describeError } from "../../shared/errors.ts";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import type { TensorAccess } from "./wasm-backend.ts";
import type { Installation } from "./tensorflow-installation.ts";
import {
  findInstallation,
  SETUP_COMMAND,
  TFJS_NODE_PACKAGE,
  TFJS_SYMBOL,
} from "./tensorflow-installation.ts";

const require = createRequire(import.meta.url);

/** One attribute of an operation. */
export interface Attribute {
  readonly name: string;
  readonly type: number;
  readonly value: number | boolean | string | readonly number[];
}

export type TensorId = number;

/** The functions of tfjs-node's binding that we use. All block until TensorFlow has done what they ask. */
export interface Binding {
  readonly TF_Version: string;
  readonly TF_FLOAT: number;
  readonly TF_INT32: number;
  readonly TF_UINT8: number;
  readonly TF_ATTR_TYPE: number;
  readonly TF_ATTR_BOOL: number;
  readonly TF_ATTR_FLOAT: number;
  readonly TF_ATTR_INT: number;
  isUsingGpuDevice(): boolean;
  /** On the processor the tensor may share the array's memory, if that is aligned to 64 bytes. */
  createTensor(
    shape: readonly number[],
    dtype: number,
    values: Float32Array | Int32Array | Uint8Array,
  ): TensorId;
  deleteTensor(id: TensorId): void;
  /** A copy. */
  tensorDataSync(id: TensorId): Float32Array;
  executeOp(
    name: string,
    attributes: readonly Attribute[],
    inputs: readonly TensorId[],
    numOutputs: number,
  ): readonly { readonly id: TensorId; readonly shape: readonly number[] }[];
  getNumOfTensors(): number;
}

/**
 * Loads TensorFlow into this process.
 *
 * @throws {Error} If there is none, or it does not load; the message says what to do.
 */
export function loadBinding(installation: Installation | null = findInstallation()): Binding {
  if (installation === null) {
    throw new Error(`Cannot use engine tensorflow as it must be set up once: run ${SETUP_COMMAND}`);
  }
  try {
    return require(installation.binding) as Binding;
  } catch (error) {
    const fix =
      installation.record === null
        ? `reinstall the package in ${installation.package}, or remove it and run ${SETUP_COMMAND}`
        : `run ${SETUP_COMMAND} -- --remove, then ${SETUP_COMMAND}`;
    throw new Error(
      `Cannot use engine tensorflow as ${installation.binding} must load: ${describeError(error)}; ${fix}`,
      { cause: error },
    );
  }
}

/** The part of tfjs's backend that we touch. */
interface Backend {
  readonly tensorMap: {
    /** A tensor is TensorFlow's, with an id, or waits for its first use as an array of values. */
    get(dataId: object): { id: TensorId; values: Float32Array | null };
  };
}

/** Starts tfjs's tensorflow backend on our binding. */
export async function loadTensorflowBackend(tf: TensorFlow): Promise<TensorAccess> {
  const installation = findInstallation();
  const binding = loadBinding(installation);
  // Gone from Node 23, and used by tfjs-node.
  const legacy = util as unknown as Record<string, unknown>;
  legacy["isNullOrUndefined"] ??= (value: unknown) => value === null || value === undefined;
  legacy["isArray"] ??= Array.isArray;
  Object.assign(globalThis, { [Symbol.for(TFJS_SYMBOL)]: tf });
  const folder = join((installation as Installation).package, "dist");
  require(join(folder, "register_all_kernels.js"));
  const { NodeJSKernelBackend } = require(join(folder, "nodejs_kernel_backend.js")) as {
    NodeJSKernelBackend: new (binding: Binding, name: string) => never;
  };
  tf.registerBackend("tensorflow", () => new NodeJSKernelBackend(binding, TFJS_NODE_PACKAGE));
  if (!(await tf.setBackend("tensorflow"))) {
    throw new Error("Cannot use engine tensorflow as tfjs must start its backend");
  }
  const backend = tf.backend() as unknown as Backend;
  return {
    read: (tensor, out, offset) => out.set(tensor.dataSync<"float32">(), offset),
    write({ dataId }, values) {
      const entry = backend.tensorMap.get(dataId);
      if (entry.values === null) binding.deleteTensor(entry.id);
      entry.id = -1;
      entry.values = values.slice();
    },
  };
}
