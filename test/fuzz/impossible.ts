/**
 * Messages that are well formed, and say what cannot be: steps that no run reaches, ranks that no run has.
 *
 * @module
 */
import type { FuzzRandom } from "./random.ts";

/** Larger than what any run has, and the largest of what the protocol can carry. */
const FAR = [2 ** 31, 2 ** 40, 2 ** 48 - 1, 2 ** 48];
/** Numbers that a run may have. */
const NEAR = [0, 1, 2, 3, 63, 1024, 65_536];
/** These are in no position to be impossible, or are checked before anything else is. */
const KEPT = new Set(["type", "protocolVersion", "pid", "bulkPort"]);
/** Measured values and times: whatever they are, nothing is counted by them. */
const MEASURED = /(?:Ms|Loss|Probability|Norm|metrics|norm)$/;

type Path = readonly string[];

function numbersIn(value: unknown, path: Path = []): readonly Path[] {
  if (typeof value === "number") return [path];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, part]) =>
    KEPT.has(key) || MEASURED.test(key) ? [] : numbersIn(part, [...path, key]),
  );
}

function replaced<T>(value: T, [key, ...rest]: Path, by: number): T {
  if (key === undefined) return by as T;
  const copy = (Array.isArray(value) ? [...(value as unknown[])] : { ...value }) as Record<string, unknown>;
  copy[key] = replaced(copy[key], rest, by);
  return copy as T;
}

/**
 * A copy in which one number, or more, is too large for any run, but not for the protocol; the same if it has no numbers.
 *
 * @param parse Throws if a message is not well formed.
 */
export function impossible<T extends object>(
  random: FuzzRandom,
  message: T,
  parse: (message: unknown) => void,
): T {
  const paths = numbersIn(message);
  if (paths.length === 0) return message;
  for (;;) {
    const changed = changedOnce(random, message, paths);
    try {
      parse(changed);
      return changed;
    } catch {
      // A field has a limit of its own.
    }
  }
}

function changedOnce<T>(random: FuzzRandom, message: T, paths: readonly Path[]): T {
  let result = message;
  for (const path of paths) if (random.chance(0.3)) result = replaced(result, path, random.pick(NEAR));
  for (let i = 1 + random.below(2); i > 0; i--)
    result = replaced(result, random.pick(paths), random.pick(FAR));
  return result;
}
