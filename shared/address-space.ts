/**
 * Room for WebAssembly where the address space of a process is limited (ulimit -v, as batch systems set it). Node
 * reserves 10 GiB of addresses for each memory, so that the processor finds what is out of bounds, and fails where they
 * are not to be had. With a flag it checks bounds itself instead: slower, with the same bits.
 *
 * @module
 */
import { UsageError } from "./errors.ts";

/** Of Node, for a process that is to be started. */
export const NO_TRAP_HANDLER = "--disable-wasm-trap-handler";

/** Memories that a process has at once: the host's, tfjs's, and one of a kernel on trial. */
const NUM_MEMORIES = 3;

let isShort: boolean | null = null;

/** Whether this process has too few addresses for memories as Node reserves them; so have those that it starts. */
export function isAddressSpaceShort(): boolean {
  isShort ??= !hasRoom();
  return isShort;
}

function hasRoom(): boolean {
  try {
    Array.from({ length: NUM_MEMORIES }, () => new WebAssembly.Memory({ initial: 1 }));
    return true;
  } catch {
    return false;
  }
}

/** @throws {UsageError} If it cannot be had; the message says what to do. */
export function wasmMemory(descriptor: WebAssembly.MemoryDescriptor): WebAssembly.Memory {
  try {
    return new WebAssembly.Memory(descriptor);
  } catch {
    const without = hasTrapHandler()
      ? `, or start Node without its guards: NODE_OPTIONS=${NO_TRAP_HANDLER}`
      : "";
    throw new UsageError(
      `Cannot reserve memory for WebAssembly as the address space of this process must have room for it: got ${limitText()}; raise the limit (ulimit -v unlimited)${without}`,
    );
  }
}

/** The limit for messages, as "a limit of 8.2 GB (ulimit -v)". */
export function limitText(): string {
  const report = process.report?.getReport() as
    { readonly userLimits?: Readonly<Record<string, { readonly soft: unknown }>> } | undefined;
  const { virtual_memory_bytes: ofNow, virtual_memory_kbytes: ofNode20 } = report?.userLimits ?? {};
  // Node 20 calls them kilobytes, but they are bytes.
  const bytes = Number((ofNow ?? ofNode20)?.soft);
  return Number.isNaN(bytes)
    ? "no limit of its own"
    : `a limit of ${(bytes / 1e9).toFixed(1)} GB (ulimit -v)`;
}

/** Whether Node was started with guards around memories. */
export function hasTrapHandler(): boolean {
  return ![...process.execArgv, process.env["NODE_OPTIONS"] ?? ""].some((words) =>
    words.includes(NO_TRAP_HANDLER),
  );
}
