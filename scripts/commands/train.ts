/**
 * `lockstep train` and `lockstep coordinator`: the same run, with or without
 * starting worker processes on this machine.
 *
 * @module
 */
import { Coordinator } from "../../coordinator/coordinator.ts";
import { loadNewest, removeTemporaries, stateOf } from "../../coordinator/checkpoint-store.ts";
import type { Dataset } from "../../coordinator/dataset/dataset.ts";
import { loadDataset } from "../../coordinator/dataset/dataset.ts";
import type { LocalWorkers } from "../../coordinator/launch.ts";
import { launchWorkers } from "../../coordinator/launch.ts";
import type { LogFormat } from "../../coordinator/reporter.ts";
import { Reporter } from "../../coordinator/reporter.ts";
import type { RunPaths } from "../../coordinator/run-directory.ts";
import {
  createRun,
  defaultRunDirectory,
  lockRun,
  newestRun,
  runPaths,
  storeConfig,
  storedConfig,
  trimMetrics,
} from "../../coordinator/run-directory.ts";
import type { TrainingState } from "../../shared/checkpoint.ts";
import type { RunConfig } from "../../shared/config.ts";
import { parseRunConfig, totalSteps, trainingConfig, trainingDifferences } from "../../shared/config.ts";
import { CheckpointError, UsageError } from "../../shared/errors.ts";
import { IMAGE_PIXELS } from "../../shared/image.ts";
import { MODELS } from "../../shared/nn/models.ts";
import { parseEndpoint } from "../../shared/sockets.ts";
import { describeConfig, resolveConfig } from "./options.ts";

export interface TrainOptions {
  /** Configuration flags that were given, by camelCase name. */
  readonly flags: Readonly<Record<string, unknown>>;
  readonly runDir: string | null;
  readonly resume: boolean;
  readonly logFormat: LogFormat;
  /** Control endpoint to listen on. */
  readonly bind: string;
  /** Whether to start the workers here. */
  readonly launch: boolean;
}

/** Exit codes of a stopped run follow the shell's convention, 128 + signal number. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type Signal = keyof typeof SIGNALS;

/** Time that workers have to end by themselves, in milliseconds. */
const STOP_GRACE_MS = 3000;

interface Resumed {
  readonly globalStep: number;
  readonly state: TrainingState;
}

/**
 * Runs to the end.
 *
 * @returns The exit code of the process.
 * @throws {UsageError} If the run cannot begin.
 */
export async function train(options: TrainOptions): Promise<number> {
  const reporter = new Reporter(options.logFormat);
  checkBind(options.bind, reporter);
  const root = options.runDir ?? (options.resume ? await newestRun() : defaultRunDirectory(new Date()));
  const stored = options.resume ? await storedConfig(root) : null;
  const wanted = resolveConfig(options.flags, stored);
  if (stored !== null) checkResumable(stored, wanted, root);
  const dataset = await load(wanted, reporter);
  const config = parseRunConfig({ ...wanted, dataset: dataset.name });
  const endStep = totalSteps(config, dataset.numImages);
  const paths = stored === null ? await createRun(root, config) : runPaths(root);
  const unlock = await lockRun(paths);
  try {
    const checkpoint = stored === null ? null : await resumeFrom(paths, config, dataset, endStep, reporter);
    if (stored !== null) await storeConfig(paths, config);
    reporter.openFile(paths.log);
    reporter.log(
      "info",
      `Run in ${root}, steps ${checkpoint?.globalStep ?? 0} to ${endStep}:\n${describeConfig(config)}`,
    );
    return await runToEnd(options, { config, dataset, paths, endStep, checkpoint, reporter });
  } finally {
    await reporter.close();
    await unlock();
  }
}

function checkBind(bind: string, reporter: Reporter): void {
  let host: string;
  try {
    ({ host } = parseEndpoint(bind));
  } catch (error) {
    throw new UsageError(`Cannot use --bind: ${(error as Error).message}`);
  }
  if (host === "127.0.0.1" || host === "localhost" || host === "[::1]") return;
  reporter.log(
    "warn",
    `Listening on ${host} without encryption or authentication: anybody who reaches this port can join. Use trusted networks only`,
  );
}

async function load(config: RunConfig, reporter: Reporter): Promise<Dataset> {
  let shownPercent = -1;
  const dataset = await loadDataset({
    dataset: config.dataset,
    dataDir: config.dataDir,
    verify: config.verifyData,
    onLog: (level, text) => reporter.log(level, text),
    onProgress: ({ file, receivedBytes: received, totalBytes: total }) => {
      if (total === null) return;
      const percent = Math.floor((10 * received) / total) * 10;
      if (percent === shownPercent) return;
      shownPercent = percent;
      reporter.log("info", `Downloading ${file}: ${percent} % of ${(total / 1e6).toFixed(1)} MB`);
    },
  });
  reporter.log("info", `Data: ${dataset.numImages} images, ${dataset.source}`);
  return dataset;
}

