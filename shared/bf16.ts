/**
 * Gradients in bfloat16 (the upper half of a float32), which halves what
 * travels. So that bits do not depend on who computes what, not only what is
 * sent is rounded: every node of the canonical tree, leaves and root included,
 * is summed in float32 and then rounded. What is sent is then exact.
 *
 * @module
 */

/** Rounds to bfloat16, ties to even, in place; NaN stays NaN. */
export function roundToBf16(values: Float32Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i];
    bits[i] = Number.isNaN(values[i])
      ? (x | 0x400000) & 0xffff0000
      : (x + 0x7fff + ((x >>> 16) & 1)) & 0xffff0000;
  }
}

/**
 * The wire form of values of which the first `numRounded` are rounded: the others as float32, then these in
 * two bytes each.
 */
export function encodeRounded(values: Float32Array, numRounded: number): Uint8Array {
  const numExact = values.length - numRounded;
  const bytes = new Uint8Array(numExact * 4 + numRounded * 2);
  new Float32Array(bytes.buffer, 0, numExact).set(values.subarray(numRounded));
  const words = new Uint16Array(bytes.buffer, numExact * 4, numRounded);
  const halves = new Uint16Array(values.buffer, values.byteOffset, numRounded * 2);
  for (let i = 0; i < numRounded; i++) words[i] = halves[2 * i + 1];
  return bytes;
}

/**
 * The reverse.
 *
 * @param bytes At a multiple of 4 in their buffer.
 * @param target (values,).
 */
export function decodeRounded(bytes: Uint8Array, numRounded: number, target: Float32Array): void {
  const numExact = target.length - numRounded;
  target.set(new Float32Array(bytes.buffer, bytes.byteOffset, numExact), numRounded);
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset + numExact * 4, numRounded);
  const bits = new Uint32Array(target.buffer, target.byteOffset, numRounded);
  for (let i = 0; i < numRounded; i++) bits[i] = words[i] << 16;
}
