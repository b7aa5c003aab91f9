/**
 * The commands and their flags, read and run.
 *
 * @module
 */
import leven from "leven";
import type { Argv } from "yargs";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { MAX_SHARDS } from "../shared/config.ts";
import { UsageError } from "../shared/errors.ts";
import { columnsOf, kebab } from "../shared/text.ts";
import { PACKAGE_VERSION } from "../shared/version.ts";
import { configFileWords } from "./commands/config-file.ts";
import {
  checkSeconds,
  checkWhole,
  COMMAND_FLAGS,
  DOCTOR_OPTIONS,
  DOWNLOAD_OPTIONS,
  GENERATE_OPTIONS,
  givenFlags,
  INSPECT_OPTIONS,
  KEYGEN_OPTIONS,
  PROBE_OPTIONS,
  RUN_OPTIONS,
  SCALE_OPTIONS,
  SHELL_OPTIONS,
  STATUS_OPTIONS,
  STOP_OPTIONS,
  TRAIN_BIND,
  WORKER_OPTIONS,
} from "./commands/options.ts";
import { failureOf } from "./failure.ts";
import { PLAIN_PARSING, plainWords } from "./plain-words.ts";

const RUN_UNDER_WAY = {
  type: "string",
  demandOption: true,
  describe: "Folder of a run, or its coordinator's address as tcp://host:port",
} as const;

/** Far more than a machine has GPUs. */
const MAX_DEVICE = 1023;

/** Where `lockstep coordinator` listens unless told. */
const DEFAULT_PORT = 29555;

const words = hideBin(process.argv);
/** Empty if none is named. */
const command = words.find((word) => Object.hasOwn(COMMAND_FLAGS, word)) ?? "";
const flags = COMMAND_FLAGS[command] ?? {};

// Commands load their modules when they run: --help must not wait for tfjs.
const parser = yargs()
  .scriptName("lockstep")
  .usage(
    "$0 <command>\n\nDistributed data-parallel training of GANs: same seed, same bits, for any number of workers.",
  )
  .parserConfiguration(PLAIN_PARSING)
  .command(
    "train",
    "Train with worker processes on this machine",
    (command) =>
      runOptions(command)
        .default("bind", TRAIN_BIND)
        .example("$0 train", "Reference model, as many workers as cores")
        .example("$0 train --workers 4 --epochs 20 --dataset mnist", "Real MNIST, 20 epochs")
        .example("$0 train --resume --workers 2", "Continue the newest run with two workers, same bits")
        .example("$0 train --config run.yaml --seed 7", "Flags from a file, one of them overridden"),
    async (argv) => trainWith(argv, true),
  )
  .command(
    "coordinator",
    "Coordinate workers that are started by hand, on this or other machines",
    (command) =>
      runOptions(command)
        .default("bind", `tcp://127.0.0.1:${DEFAULT_PORT}`)
        .example(
          "$0 coordinator --workers 4 --bind tcp://10.0.0.1:29555 --key run.key",
          "Wait for four workers, then train",
        ),
    async (argv) => trainWith(argv, false),
  )
  .command(
    "worker",
    "Join a coordinator",
    (command) =>
      command
        .options(WORKER_OPTIONS)
        .example(
          "$0 worker --coordinator tcp://10.0.0.1:29555 --key run.key",
          "One worker; start as many as the run waits for",
        ),
    async (argv) => {
      checkSeconds("connect-timeout", argv.connectTimeout);
      if (argv.device !== undefined) checkWhole("device", argv.device, 0, MAX_DEVICE);
      const { worker } = await import("./commands/worker.ts");
      return exit(
        await worker({
          coordinator: argv.coordinator,
          workerId: argv.workerId ?? null,
          dataHost: argv.dataHost ?? null,
          key: argv.key ?? null,
          insecure: argv.insecure,
          device: argv.device ?? null,
          connectTimeoutSeconds: argv.connectTimeout,
          managed: argv.managed ?? null,
        }),
      );
    },
  )
  .command(
    "generate <run>",
    "Draw images with a trained generator",
    (command) =>
      command
        .positional("run", {
          type: "string",
          demandOption: true,
          describe: "Folder of a run or a checkpoint",
        })
        .options(GENERATE_OPTIONS)
        .example("$0 generate runs/latest --count 64 --seed 0 --out grid.png", "An 8 x 8 grid"),
    async ({ run, count, seed, out, engine }) => {
      const { generate } = await import("./commands/generate.ts");
      await generate({ run, count, seed, out, engine: engine ?? null });
    },
  )
  .command(
    "inspect <run>",
    "Show configuration, step, parameter hashes and checkpoints of a run",
    (command) =>
      command
        .positional("run", {
          type: "string",
          demandOption: true,
          describe: "Folder of a run or a checkpoint",
        })
        .options(INSPECT_OPTIONS),
    async ({ run, json }) => {
      const { inspect } = await import("./commands/inspect.ts");
      await inspect(run, json);
    },
  )
  .command(
    "download",
    "Fetch MNIST or Fashion-MNIST",
    (command) => command.options(DOWNLOAD_OPTIONS),
    async ({ dataset, dataDir, mirror }) => {
      const { download } = await import("./commands/download.ts");
      await download({ dataset, dataDir: dataDir ?? null, mirrors: mirror ?? [] });
    },
  )
  .command(
    "status <run>",
    "Show the members, speed and last faults of a run that is under way",
    (command) => command.positional("run", RUN_UNDER_WAY).options(STATUS_OPTIONS),
    async ({ run, key = null, json }) => {
      await (await import("./commands/remote.ts")).status({ run, key }, json);
      exit(0);
    },
  )
  .command(
    "scale <run>",
    "Change the number of workers of a run that is under way; its bits stay the same",
    (command) =>
      command
        .positional("run", RUN_UNDER_WAY)
        .options(SCALE_OPTIONS)
        .example("$0 scale runs/latest --workers 4", "Four workers from now on"),
    async ({ run, key = null, workers }) => {
      checkWhole("workers", workers, 1, MAX_SHARDS);
      await (await import("./commands/remote.ts")).command({ run, key }, { type: "scale", workers });
      exit(0);
    },
  )
  .command(
    "stop <run>",
    "End a run with the step under way, and save its state",
    (command) => command.positional("run", RUN_UNDER_WAY).options(STOP_OPTIONS),
    async ({ run, key = null }) => {
      await (await import("./commands/remote.ts")).command({ run, key }, { type: "stop" });
      exit(0);
    },
  )
  .command(
    "keygen",
    "Write a new key file for a run: whoever has a copy is a member, nobody else is",
    (command) =>
      command
        .options(KEYGEN_OPTIONS)
        .example("$0 keygen --out run.key", "Copy it to each machine, then give --key run.key there"),
    async ({ out }) => {
      (await import("./commands/keygen.ts")).keygen(out);
    },
  )
  .command(
    "doctor",
    "Show runtimes, engines with their speed, GPUs, and what to do where one is missing",
    (command) => command.options(DOCTOR_OPTIONS),
    async ({ json }) => {
      const { doctor } = await import("./commands/doctor.ts");
      exit(await doctor(json));
    },
  )
  .command(
    "probe",
    false,
    (command) => command.options(PROBE_OPTIONS),
    async ({ engine, device, batchSize, shards, speedMs }) => {
      const { probe } = await import("./commands/probe.ts");
      await probe({ engine, device: device ?? null, batchSize, shards, speedMs });
      exit(0);
    },
  )
  .completion("completion", "Print a script that completes commands and flags in the shell")
  .demandCommand(1, "Cannot run without a command: see lockstep --help")
  .recommendCommands()
  .strict()
  .version(PACKAGE_VERSION)
  .help()
  .alias("help", "h")
  .wrap(Math.min(110, columnsOf(process.stdout, 110)))
  .exitProcess(false)
  .fail((message, error) => {
    // YError is yargs' own word on what the user typed; its class is not exported.
    throw error !== undefined && error.name !== "YError"
      ? error
      : new UsageError(explain(error?.message ?? message));
  });

