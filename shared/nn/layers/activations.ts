/** Activations: functions of single values, but softmax, which is one of the last axis. @module */
import { minimum, relu as reluOf, softmax as softmaxOf, sub } from "../composed.ts";
import type { Layer } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import * as graph from "../graph.ts";

function activation(kind: string, f: (x: graph.Value) => graph.Value): Layer {
  return layer(kind, (_scope, x) => f(x));
}

export const relu = activation("relu", reluOf);
/** max(x, slope x), for 0 <= slope < 1. Source: Maas et al. 2013. */
export const leakyRelu = (slope: number): Layer =>
  activation(`leakyRelu ${slope}`, (x) => graph.leakyRelu(x, slope));
/** x, or exp(x) - 1 below 0. Source: Clevert et al. 2016. */
export const elu = activation("elu", (x) => graph.select(x, x, sub(graph.exp(minimum(x, 0)), 1)));
/** x sigmoid(x). Source: Elfwing et al. 2018. */
export const silu = activation("silu", (x) => graph.mul(x, graph.sigmoid(x)));
export const tanh = activation("tanh", graph.tanh);
export const sigmoid = activation("sigmoid", graph.sigmoid);
export const softplus = activation("softplus", graph.softplus);
export const softmax = activation("softmax", softmaxOf);
