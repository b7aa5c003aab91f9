import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { Test } from "tap";
import { configFileWords } from "../../scripts/commands/config-file.ts";
import { COMMAND_FLAGS, resolveConfig, RUN_OPTIONS } from "../../scripts/commands/options.ts";
import type { Flags } from "../../scripts/plain-words.ts";
import { plainWords } from "../../scripts/plain-words.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { run } from "../integration/processes.ts";

t.test("unknown flags and commands are refused with a suggestion", async (t) => {
  const cases: [string[], RegExp][] = [
    [["train", "--sharsd", "4"], /Unknown argument sharsd: did you mean --shards\?/],
    [["train", "--globalBatchSiz", "4"], /did you mean --global-batch-size\?/],
    [["trian"], /Did you mean train\?/],
    [[], /Cannot run without a command/],
    [["train", "--shards", "many"], /--shards as it must be a number: got "many"/],
    [["train", "--engine", "abacus"], /abacus/],
    [["train", "--local-batch-size", "4", "--global-batch-size", "8"], /mutually exclusive/],
    [
      ["train", "--global-batch-size", "1048576", "--discriminator-steps", "3"],
      /one worker may have to take/,
    ],
    [
      ["worker", "--coordinator", "tcp://h:1", "--worker-id", "a\u001b[2Jb"],
      /none of them a control character/,
    ],
    [["train", "--bind", "127.0.0.1"], /must look like tcp:\/\/host:port/],
    [["worker", "--coordinator", "nowhere"], /must look like tcp:\/\/host:port/],
    [["worker"], /coordinator/],
    [["inspect", "no/such/run"], /Cannot find a run or a checkpoint in no\/such\/run/],
    [["train", "--config", "no-such.yaml"], /no-such\.yaml/],
    [["train", "--resume", "--run-dir", "no/such/run"], /Cannot find a run in no\/such\/run/],
    [["train", "--dataset", "mnist", "--data-dir", "no/such/dir"], /no\/such\/dir/],
  ];
  for (const [args, message] of cases) {
    const { code, output } = await run(args);
    t.match(output, message, args.join(" "));
    t.ok(code === 1 || code === 2, `exit code ${code}`);
    t.notMatch(output, /\n\s+at /, "no stack");
    t.match(output, /(^|\n)lockstep: [^\n]+\n$/, "one line, the last");
  }
});

t.test("--config lies beneath the flags, and its unknown keys are refused", async (t) => {
  const dir = t.testdir();
  const file = join(dir, "run.yaml");
  writeFileSync(file, "learningRate: -3\nglobal-batch-size: 32\n");
  const low = await run(["train", "--config", file]);
  t.match(low.output, /--learning-rate must be above 0: got -3/);
  const over = await run(["train", "--config", file, "--learning-rate", "-4"]);
  t.match(over.output, /--learning-rate must be above 0: got -4/);
  writeFileSync(file, "learninRate: 1\n");
  const unknown = await run(["train", "--config", file]);
  t.match(unknown.output, /Unknown argument.*learnin-?[rR]ate: did you mean --learning-rate/);
  writeFileSync(file, "- 1\n");
  t.match((await run(["train", "--config", file])).output, /must be a map of flags/);
});

/** What a --config file with these contents, and flags, make of the flags. */
function withConfig(t: Test, contents: string | Uint8Array, words: readonly string[], name = "run.yaml") {
  const path = join(t.testdir(), name);
  writeFileSync(path, contents);
  const all = [...words, "--config", path];
  return plainWords(all, COMMAND_FLAGS["train"], (typed) => configFileWords(typed, COMMAND_FLAGS["train"]))
    .filter((word) => !word.startsWith("--config="))
    .toSorted();
}

t.test("typed flags replace those of the file, and what answers the same question", async (t) => {
  const cases: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ["workers: 3\nresume: true", [], ["--resume=true", "--workers=3"]],
    ["workers: 3\nresume: true", ["--workers", "1", "--no-resume"], ["--resume=false", "--workers=1"]],
    ["globalBatchSize: 32", ["--local-batch-size", "4"], ["--local-batch-size=4"]],
    ["local-batch-size: 4", ["--global-batch-size", "32"], ["--global-batch-size=32"]],
    ["epochs: 3", ["--max-steps", "9"], ["--max-steps=9"]],
    ["epochs: 3\nmax-steps: 4", [], ["--epochs=3", "--max-steps=4"]],
    ["epochs: 3\nmax-steps: 4", ["--epochs", "1"], ["--epochs=1"]],
    // Both spellings are one flag.
    ["global-batch-size: 32\nglobalBatchSize: 16", [], ["--global-batch-size=16"]],
    ["gpus: [0, 1]", [], ["--gpus=0,1"]],
    ["gpus: 0", [], ["--gpus=0"]],
    ["learning-rate: 1e-4\nshared-memory: false", [], ["--learning-rate=0.0001", "--shared-memory=false"]],
    ["", ["--workers", "2"], ["--workers=2"]],
  ];
  for (const [yaml, words, expected] of cases) {
    t.same(withConfig(t, yaml, words), expected, `${yaml} ${words.join(" ")}`);
    t.same(withConfig(t, `\ufeff${yaml}`, words), expected, "with a byte order mark");
    t.same(withConfig(t, Buffer.from(`\ufeff${yaml}`, "utf16le"), words), expected, "in UTF-16");
  }
  const json = JSON.stringify({ workers: 3, gpus: [0, 1] });
  t.same(withConfig(t, `\ufeff${json}`, [], "run.JSON"), ["--gpus=0,1", "--workers=3"]);
});

