/**
 * A network of dense layers on a GPU: its buffers and kernels, and which of
 * them a pass takes. See webgpu-products.ts and webgpu-shaders.ts for what they compute.
 *
 * Shapes: R rows, and per stage I inputs and O outputs.
 *
 * @module
 */
import type { Network } from "../../shared/nn/network.ts";
import type { OpenDevice } from "./webgpu-device.ts";
import type { Dispatch } from "./webgpu-dispatch.ts";
import { bind, storageBuffer, uniformBuffer } from "./webgpu-dispatch.ts";
import type { Product, Tile } from "./webgpu-products.ts";
import { layerWords, productShader, TILES } from "./webgpu-products.ts";
import { headGradientShader } from "./webgpu-shaders.ts";
import type { Activation, DenseShape } from "./webgpu-wgsl.ts";

/** Fewer workgroups than this leave much of a large GPU idle, so that smaller tiles are faster. */
const ENOUGH_WORKGROUPS = 96;
/** Of weight gradients, which have one set of workgroups per shard. */
const ENOUGH_WORKGROUPS_PER_LEAF = 32;

/** Chooses among the tiles, which all give the same bits. */
export type TileChoice = (numRows: number, numColumns: number, enough: number) => Tile;

export const tileBySize: TileChoice = (numRows, numColumns, enough) => {
  const fits = ({ rows, columns }: Tile): boolean =>
    Math.ceil(numRows / rows) * Math.ceil(numColumns / columns) >= enough;
  return [TILES.large, TILES.medium].find(fits) ?? TILES.small;
};

export const smallTile: TileChoice = () => TILES.small;

/** The tiles that a network would like for products whose number of rows is that of the batch. */
export function rowTiles(stages: readonly DenseShape[], maxRows: number): readonly Tile[] {
  const widths = stages.flatMap(({ numInputs, numOutputs }) => [numInputs, numOutputs]);
  return widths.map((width) => tileBySize(maxRows, width, ENOUGH_WORKGROUPS));
}

/** Shards whose gradients are computed at once. */
export interface LeafGroup {
  readonly header: GPUBufferBinding;
  readonly numLeaves: number;
}

interface CompiledProduct {
  readonly pipeline: GPUComputePipeline;
  /** Holds struct Layer. */
  readonly layer: GPUBuffer;
  readonly tile: Tile;
}

export interface GpuNetworkOptions {
  readonly net: Network;
  readonly stages: readonly DenseShape[];
  readonly open: OpenDevice;
  /** Most rows of a pass. */
  readonly maxRows: number;
  /** Rows of the last output, which may hold what others write behind this network's. */
  readonly outputRows: number;
  readonly rowsPerSample: 1 | 2;
  readonly tiles: TileChoice;
  /** The activation of whatever gives this network its input, if the gradient by that is wanted. */
  readonly below: Activation | null;
  /** Whether the last layer has a kernel of its own (headShader), which this class leaves to its owner. */
  readonly head: boolean;
}

export class GpuNetwork {
  readonly options: GpuNetworkOptions;
  readonly parameters: GPUBuffer;
  /** Output of each stage but the head, (R, O). */
  readonly activations: readonly GPUBuffer[];
  /** Gradient by each stage's sums, (R, O). */
  readonly gradients: readonly GPUBuffer[];
  /** Values from a leaf's gradient to the next one's. */
  readonly leafStride: number;
  readonly #forward: readonly CompiledProduct[];
  /** By stage; null where the gradient by the input is not wanted, or the head gives it. */
  readonly #inputGradients: readonly (CompiledProduct | null)[];
  readonly #weightGradients: readonly CompiledProduct[];
  readonly #headGradient: GPUComputePipeline | null;

  /** @throws {Error} If a shader does not compile. */
  static async create(options: GpuNetworkOptions): Promise<GpuNetwork> {
    const { net, stages, open, maxRows, rowsPerSample, tiles, below, head } = options;
    const leafStride = leafStrideOf(net);
    const products = head ? stages.slice(0, -1) : stages;
    const compile = async (
      kind: Product["kind"],
      layer: DenseShape,
      activation: Activation,
      tile: Tile,
    ): Promise<CompiledProduct> => {
      const product: Product = { kind, layer, activation, rowsPerSample, leafStride };
      const pipeline = await open.compile(kind, productShader(product, tile));
      return { pipeline, layer: uniformBuffer(open.device, `${net.name} layer`, layerWords(product)), tile };
    };
    const last = stages[stages.length - 1];
    const [forward, inputGradients, weightGradients, headGradient] = await Promise.all([
      Promise.all(
        products.map((layer) =>
          compile("forward", layer, layer, tiles(maxRows, layer.numOutputs, ENOUGH_WORKGROUPS)),
        ),
      ),
      Promise.all(
        products.map(async (layer, i) => {
          const under = i > 0 ? stages[i - 1] : below;
          const tile = tiles(maxRows, layer.numInputs, ENOUGH_WORKGROUPS);
          return under === null ? null : compile("inputGradient", layer, under, tile);
        }),
      ),
      Promise.all(
        products.map((layer) => {
          const tile = tiles(layer.numInputs, layer.numOutputs, ENOUGH_WORKGROUPS_PER_LEAF);
          return compile("weightGradient", layer, layer, tile);
        }),
      ),
      head
        ? open.compile(`${net.name} head gradient`, headGradientShader(last, rowsPerSample, leafStride))
        : null,
    ]);
    return new GpuNetwork(options, { forward, inputGradients, weightGradients, headGradient });
  }

