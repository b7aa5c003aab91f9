import { execFileSync } from "node:child_process";
import t from "tap";
import { shellCommand } from "../../shared/command-line.ts";

t.test("shellCommand() gives a shell back each word as it was", async (t) => {
  const words = [
    "plain",
    "my run",
    "it's",
    "",
    "$HOME `id` $(id)",
    'a"b',
    "a\\b",
    "*",
    "~",
    "#x",
    "é",
    "a\nb",
    "!",
    "-x",
  ];
  const command = shellCommand(["printf", "%s\\0", ...words]);
  const output = execFileSync("sh", ["-c", command], { encoding: "utf8" });
  t.same(output.split("\0").slice(0, -1), words);
});

t.test("shellCommand() leaves alone what needs no quotes", async (t) => {
  const words = [
    "lockstep",
    "train",
    "--resume",
    "--run-dir",
    "/a/b-c_1.2",
    "--bind",
    "tcp://127.0.0.1:29555",
  ];
  t.equal(shellCommand(words), `npx ${words.join(" ")}`);
});
