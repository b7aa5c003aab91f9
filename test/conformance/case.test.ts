import t from "tap";
import { dense } from "../../shared/nn/layers.ts";
import { network } from "../../shared/nn/network.ts";
import { gradientError, maxError } from "./case.ts";

t.test(
  "gradientError() measures every tensor by its own size, but for what is next to nothing",
  async (t) => {
    // Two weights, one bias.
    const net = network("generator", 2, [dense(2, 1)]);
    const of = (bias: number): number =>
      gradientError(net, Float32Array.of(1, -2, bias), Float64Array.of(1, -2, 0.5));
    t.equal(of(0.5), 0);
    t.equal(of(1), 1, "wrong by its own size");
    t.equal(maxError([1, -2, 1], [1, -2, 0.5]), 1 / 4, "which is little beside the weights");
    const cancelled = gradientError(net, Float32Array.of(1, -2, 2 ** -20), Float64Array.of(1, -2, 0));
    t.equal(cancelled, 2 ** -20 / (2 / 8), "a sum of nothing is measured by what it is a sum of");
    t.equal(gradientError(net, Float32Array.of(1, -2, NaN), Float64Array.of(1, -2, 0.125)), Infinity);
    t.equal(gradientError(net, Float32Array.of(1, -2), Float64Array.of(1, -2)), Infinity);
  },
);
