/** How layers are put together, and layers that only move values. @module */
import type { Layer } from "../declare-network.ts";
import { layer } from "../declare-network.ts";
import type { Shape, Value } from "../graph.ts";
import { add, concat, reshape as reshapeValue, ShapeError, sizeOf, transpose } from "../graph.ts";

/**
 * One layer after another, named "0", "1", ... as in PyTorch's nn.Sequential. The inputs beyond the first (labels)
 * are handed to every layer.
 */
export function sequential(layers: readonly Layer[]): Layer;
export function sequential<T>(layers: readonly [...Layer[], Layer<T>]): Layer<T>;
export function sequential<T>(layers: readonly (Layer | Layer<T>)[]): Layer<Value | T> {
  return layer<Value | T>("sequential", (scope, x, ...others) =>
    layers.reduce<Value | T>(
      (value, each, i) => scope.apply<Value | T>(String(i), each, value as Value, ...others),
      x,
    ),
  );
}

/** A layer under a name: the attribute of a PyTorch module. */
export function named<T>(name: string, inner: Layer<T>): Layer<T> {
  return layer(inner.kind, (scope, ...inputs) => scope.apply(name, inner, ...inputs));
}

/** Several outputs of the same input, by name. */
export function heads<K extends string>(
  layers: Readonly<Record<K, Layer>>,
): Layer<Readonly<Record<K, Value>>> {
  return layer("heads", (scope, ...inputs) => {
    const outputs = Object.entries<Layer>(layers).map(([name, each]) => [
      name,
      scope.apply(name, each, ...inputs),
    ]);
    return Object.fromEntries(outputs) as Record<K, Value>;
  });
}

export const identity: Layer = layer("identity", (_scope, x) => x);

/** x + body(x); with a shortcut, shortcut(x) + body(x). */
export function residual(body: Layer, shortcut: Layer = identity): Layer {
  return layer("residual", (scope, ...inputs) => {
    const [x, y] = [scope.apply("shortcut", shortcut, ...inputs), scope.apply("body", body, ...inputs)];
    if (x.shape.join() !== y.shape.join()) {
      throw new ShapeError(
        `Cannot add a residual of another shape: expected [${x.shape.join(", ")}], got [${y.shape.join(", ")}]`,
      );
    }
    return add(x, y);
  });
}

/** The inputs one behind the other along the last axis, the i-th through the i-th layer. */
export function concatenate(layers: Readonly<Record<string, Layer>>): Layer {
  return layer("concatenate", (scope, ...inputs) => {
    const parts = Object.entries(layers).map(([name, each], i) => scope.apply(name, each, inputs[i]));
    return concat(parts, parts[0].shape.length - 1);
  });
}

/** An image to a vector, in PyTorch's order: channel by channel. */
export const flatten: Layer = layer("flatten", (_scope, x) => {
  const image = x.shape.length === 3 ? transpose(x, [2, 0, 1]) : x;
  return reshapeValue(image, [sizeOf(x.shape)]);
});

/** A vector in PyTorch's order, channel by channel, to an image (height, width, channels). */
export function unflatten(shape: readonly [number, number, number]): Layer {
  const [height, width, channels] = shape;
  return layer(`unflatten ${shape.join(" x ")}`, (_scope, x) =>
    transpose(reshapeValue(x, [channels, height, width]), [1, 2, 0]),
  );
}

/** Another shape for the same values in the same order. */
export function reshape(shape: Shape): Layer {
  return layer(`reshape ${shape.join(" x ")}`, (_scope, x) => reshapeValue(x, shape));
}
