/**
 * Whether two vectors have the same bits: -0 differs from 0, NaN equals itself. For long ones, on which the test
 * runner's comparison is slow.
 */
export function sameBits(a: Float32Array | Uint32Array, b: Float32Array | Uint32Array): boolean {
  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array | Uint32Array): Buffer =>
    Buffer.from(buffer, byteOffset, byteLength);
  return bytes(a).equals(bytes(b));
}
