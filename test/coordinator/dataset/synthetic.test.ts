import { createHash } from "node:crypto";
import t from "tap";
import { syntheticDigits } from "../../../coordinator/dataset/synthetic.ts";

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

t.test("syntheticDigits() gives the same bytes on every machine and engine", (t) => {
  const { pixels, labels } = syntheticDigits({ seed: 0, count: 1000 });
  t.equal(sha256(pixels), "b22f241d8740882597fc10c093bf5592ed592c1cfeb45e0f8969aa8e10b22067");
  t.equal(sha256(labels), "3374e467c966febdf543504df39b379134f4590dbf402abffcb842c5543dbbad");
  t.end();
});

t.test("syntheticDigits() draws an image by its index alone", (t) => {
  const many = syntheticDigits({ seed: 7, count: 500 });
  const few = syntheticDigits({ seed: 7, count: 100 });
  t.ok(Buffer.from(few.pixels).equals(many.pixels.subarray(0, 100 * 784)));
  t.ok(Buffer.from(few.labels).equals(many.labels.subarray(0, 100)));
  t.end();
});

t.test("syntheticDigits() draws others for another seed, and none twice", (t) => {
  const { pixels } = syntheticDigits({ seed: 1, count: 1000 });
  const hashes = new Set<string>();
  for (let i = 0; i < 1000; i++) hashes.add(sha256(pixels.subarray(i * 784, (i + 1) * 784)));
  t.equal(hashes.size, 1000);
  t.not(sha256(pixels), sha256(syntheticDigits({ seed: 2, count: 1000 }).pixels));
  t.end();
});

t.test("syntheticDigits() draws all ten digits about equally often", (t) => {
  const { labels } = syntheticDigits({ seed: 0, count: 5000 });
  for (let digit = 0; digit < 10; digit++) {
    const share = labels.filter((label) => label === digit).length / labels.length;
    t.ok(Math.abs(share - 0.1) < 0.02, `digit ${digit}: ${share}`);
  }
  t.end();
});

t.test("syntheticDigits() keeps the border empty and the ink near the middle, like MNIST", (t) => {
  const count = 2000;
  const { pixels } = syntheticDigits({ seed: 3, count });
  let total = 0;
  for (let image = 0; image < count; image++) {
    let ink = 0;
    let momentX = 0;
    let momentY = 0;
    for (let row = 0; row < 28; row++) {
      for (let column = 0; column < 28; column++) {
        const value = pixels[image * 784 + row * 28 + column];
        const onBorder = row === 0 || row === 27 || column === 0 || column === 27;
        if (onBorder && value !== 0) t.fail(`image ${image} has ink at (${row}, ${column})`);
        ink += value;
        momentX += value * (column + 0.5);
        momentY += value * (row + 0.5);
      }
    }
    total += ink;
    const isCentred = Math.abs(momentX / ink - 14) < 3 && Math.abs(momentY / ink - 14) < 3;
    if (!isCentred || ink < 255 * 15) t.fail(`image ${image} is off centre or nearly empty`);
  }
  // The training images of MNIST have a mean of 33.3.
  const mean = total / pixels.length;
  t.ok(mean > 28 && mean < 38, `mean ${mean}`);
  t.end();
});

t.test("syntheticDigits() refuses a count that is none", (t) => {
  t.throws(() => syntheticDigits({ seed: 0, count: -1 }), RangeError);
  t.throws(() => syntheticDigits({ seed: 0, count: 1.5 }), RangeError);
  t.throws(() => syntheticDigits({ seed: -1, count: 1 }), RangeError);
  t.equal(syntheticDigits({ seed: 0, count: 0 }).pixels.length, 0);
  t.end();
});
