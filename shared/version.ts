/**
 * Versions that coordinator and workers compare when a worker joins.
 *
 * @module
 */

/** Version of this package, as in package.json (a test compares them). */
export const PACKAGE_VERSION = "0.1.0";

/** Bump when a message changes shape; the coordinator refuses other versions. */
export const PROTOCOL_VERSION = 5;
