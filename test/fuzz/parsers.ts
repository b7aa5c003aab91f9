/**
 * Feeds everything that parses with random and damaged input. Each parser must
 * return a value or throw the error that it promises, and leave nothing behind.
 *
 * @module
 */
import { isDeepStrictEqual } from "node:util";
import { gzipSync } from "node:zlib";
import { encodeIdx, parseIdx } from "../../coordinator/dataset/idx.ts";
import { MANIFEST_FILE, parseManifest } from "../../shared/checkpoint.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { CheckpointError, DatasetError, ProtocolError, UsageError } from "../../shared/errors.ts";
import { decodeHeader, encodeHeader } from "../../shared/header.ts";
import {
  parseAdminAnswer,
  parseControlMessage,
  parseCoordinatorBulkMessage,
  parseCoordinatorMessage,
  parseWorkerBulkMessage,
  parseWorkerMessage,
} from "../../shared/protocol.ts";
import { decodeSafetensors, encodeSafetensors } from "../../shared/safetensors.ts";
import { parseEndpoint } from "../../shared/endpoint.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";
import { contents } from "../coordinator/small-checkpoint.ts";
import { ALL_MESSAGES } from "./messages.ts";
import { FuzzRandom } from "./random.ts";

/** How often a parser took its input, and how often it refused it. */
export interface Count {
  taken: number;
  refused: number;
}

type ErrorClass = new (...args: never[]) => Error;

/** @returns What the parser made of it, or null if it refused as promised. @throws What it threw else. */
function parsed<T>(parse: () => T, refusal: ErrorClass): { readonly value: T } | null {
  try {
    return { value: parse() };
  } catch (error) {
    if (error instanceof refusal) return null;
    throw error;
  }
}

const MESSAGE_PARSERS = [
  ...[parseWorkerMessage, parseControlMessage, parseCoordinatorMessage, parseWorkerBulkMessage],
  ...[parseCoordinatorBulkMessage, parseAdminAnswer, parsePeerMessage],
] as const;

/** Whether any parser of messages takes a header; what one takes must come back the same from the wire. */
export function parseMessages(header: unknown): boolean {
  let isTaken = false;
  for (const parse of MESSAGE_PARSERS) {
    const result = parsed(() => parse(header) as object, ProtocolError);
    if (result === null) continue;
    isTaken = true;
    // Once over the wire, as it keeps no half of a pair of surrogates.
    const sent = parse(decodeHeader(encodeHeader(result.value)));
    const again = parse(decodeHeader(encodeHeader(sent)));
    if (!isDeepStrictEqual(again, sent)) throw new Error(`${parse.name}() takes what it does not keep`);
  }
  return isTaken;
}

const HEADERS = ALL_MESSAGES.map((message) => encodeHeader(message));
const CANARY = HEADERS[0];
const CANARY_VALUE = ALL_MESSAGES[0];
const CONFIG = parseRunConfig({ workers: 2, maxSteps: 3, gpus: "0,1" });
const IMAGES = encodeIdx([3, 28, 28], new Uint8Array(3 * 784).fill(7));
const LABELS = encodeIdx([3], Uint8Array.of(1, 2, 3));
const TENSORS = encodeSafetensors([
  { name: "a.weight", dtype: "F32", shape: [2, 3], bytes: new Uint8Array(24) },
  { name: "step", dtype: "I64", shape: [], bytes: new Uint8Array(8) },
]);
const MANIFEST = contents(1).get(MANIFEST_FILE) ?? new Uint8Array();
const ENDPOINTS = ["tcp://127.0.0.1:29555", "tcp://[::1]:*", "tcp://host:1"].map((text) => Buffer.from(text));
/** Room for an unpacked data file. */
const MAX_UNPACKED = 1 << 16;

