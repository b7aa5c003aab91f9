/** Layers that see labels, other samples, or all places of an image. @module */
import { mean, oneHot, softmax, square, sub } from "../composed.ts";
import type { Layer } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import {
  add,
  broadcast,
  concat,
  describe,
  div,
  matmul,
  mul,
  reshape,
  ShapeError,
  shardSize,
  sqrt,
  sum,
  sumShard,
} from "../graph.ts";
import { conv2d, dense } from "./products.ts";

/** The vector of a label's class. As torch.nn.Embedding. */
export function embedding(classes: number, dimension: number): Layer {
  return layer(`embedding ${classes}`, (scope, label) => {
    if (label.shape.length > 0)
      throw new ShapeError(`Cannot embed what is no label: expected [], got ${describe(label)}`);
    const shape = [classes, dimension];
    const table = scope.parameter({ name: "weight", shape, initial: { type: "normal", deviation: 1 } });
    return matmul(oneHot(label, classes), table);
  });
}

/** A logit of x and one more of how x fits its label, the second input. Source: Miyato & Koyama 2018. */
export function projection(classes: number): Layer {
  return layer(`projection ${classes}`, (scope, x, label) => {
    const own = scope.apply("embed", embedding(classes, x.shape[0]), label);
    return add(scope.apply("linear", dense(1), x), sum(mul(own, x)));
  });
}

/** One more channel: how much the samples of a shard differ, on average. Source: Karras et al. 2018, section 3. */
export function minibatchStddev(): Layer {
  return layer("minibatchStddev", (_scope, x) => {
    const shardMean = (v: typeof x): typeof x => div(sumShard(v, x.batches), shardSize());
    const variance = shardMean(square(sub(x, shardMean(x))));
    const deviation = mean(sqrt(add(variance, 1e-8)));
    const channel = broadcast(deviation, { ...x, shape: x.shape.with(-1, 1) });
    return concat([x, channel], x.shape.length - 1);
  });
}

/** x and a trained part of what every place takes from all others. Source: Zhang et al. 2019. */
export function selfAttention({ reduction = 8 } = {}): Layer {
  return layer("selfAttention", (scope, x) => {
    const [height, width, channels] = x.shape;
    const places = (name: string, n: number): typeof x =>
      reshape(scope.apply(name, conv2d(n, 1), x), [height * width, n]);
    const narrow = Math.max(1, Math.floor(channels / reduction));
    const query = places("query_conv", narrow);
    const key = places("key_conv", narrow);
    const taken = matmul(softmax(matmul(query, key, { transB: true })), places("value_conv", channels));
    const gamma = scope.parameter({ name: "gamma", shape: [1], initial: { type: "constant", value: 0 } });
    return add(mul(gamma, reshape(taken, x.shape)), x);
  });
}
