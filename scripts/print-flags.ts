// npm run print-flags
/**
 * Writes docs/flags.md: the flags of every command, from their definition.
 *
 * @module
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { Options } from "yargs";
import {
  DOCTOR_OPTIONS,
  DOWNLOAD_OPTIONS,
  GENERATE_OPTIONS,
  INSPECT_OPTIONS,
  KEYGEN_OPTIONS,
  RUN_OPTIONS,
  SCALE_OPTIONS,
  SHELL_OPTIONS,
  STATUS_OPTIONS,
  STOP_OPTIONS,
  WORKER_OPTIONS,
} from "./commands/options.ts";
import type { Flags } from "./plain-words.ts";

/** Of `train` and `coordinator`. */
const RUN_FLAGS: Flags = { ...RUN_OPTIONS, ...SHELL_OPTIONS };

const OTHER_COMMANDS: Readonly<Record<string, Flags>> = {
  worker: WORKER_OPTIONS,
  "generate RUN": GENERATE_OPTIONS,
  "inspect RUN": INSPECT_OPTIONS,
  download: DOWNLOAD_OPTIONS,
  "status RUN": STATUS_OPTIONS,
  "scale RUN": SCALE_OPTIONS,
  "stop RUN": STOP_OPTIONS,
  keygen: KEYGEN_OPTIONS,
  doctor: DOCTOR_OPTIONS,
};

const code = (text: string): string => (text === "" || /[ `]/.test(text) ? text : `\`${text}\``);

function defaultOf({ demandOption, defaultDescription, default: value }: Options): string {
  if (demandOption === true) return "must be given";
  return code(defaultDescription ?? (value === undefined ? "" : String(value)));
}

function meaningOf({ describe = "", choices }: Options): string {
  return choices === undefined ? describe : `${describe} (${choices.join(", ")})`;
}

/** A table as prettier formats it. */
function table(flags: Flags): string {
  const rows = Object.entries(flags)
    .filter(([, { hidden }]) => hidden !== true)
    .map(([name, options]) => [`\`--${name}\``, defaultOf(options), meaningOf(options)]);
  const all = [["flag", "default", "meaning"], ...rows];
  const widths = [0, 1, 2].map((column) => Math.max(...all.map((row) => row[column].length)));
  const [head, ...body] = all.map(
    (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`,
  );
  return [head, `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...body].join("\n");
}

function page(): string {
  const groups = new Set(Object.values(RUN_FLAGS).map(({ group = "" }) => group));
  const flagsOf = (wanted: string): Flags =>
    Object.fromEntries(Object.entries(RUN_FLAGS).filter(([, { group }]) => group === wanted));
  return [
    "# Flags",
    "Printed by `npm run print-flags` from [their definition](../scripts/commands/options.ts). `lockstep COMMAND --help` says the same.",
    "## `train` and `coordinator`",
    ...[...groups].flatMap((group) => [`### ${group.replace(/:$/, "")}`, table(flagsOf(group))]),
    ...Object.entries(OTHER_COMMANDS).flatMap(([command, flags]) => [`## \`${command}\``, table(flags)]),
  ].join("\n\n");
}

const { values } = parseArgs({ options: { out: { type: "string", default: "docs/flags.md" } } });
writeFileSync(values.out, `${page()}\n`);
