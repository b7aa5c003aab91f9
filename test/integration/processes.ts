/**
 * What the integration tests train on; how they start processes is shared with `npm run chaos`.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";

export * from "../../scripts/chaos/processes.ts";

const MNIST = resolve("../shared/data/mnist");

/**
 * Engine wasm, which every machine has (a later --engine wins), and real MNIST where this checkout has it beside it,
 * else the digits that the product draws.
 */
export const TRAINING_FLAGS: readonly string[] = [
  ...["--engine", "wasm"],
  ...(existsSync(MNIST) ? ["--dataset", "mnist", "--data-dir", MNIST] : ["--dataset", "synthetic"]),
];
