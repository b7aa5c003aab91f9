/**
 * What the user typed, made plain before yargs parses it: each flag is one word with its value, and of several of one
 * name the last stays. Left to itself yargs adds 1 to a number that is given again as 1, fails on a path that is given
 * twice, keeps one of several values of a list, and takes a number without a value for 0.
 *
 * @module
 */
import type { Options } from "yargs";
import { UsageError } from "../shared/errors.ts";
import { kebab } from "../shared/text.ts";

/** With these yargs leaves words that are plain as they are. */
export const PLAIN_PARSING = {
  "duplicate-arguments-array": true,
  "greedy-arrays": false,
  "dot-notation": false,
  "strip-dashed": true,
} as const;

/** Flags by name in kebab-case, as yargs takes them. */
export type Flags = Readonly<Record<string, Options>>;

/** Words for yargs alone: help is given whatever else is wrong, and completion asks about words that are not finished. */
const OF_YARGS: readonly string[] = ["--help", "-h", "--version", "--get-yargs-completions"];

/** What begins with a dash and is no number. */
const FLAG = /^--?[a-z]/i;

/** A word, and the name of its flag if it is a known one. */
export interface Word {
  readonly text: string;
  readonly flag: string | null;
}

/**
 * @param beneath Words that those which are typed replace, flag by flag.
 * @throws {UsageError} If a flag lacks a value, or has one that it cannot have.
 */
export function plainWords(
  words: readonly string[],
  flags: Flags,
  beneath: (typed: readonly Word[]) => readonly Word[] = () => [],
): readonly string[] {
  if (words.some((word) => OF_YARGS.includes(word))) return words;
  const typed = splitWords(words, flags);
  const all = [...beneath(typed), ...typed];
  const last = new Map(all.map(({ flag }, i) => [flag, i]));
  return all
    .filter(({ flag }, i) => flag === null || flags[flag].array === true || last.get(flag) === i)
    .map(({ text }) => text);
}

/** Joins each known flag with its value. @throws {UsageError} As {@linkcode plainWords}. */
export function splitWords(words: readonly string[], flags: Flags): readonly Word[] {
  const plain: Word[] = [];
  for (let i = 0; i < words.length; i++) {
    if (words[i] === "--") return [...plain, ...words.slice(i).map((text) => ({ text, flag: null }))];
    const [, no, name, joined] = /^--(no-)?([^=]+)(?:=([^]*))?$/.exec(words[i]) ?? [];
    const flag = kebab(name ?? "");
    if (!Object.hasOwn(flags, flag)) {
      plain.push({ text: words[i], flag: null });
      continue;
    }
    const isBoolean = flags[flag].type === "boolean";
    const next = words.at(i + 1);
    const isNextIts = next !== undefined && (isBoolean ? /^(true|false)$/.test(next) : !FLAG.test(next));
    let value = joined ?? (isBoolean ? "true" : "");
    if (joined === undefined && isNextIts) {
      value = next;
      i += 1;
    }
    plain.push({ text: `--${flag}=${checkedValue(flag, flags[flag], value, no !== undefined)}`, flag });
  }
  return plain;
}

function checkedValue(flag: string, option: Options, value: string, isNegated: boolean): string {
  const refuse = (rule: string): UsageError => new UsageError(`Cannot use --${flag} as it must ${rule}`);
  if (option.type === "boolean") {
    if (value !== "true" && value !== "false") throw refuse(`be true or false: got "${value}"`);
    return String((value === "true") !== isNegated);
  }
  if (isNegated) throw new UsageError(`Cannot use --no-${flag} as --${flag} takes a value`);
  if (value === "") throw refuse("have a value: got none");
  if (option.type === "number" && Number.isNaN(Number(value))) throw refuse(`be a number: got "${value}"`);
  const choices = option.choices?.map(String);
  if (choices?.includes(value) === false) throw refuse(`be one of ${choices.join(", ")}: got "${value}"`);
  return value;
}
