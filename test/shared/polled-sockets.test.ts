import t from "tap";
import { Dealer, Pull, Push, Router } from "zeromq";
import { receivePolled, sendPolled } from "../../shared/polled-sockets.ts";
import { Poller } from "../../shared/poller.ts";

const LINGER = { linger: 0 } as const;

t.test(
  "sendPolled() waits for room and receivePolled() gets all messages in order, until it is closed",
  async (t) => {
    const poller = new Poller();
    const receiver = new Pull({ ...LINGER, receiveTimeout: 0, receiveHighWaterMark: 2 });
    await receiver.bind("tcp://127.0.0.1:*");
    const sender = new Push({ ...LINGER, sendTimeout: 0, sendHighWaterMark: 2, immediate: true });
    // Nobody is there yet, so the first send has to wait.
    const first = sendPolled(poller, sender, ["0"]);
    sender.connect(receiver.lastEndpoint ?? "");
    await first;
    const count = 400;
    const received: string[] = [];
    let hasAll!: () => void;
    const all = new Promise<void>((resolve) => (hasAll = resolve));
    const payload = Buffer.alloc(100_000);
    const receiving = receivePolled(poller, receiver, ([name]) => {
      received.push(name.toString());
      if (received.length === count) hasAll();
    });
    for (let i = 1; i < count; i++) await sendPolled(poller, sender, [`${i}`, payload]);
    await all;
    t.same(
      received,
      Array.from({ length: count }, (_, i) => `${i}`),
    );
    receiver.close();
    await receiving;
    sender.close();
    await t.rejects(sendPolled(poller, sender, ["late"]), /closed/);
  },
);

t.test(
  "a send that waits ends when the socket is closed; a receiver's error ends the receiving",
  async (t) => {
    const poller = new Poller();
    const nobody = new Push({ ...LINGER, sendTimeout: 0, immediate: true });
    nobody.connect("tcp://127.0.0.1:9");
    const waiting = sendPolled(poller, nobody, ["x"]);
    setTimeout(() => nobody.close(), 10);
    await t.rejects(waiting, /closed/);

    const router = new Router({ ...LINGER, receiveTimeout: 0, sendTimeout: 0, mandatory: true });
    await router.bind("tcp://127.0.0.1:*");
    const dealer = new Dealer({ ...LINGER, sendTimeout: 0 });
    dealer.connect(router.lastEndpoint ?? "");
    const receiving = receivePolled(poller, router, () => {
      throw new Error("not this");
    });
    await sendPolled(poller, dealer, ["x"]);
    await t.rejects(receiving, /not this/);
    await t.rejects(sendPolled(poller, router, ["nobody", "x"]), { code: "EHOSTUNREACH" });
    dealer.close();
    router.close();
  },
);
