// That the gradients are right is checked on every engine by test/conformance; here, what they refuse.
import * as tfModule from "@tensorflow/tfjs";
import type { Tensor } from "@tensorflow/tfjs";
import t from "tap";
import type { TensorFlow } from "../../shared/nn/layers.ts";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import { repairGradients } from "../../worker/engine/tfjs-gradients.ts";

// As in tfjs-engine.ts: names or only the default, depending on Node.
const tf: TensorFlow = "default" in tfModule ? tfModule.default : tfModule;
tf.env().set("IS_NODE", false);
await tf.setBackend("cpu");
repairGradients(tf);

t.test("gradients of gradients that would be wrong are refused", async (t) => {
  const squaredNorm = (pool: (x: Tensor) => Tensor) => (x: Tensor) =>
    tf.sum(tf.square(tf.grad((at: Tensor) => tf.sum(tf.square(pool(at))))(x)));
  const image = tf.randomUniform([1, 4, 4, 1], -1, 1, "float32", 1);
  const overlapping = squaredNorm((x) => tf.maxPool(x as never, 3, 1, "valid"));
  t.throws(
    () => tf.grad(overlapping)(image),
    /windows must not overlap or be padded: got size 3x3, stride 1x1/,
  );
  const padded = squaredNorm((x) => tf.maxPool(x as never, 3, 3, "same"));
  t.throws(() => tf.grad(padded)(image), /got size 3x3, stride 3x3, pad same/);
  const whole = squaredNorm((x) => tf.maxPool(x as never, 3, 3, "valid"));
  t.ok(
    tf.grad(whole)(image).abs().sum().dataSync()[0] > 0,
    "a remainder outside of all windows is no padding",
  );
});

t.test("the gradient penalty is finite where the discriminator is flat", async (t) => {
  const weight = tf.zeros([3, 1]);
  const images = tf.ones([2, 3]);
  const penalty = (w: Tensor): Tensor => {
    const inputs = {
      discriminator: (x: Tensor) => tf.matMul(x, w),
      real: images,
      fake: images,
      uniforms: tf.zeros([2, 1]),
    };
    return tf.sum(OBJECTIVES["wgan-gp"].penalty?.value(tf, inputs) as Tensor);
  };
  const [value] = penalty(weight).dataSync();
  t.ok(Math.abs(value - 20) < 1e-3, `two images, each with 10 (0 - 1)^2: ${value}`);
  t.ok([...tf.grad(penalty)(weight).dataSync()].every(Number.isFinite));
});
