/**
 * The programs that the set-up needs, and what to do where one is missing.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describeError, UsageError } from "../../shared/errors.ts";

const execute = promisify(execFile);

export interface Tools {
  /** Interpreter with pip. */
  readonly python: string;
  /** Compiler of C++17. */
  readonly compiler: string;
  readonly npm: string;
}

/** @throws {UsageError} If a program is missing; the message says what to install. */
export async function findTools(): Promise<Tools> {
  const { CXX } = process.env;
  const python = await firstThatRuns(["python3", "python"], ["-m", "pip", "--version"]);
  const compiler = await firstThatRuns(CXX ? [CXX] : ["c++", "g++", "clang++"], ["--version"]);
  const npm = await firstThatRuns(["npm"], ["--version"]);
  const missing = [
    ...(python === null
      ? ["Python 3 with pip, which fetches TensorFlow (Debian, Ubuntu: apt install python3-pip)"]
      : []),
    ...(compiler === null ? ["a C++ compiler (Debian, Ubuntu: apt install g++; or name one in CXX)"] : []),
    ...(npm === null ? ["npm, which comes with Node"] : []),
  ];
  if (python === null || compiler === null || npm === null) {
    throw new UsageError(
      `Cannot set up TensorFlow as this is missing:\n${missing.map((what) => `- ${what}`).join("\n")}\nNothing was changed; the other engines work without it`,
    );
  }
  return { python, compiler, npm };
}

async function firstThatRuns(candidates: readonly string[], args: readonly string[]): Promise<string | null> {
  for (const command of candidates) {
    try {
      await execute(command, args);
      return command;
    } catch {
      continue;
    }
  }
  return null;
}

/**
 * Runs a program.
 *
 * @param what For the message if it fails, as in "fetch TensorFlow".
 * @returns Its standard output.
 */
export async function runTool(what: string, command: string, args: readonly string[]): Promise<string> {
  try {
    return (await execute(command, args, { maxBuffer: 2 ** 26 })).stdout;
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    const lastLines = stderr?.trimEnd().split("\n").slice(-5).join("\n");
    throw new Error(`Cannot ${what}: ${lastLines || describeError(error)}`, { cause: error });
  }
}
