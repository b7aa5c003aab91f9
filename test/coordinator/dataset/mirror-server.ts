/** A local HTTP server for the tests of downloads: real sockets, any behaviour. */
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** Refuses connections: nothing listens on this reserved port, and no other test can be given it. */
export const REFUSING_URL = "http://127.0.0.1:1023/";

export interface MirrorServer {
  /** Base URL, ending in a slash. */
  readonly url: string;
  /** One entry per request: path and Range header. */
  readonly requests: { path: string; range: string | null }[];
  close(): Promise<void>;
}

export type Answer = (request: IncomingMessage, response: ServerResponse, requestIndex: number) => void;

export async function startMirror(answer: Answer): Promise<MirrorServer> {
  const requests: MirrorServer["requests"] = [];
  const server = createServer((request, response) => {
    requests.push({ path: request.url ?? "", range: request.headers.range ?? null });
    answer(request, response, requests.length - 1);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/`,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Answers as a good server does: Range gives 206, a range behind the end 416. */
export function serveBytes(bytes: Uint8Array): Answer {
  return (request, response) => {
    const match = /^bytes=(\d+)-$/.exec(request.headers.range ?? "");
    if (match === null) {
      response.writeHead(200, { "content-length": bytes.length }).end(bytes);
      return;
    }
    const start = Number(match[1]);
    if (start >= bytes.length) {
      response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
      return;
    }
    const headers = {
      "content-length": bytes.length - start,
      "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}`,
    };
    response.writeHead(206, headers).end(bytes.subarray(start));
  };
}

/**
 * Breaks connections at given bytes, after the client has reported to have them: what it keeps of a broken
 * answer then does not depend on timing.
 */
export class Cutter {
  private pending: { atBytes: number; response: ServerResponse } | null = null;

  /** Promises what lies from `start` to the end, sends `numBytes` of it, and waits to cut. */
  send(response: ServerResponse, bytes: Uint8Array, start: number, numBytes: number): void {
    this.pending = { atBytes: start + numBytes, response };
    response.writeHead(start === 0 ? 200 : 206, {
      "content-length": bytes.length - start,
      ...(start === 0 ? {} : { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` }),
    });
    response.write(bytes.subarray(start, start + numBytes));
  }

  readonly onProgress = (receivedBytes: number): void => {
    if (this.pending === null || receivedBytes < this.pending.atBytes) return;
    this.pending.response.socket?.destroy();
    this.pending = null;
  };
}

export function serveStatus(status: number): Answer {
  return (_request, response) => {
    response.writeHead(status).end("no");
  };
}
