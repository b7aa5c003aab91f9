import t from "tap";
import { fillUniform, streamKey } from "../../../shared/random.ts";
import { addInJavaScript, TreeSum } from "../../../shared/tree-sum.ts";
import type { KernelActivation, Product, SumMode } from "../../../worker/kernels/kernels.ts";
import { loadBuilds, skipFused } from "./arena.ts";
import { sameBits } from "../../same-bits.ts";
import type { Build } from "./arena.ts";

const builds = await loadBuilds();
const MODES: readonly SumMode[] = ["store", "continue"];

interface Sizes {
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** Odd edges, single rows and columns, exact tiles, more than one block of K (256) and of A. */
const SIZES: readonly Sizes[] = [
  ...[
    [1, 1, 1],
    [1, 16, 1],
    [2, 16, 4],
    [3, 17, 5],
    [5, 15, 3],
    [7, 33, 63],
    [16, 256, 100],
    [9, 1, 256],
    [1, 37, 257],
    [4, 31, 513],
    [259, 18, 300],
    [33, 48, 64],
    [6, 3, 1],
    [13, 50, 600],
  ].map(([M, N, K]) => ({ M, N, K })),
];

/** C by scalar float32 operations in the order that gemm() promises. */
function reference(
  a: Float32Array,
  b: Float32Array,
  c: Float32Array,
  { M, N, K }: Sizes,
  { transA = false, transB = false, mode = "store" }: Pick<Product, "transA" | "transB" | "mode">,
  fused: boolean,
): Float32Array {
  const out = new Float32Array(M * N);
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let sum = mode === "continue" ? c[i * N + j] : 0;
      for (let k = 0; k < K; k++) {
        const product = a[transA ? k * M + i : i * K + k] * b[transB ? j * K + k : k * N + j];
        // A product of float32 is exact in float64; that the sum rounds there first shows once in 2^29 sums.
        sum = Math.fround(sum + (fused ? product : Math.fround(product)));
      }
      out[i * N + j] = sum;
    }
  }
  return out;
}

/** The largest |error| of C against float64, relative to the sum of absolute products. */
function relativeError(
  got: Float32Array,
  a: Float32Array,
  b: Float32Array,
  start: Float32Array | null,
  { M, N, K }: Sizes,
  transA: boolean,
  transB: boolean,
): number {
  let worst = 0;
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let sum = start === null ? 0 : start[i * N + j];
      let size = Math.abs(sum) + 1e-30;
      for (let k = 0; k < K; k++) {
        const product = a[transA ? k * M + i : i * K + k] * b[transB ? j * K + k : k * N + j];
        sum += product;
        size += Math.abs(product);
      }
      worst = Math.max(worst, Math.abs(got[i * N + j] - sum) / size);
    }
  }
  return worst;
}

/** Random operands, and the arguments of gemm() for them. */
function operands({ arena, kernels }: Build, sizes: Sizes, mode: SumMode) {
  const { M, N, K } = sizes;
  const a = arena.random(M * K);
  const b = arena.random(K * N);
  const c = arena.random(M * N);
  const scratch = arena.allocate(kernels.gemmScratchBytes(M, K, mode));
  return { ...sizes, a, b, c, scratch, mode };
}

function toPanels(rows: number, columns: number, matrix: Float32Array): Float32Array {
  const panels = new Float32Array(matrix.length);
  let at = 0;
  for (let start = 0; start < columns; start += 16) {
    for (let i = 0; i < rows; i++) {
      for (let j = start; j < Math.min(start + 16, columns); j++) panels[at++] = matrix[i * columns + j];
    }
  }
  return panels;
}

