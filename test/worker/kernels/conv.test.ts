import t from "tap";
import type { ConvShape } from "../../../worker/kernels/kernels.ts";
import { loadBuilds } from "./arena.ts";
import { sameBits } from "../../same-bits.ts";

/** Sizes by input, filter, stride and padding (all sides), as a convolution's own formula gives them. */
function shapeOf(
  batch: number,
  [inHeight, inWidth, inChannels]: readonly number[],
  [filterHeight, filterWidth, outChannels]: readonly number[],
  stride: number,
  padding: number,
): ConvShape {
  const outHeight = Math.floor((inHeight + 2 * padding - filterHeight) / stride) + 1;
  const outWidth = Math.floor((inWidth + 2 * padding - filterWidth) / stride) + 1;
  return {
    ...{ batch, inHeight, inWidth, inChannels, filterHeight, filterWidth, outHeight, outWidth, outChannels },
    ...{ strideY: stride, strideX: stride, padTop: padding, padLeft: padding },
  };
}

const SHAPES: readonly ConvShape[] = [
  shapeOf(2, [8, 8, 3], [4, 4, 5], 2, 1),
  shapeOf(1, [5, 7, 1], [3, 3, 2], 1, 1),
  shapeOf(3, [6, 5, 4], [1, 1, 17], 1, 0),
  shapeOf(2, [4, 4, 8], [4, 4, 1], 1, 0),
  shapeOf(1, [3, 3, 2], [5, 5, 3], 1, 2),
  shapeOf(2, [9, 9, 2], [2, 3, 4], 3, 0),
  // Patches that lie wholly outside, and more than one chunk of rows.
  shapeOf(1, [2, 2, 1], [2, 2, 1], 1, 4),
  shapeOf(2, [16, 16, 32], [4, 4, 20], 2, 1),
  // Strides and paddings that differ.
  { ...shapeOf(2, [8, 8, 2], [3, 4, 3], 2, 1), outWidth: 7, strideX: 1, padTop: 0 },
];

/** Calls visit with flat indices (x, w, y) of every product that a convolution sums. */
function everyProduct(shape: ConvShape, visit: (x: number, w: number, y: number) => void): void {
  const { batch, inHeight, inWidth, inChannels, filterHeight, filterWidth } = shape;
  const { outHeight, outWidth, outChannels, strideY, strideX, padTop, padLeft } = shape;
  for (let n = 0; n < batch; n++) {
    for (let oy = 0; oy < outHeight; oy++) {
      for (let ox = 0; ox < outWidth; ox++) {
        for (let ky = 0; ky < filterHeight; ky++) {
          for (let kx = 0; kx < filterWidth; kx++) {
            const iy = oy * strideY - padTop + ky;
            const ix = ox * strideX - padLeft + kx;
            if (iy < 0 || iy >= inHeight || ix < 0 || ix >= inWidth) continue;
            for (let ic = 0; ic < inChannels; ic++) {
              const x = ((n * inHeight + iy) * inWidth + ix) * inChannels + ic;
              for (let oc = 0; oc < outChannels; oc++) {
                const w = ((ky * filterWidth + kx) * inChannels + ic) * outChannels + oc;
                visit(x, w, ((n * outHeight + oy) * outWidth + ox) * outChannels + oc);
              }
            }
          }
        }
      }
    }
  }
}

const inputSize = (s: ConvShape): number => s.batch * s.inHeight * s.inWidth * s.inChannels;
const filterSize = (s: ConvShape): number => s.filterHeight * s.filterWidth * s.inChannels * s.outChannels;
const outputSize = (s: ConvShape): number => s.batch * s.outHeight * s.outWidth * s.outChannels;

function near(got: Float32Array, want: Float64Array): boolean {
  return want.every((value, i) => Math.abs(got[i] - value) <= 1e-5 * (1 + Math.abs(value)));
}

