import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { encodeIdx } from "../../coordinator/dataset/idx.ts";
import { FASHION_MNIST, skipWithoutFashionMnist } from "../real-data.ts";
import { inspect, run } from "./processes.ts";

const THREE_STEPS = ["--engine", "wasm", "--workers", "1", "--max-steps", "3", "--global-batch-size", "8"];

t.test("trains on real Fashion-MNIST of the system", { skip: skipWithoutFashionMnist() }, async (t) => {
  const runDir = join(t.testdir(), "run");
  const env = { ...process.env, XDG_DATA_DIRS: "/usr/share" };
  const flags = [...THREE_STEPS, "--dataset", "fashion-mnist", "--run-dir", runDir];
  const { code, output } = await run(["train", ...flags], { env });
  t.equal(code, 0, output);
  t.match(output, `Data: 60000 images, ${FASHION_MNIST}/train-images-idx3-ubyte.gz`);
  t.equal(inspect(runDir).globalStep, 3);
});

t.test("trains on images of the user's own without labels", async (t) => {
  const folder = t.testdir();
  const pixels = Uint8Array.from({ length: 20 * 784 }, (_, i) => (i * 11) & 255);
  writeFileSync(join(folder, "train-images-idx3-ubyte"), encodeIdx([20, 28, 28], pixels));
  const runDir = join(folder, "run");
  const data = ["--dataset", "mnist", "--data-dir", folder, "--no-verify-data"];
  const { code, output } = await run(["train", ...THREE_STEPS, ...data, "--run-dir", runDir]);
  t.equal(code, 0, output);
  t.equal(inspect(runDir).globalStep, 3);
});
