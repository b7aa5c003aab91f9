/**
 * What every use of a GPU needs: buffers, bindings, and lists of dispatches
 * that are recorded into one command buffer.
 *
 * @module
 */

/** One start of a kernel. */
export interface Dispatch {
  readonly pipeline: GPUComputePipeline;
  readonly bindings: GPUBindGroup;
  readonly workgroups: readonly [number, number, number];
}

/** Buffers are as long as a multiple of this, so that kernels may read four values at once. */
const BUFFER_BYTES = 256;

/** @param length In values of four bytes. */
export function storageBuffer(device: GPUDevice, label: string, length: number): GPUBuffer {
  const size = Math.max(1, Math.ceil((length * 4) / BUFFER_BYTES)) * BUFFER_BYTES;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
  return device.createBuffer({ label, size, usage });
}

/** A buffer of constants. */
export function uniformBuffer(device: GPUDevice, label: string, words: Uint32Array): GPUBuffer {
  const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({ label, size: words.byteLength, usage });
  device.queue.writeBuffer(buffer, 0, words as Uint32Array<ArrayBuffer>);
  return buffer;
}

/** A buffer that the host can read. @param length In values of four bytes. */
export function stagingBuffer(device: GPUDevice, label: string, length: number): GPUBuffer {
  const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
  return device.createBuffer({ label, size: length * 4, usage });
}

/** @param resources For bindings 0, 1, ... */
export function bind(
  device: GPUDevice,
  pipeline: GPUComputePipeline,
  resources: readonly (GPUBuffer | GPUBufferBinding)[],
): GPUBindGroup {
  const entries = resources.map((resource, binding) => ({
    binding,
    resource: "buffer" in resource ? resource : { buffer: resource },
  }));
  return device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
}

/** Workgroups of 256 values each, in two dimensions where one is too short. */
export function linearWorkgroups(numValues: number): readonly [number, number, number] {
  const groups = Math.ceil(numValues / 256);
  const x = Math.min(groups, 32768);
  return [x, Math.ceil(groups / x), 1];
}

export function encode(encoder: GPUCommandEncoder, dispatches: readonly Dispatch[]): void {
  const pass = encoder.beginComputePass();
  for (const { pipeline, bindings, workgroups } of dispatches) {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindings);
    pass.dispatchWorkgroups(...workgroups);
  }
  pass.end();
}

/** Copies the first values of a buffer to the host. @param staging Must not be in use. */
export async function readBack<T>(
  staging: GPUBuffer,
  length: number,
  use: (values: Float32Array) => T,
): Promise<T> {
  await staging.mapAsync(GPUMapMode.READ, 0, length * 4);
  try {
    return use(new Float32Array(staging.getMappedRange(0, length * 4)));
  } finally {
    staging.unmap();
  }
}