  private constructor(
    options: GpuNetworkOptions,
    compiled: {
      readonly forward: readonly CompiledProduct[];
      readonly inputGradients: readonly (CompiledProduct | null)[];
      readonly weightGradients: readonly CompiledProduct[];
      readonly headGradient: GPUComputePipeline | null;
    },
  ) {
    const { net, stages, open, maxRows, outputRows } = options;
    const buffer = (what: string, length: number): GPUBuffer =>
      storageBuffer(open.device, `${net.name} ${what}`, length);
    this.options = options;
    this.#forward = compiled.forward;
    this.#inputGradients = compiled.inputGradients;
    this.#weightGradients = compiled.weightGradients;
    this.#headGradient = compiled.headGradient;
    this.leafStride = leafStrideOf(net);
    this.parameters = buffer("parameters", net.numParameters);
    this.activations = compiled.forward.map((_, i) => {
      const numRows = i === stages.length - 1 ? outputRows : maxRows;
      return buffer(`output ${i}`, numRows * stages[i].numOutputs);
    });
    this.gradients = stages.map(({ numOutputs }, i) => buffer(`gradient ${i}`, maxRows * numOutputs));
  }

  /** The network's input, and behind it the output of every stage that is a product. */
  inputOf(stage: number, input: GPUBuffer): GPUBuffer {
    return stage === 0 ? input : this.activations[stage - 1];
  }

  /** @param input (R, I). */
  forward(header: GPUBufferBinding, input: GPUBuffer): (numRows: number) => readonly Dispatch[] {
    const { stages, open } = this.options;
    const parts = this.#forward.map(({ pipeline, layer, tile }, i) => {
      const buffers = [header, layer, this.inputOf(i, input), this.parameters, this.activations[i]];
      return { pipeline, tile, bindings: bind(open.device, pipeline, buffers) };
    });
    return (numRows) =>
      parts.map(({ pipeline, tile, bindings }, i) => ({
        pipeline,
        bindings,
        workgroups: workgroups(tile, numRows, stages[i].numOutputs, 1),
      }));
  }

  /**
   * From the gradient by the sums of the last product to those of all stages before it.
   *
   * @param input (R, I) of the forward pass.
   * @param inputGradient Receives the gradient by the sums below the network, or null.
   */
  inputGradients(
    header: GPUBufferBinding,
    input: GPUBuffer,
    inputGradient: GPUBuffer | null,
  ): (numRows: number) => readonly Dispatch[] {
    const { stages, open } = this.options;
    const parts = this.#inputGradients.flatMap((compiled, i) => {
      const target = i > 0 ? this.gradients[i - 1] : inputGradient;
      if (compiled === null || target === null) return [];
      const { pipeline, layer, tile } = compiled;
      const buffers = [header, layer, this.gradients[i], this.parameters, target, this.inputOf(i, input)];
      return [{ i, pipeline, tile, bindings: bind(open.device, pipeline, buffers) }];
    });
    return (numRows) =>
      parts
        .map(({ i, pipeline, tile, bindings }) => ({
          pipeline,
          bindings,
          workgroups: workgroups(tile, numRows, stages[i].numInputs, 1),
        }))
        .reverse();
  }

  /**
   * Gradients by the parameters, of each leaf of a group.
   *
   * @param leaves Receives them: (leaves, leafStride).
   */
  weightGradients(
    { header, numLeaves }: LeafGroup,
    input: GPUBuffer,
    leaves: GPUBuffer,
  ): readonly Dispatch[] {
    const { stages, open } = this.options;
    const dispatches = this.#weightGradients.map(({ pipeline, layer, tile }, i): Dispatch => {
      const buffers = [header, layer, this.inputOf(i, input), this.gradients[i], leaves];
      const { numInputs, numOutputs } = stages[i];
      return {
        pipeline,
        bindings: bind(open.device, pipeline, buffers),
        workgroups: workgroups(tile, numInputs, numOutputs, numLeaves),
      };
    });
    if (this.#headGradient === null) return dispatches;
    const last = stages.length - 1;
    const buffers = [header, this.inputOf(last, input), this.gradients[last], leaves];
    const head: Dispatch = {
      pipeline: this.#headGradient,
      bindings: bind(open.device, this.#headGradient, buffers),
      workgroups: [Math.ceil((stages[last].numInputs + 1) / 16), 1, numLeaves],
    };
    return [...dispatches, head];
  }
}

function leafStrideOf(net: Network): number {
  // A multiple of 256 bytes, as bindings begin at such.
  return Math.ceil(net.numParameters / 64) * 64;
}

function workgroups(
  tile: Tile,
  numRows: number,
  numColumns: number,
  numLeaves: number,
): Dispatch["workgroups"] {
  return [Math.ceil(numColumns / tile.columns), Math.ceil(numRows / tile.rows), numLeaves];
}
