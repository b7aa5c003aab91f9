import { gzipSync } from "node:zlib";
import t from "tap";
import { parseIdx } from "../../coordinator/dataset/idx.ts";
import { decodeHeader, encodeHeader } from "../../shared/header.ts";
import { parseControlMessage } from "../../shared/protocol.ts";
import { DatasetError, ProtocolError } from "../../shared/errors.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import { ALL_MESSAGES, DATA } from "./messages.ts";
import { fuzzParsers, parseMessages } from "./parsers.ts";

/** Runs per parser; npm run fuzz:parsers takes more. */
const NUM_RUNS = 3000;

t.test("parsers take a value or refuse it as they promise, whatever they are given", (t) => {
  const counts = fuzzParsers(NUM_RUNS, 1);
  for (const [name, { taken, refused }] of Object.entries(counts)) {
    t.equal(taken + refused, NUM_RUNS, name);
    t.ok(refused > NUM_RUNS / 10, `${name}: ${refused} refused`);
  }
  for (const name of ["headers", "messages", "configurations", "safetensors", "endpoints"]) {
    t.ok(counts[name].taken > 0, `${name}: ${counts[name].taken} taken`);
  }
  t.end();
});

t.test("a header whose type is no text is refused", (t) => {
  for (const type of [{ toString: 1 }, { toString: null, valueOf: null }, [], null, 1n]) {
    t.throws(() => parseControlMessage(decodeHeader(encodeHeader({ type }))), ProtocolError);
  }
  t.end();
});

t.test("every message that is to be damaged is taken as it is", (t) => {
  for (const message of ALL_MESSAGES) {
    t.ok(parseMessages(decodeHeader(encodeHeader(message))), JSON.stringify(message).slice(0, 60));
  }
  t.end();
});

t.test("a header in whose place of text or a list is something like it is refused", (t) => {
  const likeLists: readonly unknown[] = [
    { length: {} },
    { length: { valueOf: null, toString: null } },
    { length: 5n },
    Uint8Array.of(1, 2),
    { length: "9" },
  ];
  for (const value of likeLists) {
    const text = { type: "failed", reason: value };
    t.throws(() => parseControlMessage(decodeHeader(encodeHeader(text))), ProtocolError);
    const list = { ...DATA.find(({ type }) => type === "state"), measured: { metrics: value, norm: 1 } };
    t.throws(() => parsePeerMessage(decodeHeader(encodeHeader(list))), ProtocolError);
  }
  t.end();
});

/** Memory that buffers take more, at most, while something runs, in bytes. */
function grownBy(use: () => void): number {
  const before = process.memoryUsage().arrayBuffers;
  use();
  return process.memoryUsage().arrayBuffers - before;
}

t.test("sizes that a file or frame claims are believed only as far as its bytes", (t) => {
  const huge = Buffer.alloc(16 + 100);
  huge.writeUInt32BE(0x00000803, 0);
  for (const [i, size] of [0xffffffff, 28, 28].entries()) huge.writeUInt32BE(size, 4 + 4 * i);
  const bomb = gzipSync(Buffer.alloc(64 << 20));
  const grown = grownBy(() => {
    t.throws(() => parseIdx(huge, { kind: "images", file: "f" }), DatasetError);
    t.throws(() => parseIdx(gzipSync(huge), { kind: "images", file: "f" }), DatasetError);
    t.throws(() => parseIdx(bomb, { kind: "images", file: "f", maxUnpackedBytes: 1 << 20 }), DatasetError);
    for (const tag of [0xc6, 0xc9, 0xdb, 0xdd, 0xdf]) {
      const claim = Buffer.from([tag, 0x7f, 0xff, 0xff, 0xff]);
      t.throws(() => decodeHeader(claim), ProtocolError);
      t.throws(() => decodeHeader(Buffer.concat(Array.from({ length: 1000 }, () => claim))), ProtocolError);
      t.throws(
        () => decodeHeader(Buffer.alloc(1 << 20, Buffer.from([tag, 0x00, 0x10, 0, 0]))),
        ProtocolError,
      );
    }
  });
  t.ok(grown < 16 << 20, `${grown} bytes more`);
  t.throws(() => decodeHeader(Buffer.alloc(1 << 20, 0x91)), ProtocolError, "nesting");
  t.end();
});
