/**
 * Tells whether two machines run the same build. Two builds of one version may
 * speak one protocol and still compute other bits.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Folders of the build that decide what members of a run do; the command line and tests do not. */
const FOLDERS = ["coordinator", "shared", "worker"] as const;

let known: string | null = null;

/** SHA-256 over names and contents of the built scripts and kernels, the same on every runtime. Read once. */
export function codeHash(): string {
  known ??= hashOf(fileURLToPath(new URL("../", import.meta.url)));
  return known;
}

/** Exported for tests. @param root Folder of the build, with a separator at its end. */
export function hashOf(root: string): string {
  const paths = FOLDERS.flatMap((folder) => filesIn(root, folder)).sort();
  const hash = createHash("sha256");
  for (const path of paths) {
    const contents = readFileSync(`${root}${path}`);
    hash.update(`${path}\0${contents.length}\0`).update(contents);
  }
  return hash.digest("hex").slice(0, 32);
}

function filesIn(root: string, folder: string): readonly string[] {
  return readdirSync(`${root}${folder}`, { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return filesIn(root, path);
    return /\.(js|wasm)$/.test(entry.name) ? [path] : [];
  });
}
