import t from "tap";
import { BatchStream, taskOf } from "../../coordinator/batch-stream.ts";
import { ImageStream } from "../../coordinator/pool-tasks.ts";
import type { PoolData } from "../../coordinator/pool-tasks.ts";
import { parseRunConfig } from "../../shared/config.ts";
import { ProtocolError } from "../../shared/errors.ts";

const NUM_IMAGES = 50;
/** Two pixels per image: its number, and 255 minus that. */
const pixels = new Uint8Array(new SharedArrayBuffer(2 * NUM_IMAGES));
for (let i = 0; i < NUM_IMAGES; i++) pixels.set([i, 255 - i], 2 * i);
const data: PoolData = {
  pixels: pixels.buffer,
  numImages: NUM_IMAGES,
  imagePixels: 2,
  seed: 3,
};
const images = new ImageStream(data);
const imagesOf = (batch: Uint8Array): readonly number[] => [...batch].filter((_, i) => i % 2 === 0);

t.test(
  "ImageStream gives every image once per epoch, in another order each time, across batches",
  async (t) => {
    const stream = imagesOf(images.gather({ ranges: [{ start: 0, end: 150 }] }));
    const epochs = [0, 1, 2].map((epoch) => stream.slice(epoch * NUM_IMAGES, (epoch + 1) * NUM_IMAGES));
    for (const epoch of epochs) t.equal(new Set(epoch).size, NUM_IMAGES);
    t.notSame(epochs[0], epochs[1]);
    t.notSame(epochs[1], epochs[2]);
    const parts = [
      { start: 40, end: 47 },
      { start: 47, end: 61 },
    ];
    t.same(imagesOf(images.gather({ ranges: parts })), stream.slice(40, 61), "a batch may cross an epoch");
    const other = imagesOf(new ImageStream({ ...data, seed: 4 }).gather({ ranges: [{ start: 0, end: 50 }] }));
    t.notSame(other, epochs[0], "another seed gives another order");
  },
);

t.test("taskOf() gives the ranks together exactly the global batch of every phase", async (t) => {
  const config = parseRunConfig({
    workers: 3,
    maxSteps: 9,
    globalBatchSize: 23,
    shards: 5,
    discriminatorSteps: 2,
  });
  for (const worldSize of [1, 2, 3, 5]) {
    for (const phase of [0, 1]) {
      let position = 4 * 46 + phase * 23;
      for (let rank = 0; rank < worldSize; rank++) {
        const range = taskOf(config, worldSize, rank, 4).ranges[phase];
        t.equal(range.start, position);
        position = range.end;
      }
      t.equal(position, 4 * 46 + (phase + 1) * 23);
    }
  }
});

t.test(
  "BatchStream keeps at most prefetchSteps ahead of the slowest rank, in order, and stops for all ranks alike",
  async (t) => {
    const config = parseRunConfig({ workers: 2, maxSteps: 100, globalBatchSize: 8, prefetchSteps: 3 });
    const sent: string[] = [];
    const stream = new BatchStream({
      config,
      worldSize: 2,
      startStep: 10,
      endStep: 20,
      prefetchSteps: 3,
      assemble: (task) => Promise.resolve(images.gather(task)),
      send: (rank, globalStep, batch) => sent.push(`${globalStep}/${rank}:${batch.length}`),
      onError: (error) => t.fail(String(error)),
    });
    const settle = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    stream.pump();
    await settle();
    const steps = (): string => sent.map((s) => s.split(":")[0]).join(" ");
    t.equal(steps(), "10/0 10/1 11/0 11/1 12/0 12/1");
    t.ok(
      sent.every((s) => s.endsWith(":8")),
      "half of eight images of two pixels",
    );
    t.throws(() => stream.credit(0, 14), /Cannot take credit for step 14 as step 13 is the next/);
    t.throws(() => stream.credit(0, 2 ** 40), ProtocolError);
    stream.credit(0, 13);
    await settle();
    t.equal(sent.length, 6, "the slowest rank counts");
    stream.credit(1, 11);
    await settle();
    t.match(steps(), /13\/0 13\/1$/);
    stream.stop();
    stream.credit(0, 20);
    stream.credit(1, 20);
    await settle();
    t.match(steps(), /13\/0 13\/1$/);
  },
);
