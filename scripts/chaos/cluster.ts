/**
 * A training run in real processes, to which a chaos run does harm: on this
 * machine, where `lockstep train` starts the workers, or over the hosts of an
 * emulated switch, where each process is started by hand, and again when it ends.
 *
 * @module
 */
import { join } from "node:path";
import { KEY_VARIABLE, writeKeyFile } from "../../shared/keys.ts";
import { Journal } from "./journal.ts";
import type { Finished } from "./processes.ts";
import { CLI, goneProcesses, processesWith, Running } from "./processes.ts";
import { RunView } from "./run-view.ts";
import { SwitchedHosts } from "./switched-hosts.ts";

export const CLUSTERS = ["host", "hosts"] as const;
export type ClusterName = (typeof CLUSTERS)[number];

export interface ClusterOptions {
  readonly name: ClusterName;
  /** Folder for the run and the journal. */
  readonly dir: string;
  /** Flags of the training, without its length. */
  readonly flags: readonly string[];
  /** Workers at first. */
  readonly workers: number;
  readonly maxWorkers: number;
  readonly failureTimeoutMs: number;
  /** Time after which an ended worker that was started by hand is started again. */
  readonly restartDelayMs: () => number;
}

interface ByHand {
  readonly host: number;
  running: Running;
}

/** Nothing takes longer than this, or the run hangs. */
export const PATIENCE_MS = 120_000;
const COORDINATOR_HOST = 0;

export class Cluster {
  readonly options: ClusterOptions;
  readonly runDir: string;
  readonly journal: Journal;
  readonly view: RunView;
  /** Null if all is on this machine. */
  readonly network: SwitchedHosts | null;
  readonly #byHand = new Map<string, ByHand>();
  /** Hosts of a network need a key: the file's name is in it. */
  readonly #environment: NodeJS.ProcessEnv;
  readonly #restarts = new Set<NodeJS.Timeout>();
  #coordinator: Running | null = null;
  #bind: string;
  /** Workers that the coordinator starts. */
  #numLocal: number;
  #isEnding = false;
  /** Whether the coordinator was told to end. */
  #isTold = false;

  constructor(options: ClusterOptions) {
    const { name, dir, maxWorkers, workers } = options;
    this.options = options;
    this.runDir = join(dir, "run");
    this.journal = new Journal(join(dir, "journal.txt"));
    this.view = new RunView(this.journal, this.runDir);
    this.network = name === "hosts" ? new SwitchedHosts(maxWorkers + 1) : null;
    const keyFile = join(dir, "run.key");
    if (this.network !== null) writeKeyFile(keyFile);
    this.#environment = this.network === null ? process.env : { ...process.env, [KEY_VARIABLE]: keyFile };
    this.#numLocal = name === "hosts" ? 0 : workers;
    this.#bind =
      this.network === null
        ? "tcp://127.0.0.1:*"
        : // A port of its own tells its processes from those of another chaos run.
          `tcp://${this.network.addressOf(COORDINATOR_HOST)}:${20_000 + (process.pid % 40_000)}`;
  }

  /** How many workers there should be. */
  get targetSize(): number {
    return this.#numLocal + this.#byHand.size;
  }

  get coordinatorPid(): number {
    return this.#coordinator?.child.pid ?? 0;
  }

  async start(): Promise<void> {
    const { flags, workers } = this.options;
    await this.#startCoordinator([...flags, "--workers", `${workers}`, "--max-steps", "1000000"]);
    if (this.network !== null) for (let i = 0; i < workers; i++) this.startByHand(`worker-${i}`);
    await this.view.fullStrength(() => workers, PATIENCE_MS);
  }

  async #startCoordinator(args: readonly string[]): Promise<void> {
    const from = this.journal.end;
    this.#isTold = false;
    const command = this.network === null ? "train" : "coordinator";
    const coordinator = this.spawn(COORDINATOR_HOST, [
      ...[command, ...args, "--bind", this.#bind, "--run-dir", this.runDir],
    ]);
    this.#coordinator = coordinator;
    this.journal.follow("coordinator", coordinator);
    void coordinator.finished.then(({ code, signal }) => {
      this.journal.add("chaos", `The coordinator has ended: ${signal ?? `code ${code}`}`);
      if (!this.#isEnding && !this.#isTold && signal === null) {
        this.journal.fail(new Error(`The coordinator has ended with code ${code}`));
      }
    });
    const { match } = await this.journal.line("coordinator", / listens on (tcp:\S+)/, from, PATIENCE_MS);
    this.#bind = match[1];
  }