/** Parsers by name; each returns whether it took its input, and throws on a finding. */
const TARGETS: Readonly<Record<string, (random: FuzzRandom) => boolean>> = {
  headers: (random) => {
    const bytes = random.chance(0.2)
      ? random.bytes(random.below(60))
      : random.damagedBytes(random.pick(HEADERS));
    const header = parsed(() => decodeHeader(bytes), ProtocolError);
    if (header === null) return false;
    return parseMessages(header.value);
  },
  messages: (random) => parseMessages(random.damaged(random.pick(ALL_MESSAGES))),
  configurations: (random) => {
    const value = random.chance(0.2) ? random.value() : random.damaged(CONFIG);
    const config = parsed(() => parseRunConfig(value), UsageError);
    if (config !== null && !isDeepStrictEqual(parseRunConfig(config.value), config.value)) {
      throw new Error("parseRunConfig() takes what it does not keep");
    }
    return config !== null;
  },
  idx: (random) => {
    const kind = random.pick(["images", "labels"] as const);
    const whole = kind === "images" ? IMAGES : LABELS;
    let bytes = random.chance(0.1) ? random.bytes(random.below(40)) : random.damagedBytes(whole);
    if (random.chance(0.3)) bytes = gzipSync(bytes);
    if (random.chance(0.1)) bytes = random.damagedBytes(bytes);
    const expected = { kind, file: "f", maxUnpackedBytes: MAX_UNPACKED };
    const array = parsed(() => parseIdx(bytes, expected), DatasetError);
    if (array === null) return false;
    const { shape, data } = array.value;
    if (shape.reduce((product, n) => product * n, 1) !== data.length || data.length > MAX_UNPACKED) {
      throw new Error(`parseIdx() gives ${data.length} bytes of shape ${shape.join()}`);
    }
    return true;
  },
  safetensors: (random) => {
    const bytes = random.damagedBytes(TENSORS);
    return parsed(() => decodeSafetensors(bytes), CheckpointError) !== null;
  },
  manifests: (random) => {
    const bytes = random.chance(0.5)
      ? random.damagedBytes(MANIFEST)
      : Buffer.from(jsonOf(random.damaged(JSON.parse(Buffer.from(MANIFEST).toString()))));
    return parsed(() => parseManifest(Buffer.from(bytes).toString()), CheckpointError) !== null;
  },
  endpoints: (random) => {
    const text = Buffer.from(random.damagedBytes(random.pick(ENDPOINTS))).toString("latin1");
    return parsed(() => parseEndpoint(text), RangeError) !== null;
  },
};

/** As JSON, which knows fewer values. */
function jsonOf(value: unknown): string {
  const replacer = (_: string, part: unknown): unknown => (typeof part === "bigint" ? String(part) : part);
  try {
    return JSON.stringify(value, replacer) ?? "null";
  } catch {
    // A toJSON that is no function of JSON's kind, or an invalid date.
    return "null";
  }
}

/** What nobody may have changed. */
function checkSurroundings(): void {
  for (const key in {}) throw new Error(`Object.prototype has got "${key}"`);
  if (!isDeepStrictEqual(decodeHeader(CANARY), CANARY_VALUE)) {
    throw new Error("decodeHeader() does not decode a valid header any more");
  }
}

/**
 * Runs every target so often.
 *
 * @throws {Error} On the first finding; names target, seed and run, which repeat it.
 */
export function fuzzParsers(numRuns: number, seed: number): Readonly<Record<string, Count>> {
  const counts: Record<string, Count> = {};
  for (const [name, target] of Object.entries(TARGETS)) {
    const count: Count = { taken: 0, refused: 0 };
    counts[name] = count;
    for (let run = 0; run < numRuns; run++) {
      try {
        if (target(new FuzzRandom(seed + run))) count.taken += 1;
        else count.refused += 1;
        checkSurroundings();
      } catch (error) {
        throw new Error(`Finding in "${name}" (--seed ${seed + run} --runs 1)`, { cause: error });
      }
    }
  }
  return counts;
}
