/**
 * A worker takes larger tiles the more rows it has, so all sizes of tiles must
 * give the same bits. They do the same operations in the same order, but WGSL
 * lets a driver round some of them as it likes: so this is tried out on the
 * device, on an example in which any other rounding would show.
 *
 * @module
 */
import type { OpenDevice } from "./webgpu-device.ts";
import { bind, encode, readBack, stagingBuffer, storageBuffer, uniformBuffer } from "./webgpu-dispatch.ts";
import type { Product, Tile } from "./webgpu-products.ts";
import { layerWords, productShader, TILES } from "./webgpu-products.ts";
import { BATCH_BYTES } from "./webgpu-wgsl.ts";

/** Operands of a product; see productShader. */
export interface ProductExample {
  readonly product: Product;
  /** Words of the batch's header. */
  readonly header: readonly number[];
  readonly a: Float32Array;
  readonly b: Float32Array;
  /** x of an input gradient. */
  readonly y: Float32Array | null;
  readonly outputLength: number;
  /** Rows and columns of the output, and leaves. */
  readonly size: readonly [number, number, number];
}

/** Computes one product and reads its output. */
export async function computeProduct(
  open: OpenDevice,
  example: ProductExample,
  tile: Tile,
): Promise<Float32Array> {
  const { product, header, a, b, y, outputLength, size } = example;
  const { device } = open;
  const pipeline = await open.compile(product.kind, productShader(product, tile));
  return open.checked("compute a product", async () => {
    const upload = (label: string, values: Float32Array | Uint32Array, length: number): GPUBuffer => {
      const buffer = storageBuffer(device, label, length);
      device.queue.writeBuffer(buffer, 0, values.buffer, values.byteOffset, values.byteLength);
      return buffer;
    };
    const output = storageBuffer(device, "output", outputLength);
    const staging = stagingBuffer(device, "staging", outputLength);
    const inputs = [
      upload("header", Uint32Array.from(header), BATCH_BYTES / 4),
      uniformBuffer(device, "layer", layerWords(product)),
      upload("a", a, a.length),
      upload("b", b, b.length),
    ];
    const below = y === null ? [] : [upload("y", y, y.length)];
    const [numRows, numColumns, numLeaves] = size;
    const encoder = device.createCommandEncoder();
    encode(encoder, [
      {
        pipeline,
        bindings: bind(device, pipeline, [...inputs, output, ...below]),
        workgroups: [Math.ceil(numColumns / tile.columns), Math.ceil(numRows / tile.rows), numLeaves],
      },
    ]);
    encoder.copyBufferToBuffer(output, 0, staging, 0, outputLength * 4);
    device.queue.submit([encoder.finish()]);
    try {
      return await readBack(staging, outputLength, (values) => values.slice());
    } finally {
      for (const buffer of [...inputs, ...below, output, staging]) buffer.destroy();
    }
  });
}

/**
 * Whether these tiles give the bits of the smallest one on this device. (Each worker tries out those that
 * it uses, so all workers of a run agree.)
 */
export async function tilesAgree(open: OpenDevice, tiles: ReadonlySet<Tile>): Promise<boolean> {
  const others = [...tiles].filter((tile) => tile !== TILES.small);
  if (others.length === 0) return true;
  const numRows = 37;
  const [numInputs, numOutputs] = [68, 40];
  const layer = { numInputs, numOutputs, offset: 0, activation: "tanh", alpha: 0 } as const;
  const common = { layer, activation: layer, rowsPerSample: 1, leafStride: 0 } as const;
  const x = exampleValues(numRows * numInputs, 2);
  const operands = { header: [numRows, numRows], b: exampleValues((numInputs + 1) * numOutputs, 1) };
  const examples: readonly ProductExample[] = [
    {
      ...operands,
      product: { ...common, kind: "forward" },
      a: x,
      y: null,
      outputLength: numRows * numOutputs,
      size: [numRows, numOutputs, 1],
    },
    {
      ...operands,
      product: { ...common, kind: "inputGradient" },
      a: exampleValues(numRows * numOutputs, 3),
      y: x,
      outputLength: numRows * numInputs,
      size: [numRows, numInputs, 1],
    },
  ];
  for (const example of examples) {
    const bitsOf = async (tile: Tile): Promise<Uint32Array> =>
      new Uint32Array((await computeProduct(open, example, tile)).buffer);
    const expected = await bitsOf(TILES.small);
    for (const tile of others) {
      if ((await bitsOf(tile)).some((bits, i) => bits !== expected[i])) return false;
    }
  }
  return true;
}

/** Values in [-1, 1) with all bits in use. */
function exampleValues(length: number, seed: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => {
    const mixed = Math.imul(i + seed * 7919, 0x9e3779b1) ^ (Math.imul(i + seed, 0x85ebca6b) >>> 13);
    return (mixed >>> 0) / 2 ** 31 - 1;
  });
}
