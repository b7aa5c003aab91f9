/**
 * The bits of the reference run, as one version of the code gave them to the next: whoever changes kernels,
 * networks, the optimizer or the order of a sum learns here that runs of before can no longer be reproduced.
 */
import { join } from "node:path";
import t from "tap";
import { fusesMultiplyAdd } from "../../worker/kernels/kernels.ts";
import { bits, run } from "./processes.ts";

/** `global step, SHA-256 of generator, of discriminator`, by choice of kernels. */
const BITS = {
  fused:
    "200 bd5e749e5e33dadc50ecaa6a6ee8a44deeae97717ac0e94ed4dc4e3c375b89ba f4840ded8586a5cb5058f40f0b3daf346d667143b253df77561a1ca63598d89d",
  plain:
    "200 68d393808522957613a8cdeb6115c3f782301410170aa8ebce136b55b74f1955 93996ca66feecbd0cd77bee315c9c0e5dfbcd2972ac905590e3ea7d95b427aa3",
} as const;

for (const kernels of ["fused", "plain"] as const) {
  const skip =
    kernels === "fused" && !fusesMultiplyAdd() ? "this processor has no fused multiply-adds" : false;
  t.test(`the reference run has the parameters it always had, ${kernels} kernels`, { skip }, async (t) => {
    const runDir = join(t.testdir(), "run");
    const result = await run([
      ...["train", "--dataset", "synthetic", "--engine", "wasm", "--workers", "2", "--shards", "4"],
      ...["--seed", "1", "--max-steps", "200", "--run-dir", runDir],
      ...(kernels === "plain" ? ["--deterministic-kernels"] : []),
    ]);
    t.equal(result.code, 0, result.output);
    t.equal(bits(runDir), BITS[kernels]);
  });
}
