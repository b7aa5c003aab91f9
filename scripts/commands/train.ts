/**
 * `lockstep train` and `lockstep coordinator`: the same run, with or without
 * starting worker processes on this machine.
 *
 * @module
 */
import { hostname } from "node:os";
import { resolve } from "node:path";
import { Coordinator } from "../../coordinator/coordinator.ts";
import { loadNewest, removeTemporaries, stateOf } from "../../coordinator/checkpoint-store.ts";
import type { Dataset } from "../../coordinator/dataset/dataset.ts";
import { loadDataset } from "../../coordinator/dataset/dataset.ts";
import type { LocalWorkers } from "../../coordinator/launch.ts";
import { launchWorkers, localWorkerIds } from "../../coordinator/launch.ts";
import { assignGpus, planLocalWorkers, selectGpus } from "../../coordinator/local-plan.ts";
import { lockstepCommand } from "../../coordinator/runtime-command.ts";
import type { LogFormat } from "../../coordinator/reporter.ts";
import { Reporter } from "../../coordinator/reporter.ts";
import type { HeldRun } from "../../coordinator/held-run.ts";
import { holdNewRun, holdRun } from "../../coordinator/held-run.ts";
import { lastRecordedStep, trimMetrics } from "../../coordinator/metrics-file.ts";
import { checkNoRun, lastTrainedRun, storedConfig } from "../../coordinator/run-directory.ts";
import { isAddressSpaceShort, limitText, NO_TRAP_HANDLER } from "../../shared/address-space.ts";
import type { TrainingState } from "../../shared/checkpoint.ts";
import type { RunConfig } from "../../shared/config.ts";
import { parseRunConfig, totalSteps, trainingConfig, trainingDifferences } from "../../shared/config.ts";
import { shellCommand } from "../../shared/command-line.ts";
import { requireKey } from "../../shared/door.ts";
import { CheckpointError, DatasetError, UsageError } from "../../shared/errors.ts";
import { IMAGE_PIXELS } from "../../shared/image.ts";
import type { NamedKey, RunKey } from "../../shared/keys.ts";
import { fingerprint, keyOf } from "../../shared/keys.ts";
import { MODELS } from "../../shared/nn/models.ts";
import { fromHere, isLoopback, parseEndpoint } from "../../shared/endpoint.ts";
import { chooseEngine, requireEngine } from "./engines.ts";
import { describeConfig, resolveConfig, TRAIN_BIND } from "./options.ts";
import type { Signal } from "./signals.ts";
import { EXIT_AGAIN, exitCodeOf, signals } from "./signals.ts";

export interface TrainOptions {
  /** Configuration flags that were given, by camelCase name. */
  readonly flags: Readonly<Record<string, unknown>>;
  readonly runDir: string | null;
  readonly resume: boolean;
  /** Whether a resumed run whose checkpoints are gone begins again at step 0. */
  readonly restart: boolean;
  readonly logFormat: LogFormat;
  /** Control endpoint to listen on. */
  readonly bind: string;
  /** Key file, or null for that of the environment, if there is one. */
  readonly key: string | null;
  /** Whether to listen without a key where others may reach it. */
  readonly insecure: boolean;
  /** Whether to start the workers here. */
  readonly launch: boolean;
}

