/**
 * What the engines of this machine can do, and which to take. Each is probed
 * in a process of its own: native libraries may crash, print, or want their
 * environment set before they load.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { workerRuntime } from "../../coordinator/local-plan.ts";
import { lockstepCommand } from "../../coordinator/runtime-command.ts";
import type { EngineName, RunConfig } from "../../shared/config.ts";
import { ENGINE_NAMES } from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";
import { unusable } from "../../worker/engine/engine-status.ts";
import { engineEnvironment } from "../../worker/engine/environment.ts";
import type { ProbeResult } from "./probe.ts";
import { RESULT_MARK } from "./probe.ts";

export interface Probing {
  /** Images per update of the speed test, of one worker. */
  readonly batchSize: number;
  /** Into how many shards they are cut. */
  readonly shards: number;
  /** What the workers will run on. */
  readonly runtime: RunConfig["runtime"];
  /** Length of the speed test in milliseconds, 0 for none. */
  readonly speedMs: number;
}

/** A probe that takes longer is given up. The first start of a CUDA library can take a minute. */
const PROBE_LIMIT_MS = 180_000;

/** One after the other, so that they do not disturb each other's speed. */
export async function probeEngines(
  engines: readonly EngineName[],
  probing: Probing,
): Promise<readonly ProbeResult[]> {
  const results: ProbeResult[] = [];
  for (const engine of engines) results.push(await probeEngine(engine, probing));
  return results;
}

async function probeEngine(engine: EngineName, probing: Probing): Promise<ProbeResult> {
  const { batchSize, shards, speedMs } = probing;
  const numbers = ["--batch-size", batchSize, "--shards", shards, "--speed-ms", speedMs].map(String);
  // As the workers will be started.
  const { command, args, variables } = lockstepCommand(workerRuntime(probing.runtime, engine, 0));
  const running = promisify(execFile)(command, [...args, "probe", "--engine", engine, ...numbers], {
    env: { ...process.env, ...variables, ...engineEnvironment(engine, { device: null }) },
    timeout: PROBE_LIMIT_MS,
    maxBuffer: 2 ** 24,
  });
  // A process that is told to end leaves none behind.
  const kill = (): void => void running.child.kill("SIGKILL");
  process.once("exit", kill);
  try {
    const { stdout } = await running;
    const line = stdout.split("\n").find((text) => text.startsWith(RESULT_MARK));
    if (line === undefined) throw new Error("Its probe printed no result");
    // Written by the same program.
    return JSON.parse(line.slice(RESULT_MARK.length)) as ProbeResult;
  } catch (error) {
    const { killed, signal, code, stderr } = error as Partial<Record<"signal" | "stderr", string>> & {
      readonly killed?: boolean;
      readonly code?: number | string;
    };
    const how =
      killed === true ? `gave no answer within ${PROBE_LIMIT_MS / 1000} s` : `ended with ${signal ?? code}`;
    const said = stderr?.trim().split("\n").at(-1) ?? "";
    const reason = new Error(
      code === undefined ? String(error) : `its probe ${how}${said === "" ? "" : `: ${said.slice(0, 300)}`}`,
    );
    return { ...unusable(engine, reason), imagesPerSecond: null, runtime: null };
  } finally {
    process.off("exit", kill);
  }
}

/** The fastest of the engines that can be used and are real, or null: `--engine auto`. */
export function fastest(results: readonly ProbeResult[]): ProbeResult | null {
  const speed = ({ imagesPerSecond }: ProbeResult): number => imagesPerSecond ?? 0;
  const candidates = results.filter(({ usable, software }) => usable && !software);
  return candidates.toSorted((a, b) => speed(b) - speed(a))[0] ?? null;
}

export interface Choice {
  readonly engine: EngineName;
  readonly status: ProbeResult;
  /** For the log: which and why. */
  readonly explanation: string;
}

/** The engines that `--engine auto` chooses from; cpu is a reference for tests. */
const AUTOMATIC: readonly EngineName[] = ENGINE_NAMES.filter((name) => name !== "cpu");

/** Length of the speed test of each engine, in milliseconds. */
export const SPEED_TEST_MS = 500;

/**
 * `--engine auto`: the fastest in a short test, of those that can be used.
 *
 * @throws {UsageError} If there is none.
 */
export async function chooseEngine(probing: Omit<Probing, "speedMs">): Promise<Choice> {
  const statuses = await probeEngines(AUTOMATIC, { ...probing, speedMs: 0 });
  const candidates = statuses.filter(({ usable, software }) => usable && !software);
  const tested =
    candidates.length > 1
      ? await probeEngines(
          candidates.map(({ engine }) => engine),
          { ...probing, speedMs: SPEED_TEST_MS },
        )
      : candidates;
  const status = fastest(tested);
  if (status === null) throw new UsageError(`Cannot choose an engine: ${statuses.map(whyNot).join("; ")}`);
  const others = [
    ...tested
      .filter((other) => other !== status)
      .map(({ engine, imagesPerSecond, reason }) =>
        imagesPerSecond === null ? `${engine}: ${reason}` : `${engine} ${Math.round(imagesPerSecond)} img/s`,
      ),
    ...statuses.filter((other) => !candidates.includes(other)).map(whyNot),
  ];
  const speed =
    status.imagesPerSecond === null
      ? ""
      : `, ${Math.round(status.imagesPerSecond)} img/s a worker in a short test`;
  const explanation = `Engine ${status.engine} (${status.description})${speed}; not ${others.join("; not ")}`;
  return { engine: status.engine, status, explanation };
}

function whyNot({ engine, reason, fix, software }: ProbeResult): string {
  const why = software ? "a software adapter, for tests" : (reason ?? "unknown");
  return `${engine}: ${why}${fix === null ? "" : ` (${fix})`}`;
}

/**
 * The status of an engine that the user named.
 *
 * @throws {UsageError} If it cannot be used here.
 */
export async function requireEngine(
  engine: EngineName,
  probing: Omit<Probing, "speedMs">,
): Promise<ProbeResult> {
  const [status] = await probeEngines([engine], { ...probing, speedMs: 0 });
  if (status.usable) return status;
  throw new UsageError(
    `Cannot use --engine ${engine}: ${status.reason}${status.fix === null ? "" : `. ${status.fix}`}. lockstep doctor shows all engines`,
  );
}
