import t from "tap";
import type { Options } from "yargs";
import yargs from "yargs";
import { COMMAND_FLAGS } from "../../scripts/commands/options.ts";
import { PLAIN_PARSING, plainWords } from "../../scripts/plain-words.ts";

const parse = (words: readonly string[], flags: Readonly<Record<string, Options>>): object => {
  // What a command demands besides is none of this test.
  const asked = Object.fromEntries(
    Object.entries(flags).map(([name, { implies: _implies, ...option }]) => [
      name,
      { ...option, demandOption: false },
    ]),
  );
  const parser = yargs().options(asked).parserConfiguration(PLAIN_PARSING).strict().exitProcess(false);
  return parser.parseSync(plainWords(words, flags));
};

const camel = (name: string): string => name.replace(/-./g, (text) => text[1].toUpperCase());

/** Two values of a flag, as typed and as parsed. The second is what yargs itself takes for a count of one more. */
function valuesOf(option: Options): readonly (readonly [string, unknown])[] {
  if (option.type === "boolean") {
    return [
      ["true", true],
      ["false", false],
    ];
  }
  if (option.type === "number") {
    return [
      ["2", 2],
      ["1", 1],
      ["-3.5e-2", -0.035],
    ];
  }
  const texts = option.choices?.map(String) ?? ["some/where", "0", "1"];
  return texts.map((text) => [text, text]);
}

t.test("of several of one flag the last wins, for every flag of every command", async (t) => {
  for (const [command, flags] of Object.entries(COMMAND_FLAGS)) {
    for (const [name, option] of Object.entries(flags)) {
      for (const [first] of valuesOf(option)) {
        for (const [last, parsed] of valuesOf(option)) {
          for (const words of [
            [`--${name}`, first, `--${name}`, last],
            [`--${name}=${first}`, `--${camel(name)}`, last],
          ]) {
            const got = (parse(words, flags) as Record<string, unknown>)[camel(name)];
            t.same(got, option.array === true ? [first, last] : parsed, `${command} ${words.join(" ")}`);
          }
        }
      }
    }
  }
});

t.test("booleans may be negated, and the last word counts", async (t) => {
  const flags = { resume: { type: "boolean" } } as const;
  for (const [words, value] of [
    [["--resume"], true],
    [["--resume", "--no-resume"], false],
    [["--no-resume", "--resume"], true],
    [["--no-resume=false"], true],
    [["--resume=false", "--resume", "true"], true],
  ] as const) {
    t.match(parse(words, flags), { resume: value }, words.join(" "));
  }
});

t.test("a flag without a value, or with one that it cannot have, is refused with its name", async (t) => {
  for (const [command, flags] of Object.entries(COMMAND_FLAGS)) {
    for (const [name, option] of Object.entries(flags)) {
      const refused = (words: readonly string[], rule: RegExp): void =>
        void t.throws(
          () => plainWords(words, flags),
          { name: "UsageError", message: rule },
          `${command} ${words.join(" ")}`,
        );
      if (option.type === "boolean") {
        refused([`--${name}=yes`], new RegExp(`--${name} as it must be true or false: got "yes"$`));
        continue;
      }
      refused([`--${name}`], new RegExp(`--${name} as it must have a value: got none$`));
      refused([`--${name}`, "--help-me"], new RegExp(`--${name} as it must have a value`));
      // As a variable of the shell that is not set.
      refused([`--${name}`, ""], new RegExp(`--${name} as it must have a value`));
      refused([`--no-${name}`, "2"], new RegExp(`--no-${name} as --${name} takes a value$`));
      if (option.type === "number")
        refused([`--${name}`, "many"], new RegExp(`--${name} as it must be a number: got "many"$`));
      if (option.choices !== undefined)
        refused([`--${name}`, "abacus"], new RegExp(`--${name} as it must be one of .*: got "abacus"$`));
    }
  }
});

t.test("other words stay as they are", async (t) => {
  const flags = { workers: { type: "number" }, json: { type: "boolean" } } as const;
  const words = ["status", "runs/a", "--unknown", "3", "--json", "runs/b", "--", "--workers", "3"];
  t.same(plainWords(words, flags), [
    ...["status", "runs/a", "--unknown", "3", "--json=true", "runs/b"],
    ...["--", "--workers", "3"],
  ]);
  for (const asked of ["--help", "-h", "--version", "--get-yargs-completions"]) {
    t.same(plainWords([asked, "--workers", ""], flags), [asked, "--workers", ""]);
  }
});