/** Time that workers have to end by themselves, in milliseconds. */
const STOP_GRACE_MS = 3000;
/** The same after a failure: workers may hold a state that only they can save. */
const SAVE_GRACE_MS = 10_000;

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
  const named = keyOf(options.key);
  checkBind(options, named?.key ?? null, reporter);
  const root = options.runDir ?? (options.resume ? await lastTrainedRun() : null);
  const stored = options.resume && root !== null ? await storedConfig(root) : null;
  // What is wrong is said before engines and data are tried; nothing is made yet.
  if (stored === null && root !== null) await checkNoRun(root);
  const { config: wanted, gpus } = await resolveMachine(options, stored, reporter);
  if (stored !== null && root !== null) checkResumable(stored, wanted, root);
  // A runtime that is not here must not leave an empty run behind.
  if (options.launch) for (const { runtime } of planLocalWorkers(wanted, gpus)) lockstepCommand(runtime);
  const dataset = await load(wanted, stored !== null && options.flags.dataDir === undefined, reporter);
  const config = parseRunConfig({ ...wanted, dataset: dataset.name });
  const endStep = totalSteps(config, dataset.numImages);
  const say = (level: "info" | "warn", text: string): void => reporter.log(level, text);
  const isNew = stored === null || root === null;
  // Until here a signal ends the process at once: so it does while a lock is watched, but no folder may be left behind.
  if (isNew) signals.defer();
  const run = isNew ? await holdNewRun(root, say) : await holdRun(root, say);
  signals.defer();
  try {
    const checkpoint =
      stored === null ? null : await resumeFrom(run, config, dataset, endStep, options, reporter);
    // Workers may hold more than the checkpoint: what is recorded is forgotten only when training goes back.
    const recordedStep = await lastRecordedStep(run.paths.metrics);
    const onBound = async (): Promise<void> => {
      await run.begin(config);
      await trimMetrics(run.paths.metrics);
      reporter.openFile(run.paths.log, run.isOurs);
      reporter.log(
        "info",
        `Run in ${run.paths.root}, steps ${checkpoint?.globalStep ?? 0} to ${endStep}:\n${describeConfig(config)}`,
      );
      if (named !== null) reporter.log("info", `All connections need key ${fingerprint(named.key)}`);
    };
    return await runToEnd(options, {
      ...{ named, config, dataset, run, endStep, checkpoint, recordedStep, onBound, reporter, gpus },
      joinCommand: (endpoint) => joinCommand(endpoint, options, named),
    });
  } finally {
    await reporter.close();
    await run.release();
  }
}

function checkBind({ bind, insecure }: TrainOptions, key: RunKey | null, reporter: Reporter): void {
  let host: string;
  try {
    ({ host } = parseEndpoint(bind));
  } catch (error) {
    throw new UsageError(`Cannot use --bind: ${(error as Error).message}`);
  }
  requireKey(host, "--bind", key, insecure);
  if (key !== null || isLoopback(host)) return;
  reporter.log(
    "warn",
    `Listening on ${host} without encryption or authentication: anybody who reaches this port can join. Use trusted networks only`,
  );
}

