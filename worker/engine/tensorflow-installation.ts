/**
 * TensorFlow on this machine: the Node binding of tfjs-node, which
 * `npm run setup:tensorflow` builds in the cache folder together with
 * TensorFlow's libraries, or a tfjs-node package that somebody has installed
 * and that works by itself.
 *
 * @module
 */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { z } from "zod";
import { defaultCacheDir } from "../../shared/cache-folder.ts";

/** The release that the set-up takes; any patch of it. */
export const TENSORFLOW_RELEASE = "2.21";
/** The package whose binding and kernels are used; the same release as our tfjs. */
export const TFJS_NODE_PACKAGE = "@tensorflow/tfjs-node-gpu";
export const TFJS_NODE_VERSION = "4.22.0";

/** The command that makes the engine usable. */
export const SETUP_COMMAND = "npm run setup:tensorflow";

export type Variant = "cpu" | "cuda";

/** Where the parts of a set-up lie in its folder. */
export const PARTS = {
  /** What the set-up did: written last, so a folder that has it is whole. */
  record: "installation.json",
  binding: join("lib", "tfjs_binding.node"),
  /** As in site-packages, since TensorFlow's libraries look for those of CUDA beside their own folder. */
  tensorflow: "tensorflow",
  nvidia: "nvidia",
  /** The package tfjs-node, of which only JavaScript is kept. */
  package: join("node_modules", "@tensorflow", "tfjs-node"),
  /** In the place of tfjs: gives the package the tfjs that this process has already loaded. */
  tfjs: [join("node_modules", "@tensorflow", "tfjs"), join("node_modules", "@tensorflow", "tfjs-core")],
} as const;

/** Under this symbol of globalThis the package in the cache folder finds tfjs. */
export const TFJS_SYMBOL = "lockstep.tfjs";

const RecordSchema = z.object({
  variant: z.enum(["cpu", "cuda"]),
  tensorflow: z.string(),
  tfjsNode: z.string(),
  /** Wheels of CUDA's libraries, name and version. */
  nvidia: z.array(z.string()),
  bytes: z.number(),
});
export type InstallationRecord = z.infer<typeof RecordSchema>;

export interface Installation {
  /** Files of the binding and of the package's JavaScript. */
  readonly binding: string;
  readonly package: string;
  /** What the set-up wrote, or null for a package that was not set up by us. */
  readonly record: InstallationRecord | null;
}

/** The folder of a set-up, named after all that its contents depend on. */
export function installationFolder(variant: Variant): string {
  const name = `${variant}-${TENSORFLOW_RELEASE}-tfjs-node-${TFJS_NODE_VERSION}`;
  return join(defaultCacheDir(), "tensorflow", `${name}-${process.platform}-${process.arch}`);
}

/** @returns What a set-up left, or null where there is none. */
export function readInstallation(variant: Variant): Installation | null {
  const folder = installationFolder(variant);
  const path = join(folder, PARTS.record);
  if (!existsSync(path)) return null;
  const record = RecordSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  return { binding: join(folder, PARTS.binding), package: join(folder, PARTS.package), record };
}

/** The published package if it can be used, else the set-up for CUDA, else that for the processor; or null. */
export function findInstallation(): Installation | null {
  const published = publishedPackages().find((found) => whyUnusable(found) === null);
  if (published === undefined) return readInstallation("cuda") ?? readInstallation("cpu");
  return { binding: published.binding as string, package: published.folder, record: null };
}

/** Why a package of tfjs-node that somebody has installed is not used; null if there is none, or one is used. */
export function unusedPackage(): string | null {
  const reasons = publishedPackages().map(whyUnusable);
  return reasons.includes(null) ? null : (reasons.at(0) ?? null);
}

interface PublishedPackage {
  readonly name: string;
  readonly version: string;
  readonly folder: string;
  /** Null where its own installation has not put one there. */
  readonly binding: string | null;
}

const require = createRequire(import.meta.url);

/** Packages of tfjs-node that this one finds: the optional peer first. */
function publishedPackages(): readonly PublishedPackage[] {
  return [TFJS_NODE_PACKAGE, "@tensorflow/tfjs-node"].flatMap((name) => {
    let path: string;
    try {
      path = require.resolve(`${name}/package.json`);
    } catch {
      return [];
    }
    const { version } = JSON.parse(readFileSync(path, "utf8")) as { readonly version: string };
    const folder = dirname(path);
    const bindings = [8, 7, 6, 5, 4, 3].map((napi) =>
      join(folder, "lib", `napi-v${napi}`, "tfjs_binding.node"),
    );
    return [{ name, version, folder, binding: bindings.find((file) => existsSync(file)) ?? null }];
  });
}

function whyUnusable({ name, version, folder, binding }: PublishedPackage): string | null {
  if (version !== TFJS_NODE_VERSION) {
    return `${name} in ${folder} is not used as it must have version ${TFJS_NODE_VERSION}, that of our tfjs: got ${version}`;
  }
  if (binding !== null) return null;
  return `${name} in ${folder} is not used as it has no binding: its install script has not run (npm rebuild ${name})`;
}
