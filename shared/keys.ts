/**
 * The key of a run: who has its file is a member, nobody else is.
 *
 * A file holds one CURVE key pair. Every socket of the run uses that one pair,
 * as a server where it listens and as a client where it connects. So both ends
 * prove that they have the secret key, and all traffic is encrypted with keys
 * that ZeroMQ makes anew for each connection. All members trust each other
 * alike, so pairs of their own would tell nobody more: whoever leaves a run with
 * its key file can come back, until the run gets another key.
 *
 * One pair in both roles is sound in CURVE: the boxes of either role have nonces
 * of their own, and long-term keys only ever meet transient ones, so nothing
 * that one role says can pass for the other's.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { curveKeyPair } from "zeromq";
import { z } from "zod";
import { checked } from "./checked.ts";
import { shellCommand } from "./command-line.ts";
import { UsageError } from "./errors.ts";
import { explainError } from "./system-errors.ts";

/** A CURVE key pair, each half 40 characters of Z85. Never print, log or send the secret half. */
export interface RunKey {
  readonly publicKey: string;
  readonly secretKey: string;
}

/** Names the key file where no flag does, also to the workers that `lockstep train` starts. */
export const KEY_VARIABLE = "LOCKSTEP_KEY";

/** What `lockstep keygen` writes unless told. */
export const DEFAULT_KEY_FILE = "lockstep.key";

const Z85 = /^[0-9a-zA-Z.\-:+=^!/*?&<>()[\]{}@%$#]{40}$/;
const half = z.string().regex(Z85);
const KeyFile = z.strictObject({ publicKey: half, secretKey: half });

export function generateKey(): RunKey {
  const { publicKey, secretKey } = curveKeyPair();
  return { publicKey, secretKey };
}

/**
 * Writes a new key to a new file that only its owner can read.
 *
 * @throws {UsageError} If the file is there already or cannot be written.
 */
export function writeKeyFile(path: string): RunKey {
  const key = generateKey();
  try {
    writeFileSync(path, `${JSON.stringify(key, null, 2)}\n`, { flag: "wx", mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") {
      throw new UsageError(
        `Cannot write a key to ${path} as the file is there already: give another --out, or remove it if no run uses it`,
      );
    }
    throw new UsageError(`Cannot write a key to ${path}: ${explainError(error)}`);
  }
  return key;
}

/** @throws {UsageError} If the file is missing, readable by others or no key file. No message has a part of the key. */
export function readKeyFile(path: string): RunKey {
  let text: string;
  try {
    const { mode } = statSync(path);
    if (process.platform !== "win32" && (mode & 0o077) !== 0) {
      throw new UsageError(
        `Cannot use key file ${path} as others must not be able to read it: got mode ${(mode & 0o777).toString(8)}. If nobody has read it: ${shellCommand(["chmod", "600", path])}; else make a new key with lockstep keygen`,
      );
    }
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(
      `Cannot read key file ${path}: ${explainError(error)}. lockstep keygen writes a new one; every machine of a run needs the same`,
    );
  }
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    // The error would quote the file.
  }
  const result = checked(KeyFile, value);
  if (!result.ok) {
    throw new UsageError(
      `Cannot use key file ${path} as it must be what lockstep keygen writes: copy it again from the machine that it was made on`,
    );
  }
  return result.value;
}

/** A key and the file that it is from. */
export interface NamedKey {
  readonly file: string;
  readonly key: RunKey;
}

/**
 * The key file to use, and its key; null if none is named.
 *
 * @param flag Value of --key, which goes before the environment variable.
 * @throws {UsageError} As {@linkcode readKeyFile}.
 */
export function keyOf(flag: string | null): NamedKey | null {
  const named = flag ?? process.env[KEY_VARIABLE] ?? "";
  return named === "" ? null : { file: named, key: readKeyFile(named) };
}

/** Tells two keys apart in logs. */
export function fingerprint({ publicKey }: RunKey): string {
  return createHash("sha256").update(publicKey).digest("hex").slice(0, 12);
}
