/**
 * A --config file: flags by name, which lie beneath those that are typed.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { parse as parseYaml } from "yaml";
import { UsageError } from "../../shared/errors.ts";
import { explainError } from "../../shared/system-errors.ts";
import type { Flags, Word } from "../plain-words.ts";
import { splitWords } from "../plain-words.ts";

export const CONFIG_FLAG = "config";

/** Flags that answer one question: a typed one replaces each of its group that the file has. */
const ALTERNATIVES: readonly (readonly string[])[] = [
  ["global-batch-size", "local-batch-size"],
  ["epochs", "max-steps"],
];

/**
 * The flags of the file that --config names, without those that typed ones replace.
 *
 * @throws {UsageError} If the file cannot be read or has something else than flags, or as plainWords() does.
 */
export function configFileWords(typed: readonly Word[], flags: Flags): readonly Word[] {
  const named = typed.filter(({ flag }) => flag === CONFIG_FLAG).at(-1);
  if (named === undefined) return [];
  const replaced = typed.flatMap(
    ({ flag }): readonly (string | null)[] =>
      ALTERNATIVES.find((names) => names.includes(flag ?? "")) ?? [flag],
  );
  const ofFile = splitWords(readConfigFile(named.text.slice(`--${CONFIG_FLAG}=`.length)), flags);
  return ofFile.filter(({ flag }) => flag === null || !replaced.includes(flag));
}

/** The flags of a file, as words. @throws {UsageError} If it cannot be read, or is no map of flags. */
function readConfigFile(path: string): readonly string[] {
  let value: unknown;
  try {
    const text = decode(readFileSync(path));
    value = extname(path).toLowerCase() === ".json" ? JSON.parse(text) : parseYaml(text);
  } catch (error) {
    throw new UsageError(`Cannot read --config ${path}: ${explainError(error)}`);
  }
  if (value === null) return [];
  if (typeof value !== "object" || Array.isArray(value)) {
    const got = Array.isArray(value) ? "a list" : `a ${typeof value}`;
    throw new UsageError(`Cannot use --config ${path} as it must be a map of flags: got ${got}`);
  }
  return Object.entries(value).map(([name, entry]: [string, unknown]) => {
    const refuse = (rule: string): UsageError =>
      new UsageError(`Cannot use --config ${path} as ${name} must ${rule}`);
    if (entry === null || entry === "") throw refuse("have a value: give it one, or delete the line");
    const values: readonly unknown[] = Array.isArray(entry) ? entry : [entry];
    if (values.some((one) => typeof one === "object")) throw refuse("be one value, or a list of them");
    // A list of GPUs is written with commas on the command line.
    return `--${name}=${(values as readonly (string | number | boolean)[]).join(",")}`;
  });
}

/** Editors of Windows begin a file with a byte order mark, and some write UTF-16. */
function decode(bytes: Uint8Array): string {
  const isUtf16 = bytes[0] === 0xff && bytes[1] === 0xfe;
  return new TextDecoder(isUtf16 ? "utf-16le" : "utf-8").decode(bytes);
}
