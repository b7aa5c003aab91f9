/**
 * Variables that an engine's libraries read when they load.
 *
 * @module
 */
import type { EngineName } from "../../shared/config.ts";
import { tensorflowEnvironment } from "./tensorflow-environment.ts";

export interface EngineResources {
  /** Index of the GPU among those that the engine can use, or null for its own choice. */
  readonly device: number | null;
}

/** Variables beside those of this process. */
export function engineEnvironment(
  engine: EngineName,
  resources: EngineResources,
): Readonly<Record<string, string>> {
  return engine === "tensorflow" ? tensorflowEnvironment(resources) : {};
}