for (const { name, arena, kernels } of await loadBuilds()) {
  t.test(`conv2d() and its two gradients (${name}) agree with float64`, (t) => {
    for (const shape of SHAPES) {
      const [X, W, Y] = [inputSize(shape), filterSize(shape), outputSize(shape)];
      const [x, w, dy] = [arena.random(X), arena.random(W), arena.random(Y)];
      const [y, dx, dw] = [arena.random(Y), arena.random(X), arena.random(W)];
      const scratch = arena.allocate(kernels.convScratchBytes(shape));
      const [outBias, inBias] = [arena.random(shape.outChannels), arena.random(shape.inChannels)];
      const want = { y: new Float64Array(Y), dx: new Float64Array(X), dw: new Float64Array(W) };
      const [vx, vw, vdy] = [arena.view(x, X), arena.view(w, W), arena.view(dy, Y)];
      everyProduct(shape, (i, j, k) => {
        want.y[k] += vx[i] * vw[j];
        want.dx[i] += vdy[k] * vw[j];
        want.dw[j] += vdy[k] * vx[i];
      });
      kernels.conv2d({ shape, x, w, y, scratch });
      t.ok(near(arena.view(y, Y), want.y), "y");
      kernels.conv2d({ shape, x, w, y, scratch, bias: outBias, activation: "leakyRelu", alpha: 0.2 });
      const biased = want.y.map(
        (sum, i) => sum + arena.view(outBias, shape.outChannels)[i % shape.outChannels],
      );
      t.ok(
        near(
          arena.view(y, Y),
          biased.map((v) => (v > 0 ? v : 0.2 * v)),
        ),
        "y with its ending",
      );

      kernels.conv2dBackpropInput({ shape, dy, w, dx, scratch });
      t.ok(near(arena.view(dx, X), want.dx), "dx");
      kernels.conv2dBackpropInput({ shape, dy, w, dx, scratch, bias: inBias, activation: "tanh" });
      const transposed = want.dx.map(
        (sum, i) => sum + arena.view(inBias, shape.inChannels)[i % shape.inChannels],
      );
      t.ok(near(arena.view(dx, X), transposed.map(Math.tanh)), "transposed convolution with its ending");

      kernels.conv2dBackpropFilter({ shape, x, dy, dw, scratch });
      t.ok(near(arena.view(dw, W), want.dw), "dw");
      kernels.conv2dBackpropFilter({ shape, x, dy, dw, scratch, mode: "continue" });
      t.ok(
        near(
          arena.view(dw, W),
          want.dw.map((sum) => 2 * sum),
        ),
        "dw continued",
      );
      t.ok(arena.reset(), "wrote only where it may");
    }
    t.end();
  });

  t.test(
    `conv2d() (${name}): an image has the same bits in any batch, and dw those of a continued sum`,
    (t) => {
      const shape = shapeOf(5, [16, 16, 24], [4, 4, 20], 2, 1);
      const one = { ...shape, batch: 1 };
      const [X, W, Y] = [inputSize(shape), filterSize(shape), outputSize(shape)];
      const [x, w, dy] = [arena.random(X), arena.random(W), arena.random(Y)];
      const scratch = arena.allocate(kernels.convScratchBytes(shape));
      const results = [shape, one].map((part) => {
        const [y, dx, dw] = [arena.random(Y), arena.random(X), arena.random(W)];
        for (let n = 0; n < shape.batch; n += part.batch) {
          const input = n * inputSize(one) * 4;
          const output = n * outputSize(one) * 4;
          kernels.conv2d({ shape: part, x: x + input, w, y: y + output, scratch });
          kernels.conv2dBackpropInput({ shape: part, dy: dy + output, w, dx: dx + input, scratch });
          const mode = n === 0 ? "store" : "continue";
          kernels.conv2dBackpropFilter({ shape: part, x: x + input, dy: dy + output, dw, scratch, mode });
        }
        return { y: arena.bits(y, Y), dx: arena.bits(dx, X), dw: arena.bits(dw, W) };
      });
      t.ok(sameBits(results[1].y, results[0].y), "y");
      t.ok(sameBits(results[1].dx, results[0].dx), "dx");
      t.ok(sameBits(results[1].dw, results[0].dw), "dw");
      t.ok(arena.reset());
      t.end();
    },
  );
}
