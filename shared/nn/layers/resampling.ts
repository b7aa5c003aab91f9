/** Images to other sizes. @module */
import { maximum } from "../composed.ts";
import type { Layer } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import type { Value } from "../graph.ts";
import {
  add,
  broadcast,
  constant,
  describe,
  matmul,
  mul,
  pad,
  reshape,
  ShapeError,
  sum,
  transpose,
} from "../graph.ts";

/** `factor` times as large. Bilinear: between the centers of pixels, constant beyond them, as PyTorch's default. */
export function upsample(factor: number, method: "nearest" | "bilinear" = "nearest"): Layer {
  return layer(`upsample ${factor}, ${method}`, (_scope, x) => {
    const [height, width, channels] = imageShape(x);
    if (method === "nearest") {
      const cells = reshape(x, [height, 1, width, 1, channels]);
      const repeated = broadcast(cells, { ...cells, shape: [height, factor, width, factor, channels] });
      return reshape(repeated, [height * factor, width * factor, channels]);
    }
    const rows = matmul(interpolation(height, factor), reshape(x, [height, width * channels]));
    const columns = transpose(reshape(rows, [height * factor, width, channels]), [1, 0, 2]);
    const both = matmul(interpolation(width, factor), reshape(columns, [width, height * factor * channels]));
    return transpose(reshape(both, [width * factor, height * factor, channels]), [1, 0, 2]);
  });
}

/** (n factor, n): how much of each pixel goes into each of the result. */
function interpolation(n: number, factor: number): Value {
  const weights = Array<number>(n * n * factor).fill(0);
  for (let to = 0; to < n * factor; to++) {
    const from = Math.max(0, (to + 0.5) / factor - 0.5);
    const low = Math.min(Math.floor(from), n - 1);
    weights[to * n + low] += 1 - (from - low);
    weights[to * n + Math.min(low + 1, n - 1)] += from - low;
  }
  return constant(weights, [n * factor, n]);
}

export interface PoolOptions {
  /** Default: the window's side. */
  readonly stride?: number;
}

/** Means of windows. */
export function averagePool(side: number, { stride = side }: PoolOptions = {}): Layer {
  return layer(`averagePool ${side}`, (_scope, x) => {
    const [height, width, channels] = imageShape(x);
    const area = 1 / (side * side);
    if (stride === side && height % side === 0 && width % side === 0) {
      const cells = reshape(x, [height / side, side, width / side, side, channels]);
      return mul(area, reshape(sum(cells, [1, 3]), [height / side, width / side, channels]));
    }
    return mul(
      area,
      windows(x, side, stride).reduce((a, b) => add(a, b)),
    );
  });
}

/** Largest values of windows; of equal ones the first, as to the gradient. */
export function maxPool(side: number, { stride = side }: PoolOptions = {}): Layer {
  return layer(`maxPool ${side}`, (_scope, x) => windows(x, side, stride).reduce(maximum));
}

/** For each place in a window, the image of the pixels there. */
function windows(x: Value, side: number, stride: number): readonly Value[] {
  const [height, width, channels] = imageShape(x);
  const shape = [Math.floor((height - side) / stride) + 1, Math.floor((width - side) / stride) + 1, channels];
  if (Math.min(...shape) < 1) {
    throw new ShapeError(
      `Cannot pool as the window must fit: expected at least ${side} x ${side}, got ${describe(x)}`,
    );
  }
  return Array.from({ length: side * side }, (_, i) =>
    pad(x, { shape, start: [Math.floor(i / side), i % side, 0], stride: [stride, stride, 1] }),
  );
}

function imageShape(x: Value): readonly [number, number, number] {
  if (x.shape.length !== 3) {
    throw new ShapeError(
      `Cannot resample what is no image: expected [height, width, channels], got ${describe(x)}`,
    );
  }
  return [x.shape[0], x.shape[1], x.shape[2]];
}