for (const build of builds) {
  const { arena, kernels, name } = build;

  t.test(`gemm() (${name}) multiplies any sizes, all transposes, all modes`, (t) => {
    for (const sizes of SIZES) {
      for (const mode of MODES) {
        for (const [transA, transB] of [
          [false, false],
          [true, false],
          [false, true],
          [true, true],
        ]) {
          const { M, N, K } = sizes;
          const product = { ...operands(build, sizes, mode), transA, transB };
          const [a, b] = [arena.view(product.a, M * K), arena.view(product.b, K * N)];
          const before = arena.view(product.c, M * N).slice();
          kernels.gemm(product);
          const got = arena.view(product.c, M * N);
          const label = `${M}x${N}x${K} ${mode} transA ${transA} transB ${transB}`;
          const error = relativeError(got, a, b, mode === "store" ? null : before, sizes, transA, transB);
          // Each of K steps rounds by at most 2^-24 of the partial sum, twice.
          if (error > (K + 1) * 2 ** -23) t.fail(`${label}: relative error ${error}`);
          const want = reference(a, b, before, sizes, { transA, transB, mode }, kernels.fused);
          if (!want.every((value, i) => Object.is(value, got[i])))
            t.fail(`${label}: not the promised order and rounding`);
          if (!arena.reset()) t.fail(`${label}: wrote behind its output or scratch`);
        }
      }
    }
    t.end();
  });

  t.test(`gemm() (${name}) gives a row the same bits in any slice of the batch`, (t) => {
    for (const [N, K] of [
      [256, 100],
      [512, 256],
      [77, 1024],
      [784, 300],
      [1, 256],
      [15, 1000],
    ]) {
      const whole = operands(build, { M: 64, N, K }, "store");
      const bias = arena.random(N);
      const rest = { N, K, b: whole.b, scratch: whole.scratch, bias, activation: "tanh" } as const;
      kernels.gemm({ ...whole, ...rest });
      const want = arena.bits(whole.c, 64 * N);
      const c = arena.allocate(64 * N * 4);
      for (const rows of [16, 1, 7, 33, 64]) {
        arena.view(c, 64 * N).fill(NaN);
        for (let row = 0; row < 64; row += rows) {
          const M = Math.min(rows, 64 - row);
          kernels.gemm({ ...rest, M, a: whole.a + row * K * 4, c: c + row * N * 4 });
        }
        t.ok(sameBits(arena.bits(c, 64 * N), want), `slices of ${rows}, N ${N}, K ${K}`);
      }
      t.ok(arena.reset());
    }
    t.end();
  });

  t.test(`gemm() (${name}) gives a column the same bits for any N, and for stored transposes`, (t) => {
    const [M, N, K] = [5, 35, 530];
    const whole = operands(build, { M, N, K }, "store");
    kernels.gemm(whole);
    const want = arena.bits(whole.c, M * N);
    const transposedA = arena.allocate(M * K * 4);
    const transposedB = arena.allocate(N * K * 4);
    const c = arena.allocate(M * N * 4);
    kernels.transpose(M, K, whole.a, transposedA);
    kernels.transpose(K, N, whole.b, transposedB);
    kernels.gemm({ ...whole, c, a: transposedA, transA: true });
    t.ok(sameBits(arena.bits(c, M * N), want), "op(A) from (K,M)");
    kernels.gemm({ ...whole, c, b: transposedB, transB: true });
    t.ok(sameBits(arena.bits(c, M * N), want), "op(B) from (N,K)");
    const column = arena.allocate(M * 4);
    for (let j = 0; j < N; j++) {
      kernels.gemm({ ...whole, N: 1, b: transposedB + j * K * 4, transB: true, c: column });
      const expected = Uint32Array.from({ length: M }, (_, i) => want[i * N + j]);
      t.ok(sameBits(arena.bits(column, M), expected), `column ${j}`);
    }
    t.ok(arena.reset());
    t.end();
  });

  t.test(`gemm() (${name}) continues a sum as if K were longer, and adds a finished sum`, (t) => {
    const [M, N, K, first] = [7, 21, 700, 301];
    const whole = operands(build, { M, N, K }, "store");
    kernels.gemm({ ...whole, transA: true });
    const want = arena.bits(whole.c, M * N);
    const c = arena.allocate(M * N * 4);
    const later = {
      ...whole,
      transA: true,
      K: K - first,
      a: whole.a + first * M * 4,
      b: whole.b + first * N * 4,
    };
    kernels.gemm({ ...whole, transA: true, K: first, c });
    kernels.gemm({ ...later, c, mode: "continue" });
    t.ok(sameBits(arena.bits(c, M * N), want), "continue");
    t.ok(arena.reset());
    t.end();
  });

  t.test(`gemm() (${name}) ends with bias, then activation`, (t) => {
    const activations: Record<KernelActivation, (x: number) => number> = {
      none: (x) => x,
      leakyRelu: (x) => (x > 0 ? x : Math.fround(0.2) * x),
      tanh: Math.tanh,
      sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    };
    for (const [M, N, K] of [
      [3, 5, 7],
      [4, 32, 9],
      [1, 1, 2],
      [5, 18, 300],
    ]) {
      for (const activation of Object.keys(activations) as KernelActivation[]) {
        for (const hasBias of [false, true]) {
          const product = operands(build, { M, N, K }, "store");
          const bias = arena.random(N);
          kernels.gemm(product);
          const sums = arena.view(product.c, M * N).slice();
          kernels.gemm({ ...product, activation, alpha: 0.2, ...(hasBias ? { bias } : {}) });
          const biases = arena.view(bias, N);
          const good = arena.view(product.c, M * N).every((got, i) => {
            const sum = hasBias ? Math.fround(sums[i] + biases[i % N]) : sums[i];
            return Math.abs(got - activations[activation](sum)) <= 3e-7 * Math.max(1, Math.abs(sum));
          });
          t.ok(good && arena.reset(), `${activation}, bias ${hasBias}, ${M}x${N}x${K}`);
        }
      }
    }
    t.end();
  });

  t.test(`gemm() (${name}) takes B and gives C in panels, with the bits of row-major matrices`, (t) => {
    for (const { M, N, K } of SIZES) {
      for (const transB of [false, true]) {
        const product = { ...operands(build, { M, N, K }, "store"), transB };
        kernels.gemm(product);
        const want = arena.view(product.c, M * N).slice();
        const b = toPanels(transB ? N : K, transB ? K : N, arena.view(product.b, K * N));
        kernels.gemm({ ...product, b: arena.floats(b), panelsB: true });
        t.ok(sameBits(arena.view(product.c, M * N), want), `B, ${M}x${N}x${K}, transB ${transB}`);
        kernels.gemm({ ...product, panelsC: true });
        t.ok(sameBits(arena.view(product.c, M * N), toPanels(M, N, want)), `C, ${M}x${N}x${K}`);
        t.ok(arena.reset());
      }
    }
    t.end();
  });

  t.test(`gemm() (${name}) sums over leaves in the canonical tree`, (t) => {
    for (const leafSizes of [
      [5],
      [2, 3],
      [1, 1, 1],
      [7, 1, 2, 9],
      [3, 300, 2, 3, 4, 1, 6],
      Array<number>(21).fill(2),
    ]) {
      const K = leafSizes.reduce((sum, n) => sum + n, 0);
      const [M, N] = [5, 37];
      const a = arena.random(K * M);
      const b = arena.random(K * N);
      const c = arena.random(M * N);
      const starts = arena.allocate((leafSizes.length + 1) * 4);
      const view = new Int32Array(arena.memory.buffer, starts, leafSizes.length + 1).fill(0);
      const scratch = arena.allocate(kernels.gemmScratchBytes(M, K, "tree"));
      const tree = new TreeSum(leafSizes.length, addInJavaScript, () => new Float32Array(M * N));
      for (const [leaf, n] of leafSizes.entries()) {
        const start = view[leaf];
        view[leaf + 1] = start + n;
        const rows = { a: a + start * M * 4, b: b + start * N * 4 };
        kernels.gemm({ transA: true, M, N, K: n, ...rows, c, scratch });
        tree.push({ start: leaf, end: leaf + 1 }, arena.view(c, M * N).slice(), false);
      }
      const leaves = { starts, count: leafSizes.length };
      kernels.gemm({ transA: true, M, N, K, a, b, c, scratch, mode: "tree", leaves });
      t.ok(sameBits(arena.view(c, M * N), tree.take()[0].values), leafSizes.join());
      t.ok(arena.reset());
    }
    t.end();
  });

  t.test(`gemm() (${name}) handles K = 0 and lets NaN and infinity through`, (t) => {
    const product = operands(build, { M: 3, N: 5, K: 4 }, "store");
    const bias = arena.random(5);
    kernels.gemm({ ...product, K: 0, bias });
    const row = arena.bits(bias, 5);
    t.ok(sameBits(arena.bits(product.c, 15), Uint32Array.of(...row, ...row, ...row)));
    arena.view(product.a, 12)[5] = NaN;
    arena.view(product.a, 12)[8] = Infinity;
    arena.view(product.b, 20).fill(1);
    kernels.gemm(product);
    const got = arena.view(product.c, 15);
    t.ok(got.subarray(0, 5).every(Number.isFinite), "a poisoned row leaves the others alone");
    t.ok(got.subarray(5, 10).every(Number.isNaN));
    t.ok(got.subarray(10).every((value) => value === Infinity));
    t.ok(arena.reset());
    t.end();
  });
}

t.test("gemm() keeps its bits across two builds where sums are exact", { skip: skipFused }, (t) => {
  const [M, N, K] = [9, 33, 520];
  const results = builds.map(({ arena, kernels }) => {
    const integers = (n: number, seed: number): Float32Array => {
      const values = new Float32Array(n);
      fillUniform(values, streamKey(seed, "noise"), 9);
      return values.map(Math.trunc);
    };
    const a = arena.floats(integers(M * K, 1));
    const b = arena.floats(integers(K * N, 2));
    const c = arena.allocate(M * N * 4);
    const scratch = arena.allocate(kernels.gemmScratchBytes(M, K));
    kernels.gemm({ M, N, K, a, b, c, scratch });
    const bits = arena.bits(c, M * N);
    t.ok(arena.reset());
    return bits;
  });
  t.ok(sameBits(results[0], results[1]));
  t.end();
});
