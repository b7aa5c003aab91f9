/**
 * Vectors in a WebAssembly memory for the tests of the kernels: each starts at
 * a fresh place, unaligned to 16 bytes, with guard words behind it that a
 * kernel must leave alone.
 *
 * @module
 */
import { fillUniform, streamKey } from "../../../shared/random.ts";
import { fusesMultiplyAdd, loadKernels } from "../../../worker/kernels/kernels.ts";
import type { Kernels, Pointer } from "../../../worker/kernels/kernels.ts";

const GUARD = 0x5eed5eed;

export class Arena {
  readonly memory = new WebAssembly.Memory({ initial: 256 });
  /** The first bytes stay unused: 0 means "none" where a pointer is optional. */
  private next = 1028;
  private readonly guards: number[] = [];
  private seed = 0;

  /** Room for `bytes`, at a multiple of 4 that is no multiple of 8. */
  allocate(bytes: number): Pointer {
    const pointer = this.next;
    const end = (pointer + bytes + 3) & ~3;
    new Uint32Array(this.memory.buffer, end, 4).fill(GUARD);
    this.guards.push(end);
    this.next = ((end + 16 + 7) & ~7) + 4;
    return pointer;
  }

  floats(values: ArrayLike<number>): Pointer {
    const pointer = this.allocate(values.length * 4);
    this.view(pointer, values.length).set(values);
    return pointer;
  }

  /** n values, uniform in [-bound, bound). */
  random(n: number, bound = 1): Pointer {
    const pointer = this.allocate(n * 4);
    fillUniform(this.view(pointer, n), streamKey(this.seed++, "noise"), bound);
    return pointer;
  }

  view(pointer: Pointer, n: number): Float32Array {
    return new Float32Array(this.memory.buffer, pointer, n);
  }

  /** The values as bits, copied: -0 differs from 0, NaN equals itself. */
  bits(pointer: Pointer, n: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, pointer, n).slice();
  }

  /** Frees everything. @returns Whether every guard word is as it was. */
  reset(): boolean {
    const intact = this.guards.every((at) =>
      new Uint32Array(this.memory.buffer, at, 4).every((word) => word === GUARD),
    );
    this.next = 1028;
    this.guards.length = 0;
    return intact;
  }
}

export interface Build {
  readonly name: string;
  readonly arena: Arena;
  readonly kernels: Kernels;
}

export const skipFused = fusesMultiplyAdd() ? false : "no fused multiply-add on this machine";

/** The builds that this machine can run: plain, and fused where it fuses, each for vectors of 128 and of 256 bits. */
export async function loadBuilds(): Promise<readonly Build[]> {
  const builds: Build[] = [];
  for (const fused of fusesMultiplyAdd() ? [false, true] : [false]) {
    for (const wide of [false, true]) {
      const arena = new Arena();
      const kernels = await loadKernels({ memory: arena.memory, fused, wide });
      builds.push({ name: `${fused ? "fused" : "plain"}${wide ? ", wide" : ""}`, arena, kernels });
    }
  }
  return builds;
}

const scratch = new DataView(new ArrayBuffer(4));

/** The float32's bits. */
export function bitsOf(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

export function floatOf(bits: number): number {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
}

/** |got - want| in units of the last place of float32 at `want`. */
export function ulps(got: number, want: number): number {
  if (Object.is(got, Math.fround(want)) || (Number.isNaN(got) && Number.isNaN(want))) return 0;
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(want))));
  const distance = Math.abs(got - want) / 2 ** (exponent - 23);
  return Number.isNaN(distance) ? Infinity : distance;
}

/** Special values and their neighbours, of every magnitude. */
export const SPECIAL_VALUES: readonly number[] = [
  ...[0, 2 ** -149, 2 ** -130, 2 ** -126, 1e-30, 1e-10, 1e-5, 0.1, 0.25, 0.5, Math.LN2 / 2, Math.LN2],
  ...[1, 1.5, 2, 5, 8.9, 9.1, 10, 16.6, 17.4, 50, 87.3, 88.8, 100, 103.9, 104.1, 1e4, 1e20, 3.4e38, Infinity],
].flatMap((value) => [value, -value]);
