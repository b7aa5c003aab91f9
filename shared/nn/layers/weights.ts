/** Other ways to say a weight: both wrap the weights of the layers within. @module */
import { norm, square } from "../composed.ts";
import type { Layer, Scope } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import type { Value } from "../graph.ts";
import { div, matmul, mul, reshape, stopGradient, sqrt, sum, transpose } from "../graph.ts";
import type { Declaration } from "../initial-values.ts";

function wrapping(
  kind: string,
  inner: Layer,
  wrap: (declaration: Declaration, scope: Scope) => Value,
): Layer {
  return layer(`${kind} ${inner.kind}`, (scope, ...inputs) => {
    const wrapped = scope.wrapped((declaration, own) =>
      declaration.name === "weight" && declaration.shape.length > 1 ? wrap(declaration, own) : null,
    );
    return inner.apply(wrapped, ...inputs);
  });
}

/**
 * Weights divided by their largest singular value, which one step of power iteration a trace follows; its vectors
 * are state. Source: Miyato et al. 2018, algorithm 1.
 */
export function spectralNorm(inner: Layer): Layer {
  return wrapping("spectralNorm", inner, (declaration, scope) => {
    const weight = scope.parameter({ ...declaration, name: "weight_orig" });
    const { shape, outputAxis = shape.length - 1 } = declaration;
    const others = [...shape.keys()].filter((axis) => axis !== outputAxis);
    const outputs = shape[outputAxis];
    const inputs = others.reduce((n, axis) => n * shape[axis], 1);
    const matrix = reshape(transpose(weight, [...others, outputAxis]), [inputs, outputs]);
    const declare = (name: string, n: number): Declaration => ({
      name,
      shape: [n],
      initial: { type: "normal", deviation: 1 },
    });
    const [du, dv] = [declare("weight_u", outputs), declare("weight_v", inputs)];
    let [u, v] = [scope.state(du), scope.state(dv)];
    if (scope.training && !scope.changed(du)) {
      const fixed = stopGradient(matrix);
      v = stopGradient(unit(matmul(u, fixed, { transB: true })));
      u = stopGradient(unit(matmul(v, fixed)));
      scope.setState(du, u);
      scope.setState(dv, v);
    }
    return div(weight, sum(mul(u, matmul(v, matrix))));
  });
}

function unit(v: Value): Value {
  return div(v, norm(v));
}

/** A length and a direction for each output. Source: Salimans & Kingma 2016. */
export function weightNorm(inner: Layer): Layer {
  return wrapping("weightNorm", inner, (declaration, scope) => {
    const v = scope.parameter({ ...declaration, name: "weight_v" });
    const { shape, torchAxes } = declaration;
    const axis = torchAxes?.[0] ?? 0;
    const others = [...shape.keys()].filter((other) => other !== axis);
    const g = scope.parameter({
      ...declaration,
      name: "weight_g",
      shape: shape.map((n, i) => (i === axis ? n : 1)),
      initial: { type: "lengthsOf", name: "weight_v" },
    });
    return mul(v, div(g, sqrt(sum(square(v), others))));
  });
}
