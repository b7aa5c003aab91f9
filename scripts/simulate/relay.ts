// node dist/scripts/simulate/relay.js <delay in ms> <listen host:port> <connect host:port> ...
/**
 * Passes TCP connections on, and keeps what the connecting side sends for a
 * while: a wire with latency, where the kernel has none to give. Ends when its standard input does.
 *
 * @module
 */
import type { Socket } from "node:net";
import { connect, createServer } from "node:net";

const [delay, ...addresses] = process.argv.slice(2);
const delayMs = Number(delay);

function addressOf(text: string): { readonly host: string; readonly port: number } {
  const [host, port] = text.split(":");
  return { host, port: Number(port) };
}

/** Writes every chunk `delayMs` after it came; timers of equal delay keep their order. */
function passOn(from: Socket, to: Socket): void {
  from.on("data", (chunk) => {
    if (delayMs === 0) to.write(chunk);
    else setTimeout(() => to.write(chunk), delayMs);
  });
  from.on("close", () => setTimeout(() => to.destroy(), delayMs));
  from.on("error", () => to.destroy());
}

for (let i = 0; i < addresses.length; i += 2) {
  const target = addressOf(addresses[i + 1]);
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ ...target, noDelay: true });
    passOn(near, far);
    far.pipe(near);
    far.on("error", () => near.destroy());
  });
  server.listen(addressOf(addresses[i]));
}
process.stdin.resume().once("end", () => process.exit(0));
