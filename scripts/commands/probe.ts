/**
 * `lockstep probe`: status and speed of one engine as JSON, for the processes
 * that {@linkcode probeEngines} starts.
 *
 * @module
 */
import type { EngineName } from "../../shared/config.ts";
import { RUNTIME_DESCRIPTION } from "../../shared/runtime.ts";
import type { EngineStatus } from "../../worker/engine/engine-status.ts";
import { engineStatus, imagesPerSecond, unusable } from "../../worker/engine/engine-status.ts";

export interface ProbeOptions {
  readonly engine: EngineName;
  readonly device: number | null;
  /** Images per update of the speed test. */
  readonly batchSize: number;
  /** Into how many shards they are cut. */
  readonly shards: number;
  /** Length of the speed test in milliseconds, 0 for none. */
  readonly speedMs: number;
}

/** What a probe finds out. */
export interface ProbeResult extends EngineStatus {
  /** Of one worker, or null if that was not measured. */
  readonly imagesPerSecond: number | null;
  /** What the probe ran on, as workers will; null if it did not answer. */
  readonly runtime: string | null;
}

/** Begins the line of the result: libraries print, too. */
export const RESULT_MARK = "lockstep-probe ";

export async function probe({ engine, device, batchSize, shards, speedMs }: ProbeOptions): Promise<void> {
  const result = await probeHere(engine, async (status) =>
    status.usable && speedMs > 0
      ? await imagesPerSecond({ engine, device, batchSize, shards, minMs: speedMs })
      : null,
  );
  console.log(`${RESULT_MARK}${JSON.stringify(result)}`);
}

async function probeHere(
  engine: EngineName,
  speedOf: (status: EngineStatus) => Promise<number | null>,
): Promise<ProbeResult> {
  try {
    const status = await engineStatus(engine);
    return { ...status, imagesPerSecond: await speedOf(status), runtime: RUNTIME_DESCRIPTION };
  } catch (error) {
    return { ...unusable(engine, error), imagesPerSecond: null, runtime: RUNTIME_DESCRIPTION };
  }
}
