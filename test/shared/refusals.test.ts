import t from "tap";
import { describeRefused, Refusals } from "../../shared/refusals.ts";

t.test(
  "Refusals counts all, and says the first of ten seconds with the number of those before it",
  async (t) => {
    const said: string[] = [];
    const refusals = new Refusals((text) => said.push(text));
    for (let ms = 0; ms < 25_000; ms += 100) refusals.note(`at ${ms}`, ms);
    t.equal(refusals.count, 250);
    t.same(said, [
      "at 0",
      "at 10000 (and 99 before it that were not said)",
      "at 20000 (and 99 before it that were not said)",
    ]);
  },
);

t.test(
  "Refusals say a stranger's words in one line that no terminal obeys, and not all of many",
  async (t) => {
    const said: string[] = [];
    const refusals = new Refusals((text) => said.push(text));
    refusals.note("Refused \u001b[2J\r\nTrained to step 9\u2028\u202eé \u{1f600}", 0);
    refusals.note("x".repeat(1_000_000), 10_000);
    t.equal(said[0], "Refused ?[2J??Trained to step 9??é \u{1f600}");
    t.equal(said[1], `${"x".repeat(1000)}...`);
  },
);

t.test("describeRefused() says what was turned away, and nothing if nothing was", async (t) => {
  t.equal(describeRefused({ connections: 0, joins: 0, messages: 0, unread: 0 }), null);
  t.match(
    describeRefused({ connections: 1, joins: 2, messages: 3, unread: 0 }),
    /^1 conn.*, 2 joins, 3 \D*$/,
  );
  t.match(describeRefused({ connections: 0, joins: 0, messages: 3, unread: 2 }), /3 .* \(2 of them unread/);
});
