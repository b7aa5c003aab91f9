/**
 * What this process runs on.
 *
 * @module
 */
export const RUNTIMES = ["node", "deno"] as const;
export type Runtime = (typeof RUNTIMES)[number];

const denoVersion = process.versions["deno"];

export const RUNTIME: Runtime = denoVersion === undefined ? "node" : "deno";

/** For people: name and version, "node 20.19.0". */
export const RUNTIME_DESCRIPTION = `${RUNTIME} ${denoVersion ?? process.versions.node}`;
