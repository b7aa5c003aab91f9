/**
 * The builds of the training kernels, and which of them is the fastest here.
 *
 * Each arithmetic (plain or fused multiply-adds) has two builds with the same
 * bits. The narrow one is for vectors of 128 bits, which is what WebAssembly
 * has. The wide one is for V8's revectorizer, which joins pairs of them into
 * 256 bits (AVX2): twice as fast on Node 24 and later, half as fast without it.
 * Whether V8 does it shows only in time, so both are tried for some
 * milliseconds; as their bits are equal, a clock may choose. That they are is
 * checked as well, since V8 calls the revectorizer experimental.
 *
 * @module
 */
import { readFile } from "node:fs/promises";
import { setFlagsFromString } from "node:v8";
import { wasmMemory } from "../../shared/address-space.ts";
import type { Pointer, RawExports } from "./raw-kernels.ts";

export interface KernelBuild {
  /** Whether matrix products use relaxed multiply-adds. */
  readonly fused: boolean;
  /** Whether it is made for the revectorizer. */
  readonly wide: boolean;
}

export interface KernelChoice {
  readonly wide: boolean;
  /** Why not wide, or null if it is. */
  readonly reason: string | null;
}

/** Name of a build's file, beside this module when compiled. */
export function kernelFile({ fused, wide }: KernelBuild): string {
  return `kernels${fused ? "-fused" : ""}${wide ? "-wide" : ""}.wasm`;
}

/** @throws {WebAssembly.CompileError} If the runtime has no WASM SIMD, or no relaxed SIMD for a fused build. */
export async function compileKernels(build: KernelBuild): Promise<WebAssembly.Module> {
  const bytes = await readFile(new URL(`./${kernelFile(build)}`, import.meta.url));
  if (!build.wide || !knowsRevectorizer()) return WebAssembly.compile(bytes);
  // Only for this module, and all of it now: by the optimizing compiler, as that one has the revectorizer. Without
  // inlining, as V8 14 ends the process where that misses what its baseline compiler would have counted.
  for (const flag of WIDE_FLAGS) setFlagsFromString(`--${flag.on}`);
  try {
    return new WebAssembly.Module(bytes);
  } finally {
    for (const flag of WIDE_FLAGS) setFlagsFromString(`--${flag.off}`);
  }
}

const WIDE_FLAGS = [
  { on: "experimental-wasm-revectorize", off: "no-experimental-wasm-revectorize" },
  { on: "no-liftoff", off: "liftoff" },
  { on: "no-wasm-lazy-compilation", off: "wasm-lazy-compilation" },
  { on: "no-wasm-inlining", off: "wasm-inlining" },
] as const;

/** Major versions of V8 with which this was tried (Node 24 and 26, Deno 2.9). That of Node 22 has the flag, but cannot join multiply-adds. */
const TRIED_V8: readonly number[] = [13, 14, 15];

/** Whether V8 here may join vectors to 256 bits; whether that pays, only a trial tells. */
export function knowsRevectorizer(): boolean {
  return process.arch === "x64" && TRIED_V8.includes(Number.parseInt(process.versions.v8, 10));
}

const choices = new Map<boolean, Promise<KernelChoice>>();

/** The faster of the two builds of an arithmetic, tried once per process. LOCKSTEP_VECTOR_BITS=128 or 256 decides instead. */
export function chooseKernels(fused: boolean): Promise<KernelChoice> {
  let choice = choices.get(fused);
  if (choice === undefined) {
    choice = tryKernels(fused);
    choices.set(fused, choice);
  }
  return choice;
}

async function tryKernels(fused: boolean): Promise<KernelChoice> {
  const wanted = process.env["LOCKSTEP_VECTOR_BITS"];
  if (wanted === "256") return { wide: true, reason: null };
  if (wanted === "128") return { wide: false, reason: "LOCKSTEP_VECTOR_BITS=128" };
  if (!knowsRevectorizer())
    return { wide: false, reason: "256 bits, twice as fast, need Node 24 or 26 on x64" };
  const narrow = await Trial.of({ fused, wide: false });
  const wide = await Trial.of({ fused, wide: true });
  if (!sameBits(narrow, wide)) return { wide: false, reason: "those of 256 bits gave other results here" };
  const [narrowMs, wideMs] = bestTimes([narrow, wide]);
  if (wideMs < narrowMs) return { wide: true, reason: null };
  return {
    wide: false,
    reason: "those of 256 bits are slower here: no AVX2, or a runtime that checks bounds in software",
  };
}

