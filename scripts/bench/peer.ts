/**
 * PyTorch beside us: finds an interpreter that has it, and runs peer_torch.py
 * on one thread per process.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { z } from "zod";
import { describeError, UsageError } from "../../shared/errors.ts";
import type { BenchOptions } from "./section.ts";

/** Said where there is none. */
export const NO_PEER =
  "no PyTorch: install it (`pip install torch`, or `apt install python3-torch libopenblas0-pthread`) or name an interpreter that has it with --python";

/** A column of the peer where there is none. */
export const NO_PEER_CELL = "no PyTorch";

const INTERPRETERS = ["python3", "/usr/bin/python3", "python"];

const SCRIPT = fileURLToPath(new URL("../../../scripts/bench/peer_torch.py", import.meta.url));

const ONE_THREAD = { OMP_NUM_THREADS: "1", OPENBLAS_NUM_THREADS: "1", MKL_NUM_THREADS: "1" };

const Step = z.object({ msPerStep: z.number().positive() });
const AllReduce = z.object({ ms: z.number().positive() });
const MatrixProducts = z.object({ seconds: z.array(z.number().positive()) });

const execute = promisify(execFile);

export interface StepRequest {
  /** Images per step and process. */
  readonly batchSize: number;
  /** More than one: DistributedDataParallel over gloo. */
  readonly processes: number;
  /** Whether the discriminator's step stops at the fake images; always so with several processes. */
  readonly lean: boolean;
  /** "cpu" (the default, on one thread), or "cuda". With one process. */
  readonly device?: "cpu" | "cuda";
  /** Whether the step is one CUDA graph. */
  readonly graph?: boolean;
}

/** op(A) (M,K) . op(B) (K,N): M, N, K, transA, transB. */
export type ProductSizes = readonly [M: number, N: number, K: number, transA: boolean, transB: boolean];

export class Peer {
  readonly version: string;
  readonly #python: string;

  constructor(python: string, version: string) {
    this.#python = python;
    this.version = version;
  }

  /** Median milliseconds of a step of the reference GAN. */
  async stepMs(
    { batchSize, processes, lean, device = "cpu", graph = false }: StepRequest,
    options: Pick<BenchOptions, "stepsPerBlock" | "blocks" | "warmupSteps" | "dataDir">,
  ): Promise<number> {
    const { stepsPerBlock, blocks, warmupSteps, dataDir } = options;
    const { msPerStep } = await this.#run(Step, [
      "step",
      ...["--batch", `${batchSize}`, "--processes", `${processes}`],
      ...["--steps", `${stepsPerBlock}`, "--blocks", `${blocks}`, "--warmup", `${warmupSteps}`],
      ...["--device", device, ...(graph ? ["--graph"] : []), ...(lean ? ["--lean"] : [])],
      ...(dataDir === null ? [] : ["--data", dataDir]),
    ]);
    return msPerStep;
  }

  /** Whether this PyTorch computes on a GPU here. */
  async hasCuda(): Promise<boolean> {
    const { stdout } = await execute(this.#python, ["-c", "import torch; print(torch.cuda.is_available())"]);
    return stdout.trim() === "True";
  }

  /** Median milliseconds of a sum over processes, by gloo. */
  async allReduceMs(processes: number, floats: number, repetitions: number): Promise<number> {
    const sizes = ["--processes", `${processes}`, "--floats", `${floats}`];
    return (await this.#run(AllReduce, ["all-reduce", ...sizes, "--repetitions", `${repetitions}`])).ms;
  }

  /** Seconds of each product, the best of several repetitions. */
  async productSeconds(shapes: readonly ProductSizes[], repetitions: number): Promise<readonly number[]> {
    const sizes = ["--shapes", JSON.stringify(shapes), "--repetitions", `${repetitions}`];
    return (await this.#run(MatrixProducts, ["mm", ...sizes])).seconds;
  }

  async #run<T>(schema: z.ZodType<T>, args: readonly string[]): Promise<T> {
    const env = { ...process.env, ...ONE_THREAD };
    const { stdout } = await execute(this.#python, [SCRIPT, ...args], { env, maxBuffer: 2 ** 26 });
    return schema.parse(JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? ""));
  }
}

/**
 * @param wanted Interpreter that the user named, or null to look for one.
 * @returns Null if there is no PyTorch here.
 * @throws {UsageError} If the interpreter that the user named has none.
 */
export async function findPeer(wanted: string | null): Promise<Peer | null> {
  for (const python of wanted === null ? INTERPRETERS : [wanted]) {
    try {
      const { stdout } = await execute(python, ["-c", "import torch; print(torch.__version__)"]);
      return new Peer(python, stdout.trim());
    } catch (error) {
      if (wanted !== null) {
        throw new UsageError(
          `Cannot use --python ${wanted} as it must import torch: ${describeError(error)}`,
        );
      }
    }
  }
  return null;
}