/** Those that go on when nobody reads what they print: their log has it, or their coordinator. */
const GOES_ON: readonly string[] = ["train", "coordinator", "worker"];

process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (GOES_ON.includes(command)) return;
    // A reader that has seen enough, as head, is no failure of ours: the exit code is that of other programs.
    if (error.code === "EPIPE") process.exit(141);
    const { code, errno } = error;
    fail(Object.assign(new Error(`Cannot print: ${error.message}`), { code, errno }));
  });
}

let plain: readonly string[] = words;
let hasFailed = false;
try {
  plain = plainWords(words, flags, (typed) => configFileWords(typed, flags));
  await parser.parseAsync([...plain]);
} catch (error) {
  fail(error);
}

function fail(error: unknown): void {
  // Also nowhere to say it.
  if (hasFailed) process.exit(1);
  hasFailed = true;
  const { text, exitCode } = failureOf(error, plain, flags);
  console.error(`lockstep: ${text}`);
  exit(exitCode);
}

function runOptions<T>(command: Argv<T>) {
  return command.options(RUN_OPTIONS).options(SHELL_OPTIONS);
}

type RunArguments = Awaited<ReturnType<typeof runOptions<object>>["argv"]>;

async function trainWith(argv: RunArguments, launch: boolean): Promise<void> {
  const { train } = await import("./commands/train.ts");
  exit(
    await train({
      flags: givenFlags(argv),
      runDir: argv.runDir ?? null,
      resume: argv.resume ?? false,
      restart: argv.restart ?? false,
      logFormat: argv.logFormat,
      bind: String(argv.bind),
      key: argv.key ?? null,
      insecure: argv.insecure,
      launch,
    }),
  );
}

/** Ends the process once output is written: sockets and threads of libraries must not keep it. */
function exit(code: number): void {
  // A failure to print, which is told after the write, counts more than what was printed.
  if (process.exitCode === undefined || process.exitCode === 0) process.exitCode = code;
  process.stdout.write("", () => process.stderr.write("", () => setImmediate(() => process.exit())));
}

/** yargs' message, with the nearest known flag for every unknown one. */
function explain(message: string): string {
  const unknown = /^Unknown arguments?: (.+)$/.exec(message);
  if (unknown === null) return message;
  const known = [...Object.keys(flags), "help", "version"];
  // yargs names a flag both in camelCase and in kebab-case.
  const names = [...new Set(unknown[1].split(", ").map(kebab))];
  const lines = names.map((name) => {
    const [nearest] = known
      .map((candidate) => ({ candidate, distance: leven(name, candidate) }))
      .sort((a, b) => a.distance - b.distance);
    const hint = nearest.distance <= Math.max(2, name.length / 3);
    return `Unknown argument ${name}${hint ? `: did you mean --${nearest.candidate}?` : ""}`;
  });
  return `${lines.join("; ")}. See lockstep ${command === "" ? "" : `${command} `}--help`;
}
