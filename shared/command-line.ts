/**
 * Commands that we print for a user to paste.
 *
 * @module
 */

/** What a POSIX shell takes as it stands. */
const PLAIN = /^[\w@%+=:,./-]+$/;

/** The words as a line for a POSIX shell, each quoted where it must be; `lockstep` as it is run in a clone or where it is installed. */
export function shellCommand(words: readonly string[]): string {
  const line = words.map(shellWord).join(" ");
  return words[0] === "lockstep" ? `npx ${line}` : line;
}

/** A single quote ends the quotes, is written by itself, and begins them again. */
function shellWord(word: string): string {
  return PLAIN.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
