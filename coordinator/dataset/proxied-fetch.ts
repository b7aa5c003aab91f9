/**
 * fetch() by way of the proxy that the environment names (HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in upper or
 * lower case). Deno's own does so by itself; Node's only from version 24 on, and if it is told to.
 *
 * @module
 */
import type { Dispatcher } from "undici";
import { wasmMemory } from "../../shared/address-space.ts";
import { RUNTIME } from "../../shared/runtime.ts";

const VARIABLES = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] as const;

/** Names of the variables that name a proxy. */
function proxyVariables(): readonly string[] {
  return VARIABLES.filter((name) => (process.env[name] ?? "") !== "");
}

/** One for the process, so that connections are used again. */
let agent: Dispatcher | null = null;

/** @throws {UsageError} If this process has no room for it. @throws {TypeError} As fetch() does; or if what the environment names is no proxy. */
export async function proxiedFetch(
  url: string,
  init: { readonly headers: Record<string, string>; readonly signal: AbortSignal },
): Promise<Response> {
  // Node's own reads answers by WebAssembly, and throws out of reach where that has no room.
  if (RUNTIME === "node") wasmMemory({ initial: 1 });
  const variables = proxyVariables();
  if (RUNTIME === "deno" || variables.length === 0) return fetch(url, init);
  // Not its value, which may hold a password.
  const broken = variables.find((name) => !URL.canParse(process.env[name] ?? ""));
  if (broken !== undefined) throw new TypeError(`${broken} must name a proxy, as http://host:port`);
  const undici = await import("undici");
  agent ??= new undici.EnvHttpProxyAgent();
  // The same class, of another copy of its library.
  return (await undici.fetch(url, { ...init, dispatcher: agent })) as unknown as Response;
}
