/**
 * The set-up itself. All is put together in a folder beside the final one,
 * tried there, and renamed at the end.
 *
 * @module
 */
import { createHash } from "node:crypto";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { UsageError } from "../../shared/errors.ts";
import type { InstallationRecord, Variant } from "../../worker/engine/tensorflow-installation.ts";
import {
  installationFolder,
  PARTS,
  TENSORFLOW_RELEASE,
  TFJS_NODE_PACKAGE,
  TFJS_NODE_VERSION,
  TFJS_SYMBOL,
} from "../../worker/engine/tensorflow-installation.ts";
import type { FoundTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { checkTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { buildBinding } from "./build-binding.ts";
import type { Tools } from "./tools.ts";
import { findTools, runTool } from "./tools.ts";
import { unpack } from "./unpack.ts";

/** SHA-512 of the archive of TFJS_NODE_PACKAGE in TFJS_NODE_VERSION, as the registry publishes it. */
const TFJS_NODE_SHA512 =
  "p//NN6DGiN4hInUmIkRffaFVMcdTREUMjPyjW04J7OXvB2zBlQimj61eFKSgRrH3f5TnOfKzb0n56he/B6a4bw==";

/** Most bytes that lie on the disk at once: archives and what is taken out of them. */
const NEEDED_BYTES: Readonly<Record<Variant, number>> = { cpu: 1.5e9, cuda: 12e9 };

const WHEELS: Readonly<Record<Variant, string>> = { cpu: "tensorflow-cpu", cuda: "tensorflow" };

/** For the compiler of programs, which TensorFlow needs only for XLA. */
const NOT_NEEDED = "nvidia-cuda-nvcc-cu12";

export interface Installed {
  readonly folder: string;
  readonly record: InstallationRecord;
  readonly found: FoundTensorflow;
}

/**
 * @param say Told of each step.
 * @throws {UsageError} If something is missing on this machine.
 * @throws {Error} If a step fails. Nothing is left behind.
 */
export async function install(variant: Variant, say: (text: string) => void): Promise<Installed> {
  if (process.platform !== "linux") {
    throw new UsageError(
      `Cannot set up TensorFlow as that is built for Linux only: got ${process.platform}; the other engines work without it`,
    );
  }
  const tools = await findTools();
  const folder = installationFolder(variant);
  const parent = dirname(folder);
  mkdirSync(parent, { recursive: true });
  requireSpace(parent, NEEDED_BYTES[variant]);
  const scratch = `${folder}.part-${process.pid}`;
  const clean = (): void => rmSync(scratch, { recursive: true, force: true });
  process.once("exit", clean);
  try {
    const installed = await assemble(variant, tools, scratch, say);
    rmSync(folder, { recursive: true, force: true });
    renameSync(scratch, folder);
    return { folder, ...installed };
  } finally {
    clean();
    process.removeListener("exit", clean);
  }
}

/** Puts a set-up together in a folder, and tries it. */
async function assemble(
  variant: Variant,
  tools: Tools,
  folder: string,
  say: (text: string) => void,
): Promise<Omit<Installed, "folder">> {
  const archives = join(folder, "archives");
  const sources = join(folder, "sources");
  mkdirSync(sources, { recursive: true });

  say(`Fetching ${WHEELS[variant]} ${TENSORFLOW_RELEASE} with pip`);
  const wheel = await fetchWheel(tools.python, `${WHEELS[variant]}==${TENSORFLOW_RELEASE}.*`, archives);
  say(`Unpacking ${basename(wheel)}`);
  await unpack(tools.python, wheel, folder, [
    "tensorflow/libtensorflow_(cc|framework)\\.so\\.2",
    "tensorflow/include/(tensorflow|tsl|xla)/(c|core/platform|platform|tsl/c)/(eager/)?[a-z_]+\\.h",
  ]);
  const nvidia: string[] = [];
  for (const requirement of variant === "cuda" ? await cudaRequirements(tools.python, wheel, sources) : []) {
    say(`Fetching ${requirement} with pip`);
    const library = await fetchWheel(tools.python, requirement, archives);
    nvidia.push(basename(library).split("-").slice(0, 2).join(" "));
    await unpack(tools.python, library, folder, ["nvidia/[a-z_]+/lib/lib.*\\.so[.0-9]*"]);
    rmSync(library);
  }

  say(`Fetching ${TFJS_NODE_PACKAGE} ${TFJS_NODE_VERSION} with npm`);
  await unpackTfjsNode(tools, archives, sources, folder);
  say("Building the binding");
  await buildBinding(tools.compiler, join(sources, "package", "binding"), folder);
  for (const used of [archives, sources, join(folder, PARTS.tensorflow, "include")]) {
    rmSync(used, { recursive: true });
  }
  say("Multiplying two matrices");
  const found = await checkTensorflow(join(folder, PARTS.binding));

  const { tensorflow } = found;
  const record = { variant, tensorflow, tfjsNode: TFJS_NODE_VERSION, nvidia, bytes: bytesOf(folder) };
  writeFileSync(join(folder, PARTS.record), `${JSON.stringify(record, null, 2)}\n`);
  return { record, found };
}

/** @returns The file that pip has put into the folder. */
async function fetchWheel(python: string, requirement: string, folder: string): Promise<string> {
  const into = join(folder, `pip-${requirement.replaceAll(/[^a-z0-9-]/g, "_")}`);
  const download = ["-m", "pip", "download", "--quiet", "--no-color", "--disable-pip-version-check"];
  const args = [...download, "--no-deps", "--only-binary=:all:", "--dest", into, requirement];
  try {
    await runTool(`fetch ${requirement}`, python, args);
  } catch (error) {
    // TensorFlow is built for some versions of Python only. We take libraries that ask for none.
    try {
      await runTool(`fetch ${requirement}`, python, [...args, "--python-version", "3.12"]);
    } catch {
      throw error;
    }
  }
  const [file] = readdirSync(into);
  return join(into, file);
}

/** What a wheel of TensorFlow wants for CUDA, as pip writes it: "nvidia-cublas-cu12<13.0,>=12.5.3.2". */
async function cudaRequirements(python: string, wheel: string, scratch: string): Promise<readonly string[]> {
  await unpack(python, wheel, scratch, ["tensorflow-[^/]+\\.dist-info/METADATA"]);
  const folder = readdirSync(scratch).find((name) => name.endsWith(".dist-info"));
  const metadata = readFileSync(join(scratch, folder ?? "", "METADATA"), "utf8");
  return parseCudaRequirements(metadata);
}

export function parseCudaRequirements(metadata: string): readonly string[] {
  return [...metadata.matchAll(/^Requires-Dist: (nvidia-\S+) *;.*extra == ["']and-cuda["']/gm)]
    .map(([, requirement]) => requirement)
    .filter((requirement) => !requirement.startsWith(NOT_NEEDED));
}

/** The sources of the binding to `sources`, the JavaScript of the kernels to the set-up's folder. */
async function unpackTfjsNode(
  { python, npm }: Tools,
  archives: string,
  sources: string,
  folder: string,
): Promise<void> {
  const name = `${TFJS_NODE_PACKAGE}@${TFJS_NODE_VERSION}`;
  const into = ["--pack-destination", archives, "--silent"];
  const file = (await runTool(`fetch ${name}`, npm, ["pack", name, ...into])).trim().split("\n").at(-1) ?? "";
  const archive = join(archives, file);
  const sha512 = createHash("sha512").update(readFileSync(archive)).digest("base64");
  if (sha512 !== TFJS_NODE_SHA512) {
    throw new Error(`Cannot use ${name} as its SHA-512 must be ${TFJS_NODE_SHA512}: got ${sha512}`);
  }
  await unpack(python, archive, sources, ["package/binding/.*", "package/dist/.*\\.js"]);
  const target = join(folder, PARTS.package);
  mkdirSync(dirname(target), { recursive: true });
  renameSync(join(sources, "package", "dist"), join(mkdir(target), "dist"));
  // Messages of TensorBoard, in place of which google-protobuf would be needed.
  writeFileSync(join(target, "dist", "proto", "api_pb.js"), "module.exports = {};\n");
  for (const path of PARTS.tfjs) {
    const code = `module.exports = globalThis[Symbol.for(${JSON.stringify(TFJS_SYMBOL)})];\n`;
    writeFileSync(join(mkdir(join(folder, path)), "index.js"), code);
  }
}

function mkdir(path: string): string {
  mkdirSync(path, { recursive: true });
  return path;
}

/** @throws {UsageError} If the disk of a folder has less room. */
function requireSpace(folder: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < bytes) {
    throw new UsageError(
      `Cannot set up TensorFlow as ${folder} must have ${(bytes / 1e9).toFixed(1)} GB free: got ${((bavail * bsize) / 1e9).toFixed(1)} GB; make room, or name another cache folder in XDG_CACHE_HOME`,
    );
  }
}

function bytesOf(folder: string): number {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  return files.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
}
