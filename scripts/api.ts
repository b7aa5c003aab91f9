/**
 * What the package exports: configuration, models, checkpoints, and training
 * from a program. The command line is built from the same parts.
 *
 * @module
 */
export { train } from "./commands/train.ts";
export type { TrainOptions } from "./commands/train.ts";
export { parseRunConfig } from "../shared/config.ts";
export type { RunConfig, TrainingConfig } from "../shared/config.ts";
export { CheckpointError, DatasetError, UsageError } from "../shared/errors.ts";
export type { CheckpointFault } from "../shared/errors.ts";
export { MODELS } from "../shared/nn/models.ts";
export type { Model, ModelName } from "../shared/nn/models.ts";
export { OBJECTIVES } from "../shared/nn/objectives.ts";
export type { Objective, ObjectiveName } from "../shared/nn/objectives.ts";
export { loadCheckpoint, loadNewest, stateOf } from "../coordinator/checkpoint-store.ts";
export type { LoadedCheckpoint } from "../coordinator/checkpoint-store.ts";
export type { Manifest, TrainingState } from "../shared/checkpoint.ts";
export { loadEngine } from "../worker/engine/engine.ts";
export type { Engine, LoadedEngine } from "../worker/engine/engine.ts";
export { runWorker } from "../worker/worker.ts";
export type { WorkerOptions } from "../worker/worker.ts";
