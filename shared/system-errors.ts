/**
 * Errors of the system that a user can cause and mend: what each asks for.
 *
 * @module
 */
import { describeError } from "./errors.ts";

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "see whether the path is right, and the folder that it lies in is there",
  ENOTDIR: "a part of the path is a file: name a folder there",
  EISDIR: "it is a folder: name a file",
  EEXIST: "something else has this name: name another, or remove it",
  ENOTEMPTY: "something else has this name: name another, or remove it",
  EACCES: "give this user the right to it (ls -ld shows who has it), or name another path",
  EPERM: "give this user the right to it (ls -ld shows who has it), or name another path",
  EROFS: "its file system is read-only: name a path on another, or mount it writable",
  ENOSPC: "make room on its disk, or name a path on another",
  EDQUOT: "this user's share of the disk is used up: make room, or name a path on another",
  EFBIG: "the file may not grow as large: raise the limit (ulimit -f unlimited)",
  EMFILE: "this process may open too few files: raise the limit (ulimit -n 4096)",
  ENFILE: "the system has too many open files: end other programs, or raise its limit (fs.file-max)",
  ENAMETOOLONG: "name a shorter path",
  ELOOP: "links of the path lead in a circle: remove one of them",
  EIO: "the disk fails: see the system's log, or name a path on another",
  EAGAIN: "this user may have too few processes: raise the limit (ulimit -u)",
  ENOMEM: "the system has too little memory: end other programs, or raise the limit (ulimit -v)",
};

/** Whether the system refused something that a user can mend. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && Object.hasOwn(REMEDIES, codeOf(error)) && "errno" in error;
}

/** Whether there is nothing of that path. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && ["ENOENT", "ENOTDIR"].includes(codeOf(error));
}

/** The text of an error, with what to do if it is the system's: one line. */
export function explainError(error: unknown): string {
  const text = describeError(error).split("\n")[0];
  return isSystemError(error) ? `${text}: ${REMEDIES[codeOf(error)]}` : text;
}

function codeOf(error: Error): string {
  return String((error as NodeJS.ErrnoException).code);
}
