// Forward passes of single operations in float64, as plain loops, and derivatives of any such function by finite
// differences. Images are (N, H, W, C), row-major.

export interface Array64 {
  readonly shape: readonly number[];
  readonly values: Float64Array;
}

export type Operation = (...inputs: readonly Array64[]) => Float64Array;

export function elementwise(f: (...values: readonly number[]) => number): Operation {
  return (...inputs) => inputs[0].values.map((_, i) => f(...inputs.map(({ values }) => values[i])));
}

/** f of each row (the last axis), which it may not change; all results after one another. */
export function rowwise(f: (row: Float64Array) => readonly number[] | Float64Array): Operation {
  return ({ shape, values }) => {
    const width = shape[shape.length - 1];
    const rows = Array.from({ length: values.length / width }, (_, r) =>
      f(values.subarray(r * width, (r + 1) * width)),
    );
    return Float64Array.from(rows.flatMap((row) => [...row]));
  };
}

/** Product of (M, K) and (K, N). */
export const matMul: Operation = (a, b) => {
  const [M, K] = a.shape;
  const N = b.shape[1];
  return fill([M, N], ([m, n]) => {
    let sum = 0;
    for (let k = 0; k < K; k++) sum += a.values[m * K + k] * b.values[k * N + n];
    return sum;
  });
};

/** Padding before the first of `size` pixels where outputs are ceil(size / stride), as TensorFlow's "same". */
function samePad(size: number, filter: number, stride: number): number {
  const total = (Math.ceil(size / stride) - 1) * stride + filter - size;
  return Math.floor(Math.max(0, total) / 2);
}

/** Calls visit for each product of a convolution with "same" padding, with indices into x and y and the tap. */
function eachTap(
  [N, H, W]: readonly number[],
  [KH, KW]: readonly number[],
  stride: number,
  visit: (n: number, xAt: number, yAt: number, kh: number, kw: number) => void,
): void {
  const [OH, OW] = [Math.ceil(H / stride), Math.ceil(W / stride)];
  const [top, left] = [samePad(H, KH, stride), samePad(W, KW, stride)];
  for (const [n, oy, ox, kh, kw] of indices([N, OH, OW, KH, KW])) {
    const [y, x] = [oy * stride + kh - top, ox * stride + kw - left];
    if (y < 0 || y >= H || x < 0 || x >= W) continue;
    visit(n, (n * H + y) * W + x, (n * OH + oy) * OW + ox, kh, kw);
  }
}

/** x (N, H, W, I) with a filter (KH, KW, I, O), padding "same". */
export function conv2d(stride: number): Operation {
  return (x, filter) => {
    const [N, H, W, I] = x.shape;
    const [, KW, , O] = filter.shape;
    const y = new Float64Array(N * Math.ceil(H / stride) * Math.ceil(W / stride) * O);
    eachTap(x.shape, filter.shape, stride, (_n, xAt, yAt, kh, kw) => {
      for (const [i, o] of indices([I, O])) {
        y[yAt * O + o] += x.values[xAt * I + i] * filter.values[((kh * KW + kw) * I + i) * O + o];
      }
    });
    return y;
  };
}

/** The transpose of {@linkcode conv2d}: dy (N, OH, OW, O) and the same filter to an image (N, H, W, I). */
export function conv2dTranspose(stride: number, height: number, width: number): Operation {
  return (dy, filter) => {
    const [, KW, I, O] = filter.shape;
    const shape = [dy.shape[0], height, width, I];
    const x = new Float64Array(size(shape));
    eachTap(shape, filter.shape, stride, (_n, xAt, yAt, kh, kw) => {
      for (const [i, o] of indices([I, O])) {
        x[xAt * I + i] += dy.values[yAt * O + o] * filter.values[((kh * KW + kw) * I + i) * O + o];
      }
    });
    return x;
  };
}

/** x (N, H, W, I) with a filter (KH, KW, I, M) of its own for each channel, to (N, OH, OW, I M). */
export function depthwiseConv2d(stride: number): Operation {
  return (x, filter) => {
    const [N, H, W, I] = x.shape;
    const [, KW, , M] = filter.shape;
    const y = new Float64Array(N * Math.ceil(H / stride) * Math.ceil(W / stride) * I * M);
    eachTap(x.shape, filter.shape, stride, (_n, xAt, yAt, kh, kw) => {
      for (const [i, m] of indices([I, M])) {
        y[(yAt * I + i) * M + m] += x.values[xAt * I + i] * filter.values[((kh * KW + kw) * I + i) * M + m];
      }
    });
    return y;
  };
}

/** `reduce` over windows of 2 x 2 that do not overlap; sides are even. */
export function pool2x2(reduce: (window: readonly number[]) => number): Operation {
  return ({ shape: [N, H, W, C], values }) =>
    fill([N, H / 2, W / 2, C], ([n, y, x, c]) => {
      const at = (dy: number, dx: number): number => values[((n * H + 2 * y + dy) * W + 2 * x + dx) * C + c];
      return reduce([at(0, 0), at(0, 1), at(1, 0), at(1, 1)]);
    });
}

