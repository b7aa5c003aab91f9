import { loadPart, storePart } from "./lanes";

/**
 * One Adam step over n parameters, in place: the bits of adamStep() in
 * shared/adam.ts. Every line is one float32 operation per pair of operands,
 * each rounded, in this order (f = Math.fround):
 *
 *   stepSize = f(learningRate / biasCorrection1)      (float64 before the f)
 *   rootFactor = f(1 / sqrt(biasCorrection2))         (float64 before the f)
 *   m = f(f(f(beta1) m) + f(f(1 - beta1) g))          (1 - beta in float64)
 *   v = f(f(f(beta2) v) + f(f(1 - beta2) f(g g)))
 *   denominator = f(f(f(sqrt(v)) rootFactor) + f(epsilon))
 *   p = f(p - f(f(stepSize m) / denominator))
 *
 * @param biasCorrection1 1 - beta1^t. @param biasCorrection2 1 - beta2^t, for step t = 1, 2, ...
 * @returns 1 if parameters and moments are finite afterwards, else 0.
 * Source: Kingma & Ba 2015, Algorithm 1, epsilon outside the corrected root as in PyTorch.
 */
export function adam(
  n: i32,
  parameters: usize,
  m: usize,
  v: usize,
  gradient: usize,
  learningRate: f64,
  beta1: f64,
  beta2: f64,
  epsilon: f64,
  biasCorrection1: f64,
  biasCorrection2: f64,
): i32 {
  const keep1 = f32x4.splat(<f32>beta1);
  const keep2 = f32x4.splat(<f32>beta2);
  const rest1 = f32x4.splat(<f32>(1 - beta1));
  const rest2 = f32x4.splat(<f32>(1 - beta2));
  const eps = f32x4.splat(<f32>epsilon);
  const stepSize = f32x4.splat(<f32>(learningRate / biasCorrection1));
  const rootFactor = f32x4.splat(<f32>(1 / sqrt<f64>(biasCorrection2)));
  let faults = i32x4.splat(0);
  for (; n >= 4; n -= 4) {
    const g = v128.load(gradient);
    const m1 = moment(keep1, v128.load(m), rest1, g);
    const v1 = moment(keep2, v128.load(v), rest2, f32x4.mul(g, g));
    const p1 = moved(v128.load(parameters), m1, v1, stepSize, rootFactor, eps);
    v128.store(m, m1);
    v128.store(v, v1);
    v128.store(parameters, p1);
    faults = v128.or(faults, v128.or(fault(p1), v128.or(fault(m1), fault(v1))));
    parameters += 16;
    m += 16;
    v += 16;
    gradient += 16;
  }
  if (n > 0) {
    const g = loadPart(gradient, n);
    const m1 = moment(keep1, loadPart(m, n), rest1, g);
    const v1 = moment(keep2, loadPart(v, n), rest2, f32x4.mul(g, g));
    storePart(m, m1, n);
    storePart(v, v1, n);
    storePart(parameters, moved(loadPart(parameters, n), m1, v1, stepSize, rootFactor, eps), n);
    // Of the lanes that are stored: the others may be 0 / 0.
    const p1 = loadPart(parameters, n);
    faults = v128.or(faults, v128.or(fault(p1), v128.or(fault(m1), fault(v1))));
  }
  return v128.any_true(faults) ? 0 : 1;
}

/** Zero bits in every lane that is finite. */
function fault(x: v128): v128 {
  return f32x4.sub(x, x);
}

function moment(keep: v128, before: v128, rest: v128, x: v128): v128 {
  return f32x4.add(f32x4.mul(keep, before), f32x4.mul(rest, x));
}

function moved(p: v128, m: v128, v: v128, stepSize: v128, rootFactor: v128, epsilon: v128): v128 {
  const denominator = f32x4.add(f32x4.mul(f32x4.sqrt(v), rootFactor), epsilon);
  return f32x4.sub(p, f32x4.div(f32x4.mul(stepSize, m), denominator));
}
