import t from "tap";
import { trainingProducts } from "../../../scripts/bench/training-products.ts";
import { IMAGE_PIXELS } from "../../../shared/image.ts";
import { MODELS } from "../../../shared/nn/models.ts";

t.test("trainingProducts() has a weight gradient of every matrix of the reference model", async (t) => {
  const { generator, discriminator } = MODELS.mlp({ latentDim: 100, imagePixels: IMAGE_PIXELS });
  const matrices = [generator, discriminator].flatMap(({ parameters }) =>
    parameters.filter(({ shape }) => shape.length === 2).map(({ shape }) => [...shape]),
  );
  const gradients = trainingProducts(64).filter(({ weights }) => weights === "C");
  t.same(
    gradients.map(({ M, N }) => [M, N]),
    matrices,
  );
});

t.test("trainingProducts() adds up to the operations that a step needs", async (t) => {
  const flop = trainingProducts(64).reduce((sum, { M, N, K, count }) => sum + 2 * count * M * N * K, 0);
  const [generator, discriminator] = [
    100 * 256 + 256 * 512 + 512 * 1024 + 1024 * 784,
    784 * 512 + 512 * 256 + 256,
  ];
  // G: forward twice, both gradients, except that by the noise. D: the same on twice the rows, then forward and backward.
  const perImage = 4 * generator - 100 * 256 + 2 * (3 * discriminator - 784 * 512) + 2 * discriminator;
  t.equal(flop, 2 * 64 * perImage);
});
