/**
 * Where what is downloaded or built once per user is kept.
 *
 * @module
 */
import { homedir } from "node:os";
import { join } from "node:path";
import { UsageError } from "./errors.ts";

/**
 * Folder for downloads: as the XDG specification, Apple's and Microsoft's guidelines have it.
 *
 * @throws {UsageError} If nothing names a home folder, as for the user of many a container.
 */
export function defaultCacheDir(): string {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  // An empty variable counts as unset (XDG Base Directory Specification).
  if (XDG_CACHE_HOME) return join(XDG_CACHE_HOME, "lockstep");
  if (process.platform === "darwin") return join(homeFolder(), "Library", "Caches", "lockstep");
  if (process.platform === "win32")
    return join(LOCALAPPDATA || join(homeFolder(), "AppData", "Local"), "lockstep");
  return join(homeFolder(), ".cache", "lockstep");
}

function homeFolder(): string {
  try {
    return homedir();
  } catch {
    throw new UsageError(
      "Cannot find a folder for the cache as this user has no home folder: name a folder in XDG_CACHE_HOME",
    );
  }
}
