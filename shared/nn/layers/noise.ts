/** Random numbers in a network: only in training, and by counter, so that they do not depend on who draws them. @module */
import { sub } from "../composed.ts";
import type { Layer } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import { add, mul, select } from "../graph.ts";

function dropping(
  kind: string,
  probability: number,
  shapeOf: (shape: readonly number[]) => readonly number[],
): Layer {
  if (!(probability >= 0 && probability < 1)) {
    throw new RangeError(`Cannot drop with a probability that is not in [0, 1): got ${probability}`);
  }
  return layer(`${kind} ${probability}`, (scope, x) => {
    if (!scope.training) return x;
    const uniform = scope.draw("uniform", shapeOf(x.shape), x.batches);
    return mul(x, select(sub(probability, uniform), 0, 1 / (1 - probability)));
  });
}

/** Values become 0 with a probability, and the others larger, so that their mean stays. Source: Srivastava et al. 2014. */
export function dropout(probability: number): Layer {
  return dropping("dropout", probability, (shape) => shape);
}

/** The same with whole channels. Source: Tompson et al. 2015; PyTorch's Dropout2d. */
export function dropoutChannels(probability: number): Layer {
  return dropping("dropoutChannels", probability, (shape) => [
    ...shape.slice(0, -1).map(() => 1),
    ...shape.slice(-1),
  ]);
}

/** Adds normal noise. */
export function gaussianNoise(deviation: number): Layer {
  return layer(`gaussianNoise ${deviation}`, (scope, x) =>
    scope.training ? add(x, mul(deviation, scope.draw("normal", x.shape, x.batches))) : x,
  );
}