interface TrialSizes {
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** Tiles and edges of rows, columns and blocks of K; the first is the one that is timed. */
const TRIAL_SIZES: readonly TrialSizes[] = [
  { M: 64, N: 64, K: 256 },
  { M: 5, N: 33, K: 300 },
  { M: 66, N: 16, K: 7 },
  { M: 3, N: 7, K: 64 },
];
/** As SUM_MODES of kernels.ts: store, continue, tree, treeBf16. */
const TRIAL_MODES = [0, 1, 2, 3] as const;
/** Enough for V8 to optimize what it compiled in a hurry. */
const TRIAL_MS = 40;
/** Room for each operand of the trials, in floats. */
const OPERAND_FLOATS = 20_000;

/** A build on a memory of its own, with the same values in each. */
class Trial {
  readonly #memory = wasmMemory({ initial: 32 });
  readonly #kernels: RawExports;
  readonly #a: Pointer = 64;
  readonly #b: Pointer = this.#a + OPERAND_FLOATS * 4;
  readonly #c: Pointer = this.#b + OPERAND_FLOATS * 4;
  readonly #leaves: Pointer = this.#c + OPERAND_FLOATS * 4;
  readonly #scratch: Pointer = this.#leaves + 64;

  static async of(build: KernelBuild): Promise<Trial> {
    return new Trial(await compileKernels(build));
  }

  private constructor(module: WebAssembly.Module) {
    const { exports } = new WebAssembly.Instance(module, { env: { memory: this.#memory } });
    this.#kernels = exports as unknown as RawExports;
  }

  multiply({ M, N, K }: TrialSizes, transA: number, transB: number, mode: number): void {
    const third = Math.floor(K / 3);
    new Int32Array(this.#memory.buffer, this.#leaves, 4).set([0, third, 2 * third, K]);
    const ending = [0, 0, 0] as const;
    const rest = [...ending, 0, this.#leaves, 3] as const;
    this.#kernels.gemm(transA, transB, M, N, K, this.#a, this.#b, this.#c, this.#scratch, mode, ...rest);
  }

  /** Some values in each operand, the same in every trial. */
  fill(): void {
    const words = new Uint32Array(this.#memory.buffer, this.#a, 3 * OPERAND_FLOATS);
    const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
    for (let i = 0; i < words.length; i++) floats[i] = (Math.imul(i + 1, 0x9e3779b9) >> 8) / 2 ** 23;
  }

  get result(): Uint32Array {
    return new Uint32Array(this.#memory.buffer, this.#c, OPERAND_FLOATS);
  }
}

function sameBits(one: Trial, other: Trial): boolean {
  one.fill();
  other.fill();
  for (const sizes of TRIAL_SIZES) {
    for (const mode of TRIAL_MODES) {
      for (const [transA, transB] of [
        [0, 0],
        [0, 1],
        [1, 0],
      ]) {
        one.multiply(sizes, transA, transB, mode);
        other.multiply(sizes, transA, transB, mode);
        const expected = other.result;
        if (!one.result.every((word, i) => word === expected[i])) return false;
      }
    }
  }
  return true;
}

/** In turn, so that what else runs on the machine slows both. @returns Milliseconds of the best round each. */
function bestTimes(trials: readonly Trial[]): readonly number[] {
  const best = trials.map(() => Infinity);
  const end = performance.now() + TRIAL_MS;
  while (performance.now() < end) {
    for (const [i, trial] of trials.entries()) {
      const start = performance.now();
      trial.multiply(TRIAL_SIZES[0], 0, 0, 0);
      trial.multiply(TRIAL_SIZES[0], 1, 0, 2);
      best[i] = Math.min(best[i], performance.now() - start);
    }
  }
  return best;
}
