/**
 * (d) Speed of the matrix products of a training step, on our kernels and in
 * PyTorch.
 *
 * @module
 */
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import type { Multiply } from "./multiplier.ts";
import { multiplierFor } from "./multiplier.ts";
import type { ProductSizes } from "./peer.ts";
import { NO_PEER_CELL } from "./peer.ts";
import type { Cell, Section } from "./section.ts";
import { ratioOfRounds, summarize } from "./statistics.ts";
import type { TrainingProduct } from "./training-products.ts";
import { trainingProducts } from "./training-products.ts";

const BATCH_SIZE = 64;

/** A repetition calls a product as often as makes so many operations, some milliseconds; so does peer_torch.py. */
const FLOP_PER_REPETITION = 2e8;

export const gemm: Section = async ({ rounds, repetitions, peer, progress }) => {
  const products = trainingProducts(BATCH_SIZE);
  const multiplyPlain = await multiplierFor(products, false);
  const multiplyFused = fusesMultiplyAdd() ? await multiplierFor(products, true) : null;
  const plain: Speeds[] = [];
  const fused: Speeds[] = [];
  const torch: Speeds[] = [];
  for (let round = 0; round < rounds; round++) {
    progress(`round ${round + 1} of ${rounds}`);
    const measure = (multiply: Multiply): Speeds =>
      speedsOf(
        products,
        products.map((product) => bestSeconds(multiply, product, repetitions)),
      );
    plain.push(measure(multiplyPlain));
    if (multiplyFused !== null) fused.push(measure(multiplyFused));
    if (peer !== null) {
      torch.push(speedsOf(products, await peer.productSeconds(products.map(sizesOf), repetitions)));
    }
  }
  const cellsOf = (speed: (speeds: Speeds) => number): Cell[] => {
    const [p, f, t] = [plain, fused, torch].map((side) => side.map(speed));
    return [
      summarize(p),
      f.length === 0 ? null : summarize(f),
      t.length === 0 ? NO_PEER_CELL : summarize(t),
      t.length === 0 ? null : ratioOfRounds(f.length === 0 ? p : f, t),
    ];
  };
  const rows = products.map(({ name, count, M, N, K }, i) => ({
    name: `${name} ${M} x ${N} x ${K}${count === 1 ? "" : `, ${count} times`}`,
    cells: cellsOf(({ each }) => each[i]),
  }));
  const peak = torch.length === 0 ? null : Math.max(...torch.flatMap(({ each }) => each));
  return {
    title: `(d) Matrix products of a step at batch ${BATCH_SIZE} [GFLOP/s]`,
    notes: [
      "M x N x K; y: forward, dx: gradient by the input (B transposed), dw: gradient by the weights (A transposed). One thread; the best of several repetitions, then median (min-max) over rounds.",
      "Ours with weights and their gradients in panels, as the engine has them. The ratio is that of the fused kernels (the default) where the processor fuses.",
      "All: the products of a whole step, FLOP over time, each as often as it occurs.",
      ...(peak === null
        ? []
        : [`The machine's peak, as PyTorch's best product shows it: ${peak.toFixed(1)} GFLOP/s.`]),
    ],
    columns: ["product", "plain", "fused", "PyTorch", "ratio"],
    rows: [...rows, { name: "all", cells: cellsOf(({ all }) => all) }],
  };
};

/** GFLOP/s of one round. */
interface Speeds {
  readonly each: readonly number[];
  /** Of a whole step. */
  readonly all: number;
}

function speedsOf(products: readonly TrainingProduct[], seconds: readonly number[]): Speeds {
  const sum = (term: (product: TrainingProduct, i: number) => number): number =>
    products.reduce((total, product, i) => total + product.count * term(product, i), 0);
  return {
    each: products.map((product, i) => flopOf(product) / seconds[i] / 1e9),
    all: sum(flopOf) / sum((_, i) => seconds[i]) / 1e9,
  };
}

/** Time of one call: the best repetition, after one that warms up. */
function bestSeconds(multiply: Multiply, product: TrainingProduct, repetitions: number): number {
  const calls = Math.max(1, Math.round(FLOP_PER_REPETITION / flopOf(product)));
  let best = Infinity;
  for (let repetition = 0; repetition <= repetitions; repetition++) {
    const startMs = performance.now();
    for (let call = 0; call < calls; call++) multiply(product);
    if (repetition > 0) best = Math.min(best, (performance.now() - startMs) / 1000 / calls);
  }
  return best;
}

function flopOf({ M, N, K }: TrainingProduct): number {
  return 2 * M * N * K;
}

function sizesOf({ M, N, K, transA, transB }: TrainingProduct): ProductSizes {
  return [M, N, K, transA, transB];
}
