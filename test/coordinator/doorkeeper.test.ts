import t from "tap";
import { Doorkeeper } from "../../coordinator/doorkeeper.ts";
import { ProtocolError } from "../../shared/errors.ts";

t.test(
  "Doorkeeper refuses malformed messages of anybody, and reads no more of a stranger who sends too many",
  (t) => {
    const said: string[] = [];
    const doorkeeper = new Doorkeeper((text) => said.push(text));
    let numRead = 0;
    const malformed = (): never => {
      numRead += 1;
      throw new ProtocolError("Cannot use it");
    };
    for (let i = 0; i < 50; i++) doorkeeper.guard("\u0001noise", true, malformed);
    t.ok(numRead < 50, `${numRead} read of a stranger`);
    t.same(doorkeeper.counts, { connections: 0, joins: 0, messages: 50, unread: 50 - numRead });
    t.same(said, ["Refused a message from ?noise: Cannot use it"]);
    numRead = 0;
    for (let i = 0; i < 50; i++) doorkeeper.guard("member", false, malformed);
    t.equal(numRead, 50, "a member is always read");
    doorkeeper.refusedJoin("Refused worker");
    doorkeeper.refusedConnection("Refused a connection");
    t.match(doorkeeper.counts, { connections: 1, joins: 1, messages: 100 });
    t.same(
      said.slice(1),
      ["Refused worker", "Refused a connection"],
      "the first of each kind is said at once",
    );
    t.end();
  },
);

t.test("Doorkeeper passes on errors that are no refusals", (t) => {
  const doorkeeper = new Doorkeeper(() => undefined);
  const broken = (): never => {
    throw new TypeError("a defect");
  };
  t.throws(() => doorkeeper.guard("a", false, broken), /a defect/);
  t.equal(doorkeeper.counts.messages, 0);
  t.end();
});
