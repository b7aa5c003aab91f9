#!/usr/bin/env node
// node dist/scripts/lockstep.js --help
/**
 * The command line.
 *
 * @module
 */
import leven from "leven";
import type { Argv } from "yargs";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { CheckpointError, DatasetError, describeError, UsageError } from "../shared/errors.ts";
import { PACKAGE_VERSION } from "../shared/version.ts";
import {
  COMMAND_FLAGS,
  CONFIG_DESCRIPTION,
  CONFIG_FLAG,
  DOWNLOAD_OPTIONS,
  GENERATE_OPTIONS,
  givenFlags,
  INSPECT_OPTIONS,
  readConfigFile,
  RUN_OPTIONS,
  SHELL_OPTIONS,
  WORKER_OPTIONS,
} from "./commands/options.ts";

/** Where `lockstep coordinator` listens unless told. */
const DEFAULT_PORT = 29555;

// Commands load their modules when they run: --help must not wait for tfjs.
const parser = yargs(hideBin(process.argv))
  .scriptName("lockstep")
  .usage(
    "$0 <command>\n\nDistributed data-parallel training of GANs: same seed, same bits, for any number of workers.",
  )
  .parserConfiguration({ "duplicate-arguments-array": false, "strip-dashed": true })
  .command(
    "train",
    "Train with worker processes on this machine",
    (command) =>
      runOptions(command)
        .default("bind", "tcp://127.0.0.1:*")
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
          "$0 coordinator --workers 4 --bind tcp://10.0.0.1:29555",
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
          "$0 worker --coordinator tcp://10.0.0.1:29555",
          "One worker; start as many as the run waits for",
        ),
    async (argv) => {
      const { worker } = await import("./commands/worker.ts");
      return exit(
        await worker({
          coordinator: argv.coordinator,
          workerId: argv.workerId ?? null,
          dataHost: argv.dataHost ?? null,
          connectTimeoutSeconds: argv.connectTimeout,
          managed: argv.managed,
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
    async ({ run, count, seed, out }) => {
      const { generate } = await import("./commands/generate.ts");
      await generate({ run, count, seed, out });
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
  .completion("completion", "Print a script that completes commands and flags in the shell")
  .demandCommand(1, "Cannot run without a command: see lockstep --help")
  .recommendCommands()
  .strict()
  .version(PACKAGE_VERSION)
  .help()
  .alias("help", "h")
  .wrap(Math.min(110, process.stdout.columns ?? 110))
  .exitProcess(false)
  .fail((message, error) => {
    // YError is yargs' own word on what the user typed; its class is not exported.
    throw error !== undefined && error.name !== "YError"
      ? error
      : new UsageError(explain(error?.message ?? message));
  });

try {
  await parser.parseAsync();
} catch (error) {
  const expected =
    error instanceof UsageError || error instanceof DatasetError || error instanceof CheckpointError;
  console.error(`lockstep: ${expected ? describeError(error) : ((error as Error).stack ?? String(error))}`);
  exit(error instanceof UsageError ? 2 : 1);
}

function runOptions<T>(command: Argv<T>) {
  return command
    .options(RUN_OPTIONS)
    .options(SHELL_OPTIONS)
    .config(CONFIG_FLAG, CONFIG_DESCRIPTION, readConfigFile);
}

type RunArguments = Awaited<ReturnType<typeof runOptions<object>>["argv"]>;

async function trainWith(argv: RunArguments, launch: boolean): Promise<void> {
  const { train } = await import("./commands/train.ts");
  exit(
    await train({
      flags: givenFlags(argv),
      runDir: argv.runDir ?? null,
      resume: argv.resume ?? false,
      logFormat: argv.logFormat,
      bind: String(argv.bind),
      launch,
    }),
  );
}

/** Ends the process once output is written: sockets and threads of libraries must not keep it. */
function exit(code: number): void {
  process.exitCode = code;
  process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));
}

/** yargs' message, with the nearest known flag for every unknown one. */
function explain(message: string): string {
  const unknown = /^Unknown arguments?: (.+)$/.exec(message);
  if (unknown === null) return message;
  const command = hideBin(process.argv).find((word) => word in COMMAND_FLAGS) ?? "";
  const known = [...(COMMAND_FLAGS[command] ?? []), "help", "version"];
  // yargs names a flag both in camelCase and in kebab-case.
  const names = [...new Set(unknown[1].split(", ").map(kebab))];
  const lines = names.map((name) => {
    const [nearest] = known
      .map((candidate) => ({ candidate, distance: leven(name, candidate) }))
      .sort((a, b) => a.distance - b.distance);
    const hint = nearest.distance <= Math.max(2, name.length / 3);
    return `Unknown argument ${name}${hint ? `: did you mean --${nearest.candidate}?` : ""}`;
  });
  return `${lines.join("\n")}\nSee lockstep ${command === "" ? "" : `${command} `}--help`;
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
