/**
 * Where what is downloaded or built once per user is kept.
 *
 * @module
 */
import { homedir } from "node:os";
import { join } from "node:path";

/** Folder for downloads: as the XDG specification, Apple's and Microsoft's guidelines have it. */
export function defaultCacheDir(): string {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  // An empty variable counts as unset (XDG Base Directory Specification).
  if (XDG_CACHE_HOME) return join(XDG_CACHE_HOME, "lockstep");
  if (process.platform === "darwin") return join(homedir(), "Library", "Caches", "lockstep");
  if (process.platform === "win32")
    return join(LOCALAPPDATA || join(homedir(), "AppData", "Local"), "lockstep");
  return join(homedir(), ".cache", "lockstep");
}
