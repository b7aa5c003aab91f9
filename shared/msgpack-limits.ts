/**
 * A look at msgpack bytes before they are decoded: bytes of a stranger may nest
 * ever deeper, announce lengths that are not there, or use extensions,
 * which a decoder pays for with stack and memory before it finds out.
 *
 * @module
 */

/** Maps and arrays inside each other; our deepest header has five. */
export const MAX_DEPTH = 8;

const TOO_SHORT = "must be as long as it says";

/**
 * Checks one msgpack value: whole, at most MAX_DEPTH deep, without extensions. In one pass, without memory.
 *
 * @returns What it must be and is not, or null if it may be decoded.
 */
export function brokenLimit(bytes: Uint8Array): string | null {
  /** Values that are still to come, at each depth. */
  const missing = [1];
  let at = 0;
  while (missing.length > 0) {
    const depth = missing.length - 1;
    if (missing[depth] === 0) {
      missing.pop();
      continue;
    }
    missing[depth] -= 1;
    if (at >= bytes.length) return TOO_SHORT;
    const layout = LAYOUTS[bytes[at++]];
    if (layout === null) return "must have no extensions";
    const { lengthBytes, perItem, isNested } = layout;
    if (at + lengthBytes > bytes.length) return TOO_SHORT;
    let length = layout.length;
    for (let i = 0; i < lengthBytes; i++) length = length * 256 + bytes[at++];
    const count = length * perItem;
    // Every value has at least a byte.
    if (count > bytes.length - at) return TOO_SHORT;
    if (!isNested) at += count;
    else if (missing.length > MAX_DEPTH) return `must be at most ${MAX_DEPTH} deep`;
    else missing.push(count);
  }
  return at === bytes.length ? null : "must end with its first value";
}

interface Layout {
  /** Bytes of the length behind the tag; 0 where `length` is known. */
  readonly lengthBytes: number;
  readonly length: number;
  /** Bytes, or values, for each item of the length. */
  readonly perItem: number;
  /** Whether items are values. */
  readonly isNested: boolean;
}

/** What follows a tag; null if it may not be used. Source: the msgpack specification's table of formats. */
function layoutOf(tag: number): Layout | null {
  const known = (length: number): Layout => ({ lengthBytes: 0, length, perItem: 1, isNested: false });
  const announced = (lengthBytes: number): Layout => ({
    lengthBytes,
    length: 0,
    perItem: 1,
    isNested: false,
  });
  const nested = (layout: Layout, perItem: 1 | 2): Layout => ({ ...layout, perItem, isNested: true });
  // Small integers, positive and negative.
  if (tag < 0x80 || tag >= 0xe0) return known(0);
  if (tag < 0x90) return nested(known(tag & 0x0f), 2);
  if (tag < 0xa0) return nested(known(tag & 0x0f), 1);
  if (tag < 0xc0) return known(tag & 0x1f);
  switch (tag) {
    // null, false, true
    case 0xc0:
    case 0xc2:
    case 0xc3:
      return known(0);
    // bytes, strings
    case 0xc4:
    case 0xd9:
      return announced(1);
    case 0xc5:
    case 0xda:
      return announced(2);
    case 0xc6:
    case 0xdb:
      return announced(4);
    // numbers
    case 0xcc:
    case 0xd0:
      return known(1);
    case 0xcd:
    case 0xd1:
      return known(2);
    case 0xca:
    case 0xce:
    case 0xd2:
      return known(4);
    case 0xcb:
    case 0xcf:
    case 0xd3:
      return known(8);
    // arrays, maps
    case 0xdc:
      return nested(announced(2), 1);
    case 0xdd:
      return nested(announced(4), 1);
    case 0xde:
      return nested(announced(2), 2);
    case 0xdf:
      return nested(announced(4), 2);
    default:
      return null;
  }
}

const LAYOUTS: readonly (Layout | null)[] = Array.from({ length: 256 }, (_, tag) => layoutOf(tag));
