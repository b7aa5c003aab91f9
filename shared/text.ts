/**
 * How values are written for users.
 *
 * @module
 */

/** A duration in milliseconds, as "1.5 s". */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** Text of a stranger for one line of a log: nothing that a terminal obeys, and at most so many characters. */
export function printable(text: string, maxLength: number): string {
  const line = text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "?");
  return line.length > maxLength ? `${line.slice(0, maxLength)}...` : line;
}

/** globalBatchSize as global-batch-size. */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Columns to write in, also where a stream is no terminal, or one that does not know its width (0). */
export function columnsOf({ columns = 0 }: { readonly columns?: number | undefined }, unknown = 80): number {
  return columns > 0 ? columns : unknown;
}
