/**
 * Real data that a package of the system brings: Debian's dataset-fashion-mnist.
 *
 * @module
 */
import { existsSync } from "node:fs";

export const FASHION_MNIST = "/usr/share/datasets/fashion-mnist";

const REQUIRED = (process.env["LOCKSTEP_REQUIRE_DATA"] ?? "").split(",").includes("fashion-mnist");

/**
 * The `skip` of tests on real Fashion-MNIST: false, or why it is not here.
 *
 * @throws {Error} If it is not here, and LOCKSTEP_REQUIRE_DATA names it.
 */
export function skipWithoutFashionMnist(): string | false {
  if (existsSync(FASHION_MNIST)) return false;
  const why = `no ${FASHION_MNIST}: apt install dataset-fashion-mnist`;
  if (!REQUIRED) return why;
  throw new Error(`Cannot skip the tests on Fashion-MNIST as LOCKSTEP_REQUIRE_DATA names it: got "${why}"`);
}
