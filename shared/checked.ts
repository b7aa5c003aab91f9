/**
 * Values of unknown origin, checked by a schema.
 *
 * @module
 */
import type { z } from "zod";
import { describeError } from "./errors.ts";

export interface Issue {
  /** Of the field that is wrong, as "a.0.b"; empty for the value itself. */
  readonly path: string;
  readonly message: string;
  /** Whether it is a rule between fields, which may follow from a field that is wrong by itself. */
  readonly isBetween: boolean;
}

export type Checked<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly issues: readonly [Issue, ...Issue[]] };

/**
 * What a schema makes of a value. Never throws, whatever the value, which the library's safeParse() does not promise:
 * it compares the "length" that an object brings, and freezes what should have been an array.
 *
 * @param ruleOf Words for an issue, in place of the library's.
 */
export function checked<T>(
  schema: z.ZodType<T>,
  value: unknown,
  ruleOf: (issue: z.core.$ZodRawIssue) => string | undefined = () => undefined,
): Checked<T> {
  try {
    const result = schema.safeParse(value, { error: ruleOf });
    if (result.success) return { ok: true, value: result.data };
    const [first, ...others] = result.error.issues.map(({ path, message, code }) => ({
      path: path.map(String).join("."),
      message,
      isBetween: code === "custom",
    }));
    return { ok: false, issues: [first, ...others] };
  } catch (error) {
    return {
      ok: false,
      issues: [{ path: "", message: `it cannot be checked: ${describeError(error)}`, isBetween: false }],
    };
  }
}