/** @param isStored Whether the run has named the data, and the user has not. */
async function load(config: RunConfig, isStored: boolean, reporter: Reporter): Promise<Dataset> {
  let shownPercent = -1;
  const loading = loadDataset({
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
  const dataset = await loading.catch((error: unknown) => {
    if (!(error instanceof DatasetError) || !isStored || config.dataDir === null) throw error;
    throw new DatasetError(
      `${error.message}; if the run's data have moved, name their folder with --data-dir`,
    );
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
  run: HeldRun,
  config: RunConfig,
  dataset: Dataset,
  endStep: number,
  { restart }: TrainOptions,
  reporter: Reporter,
): Promise<Resumed | null> {
  const { paths, savedStep } = run;
  await removeTemporaries(paths.checkpoints);
  const model = MODELS[config.model]({ latentDim: config.latentDim, imagePixels: IMAGE_PIXELS });
  let loaded;
  try {
    loaded = await loadNewest(paths.checkpoints, (reason) =>
      reporter.log("warn", `${reason}. Trying the one before it`),
    );
  } catch (error) {
    if (!(error instanceof CheckpointError) || error.reason !== "none") throw error;
    if (savedStep !== null && !restart) {
      throw new UsageError(
        `Cannot resume ${paths.root} as its checkpoints are gone, the newest of step ${savedStep}: put them back into ${paths.checkpoints}, or add --restart to train again from step 0`,
      );
    }
    reporter.log("warn", `${error.message}: the run begins again at step 0`);
    return null;
  }
  const { manifest, path } = loaded;
  if (restart) {
    throw new UsageError(
      `Cannot restart ${paths.root} as it has the checkpoint ${path}: leave --restart away to go on from it, or begin a run with another --run-dir`,
    );
  }
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
  if (savedStep !== null && globalStep < savedStep) {
    reporter.log(
      "warn",
      `The checkpoint of step ${savedStep} is gone or damaged: going on from step ${globalStep}`,
    );
  }
  if (globalStep >= endStep) {
    throw new UsageError(
      `Cannot train further as the run is at step ${globalStep} and ends at ${endStep}: raise --epochs or --max-steps`,
    );
  }
  reporter.log("info", `Resuming from ${path}`);
  return { globalStep, state };
}

/** What a user starts one more worker with. An address of all interfaces is none that others can connect to. */
function joinCommand(endpoint: string, { insecure }: TrainOptions, named: NamedKey | null): string {
  const address = endpoint.replace(/\/\/(0\.0\.0\.0|\[::\]):/, `//${hostname()}:`);
  return shellCommand(["lockstep", "worker", "--coordinator", address, ...doorFlags(named, insecure)]);
}

/** What continues a run, from any working directory, where its workers may still look for it. */
function resumeCommand(
  { bind, insecure, launch }: TrainOptions,
  root: string,
  named: NamedKey | null,
): string {
  const listening = launch && bind === TRAIN_BIND ? [] : ["--bind", bind];
  const words = [launch ? "train" : "coordinator", "--resume", "--run-dir", resolve(root), ...listening];
  return shellCommand(["lockstep", ...words, ...doorFlags(named, insecure)]);
}

function doorFlags(named: NamedKey | null, insecure: boolean): readonly string[] {
  if (named !== null) return ["--key", resolve(named.file)];
  return insecure ? ["--insecure"] : [];
}

interface Prepared {
  readonly named: NamedKey | null;
  readonly config: RunConfig;
  readonly dataset: Dataset;
  readonly run: HeldRun;
  readonly endStep: number;
  readonly checkpoint: Resumed | null;
  readonly recordedStep: number;
  readonly onBound: () => Promise<void>;
  readonly joinCommand: (endpoint: string) => string;
  readonly reporter: Reporter;
  /** GPUs of the local workers, as indices into those that the engine can use. */
  readonly gpus: readonly number[];
}

async function runToEnd(options: TrainOptions, prepared: Prepared): Promise<number> {
  const { bind, launch, insecure } = options;
  const { named, config, run, reporter, gpus } = prepared;
  let workers: LocalWorkers | null = null;
  let signalled: Signal | null = null;
  const localWorkers = launch ? localWorkerIds(config.workers) : [];
  const coordinator = new Coordinator({
    ...prepared,
    bind,
    key: named?.key ?? null,
    localWorkers,
    onListening: (endpoint, onExit) => {
      if (!launch) {
        const where = named === null ? "On each machine" : "On each machine, with its copy of the key file";
        reporter.log("info", `${where}: ${prepared.joinCommand(endpoint)}`);
        return;
      }
      const plan = planLocalWorkers(config, gpus);
      workers = launchWorkers({
        // Those that come later share what the first ones have.
        planOf: (workerId) => plan[Number(workerId.replace("worker-", "")) % plan.length],
        endpoint: fromHere(endpoint),
        keyFile: named?.file ?? null,
        insecure,
        onLine: (workerId, line) => reporter.worker(workerId, line),
        onExit,
      });
    },
    onLaunch: (started, delayMs) => workers?.launch(started, delayMs),
    onKill: (process) => workers?.kill(process),
  });
  const unlisten = signals.listen({
    onTold: (signal) => {
      signalled = signal;
      reporter.log(
        "info",
        `${signal}: finishing the step under way and writing a checkpoint; once more to stop at once`,
      );
      coordinator.requestStop();
    },
    onAtOnce: () => workers?.killNow(),
    onHangUp: () =>
      reporter.log("info", "SIGHUP: the terminal has closed. Going on, as nothing here uses it"),
  });
  try {
    const outcome = await coordinator.run();
    await (workers as LocalWorkers | null)?.stop(outcome.ok ? STOP_GRACE_MS : SAVE_GRACE_MS);
    const resume = resumeCommand(options, run.paths.root, named);
    if (!outcome.ok) {
      reporter.log("error", outcome.reason);
      const advice =
        outcome.savedStep === null
          ? "No checkpoint had been written yet"
          : `Last good checkpoint: step ${outcome.savedStep}. To continue from it: ${resume}`;
      reporter.log("error", advice);
      return 1;
    }
    const isComplete = outcome.globalStep >= prepared.endStep;
    const saved = isComplete || outcome.savedStep === null ? "" : ", saved";
    reporter.log("info", `${outcome.reason}${saved}. Results in ${run.paths.root}`);
    if (isComplete) return 0;
    if (outcome.savedStep !== null) reporter.log("info", `To continue: ${resume}`);
    if (signalled !== null) return exitCodeOf(signalled);
    return outcome.again ? EXIT_AGAIN : 0;
  } finally {
    (workers as LocalWorkers | null)?.killNow();
    unlisten();
  }
}

interface Resolved {
  readonly config: RunConfig;
  readonly gpus: readonly number[];
}

/**
 * The configuration, with an engine and GPUs of this machine in the place of "auto" and "all".
 *
 * @throws {UsageError} If the engine or a GPU cannot be used here.
 */
async function resolveMachine(
  { flags, launch }: TrainOptions,
  stored: RunConfig | null,
  reporter: Reporter,
): Promise<Resolved> {
  const given = stored !== null && flags.engine === "auto" ? { ...flags, engine: stored.engine } : flags;
  const isAuto = stored === null && (given.engine ?? "auto") === "auto";
  // What is wrong with other flags is said before engines are tried.
  const draft = resolveConfig(isAuto ? { ...given, engine: "wasm" } : given, stored);
  const ofOneWorker = (total: number): number => Math.max(1, Math.round(total / draft.workers));
  const probing = {
    batchSize: ofOneWorker(draft.globalBatchSize),
    shards: ofOneWorker(draft.shards),
    runtime: draft.runtime,
  };
  let gpuNames: readonly string[] = [];
  let { engine } = draft;
  if (isAuto) {
    const choice = await chooseEngine(probing);
    reporter.log("info", choice.explanation);
    engine = choice.engine;
    gpuNames = choice.status.gpus;
  } else if (launch && (engine === "tensorflow" || engine === "webgpu" || isAddressSpaceShort())) {
    gpuNames = (await requireEngine(engine, probing)).gpus;
  }
  if (!launch) return { config: resolveConfig({ ...given, engine }, stored), gpus: [] };
  const gpus = selectGpus(draft.gpus, engine, gpuNames);
  const perGpu = draft.workersPerGpu ?? 1;
  const workers = given.workers ?? (gpus.length > 0 && stored === null ? gpus.length * perGpu : undefined);
  const config = resolveConfig({ ...given, engine, ...(workers === undefined ? {} : { workers }) }, stored);
  if (stored === null && engine === "tensorflow" && config.shards > config.workers) {
    reporter.log(
      "info",
      `Engine tensorflow computes shards one by one: --shards ${config.workers}, as many as workers, is faster than ${config.shards}, with other bits and no room for more workers`,
    );
  }
  if (launch && isAddressSpaceShort()) {
    reporter.log(
      "warn",
      `Workers run on Node with ${NO_TRAP_HANDLER}, which is slower and gives the same bits, as processes here have ${limitText()}: raise it (ulimit -v unlimited)`,
    );
  }
  // Too many workers for the GPUs are an error before anything is written.
  assignGpus(config.workers, gpus, config.workersPerGpu);
  return { config, gpus };
}
