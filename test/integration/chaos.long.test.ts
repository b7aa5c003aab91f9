import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { Running } from "./processes.ts";

const CHAOS = fileURLToPath(new URL("../../scripts/chaos.js", import.meta.url));

interface Written {
  readonly parts: readonly {
    readonly name: string;
    readonly faults: readonly { readonly kind: string; readonly fired: object | null }[];
    readonly problems: readonly string[];
  }[];
}

const chaos = (args: readonly string[]): Running => new Running(process.execPath, [CHAOS, ...args]);

t.test("under one fault of every kind, the run is that without faults", async (t) => {
  const out = join(t.testdir(), "chaos");
  const { code, output } = await chaos(["--seed", "20", "--faults", "11", "--cluster", "host", "--out", out])
    .finished;
  t.equal(code, 0, output);
  const { parts } = JSON.parse(readFileSync(join(out, "chaos.json"), "utf8")) as Written;
  t.match(parts, [{ name: "host", problems: [] }]);
  const kinds = new Set(parts[0].faults.map(({ kind }) => kind));
  // Where there is no tmpfs, it is said, and another kind comes twice.
  t.equal(kinds.size, output.includes("SKIPPED: disk-full") ? 10 : 11, [...kinds].join(", "));
  t.ok(parts[0].faults.every(({ fired }) => fired !== null));
  t.match(readFileSync(join(out, "host", "journal.txt"), "utf8"), /chaos: Evidence: Lost worker "worker-\d"/);
});

const kindsOfNetwork =
  "partition,partition-in,partition-out,partition-peers,partition-peers-one-way,link-down,end-machine";

t.test("under partitions, the run is that without faults", async (t) => {
  const out = join(t.testdir(), "chaos");
  const flags = ["--seed", "21", "--faults", "7", "--cluster", "hosts", "--kinds", kindsOfNetwork];
  const running = chaos([...flags, "--out", out]);
  const { code, output } = await running.finished;
  t.equal(code, 0, output);
  const skip = /^.*SKIPPED: cluster hosts.*$/m.exec(output)?.[0];
  if (skip !== undefined) return void t.pass("hosts of an emulated network", { skip });
  const { parts } = JSON.parse(readFileSync(join(out, "chaos.json"), "utf8")) as Written;
  t.match(parts, [{ name: "hosts", problems: [] }]);
  t.same(new Set(parts[0].faults.map(({ kind }) => kind)), new Set(kindsOfNetwork.split(",")));
  t.match(
    readFileSync(join(out, "hosts", "journal.txt"), "utf8"),
    /Evidence: [1-9]\d* (and \d+ )?packets lost/,
  );
  const namespaces = execFileSync("ip", ["netns", "list"], { encoding: "utf8" });
  t.notMatch(namespaces, new RegExp(`^ls${running.child.pid}`, "m"), "the network is taken down");
});
