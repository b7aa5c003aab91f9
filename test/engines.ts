/**
 * Which engines the tests of this machine must have.
 *
 * @module
 */
import type { EngineName } from "../shared/config.ts";
import type { EngineStatus } from "../worker/engine/engine-status.ts";

/** Names with commas: their tests fail where they would be skipped. For machines that have been set up for them. */
const REQUIRED = (process.env.LOCKSTEP_REQUIRE_ENGINES ?? "").split(",");

/**
 * The `skip` of the tests of an engine: false, or why it cannot be used here.
 *
 * @throws {Error} If it cannot be used, and LOCKSTEP_REQUIRE_ENGINES names it.
 */
export function skipUnlessUsable(
  engine: EngineName,
  { usable, reason, fix }: Pick<EngineStatus, "usable" | "reason" | "fix">,
): string | false {
  if (usable) return false;
  const why = fix === null ? `${reason}` : `${reason}: ${fix}`;
  if (!REQUIRED.includes(engine)) return why;
  throw new Error(
    `Cannot skip the tests of engine ${engine} as LOCKSTEP_REQUIRE_ENGINES names it: got "${why}"`,
  );
}
