/**
 * `lockstep keygen`: the key file of a run.
 *
 * @module
 */
import { fingerprint, KEY_VARIABLE, writeKeyFile } from "../../shared/keys.ts";

/** @throws {UsageError} If the file is there already or cannot be written. */
export function keygen(out: string): void {
  const key = writeKeyFile(out);
  console.log(
    `Wrote key ${fingerprint(key)} to ${out}. Copy the file to each machine of the run by a safe way (scp), and give --key there, or ${KEY_VARIABLE} in the environment. Whoever has it can join the run`,
  );
}
