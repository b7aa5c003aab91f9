import * as tfModule from "@tensorflow/tfjs";
import type { Tensor } from "@tensorflow/tfjs";
import t from "tap";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import { loadWasmBackend } from "../../worker/engine/wasm-backend.ts";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

// As in tfjs-engine.ts: names or only the default, depending on Node.
const tf: TensorFlow = "default" in tfModule ? tfModule.default : tfModule;
await loadWasmBackend(tf, fusesMultiplyAdd());

const random = mulberry32(1);
const values = (shape: readonly number[]): Float32Array =>
  Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, () => 2 * random.uniform() - 1);

/** The largest difference between backends wasm and cpu, relative to the largest value. */
async function difference(
  shapes: readonly (readonly number[])[],
  compute: (...inputs: Tensor[]) => Tensor,
): Promise<number> {
  const inputs = shapes.map((shape) => ({ shape: [...shape], data: values(shape) }));
  const results: Float32Array[] = [];
  for (const backend of ["wasm", "cpu"]) {
    await tf.setBackend(backend);
    const output = tf.tidy(() => compute(...inputs.map(({ shape, data }) => tf.tensor(data.slice(), shape))));
    results.push((await output.data()) as Float32Array);
    output.dispose();
  }
  const [wasm, cpu] = results;
  const scale = Math.max(...cpu.map(Math.abs), 1e-30);
  return Math.max(...cpu.map((value, i) => Math.abs(value - wasm[i]))) / scale;
}

t.test("products of all transposes agree with tfjs's cpu backend", async (t) => {
  for (const [transA, transB] of [
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ] as const) {
    const shapes = [transA ? [33, 7] : [7, 33], transB ? [19, 33] : [33, 19]];
    const error = await difference(shapes, (a, b) => tf.matMul(a, b, transA, transB));
    t.ok(error < 1e-6, `transA ${transA}, transB ${transB}: ${error}`);
  }
});

t.test("elementwise functions, transposes and sums agree with tfjs's cpu backend", async (t) => {
  const functions: Readonly<Record<string, (x: Tensor) => Tensor>> = {
    tanh: (x) => tf.tanh(tf.mul(x, 5)),
    sigmoid: (x) => tf.sigmoid(tf.mul(x, 9)),
    softplus: (x) => tf.softplus(tf.mul(x, 9)),
    leakyRelu: (x) => tf.leakyRelu(x, 0.2),
    transpose: (x) => tf.transpose(x),
    "sum over rows": (x) => tf.sum(x, 0),
    "sum over columns": (x) => tf.sum(x, 1),
  };
  for (const [name, compute] of Object.entries(functions)) {
    const error = await difference([[13, 21]], compute);
    t.ok(error < 1e-6, `${name}: ${error}`);
  }
});

t.test("convolutions and their gradients agree with tfjs's cpu backend", async (t) => {
  for (const [x, filter, strides, pad] of [
    [[2, 8, 8, 3], [4, 4, 3, 5], 2, "same"],
    [[1, 7, 5, 2], [3, 3, 2, 4], 1, "valid"],
    [[3, 6, 6, 4], [1, 1, 4, 17], 1, "same"],
    [[2, 9, 9, 2], [5, 5, 2, 3], 2, 2],
    [[2, 28, 28, 1], [4, 4, 1, 16], 2, "same"],
  ] as const) {
    const conv = (a: Tensor, w: Tensor): Tensor => tf.conv2d(a as never, w as never, strides, pad);
    const label = `${x.join("x")} by ${filter.join("x")}, stride ${strides}, pad ${pad}`;
    t.ok((await difference([x, filter], conv)) < 1e-6, label);
    for (const input of [0, 1]) {
      const gradient = (a: Tensor, w: Tensor): Tensor =>
        tf.grads((p: Tensor, q: Tensor) => tf.sum(tf.square(conv(p, q))))([a, w])[input];
      t.ok((await difference([x, filter], gradient)) < 1e-5, `${label}: gradient ${input}`);
    }
  }
  const transposed = (dy: Tensor, w: Tensor): Tensor =>
    tf.conv2dTranspose(dy as never, w as never, [2, 8, 8, 3], 2, "same");
  t.ok(
    (await difference(
      [
        [2, 4, 4, 5],
        [4, 4, 3, 5],
      ],
      transposed,
    )) < 1e-6,
    "transposed convolution",
  );
});