function checkResumable(stored: RunConfig, wanted: RunConfig, root: string): void {
  const differences = trainingDifferences(trainingConfig(stored), trainingConfig(wanted));
  if (differences.length === 0) return;
  throw new UsageError(
    `Cannot resume ${root} with other values of what decides its bits (stored and given):\n  ${differences.join("\n  ")}\nLeave these flags away, or begin a new run`,
  );
}

async function resumeFrom(
  paths: RunPaths,
  config: RunConfig,
  dataset: Dataset,
  endStep: number,
  reporter: Reporter,
): Promise<Resumed | null> {
  await removeTemporaries(paths.checkpoints);
  const model = MODELS[config.model]({ latentDim: config.latentDim, imagePixels: IMAGE_PIXELS });
  let loaded;
  try {
    loaded = await loadNewest(paths.checkpoints, (reason) =>
      reporter.log("warn", `${reason}. Trying the one before it`),
    );
  } catch (error) {
    if (
      !(error instanceof CheckpointError) ||
      error.incompatible ||
      !error.message.startsWith("Cannot find a checkpoint")
    ) {
      throw error;
    }
    reporter.log("warn", `${error.message}: the run begins again at step 0`);
    await trimMetrics(paths, 0);
    return null;
  }
  const { manifest, path } = loaded;
  if (manifest.dataset.sha256 !== dataset.sha256) {
    throw new UsageError(
      `Cannot resume ${paths.root} on other data: the checkpoint was trained on ${manifest.dataset.name} (SHA-256 ${manifest.dataset.sha256}), this is ${dataset.name} (${dataset.sha256})`,
    );
  }
  const differences = trainingDifferences(
    trainingConfig(parseRunConfig(manifest.config)),
    trainingConfig(config),
  );
  if (differences.length > 0) {
    throw new CheckpointError(
      `Cannot use ${path} as its configuration differs:\n  ${differences.join("\n  ")}`,
    );
  }
  const state = stateOf(loaded, model);
  const { globalStep } = manifest;
  if (globalStep >= endStep) {
    throw new UsageError(
      `Cannot train further as the run is at step ${globalStep} and ends at ${endStep}: raise --epochs or --max-steps`,
    );
  }
  reporter.log("info", `Resuming from ${path}`);
  await trimMetrics(paths, globalStep);
  return { globalStep, state };
}

interface Prepared {
  readonly config: RunConfig;
  readonly dataset: Dataset;
  readonly paths: RunPaths;
  readonly endStep: number;
  readonly checkpoint: Resumed | null;
  readonly reporter: Reporter;
}

async function runToEnd({ bind, launch }: TrainOptions, prepared: Prepared): Promise<number> {
  const { config, paths, reporter } = prepared;
  let workers: LocalWorkers | null = null;
  let signalled: Signal | null = null;
  const coordinator = new Coordinator({
    ...prepared,
    bind,
    onListening: (endpoint, onExit) => {
      if (!launch) {
        reporter.log("info", `On each machine: npx lockstep worker --coordinator ${endpoint}`);
        return;
      }
      workers = launchWorkers({
        numWorkers: config.workers,
        endpoint: endpoint.replace("//0.0.0.0:", "//127.0.0.1:"),
        onLine: (workerId, line) => reporter.worker(workerId, line),
        onExit,
      });
    },
  });
  const onSignal = (signal: Signal): void => {
    if (signalled !== null) {
      workers?.killNow();
      process.exit(SIGNALS[signal]);
    }
    signalled = signal;
    reporter.log(
      "info",
      `${signal}: finishing the steps under way and writing a checkpoint; once more to stop at once`,
    );
    coordinator.requestStop();
  };
  const signals = Object.keys(SIGNALS) as Signal[];
  for (const signal of signals) process.on(signal, onSignal);
  try {
    const outcome = await coordinator.run();
    await (workers as LocalWorkers | null)?.stop(STOP_GRACE_MS);
    const resume = `npx lockstep ${launch ? "train" : "coordinator"} --resume --run-dir ${paths.root}`;
    if (!outcome.ok) {
      reporter.log("error", outcome.reason);
      const advice =
        outcome.savedStep === null
          ? "No checkpoint had been written yet"
          : `Last good checkpoint: step ${outcome.savedStep}. To continue from it: ${resume}`;
      reporter.log("error", advice);
      return 1;
    }
    reporter.log("info", `${outcome.reason}. Results in ${paths.root}`);
    if (signalled === null) return 0;
    if (outcome.savedStep !== null) reporter.log("info", `To continue: ${resume}`);
    return SIGNALS[signalled as Signal];
  } finally {
    (workers as LocalWorkers | null)?.killNow();
    for (const signal of signals) process.off(signal, onSignal);
  }
}
