import t from "tap";
import { addInJavaScript } from "../../shared/tree-sum.ts";
import type { Outgoing } from "../../worker/collective.ts";
import type { DataMessage, StateMessage } from "../../worker/data-messages.ts";
import type { Group } from "../../worker/exchange.ts";
import { Exchange } from "../../worker/exchange.ts";
import { Interrupted } from "../../worker/interrupted.ts";
import { buffersFor, partialsOf } from "./all-reduce.ts";
import { sameBits } from "../same-bits.ts";

const SHARDS = 4;
const LENGTH = 37;

type Message = DataMessage | StateMessage;

interface Rank {
  readonly exchange: Exchange<Float32Array>;
  readonly refused: string[];
}

/** @param sizeOf Bytes that a payload is taken for. */
function rankWith(sizeOf = ({ byteLength }: Float32Array): number => byteLength): Rank {
  const refused: string[] = [];
  const exchange = new Exchange<Float32Array>(
    (_, values) => (target) => target.set(values),
    sizeOf,
    (reason) => refused.push(reason),
  );
  return { exchange, refused };
}

const groupOf = (rank: number, change: Partial<Group> = {}): Group => ({
  ...{ term: "t", generation: 1, rank, worldSize: 2, numShards: SHARDS, segmentFloats: 10 },
  ...{ position: { globalStep: 5, phase: 0 }, numPhases: 2 },
  ...{ add: addInJavaScript, round: () => undefined, buffers: buffersFor(SHARDS) },
  ...change,
});

const partials = (rank: number, phase = 0) =>
  partialsOf({ numShards: SHARDS, worldSize: 2, rank, length: LENGTH, phase });
const expected = (phase = 0): Float32Array =>
  partialsOf({ numShards: SHARDS, worldSize: 1, rank: 0, length: LENGTH, phase })[0].values;

/** What is sent, as it arrives. */
const received = (outgoing: readonly Outgoing[]): [Message, Float32Array][] =>
  outgoing.map(({ message, values }) => [message, values.slice()]);

/** Delivers messages of either rank until there are none. */
function deliver(ranks: readonly [Rank, Rank], to: number, messages: [Message, Float32Array][]): void {
  const answers = messages.flatMap(([message, values]) =>
    received(ranks[to].exchange.receive(message, values)),
  );
  if (answers.length > 0) deliver(ranks, 1 - to, answers);
}

t.test("Exchange sums what came before its generation, or its phase, began", async (t) => {
  const ranks = [rankWith(), rankWith()] as const;
  const [first, second] = ranks.map(({ exchange }) => exchange);
  first.connect(groupOf(0));
  const results = [0, 1].map(() => [0, 1].map(() => new Float32Array(LENGTH)));
  const begun = received(first.reduce(5, 0, partials(0), results[0][0], 0));
  deliver(ranks, 1, begun);
  second.connect(groupOf(1));
  t.notOk(first.isReduced);
  deliver(ranks, 0, received(second.reduce(5, 0, partials(1), results[1][0], 0)));
  for (const [rank, { exchange }] of ranks.entries()) {
    t.ok(exchange.isReduced);
    t.ok(sameBits(results[rank][0], expected()));
    exchange.settle();
  }
  deliver(ranks, 1, received(first.reduce(5, 1, partials(0, 1), results[0][1], 0)));
  deliver(ranks, 0, received(second.reduce(5, 1, partials(1, 1), results[1][1], 0)));
  t.ok(results.every((result) => sameBits(result[1], expected(1))));
  t.same([ranks[0].refused, ranks[1].refused], [[], []]);
});

t.test("Exchange forgets a generation that is over, and refuses ranks that are none", async (t) => {
  const ranks = [rankWith(), rankWith()] as const;
  const [first, second] = ranks.map(({ exchange }) => exchange);
  first.connect(groupOf(0));
  const old = received(first.reduce(5, 0, partials(0), new Float32Array(LENGTH), 0));
  first.interrupt();
  t.throws(() => first.reduce(5, 0, partials(0), new Float32Array(LENGTH), 0), Interrupted);
  const again = groupOf(1, { generation: 2 });
  second.connect(again);
  for (const [message, values] of old) t.same(second.receive(message, values), []);
  const [[message, values]] = old;
  for (const from of [1, 2]) {
    t.throws(() => second.receive({ ...message, generation: 2, from }, values), /Cannot use message of rank/);
  }
  first.connect({ ...again, rank: 0 });
  const result = new Float32Array(LENGTH);
  deliver(ranks, 1, received(first.reduce(5, 0, partials(0), result, 0)));
  deliver(ranks, 0, received(second.reduce(5, 0, partials(1), new Float32Array(LENGTH), 0)));
  t.ok(sameBits(result, expected()));
});

t.test("Exchange hands over a state, whether it is expected before it comes or after", async (t) => {
  const vectors = [31, 7].map((length) => Float32Array.from({ length }, (_, i) => i / 3));
  const updates = { generatorSteps: 3, discriminatorSteps: 4 };
  const state = { ...updates, measured: null, reports: [], vectors };
  for (const isEarly of [false, true]) {
    const [from, to] = [rankWith().exchange, rankWith().exchange];
    from.connect(groupOf(0));
    to.connect(groupOf(1));
    if (!isEarly) to.expectState([31, 7], updates);
    for (const { message, values } of from.stateSegments(state)) to.receive(message, values.slice());
    if (isEarly) to.expectState([31, 7], updates);
    t.match(to.takeState(), { generatorSteps: 3, discriminatorSteps: 4, vectors });
  }
});

