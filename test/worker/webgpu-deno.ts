/**
 * The checks of engine webgpu in Deno: deno run -A dist/test/worker/webgpu-deno.js
 * Exits with 1 if one fails.
 *
 * @module
 */
import { CHECKS } from "./webgpu-checks.ts";

for (const [name, check] of Object.entries(CHECKS)) {
  await check();
  console.log(`ok - ${name}`);
}
console.log("all checks passed");
