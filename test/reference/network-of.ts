import type { Layer } from "../../shared/nn/layers.ts";
import type { Network } from "../../shared/nn/network.ts";
import type * as reference from "./float64-gan.ts";

/** The reference's declaration of one of our networks, up to its logit, from the descriptions of its layers. */
export function referenceNetwork(net: Network): reference.Network {
  return net.layers.map(({ description }: Layer): reference.Layer => {
    const [, type, args] = /^(\w+)(?:\((.*)\))?$/.exec(description) ?? [];
    const numbers = (args ?? "").split(", ").map(Number);
    switch (type) {
      case "dense":
        return { type, in: numbers[0], out: numbers[1] };
      case "leakyRelu":
        return { type, alpha: numbers[0] };
      case "tanh":
      case "sigmoid":
        return { type };
      default:
        throw new Error(`The reference has no layer ${description}`);
    }
  });
}
