// node dist/scripts/install-fast-node.js
/**
 * `npm ci` in a clone ends with this: where the user's Node has no vectors of
 * 256 bits and the processor has, fetches a Node that uses them, for workers
 * of engine wasm. It lies in scripts/fast-node/ and not among the project's
 * packages: it brings a command `node`, which npm would put before the user's.
 * Whatever goes wrong here, training works on the user's Node.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { fastNode } from "../coordinator/runtime-command.ts";
import { knowsRevectorizer } from "../worker/kernels/kernel-builds.ts";

const FOLDER = fileURLToPath(new URL("../../scripts/fast-node/", import.meta.url));
const INSTALL = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];

const file = fastNode();
if (file !== null && !existsSync(file) && !knowsRevectorizer() && mayHaveAvx2()) {
  const isWindows = process.platform === "win32";
  console.log(
    "Fetching Node 24 for the workers of engine wasm, which are twice as fast on it (190 MB unpacked)",
  );
  try {
    await promisify(execFile)(isWindows ? "npm.cmd" : "npm", INSTALL, { cwd: FOLDER, shell: isWindows });
  } catch (error) {
    const said = (error as { readonly stderr?: string }).stderr?.trim().split("\n")[0] ?? String(error);
    console.log(`It could not be fetched (${said}): workers run on Node ${process.versions.node}`);
  }
}

/** Where the system does not tell, workers find out. */
function mayHaveAvx2(): boolean {
  if (process.platform !== "linux") return true;
  return /^flags\s*:.*\bavx2\b/m.test(readFileSync("/proc/cpuinfo", "utf8"));
}