t.test("Exchange refuses what is no segment of the state that it waits for, or comes twice", async (t) => {
  const vectors = [31, 7].map((length) => new Float32Array(length).fill(1));
  const updates = { generatorSteps: 3, discriminatorSteps: 4 };
  const [from, to] = [rankWith().exchange, rankWith().exchange];
  from.connect(groupOf(0));
  to.connect(groupOf(1));
  to.expectState([31, 7], updates);
  const segments = from.stateSegments({ ...updates, measured: null, reports: [], vectors });
  const [{ message, values }, ...others] = segments;
  const take = (change: Partial<StateMessage>, length = values.length): unknown =>
    to.receive({ ...message, ...change }, new Float32Array(length));
  to.receive(message, values);
  for (const [change, length] of [
    [{}, 10],
    [{ start: 5, end: 15 }, 10],
    [{ start: 10, end: 15 }, 5],
    [{ start: 2 ** 40, end: 2 ** 40 + 10 }, 10],
    [{ start: 10, end: 2 ** 48 }, 10],
    [{ vector: 2 ** 48 }, 10],
    [{ start: 10, end: 20, generatorSteps: 2 ** 40 }, 10],
    [{ start: 10, end: 20, discriminatorSteps: 3 }, 10],
  ] as const) {
    t.throws(() => take(change, length), /Cannot use values/, JSON.stringify(change));
  }
  t.equal(to.takeState(), null);
  for (const segment of others) to.receive(segment.message, segment.values);
  t.match(to.takeState(), { ...updates, vectors });
});

t.test("Exchange keeps messages of the phases that a peer can be in, and no others", async (t) => {
  const [sender, receiver] = [rankWith().exchange, rankWith(() => 2 ** 29).exchange];
  sender.connect(groupOf(0));
  receiver.connect(groupOf(1));
  const [[message, values]] = received(sender.reduce(5, 0, partials(0), new Float32Array(LENGTH), 0));
  const at = (globalStep: number, phase: number) => () =>
    receiver.receive({ ...message, globalStep, phase } as DataMessage, values);
  for (const [globalStep, phase] of [
    [4, 1],
    [6, 0],
    [5, 2],
    [2 ** 48, 0],
    [5, 2 ** 48],
    [0, 0],
  ] as const) {
    t.throws(at(globalStep, phase), /no peer can be in that phase/, `${globalStep}, ${phase}`);
  }
  t.same([at(5, 0)(), at(5, 1)()], [[], []]);
  t.throws(at(5, 1), /Cannot keep more messages of what has not begun/, "nor more than has room");
  receiver.reduce(5, 0, partials(1), new Float32Array(LENGTH), 0);
  t.same(at(5, 1)(), [], "what is used makes room");
  receiver.settle();
  t.throws(at(5, 0), /no peer can be in that phase/);
  receiver.reduce(5, 1, partials(1, 1), new Float32Array(LENGTH), 0);
  t.same(at(6, 0)(), [], "the step after the last phase");
});

t.test("Exchange keeps the next generation rather than those far ahead", async (t) => {
  const { exchange } = rankWith(() => 2 ** 28);
  const sender = rankWith().exchange;
  sender.connect(groupOf(0, { generation: 2 }));
  exchange.connect(groupOf(1));
  const begun = received(sender.reduce(5, 0, partials(0), new Float32Array(LENGTH), 0));
  const [[message, values]] = begun;
  for (let i = 0; i < 4; i++) exchange.receive({ ...message, generation: 2 ** 40 - i }, values);
  t.throws(() => exchange.receive({ ...message, generation: 2 ** 41 }, values), /Cannot keep more messages/);
  t.ok(begun.length <= 4);
  for (const [kept, payload] of begun) exchange.receive(kept, payload);
  exchange.connect(groupOf(1, { generation: 2 }));
  const answers = exchange.reduce(5, 0, partials(1), new Float32Array(LENGTH), 0);
  t.ok(
    answers.some((answer) => answer.message.type === "gather"),
    "the sum of what was kept",
  );
});

t.test("Exchange keeps messages of generations that it does not know up to a limit", async (t) => {
  const { exchange } = rankWith(() => 2 ** 29);
  const sender = rankWith().exchange;
  sender.connect(groupOf(0));
  const [[message, values]] = received(sender.reduce(5, 0, partials(0), new Float32Array(LENGTH), 0));
  for (let i = 0; i < 2; i++) exchange.receive(message, values);
  t.throws(() => exchange.receive(message, values), /Cannot keep more messages of later generations/);
  exchange.receive({ ...message, term: "next" }, values);
  exchange.receive({ ...message, term: "next" }, values);
  t.throws(() => exchange.receive({ ...message, term: "next" }, values), RangeError, "the old ones are gone");
  exchange.connect(groupOf(1));
  exchange.receive({ ...message, term: "later" }, values);
});
