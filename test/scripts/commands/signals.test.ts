import t from "tap";
import type { Received, Signal } from "../../../scripts/commands/signals.ts";
import { exitCodeOf, meaningOf } from "../../../scripts/commands/signals.ts";

/** What each of several signals means, after those before it. */
function meanings(...received: readonly (readonly [Signal, number])[]): readonly string[] {
  const all = received.map(([signal, atMs]): Received => ({ signal, atMs }));
  return all.map((one, i) => meaningOf(one, all.slice(0, i)));
}

t.test(
  "meaningOf() takes a signal that is sent twice for one, and a repeated one for impatience",
  async (t) => {
    t.same(meanings(["SIGTERM", 0], ["SIGTERM", 200]), ["end", "same"], "as batch systems do");
    t.same(meanings(["SIGTERM", 0], ["SIGTERM", 5001]), ["end", "atOnce"]);
    t.same(meanings(["SIGTERM", 0], ["SIGTERM", 4000], ["SIGTERM", 6000]), ["end", "same", "atOnce"]);
    t.same(meanings(["SIGUSR1", 0], ["SIGTERM", 60_000], ["SIGTERM", 60_100]), ["end", "same", "same"]);
    t.same(meanings(["SIGHUP", 0], ["SIGTERM", 10]), ["end", "same"]);
  },
);

t.test(
  "meaningOf() takes the second Ctrl-C for impatience, but not what npm passes on of the first",
  async (t) => {
    t.same(meanings(["SIGINT", 0], ["SIGINT", 30]), ["end", "same"]);
    t.same(meanings(["SIGINT", 0], ["SIGINT", 30], ["SIGINT", 900]), ["end", "same", "atOnce"]);
    t.same(meanings(["SIGTERM", 0], ["SIGINT", 2000]), ["end", "atOnce"]);
  },
);

t.test("exitCodeOf() follows the shell", async (t) => {
  t.same([exitCodeOf("SIGHUP"), exitCodeOf("SIGINT"), exitCodeOf("SIGTERM")], [129, 130, 143]);
});