t.test("a file with something else than values for flags is refused in one line", async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ["epochs:", /--config .*run\.yaml as epochs must have a value: give it one, or delete the line$/],
    ['dataDir: ""', /as dataDir must have a value/],
    ["workers: { a: 1 }", /as workers must be one value, or a list of them$/],
    ["- 1", /must be a map of flags: got a list$/],
    ["workers", /must be a map of flags: got a string$/],
    ["workers: 1\nworkers: 2", /^Cannot read --config .*Map keys must be unique/],
    ["workers: [", /^Cannot read --config/],
    ["resume: maybe", /--resume as it must be true or false: got "maybe"$/],
    ["workers: true", /--workers as it must be a number: got "true"$/],
    ["gpus: [0, 1", /^Cannot read/],
  ];
  for (const [yaml, message] of cases) {
    t.throws(() => withConfig(t, yaml, []), { name: "UsageError", message }, yaml);
    t.throws(() => withConfig(t, yaml, []), { message: /^[^\n]*$/ });
  }
});

t.test("a flag that is given twice counts once, with its last value", async (t) => {
  const dir = t.testdir();
  const twice = await run([
    "train",
    "--workers",
    "9",
    "--workers",
    "1",
    "--shards",
    "0",
    "--run-dir",
    "a",
    "--run-dir",
    dir,
  ]);
  t.match(twice.output, /configuration: --shards must be at least 1: got 0$/m);
  for (const [name, workers] of [
    ["a.yaml", 0],
    ["b.yaml", -1],
  ] as const) {
    writeFileSync(join(dir, name), `workers: ${workers}\n`);
  }
  const files = await run(["train", "--config", join(dir, "a.yaml"), "--config", join(dir, "b.yaml")]);
  t.match(files.output, /--workers must be at least 1: got -1$/m);
});

t.test("every number that a flag cannot have is refused with flag, unit, bound and value", async (t) => {
  const numbers = (flags: Flags): readonly string[] =>
    Object.keys(flags).filter((name) => flags[name].type === "number");
  const seconds = /timeout$/;
  for (const name of numbers(RUN_OPTIONS)) {
    const camel = name.replace(/-./g, (text) => text[1].toUpperCase());
    const unit = seconds.test(name) ? " s" : "";
    for (const bad of [-1, Infinity, ...(/^(learning-rate|epsilon)$/.test(name) ? [] : [1e30])]) {
      const refusal = t.throws(() => resolveConfig({ [camel]: bad }, null), { name: "UsageError" }, name);
      const { message } = refusal as unknown as Error;
      const shown = String(bad).replace("+", "\\+");
      t.match(message, new RegExp(`--${name} .*must be .*got ${shown}${unit}(;|$)`), message);
      t.notMatch(message, /Ms\b|\n/);
    }
  }
  const others: readonly (readonly string[])[] = [
    ["worker", "--coordinator", "tcp://127.0.0.1:1", "--device", "-1"],
    ["worker", "--coordinator", "tcp://127.0.0.1:1", "--device", "0.5"],
    ["worker", "--coordinator", "tcp://127.0.0.1:1", "--connect-timeout", "-1"],
    ["worker", "--coordinator", "tcp://127.0.0.1:1", "--connect-timeout", "1e9"],
    ["generate", "no-run", "--count", "0"],
    ["generate", "no-run", "--seed", "-1"],
    ["scale", "no-run", "--workers", "0"],
  ];
  const tested = new Set(others.map((words) => `${words[0]} ${words.at(-2)}`));
  for (const [command, flags] of Object.entries(COMMAND_FLAGS)) {
    if (["train", "coordinator", "probe"].includes(command)) continue;
    for (const name of numbers(flags))
      t.ok(tested.has(`${command} --${name}`), `${command} --${name} is tested`);
  }
  for (const words of others) {
    const { code, output } = await run(words);
    t.equal(code, 2);
    t.match(output, new RegExp(`^lockstep: Cannot use ${words.at(-2)} as it must be .*: got [^\\n]*\\n$`));
    if (seconds.test(String(words.at(-2)))) t.match(output, / s: got \S+ s\n$/);
  }
});

t.test("completion prints a script", async (t) => {
  const { code, output } = await run(["completion"]);
  t.equal(code, 0);
  t.match(output, /complete .*lockstep/);
});

t.test("resolveConfig() puts flags over the stored run over defaults", async (t) => {
  t.match(resolveConfig({ workers: 3, localBatchSize: 10 }, null), { globalBatchSize: 30, shards: 4 });
  t.match(resolveConfig({ workers: 6 }, null), { shards: 8 });
  t.ok(resolveConfig({}, null).workers >= 1);
  t.equal(resolveConfig({ shards: 1 }, null).workers, 1);
  t.equal(resolveConfig({ failureTimeout: 2.5 }, null).failureTimeoutMs, 2500);
  const stored = parseRunConfig({ workers: 4, seed: 9, maxSteps: 100 });
  t.match(resolveConfig({ workers: 2 }, stored), { workers: 2, seed: 9, maxSteps: 100 });
  t.match(resolveConfig({ epochs: 2 }, stored), { epochs: 2, maxSteps: null });
});
