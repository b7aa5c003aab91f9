import { gzipSync } from "node:zlib";
import t from "tap";
import { encodeIdx, parseIdx } from "../../../coordinator/dataset/idx.ts";
import type { IdxExpectation } from "../../../coordinator/dataset/idx.ts";
import { DatasetError } from "../../../shared/errors.ts";

const images: IdxExpectation = { kind: "images", file: "some/images" };
const labels: IdxExpectation = { kind: "labels", file: "some/labels" };
const pixels = Uint8Array.from({ length: 2 * 784 }, (_, i) => (i * 7) & 255);
const imageFile = encodeIdx([2, 28, 28], pixels);
const labelFile = encodeIdx([3], Uint8Array.of(5, 0, 9));

/** The file with one header word replaced. */
function withWord(file: Uint8Array, offset: number, word: number): Uint8Array {
  const copy = Uint8Array.from(file);
  new DataView(copy.buffer).setUint32(offset, word);
  return copy;
}

/** The DatasetError that parsing throws. */
function failure(bytes: Uint8Array, expected: IdxExpectation): DatasetError {
  try {
    parseIdx(bytes, expected);
  } catch (error) {
    if (error instanceof DatasetError) return error;
    throw error;
  }
  throw new Error("parseIdx() did not throw");
}

t.test("encodeIdx() writes the header that the format asks for", (t) => {
  t.same([...labelFile], [0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 9]);
  t.same([...imageFile.subarray(0, 16)], [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]);
  t.throws(() => encodeIdx([2], new Uint8Array(3)), RangeError);
  t.throws(() => encodeIdx([-1], new Uint8Array(0)), RangeError);
  t.throws(() => encodeIdx([], new Uint8Array(1)), RangeError);
  t.end();
});

t.test("parseIdx() reads back what encodeIdx() wrote, packed or not", (t) => {
  for (const bytes of [imageFile, gzipSync(imageFile)]) {
    const { shape, data } = parseIdx(bytes, images);
    t.same(shape, [2, 28, 28]);
    t.same(Buffer.from(data), Buffer.from(pixels));
  }
  t.same(parseIdx(labelFile, labels).shape, [3]);
  t.same([...parseIdx(gzipSync(labelFile), labels).data], [5, 0, 9]);
  t.end();
});

t.test("parseIdx() reads a view that does not start at the beginning of its buffer", (t) => {
  const buffer = new Uint8Array(labelFile.length + 5);
  buffer.set(labelFile, 5);
  t.same([...parseIdx(buffer.subarray(5), labels).data], [5, 0, 9]);
  t.end();
});

t.test("parseIdx() refuses a file cut at any byte", (t) => {
  const packed = gzipSync(labelFile);
  for (const whole of [labelFile, packed]) {
    for (let length = 0; length < whole.length; length++) failure(whole.subarray(0, length), labels);
  }
  for (let length = 0; length < imageFile.length; length++) failure(imageFile.subarray(0, length), images);
  t.match(failure(packed.subarray(0, -3), labels), {
    message: /some\/labels.*truncated or corrupt.*lockstep download/,
    cause: Error,
  });
  t.match(
    failure(imageFile.subarray(0, -1), images).message,
    /some\/images.*1584 bytes unpacked: got 1583 bytes/,
  );
  t.match(failure(new Uint8Array(0), images).message, /has 16 bytes: got a file of 0 bytes/);
  t.end();
});

t.test("parseIdx() refuses bytes behind the data", (t) => {
  t.match(
    failure(Uint8Array.of(...labelFile, 0), labels).message,
    /3 labels take 11 bytes unpacked: got 12 bytes/,
  );
  t.match(
    failure(gzipSync(Uint8Array.of(...labelFile, 0)), labels).message,
    /got more than 11 unpacked bytes/,
  );
  t.end();
});

t.test("parseIdx() refuses another kind of file and names both magic numbers", (t) => {
  t.match(failure(labelFile, images).message, /some\/images.*0x00000803: got 0x00000801/);
  t.match(failure(imageFile, labels).message, /some\/labels.*0x00000801: got 0x00000803/);
  t.match(failure(Buffer.from("<!DOCTYPE html>"), images).message, /got 0x3c21444f/);
  t.end();
});

t.test("parseIdx() refuses no images, images of another size, and sizes beyond any file", (t) => {
  t.match(
    failure(encodeIdx([0, 28, 28], new Uint8Array(0)), images).message,
    /at least one of its images: got 0/,
  );
  t.match(failure(encodeIdx([0], new Uint8Array(0)), labels).message, /at least one of its labels: got 0/);
  t.match(failure(encodeIdx([2, 14, 56], pixels), images).message, /28x28 pixels: got 14x56/);
  t.match(failure(withWord(imageFile, 4, 0xffffffff), images).message, /take 3367254359296 bytes/);
  t.match(failure(withWord(imageFile, 8, 0xffffffff), images).message, /got 4294967295x28/);
  t.end();
});

t.test("parseIdx() says what the caller advises, or nothing", (t) => {
  t.match(failure(labelFile, { ...images, advice: "ask Yann" }).message, /; ask Yann$/);
  t.match(failure(labelFile, { ...images, advice: "" }).message, /got 0x00000801$/);
  t.end();
});

t.test("parseIdx() never takes a damaged archive for other data", (t) => {
  const packed = gzipSync(imageFile);
  let numRefused = 0;
  for (let bit = 0; bit < 8 * packed.length; bit++) {
    const damaged = Uint8Array.from(packed);
    damaged[bit >> 3] ^= 1 << (bit & 7);
    try {
      const { shape, data } = parseIdx(damaged, images);
      // Bits of the archive's header (time, system) mean nothing to the data.
      t.same(shape, [2, 28, 28]);
      t.ok(Buffer.from(data).equals(pixels), `bit ${bit} leaves the data as they are`);
    } catch (error) {
      if (!(error instanceof DatasetError)) throw error;
      numRefused++;
    }
  }
  t.ok(numRefused > 8 * (packed.length - 10), "every bit behind the header counts");
  t.end();
});

t.test("parseIdx() refuses an archive that unpacks to more than it may", (t) => {
  // 200 archives of 1 MiB of zeros, one behind the other, as gzip allows: 200 kB.
  const bomb = Buffer.concat(new Array<Buffer>(200).fill(gzipSync(new Uint8Array(2 ** 20))));
  const expected = { ...images, maxUnpackedBytes: 10_000_000 };
  t.match(failure(bomb, expected).message, /got more than 10000000 unpacked bytes/);
  const honest = gzipSync(Buffer.concat([imageFile, new Uint8Array(2 ** 20)]));
  t.match(
    failure(honest, images).message,
    new RegExp(`got more than ${imageFile.length} unpacked bytes`),
    "what it says of itself is the limit",
  );
  t.end();
});
