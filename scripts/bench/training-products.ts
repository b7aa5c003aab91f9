/**
 * The matrix products of one step of the reference GAN.
 *
 * @module
 */
import { IMAGE_PIXELS } from "../../shared/image.ts";

const GENERATOR = [100, 256, 512, 1024, IMAGE_PIXELS];
const DISCRIMINATOR = [IMAGE_PIXELS, 512, 256, 1];

/** op(A) (M,K) . op(B) (K,N). */
export interface TrainingProduct {
  /** "G1 y": network and layer, then y (forward), dx or dw (backward). */
  readonly name: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly transA: boolean;
  readonly transB: boolean;
  /** Whether B, or C, are weights. */
  readonly weights: "B" | "C";
  /** How often a step computes it. */
  readonly count: number;
}

interface Pass {
  readonly name: string;
  /** Inputs of each layer, and outputs of the last. */
  readonly widths: readonly number[];
  readonly rows: number;
  readonly forwardCount: number;
  readonly weightGradients: boolean;
  /** Whether the gradient by the network's input is wanted. */
  readonly inputGradient: boolean;
}

/** @param batchSize Images of a step. The discriminator's own step has as many fake ones in addition. */
export function trainingProducts(batchSize: number): readonly TrainingProduct[] {
  const passes: readonly Pass[] = [
    // Forward in both phases, backward in its own.
    {
      ...{ name: "G", widths: GENERATOR, rows: batchSize, forwardCount: 2 },
      ...{ weightGradients: true, inputGradient: false },
    },
    {
      ...{ name: "D", widths: DISCRIMINATOR, rows: 2 * batchSize, forwardCount: 1 },
      ...{ weightGradients: true, inputGradient: false },
    },
    // In the generator's phase the discriminator only passes the gradient on.
    {
      ...{ name: "D'", widths: DISCRIMINATOR, rows: batchSize, forwardCount: 1 },
      ...{ weightGradients: false, inputGradient: true },
    },
  ];
  return passes.flatMap(productsOf);
}

function productsOf(pass: Pass): readonly TrainingProduct[] {
  const { name, widths, rows, forwardCount, weightGradients, inputGradient } = pass;
  return widths.slice(0, -1).flatMap((inputs, i): readonly TrainingProduct[] => {
    const outputs = widths[i + 1];
    const layer = `${name}${i + 1}`;
    const plain = { transA: false, transB: false, weights: "B", count: 1 } as const;
    const y = { ...plain, name: `${layer} y`, M: rows, N: outputs, K: inputs, count: forwardCount };
    const dx = { ...plain, name: `${layer} dx`, M: rows, N: inputs, K: outputs, transB: true };
    const dw = { name: `${layer} dw`, M: inputs, N: outputs, K: rows, transA: true, weights: "C" } as const;
    return [y, ...(i > 0 || inputGradient ? [dx] : []), ...(weightGradients ? [{ ...plain, ...dw }] : [])];
  });
}
