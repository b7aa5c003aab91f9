/**
 * How values are written for users.
 *
 * @module
 */

/** A duration in milliseconds, as "1.5 s". */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** What a terminal obeys, or shows as another line or in another order. */
const CONTROLS = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** Colours and movements of the cursor (ECMA-48). */
const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[[0-?]*[ -/]*[@-~]`, "g");

/** Text of a stranger for one line of a log: nothing that a terminal obeys, and at most so many characters. */
export function printable(text: string, maxLength = Infinity): string {
  const line = text.replace(CONTROLS, "?");
  return line.length > maxLength ? `${line.slice(0, maxLength)}...` : line;
}

/** Whether a text is printable() as it is. */
export function isPrintable(text: string): boolean {
  return printable(text) === text;
}

/** A line of another program, which may have been written for a terminal: without colours, and printable. */
export function plainLine(text: string): string {
  return printable(text.replace(ESCAPES, "").replaceAll("\t", "  "));
}

/** globalBatchSize as global-batch-size. */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Columns to write in, also where a stream is no terminal, or one that does not know its width (0). */
export function columnsOf({ columns = 0 }: { readonly columns?: number | undefined }, unknown = 80): number {
  return columns > 0 ? columns : unknown;
}