  /** Runs the command line on a host, or on this machine if there is no network. */
  spawn(host: number, args: readonly string[]): Running {
    const [command, full] =
      this.network === null
        ? [process.execPath, [CLI, ...args]]
        : this.network.commandOn(host, process.execPath, [CLI, ...args]);
    return new Running(command, full, { env: this.#environment });
  }

  /** Starts a worker that this class starts again when it ends, until it is let go. */
  startByHand(workerId: string): void {
    const used = new Set([...this.#byHand.values()].map(({ host }) => host));
    let host = COORDINATOR_HOST + 1;
    while (used.has(host)) host++;
    this.#byHand.set(workerId, { host, running: this.#spawnWorker(workerId, host) });
  }

  #spawnWorker(workerId: string, host: number): Running {
    const running = this.spawn(host, ["worker", "--coordinator", this.#bind, "--worker-id", workerId]);
    this.journal.follow(workerId, running);
    void running.finished.then(({ code, signal }) => {
      this.journal.add("chaos", `${workerId} has ended: ${signal ?? `code ${code}`}`);
      if (this.#isEnding) return;
      if (code === 0) {
        this.#byHand.delete(workerId);
        return this.journal.changed();
      }
      const timer = setTimeout(() => {
        this.#restarts.delete(timer);
        const worker = this.#byHand.get(workerId);
        if (worker !== undefined) worker.running = this.#spawnWorker(workerId, host);
      }, this.options.restartDelayMs());
      this.#restarts.add(timer);
    });
    return running;
  }

  /** Another process under the name of a worker, on its host; resolves when it has ended. */
  async rivalOf(workerId: string): Promise<Finished> {
    const host = this.network === null ? COORDINATOR_HOST : this.hostOf(workerId);
    const rival = this.spawn(host, ["worker", "--coordinator", this.#bind, "--worker-id", workerId]);
    this.journal.follow(`rival of ${workerId}`, rival);
    return await rival.finished;
  }

  /** @throws {Error} If the worker was not started by hand. */
  hostOf(workerId: string): number {
    const worker = this.#byHand.get(workerId);
    if (worker === undefined) throw new Error(`${workerId} is not on a host of its own`);
    return worker.host;
  }

  /** `lockstep scale`; waits until so many train. */
  async scale(workers: number): Promise<Finished> {
    const from = this.journal.end;
    const before = this.view.workers.map(([id]) => id);
    const command = this.spawn(COORDINATOR_HOST, ["scale", this.runDir, "--workers", `${workers}`]);
    this.journal.follow("scale", command);
    const finished = await command.finished;
    if (finished.code !== 0)
      throw new Error(`lockstep scale ended with code ${finished.code}: ${finished.output}`);
    await this.journal.line(
      "coordinator",
      new RegExp(`^Asked to scale to ${workers} workers`),
      from,
      PATIENCE_MS,
    );
    if (this.network !== null) {
      for (let i = 0, missing = workers - before.length; missing > 0; i++) {
        if (this.#byHand.has(`worker-${i}`)) continue;
        this.startByHand(`worker-${i}`);
        missing -= 1;
      }
    } else {
      // Those that leave are the last by name; hand-started ones end with code 0.
      const leaving = new Set(before.slice(workers));
      const handStays = [...this.#byHand.keys()].filter((id) => !leaving.has(id)).length;
      this.#numLocal = workers - handStays;
    }
    await this.journal.until(`${workers} workers by --workers`, PATIENCE_MS, () =>
      this.targetSize === workers ? true : null,
    );
    await this.view.fullStrength(() => workers, PATIENCE_MS);
    return finished;
  }

  /** kill -9 of the coordinator. Those that it has started save their state and end. */
  async killCoordinator(): Promise<void> {
    this.#coordinator?.child.kill("SIGKILL");
    await this.#coordinator?.finished;
    this.view.coordinatorGone();
    if (this.network !== null) return;
    const left = await goneProcesses(`${this.#bind} --worker-id worker-`, PATIENCE_MS);
    if (left.length > 0) throw new Error(`Workers live on without lockstep train: ${left.join(", ")}`);
  }

  /** SIGTERM to every process of the run, as when its job ends. @returns How the coordinator has ended. */
  async endJob(): Promise<Finished> {
    this.#isTold = true;
    const pids = [this.coordinatorPid, ...processesWith(`worker --coordinator ${this.#bind} `)];
    for (const pid of pids) process.kill(pid, "SIGTERM");
    const finished = await this.#coordinator?.finished;
    this.view.coordinatorGone();
    if (finished === undefined) throw new Error("There is no coordinator");
    return finished;
  }

  /** Starts the coordinator again on its address. */
  async resumeCoordinator(): Promise<void> {
    if (this.network === null) this.#numLocal = this.options.workers;
    await this.#startCoordinator(["--resume"]);
  }

  /**
   * Ends the run as a user would, after the step under way.
   *
   * @throws {Error} If a process fails, or stays.
   */
  async finish(): Promise<void> {
    this.#isEnding = true;
    const stop = await this.spawn(COORDINATOR_HOST, ["stop", this.runDir]).finished;
    if (stop.code !== 0) throw new Error(`lockstep stop ended with code ${stop.code}: ${stop.output}`);
    const processes = [this.#coordinator, ...[...this.#byHand.values()].map(({ running }) => running)];
    for (const running of processes) {
      const finished = await running?.finished;
      if (finished?.code !== 0) {
        throw new Error(`A process ended with code ${finished?.code}: ${finished?.output.slice(-2000)}`);
      }
    }
    const left = [...(await goneProcesses(this.#bind)), ...(await goneProcesses(this.runDir))];
    if (left.length > 0) throw new Error(`Processes are left over: ${left.join(", ")}`);
  }

  /** Kills what is left, and takes the network down. */
  async close(): Promise<void> {
    this.#isEnding = true;
    for (const timer of this.#restarts) clearTimeout(timer);
    const running = [this.#coordinator, ...[...this.#byHand.values()].map((worker) => worker.running)];
    for (const process of running) process?.child.kill("SIGKILL");
    for (const process of running) await process?.finished;
    // Workers of lockstep train save their state first.
    await goneProcesses(this.#bind);
    this.network?.close();
    this.view.close();
    await this.journal.close();
  }
}
