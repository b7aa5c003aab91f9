/**
 * The flags of `npm run chaos`.
 *
 * @module
 */
import type { Options } from "yargs";
import { CLUSTERS } from "./cluster.ts";

const FAULTS = "Faults:";
const TRAINING = "Training:";

export const CHAOS_OPTIONS = {
  minutes: {
    group: FAULTS,
    type: "number",
    defaultDescription: "5, or no limit with --faults",
    describe: "How long to inject faults, on each cluster",
  },
  faults: {
    group: FAULTS,
    type: "number",
    defaultDescription: "no limit",
    describe: "How many faults to inject, on each cluster",
  },
  seed: {
    group: FAULTS,
    type: "number",
    defaultDescription: "from the clock",
    describe: "Decides the faults, their order and their moments, and the training",
  },
  kinds: {
    group: FAULTS,
    type: "string",
    requiresArg: true,
    defaultDescription: "all that the machine allows",
    describe: "Kinds of faults, with commas",
  },
  cluster: {
    group: TRAINING,
    choices: [...CLUSTERS, "both"] as const,
    default: "both",
    describe:
      "host: lockstep train on this machine; hosts: processes started by hand, over an emulated switch",
  },
  workers: { group: TRAINING, type: "number", default: 3, describe: "Workers at first; one more may join" },
  "failure-timeout": {
    group: TRAINING,
    type: "number",
    default: 2,
    describe: "--failure-timeout of the run [seconds]",
  },
  "data-dir": {
    group: TRAINING,
    type: "string",
    normalize: true,
    defaultDescription: "none: synthetic digits",
    describe: "Folder with MNIST's IDX files",
  },
  recovery: {
    type: "boolean",
    conflicts: ["kinds", "faults", "minutes"],
    describe: "Measure recovery instead: kills of one worker of 2, 3 and 4, and silent partitions",
  },
  out: {
    type: "string",
    normalize: true,
    defaultDescription: "runs/chaos/<date>",
    describe:
      "Folder for chaos.json, and for journals and runs; what a run has trained is removed if all is well",
  },
} as const satisfies Record<string, Options>;
