/**
 * The environment variables that TensorFlow reads when its library loads.
 * Those that decide bits are the same for every worker of every run.
 *
 * @module
 */

export interface TensorflowEnvironmentOptions {
  /** Index of the GPU, as nvidia-smi counts, or null to leave the choice to TensorFlow. */
  readonly device: number | null;
}

/**
 * Variables for a worker process with engine tensorflow.
 *
 * One thread computes in each worker, whatever the machine: TensorFlow cuts sums along the number of its
 * threads, and flushes denormals in all threads but the calling one, so that with any other number the bits
 * would depend on the machine. Cores are used by as many workers.
 */
export function tensorflowEnvironment({
  device,
}: TensorflowEnvironmentOptions): Readonly<Record<string, string>> {
  return {
    TF_NUM_INTRAOP_THREADS: "1",
    TF_NUM_INTEROP_THREADS: "1",
    OMP_NUM_THREADS: "1",
    TF_CPP_MIN_LOG_LEVEL: "2",
    // Without it TensorFlow chooses by processor between two libraries of matrix products.
    TF_ENABLE_ONEDNN_OPTS: "1",
    TF_DETERMINISTIC_OPS: "1",
    TF_CUDNN_DETERMINISTIC: "1",
    CUBLAS_WORKSPACE_CONFIG: ":4096:8",
    // Products in float32, as on the other engines, not in the 19 bits of TensorFloat-32.
    NVIDIA_TF32_OVERRIDE: "0",
    TF_FORCE_GPU_ALLOW_GROWTH: "true",
    ...MALLOC,
    ...(device === null ? {} : { CUDA_DEVICE_ORDER: "PCI_BUS_ID", CUDA_VISIBLE_DEVICES: String(device) }),
  };
}

/**
 * Read by glibc when a process starts: without them every large tensor is mapped anew, and each of its pages
 * faults. They do not change results, so a worker that is started by hand may do without.
 */
const MALLOC = {
  MALLOC_MMAP_THRESHOLD_: String(2 ** 28),
  MALLOC_TRIM_THRESHOLD_: String(2 ** 30),
  MALLOC_TOP_PAD_: String(2 ** 24),
} as const;