/**
 * To twice the size. Output y comes from input y / 2, in between linearly; or with half-pixel centers from
 * (y + 0.5) / 2 - 0.5. Beyond the first and last pixel images go on constant.
 */
export function resizeTwice(method: "nearest" | "bilinear", halfPixelCenters: boolean): Operation {
  const source = (to: number): number => (halfPixelCenters ? (to + 0.5) / 2 - 0.5 : to / 2);
  return ({ shape: [N, H, W, C], values }) =>
    fill([N, 2 * H, 2 * W, C], ([n, y, x, c]) => {
      const inside = (i: number, length: number): number => Math.min(Math.max(i, 0), length - 1);
      const at = (v: number, u: number): number =>
        values[((n * H + inside(v, H)) * W + inside(u, W)) * C + c];
      if (method === "nearest") return at(Math.floor(y / 2), Math.floor(x / 2));
      const [v, u] = [Math.floor(source(y)), Math.floor(source(x))];
      const [b, a] = [source(y) - v, source(x) - u];
      const upper = (1 - a) * at(v, u) + a * at(v, u + 1);
      const lower = (1 - a) * at(v + 1, u) + a * at(v + 1, u + 1);
      return (1 - b) * upper + b * lower;
    });
}

/** Blocks of b x b channels to pixels. */
export function depthToSpace(b: number): Operation {
  return ({ shape: [N, H, W, C], values }) => {
    const O = C / (b * b);
    return fill([N, H * b, W * b, O], ([n, y, x, o]) => {
      const block = (y % b) * b + (x % b);
      return values[((n * H + Math.floor(y / b)) * W + Math.floor(x / b)) * C + block * O + o];
    });
  };
}

/** Rows and columns of a matrix mirrored outwards; `offset` 1 leaves out the edge itself, 0 repeats it. */
export function mirrorPad(paddings: readonly (readonly [number, number])[], offset: 0 | 1): Operation {
  return ({ shape, values }) => {
    const inside = (i: number, n: number): number =>
      i < 0 ? -i - 1 + offset : i >= n ? 2 * n - 1 - offset - i : i;
    const padded = shape.map((n, axis) => n + paddings[axis][0] + paddings[axis][1]);
    return fill(padded, ([y, x]) => {
      const row = inside(y - paddings[0][0], shape[0]);
      return values[row * shape[1] + inside(x - paddings[1][0], shape[1])];
    });
  };
}

/** Rows of a matrix, by their indices. */
export function gather(rows: readonly number[]): Operation {
  return ({ shape: [, width], values }) =>
    fill([rows.length, width], ([i, column]) => values[rows[i] * width + column]);
}

/**
 * Gradient of the sum of w f(inputs)^2 by all inputs, one after another, by central differences.
 * @param w Of the output's length.
 */
export function gradient(f: Operation, inputs: readonly Array64[], w: Float64Array): Float64Array {
  const loss = (at: readonly Array64[]): number => f(...at).reduce((sum, y, i) => sum + w[i] * y * y, 0);
  const derivatives = inputs.flatMap((input, which) =>
    Array.from(input.values, (value, i) => {
      const h = 1e-4;
      const at = (moved: number): number =>
        loss(inputs.with(which, { ...input, values: input.values.with(i, moved) }));
      return (at(value + h) - at(value - h)) / (2 * h);
    }),
  );
  return Float64Array.from(derivatives);
}

/**
 * Gradient of |g|^2 by all inputs, where g is {@linkcode gradient}: twice its Jacobian, which is symmetric, times
 * g. So it is how g changes when the inputs move along g.
 */
export function gradientOfGradient(f: Operation, inputs: readonly Array64[], w: Float64Array): Float64Array {
  const direction = gradient(f, inputs, w);
  const h = 1e-4 / Math.max(...direction.map(Math.abs));
  const at = (step: number): Float64Array => {
    let offset = 0;
    const moved = inputs.map(({ shape, values }) => {
      const start = offset;
      offset += values.length;
      return { shape, values: values.map((value, i) => value + step * direction[start + i]) };
    });
    return gradient(f, moved, w);
  };
  const [up, down] = [at(h), at(-h)];
  return up.map((value, i) => (value - down[i]) / h);
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** Every index of an array of this shape, the last axis fastest. */
function* indices(shape: readonly number[]): Generator<readonly number[]> {
  for (let flat = 0; flat < size(shape); flat++) {
    let rest = flat;
    const index = new Array<number>(shape.length);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = rest % shape[axis];
      rest = Math.floor(rest / shape[axis]);
    }
    yield index;
  }
}

function fill(shape: readonly number[], value: (index: readonly number[]) => number): Float64Array {
  return Float64Array.from(indices(shape), value);
}
