import t from "tap";
import { rankShards } from "../../shared/sharding.ts";
import { push } from "../../shared/sockets.ts";
import { encodeHeader } from "../../shared/header.ts";
import { roundToBf16 } from "../../shared/bf16.ts";
import type { Add } from "../../shared/tree-sum.ts";
import { addInJavaScript, TreeSum } from "../../shared/tree-sum.ts";
import { BatchQueue } from "../../worker/batch-queue.ts";
import { Interrupted } from "../../worker/interrupted.ts";
import { DataPlane } from "../../worker/data-plane.ts";
import { buffersFor } from "./all-reduce.ts";

// More than one segment per chunk of any rank.
const LENGTH = 200_001;
const SEGMENT = 30_000;
const SHARDS = 4;
const value = (shard: number, step: number, i: number): number =>
  Math.fround(((shard + 1) * (i % 977)) / (step + 3));

function partials(worldSize: number, rank: number, step: number, numRounded: number) {
  const round = (vector: Float32Array): void => roundToBf16(vector.subarray(0, numRounded));
  const add: Add = (out, left, right) => {
    addInJavaScript(out, left, right);
    round(out);
  };
  const sum = new TreeSum(SHARDS, add, () => new Float32Array(LENGTH));
  const { start, end } = rankShards(SHARDS, worldSize, rank);
  for (let s = start; s < end; s++) {
    const shard = Float32Array.from({ length: LENGTH }, (_, i) => value(s, step, i));
    round(shard);
    sum.push({ start: s, end: s + 1 }, shard, true);
  }
  return sum.take();
}

for (const [transport, isShared, numRounded] of [
  ["tcp", () => false, 0],
  ["tcp in bfloat16", () => false, LENGTH - 3],
  ["shared memory", () => true, 0],
  ["shared memory for some, in bfloat16", (rank: number) => rank !== 1, LENGTH - 3],
] as const) {
  t.test(`DataPlane reduces over ${transport}, phase after phase, with strangers knocking`, async (t) => {
    for (const worldSize of [2, 3, 4]) {
      const refused: string[] = [];
      const planes = await Promise.all(
        Array.from({ length: worldSize }, () =>
          DataPlane.bind(
            "127.0.0.1",
            (error) => t.fail(error.message),
            (reason) => refused.push(reason),
          ),
        ),
      );
      const peers = planes.map((plane, rank) => ({ rank, workerId: `w${rank}`, data: plane.address }));
      for (const [rank, plane] of planes.entries()) {
        const buffers = buffersFor(SHARDS);
        plane.connect({
          term: "t",
          generation: 7,
          rank,
          peers,
          numShards: SHARDS,
          position: { globalStep: 0, phase: 0 },
          numPhases: 2,
          add: addInJavaScript,
          round: roundToBf16,
          shared: isShared(rank),
          buffers,
          segmentFloats: SEGMENT,
        });
      }
      const numShared = isShared(0) ? worldSize - 1 : 0;
      t.match(planes[0].description, `${numShared} peers through shared memory`);
      const stranger = push(null);
      stranger.connect(planes[0].address.endpoint);
      const stale = {
        type: "gather",
        term: "t",
        generation: 6,
        globalStep: 0,
        phase: 0,
        from: 1,
        firstShard: 0,
        endShard: 4,
        start: 0,
        at: null,
        numRounded: 0,
        end: 1,
      };
      await stranger.send(["noise"]);
      await stranger.send([encodeHeader(stale), Buffer.alloc(4)]);
      const results = planes.map(() => [0, 1].map(() => new Float32Array(LENGTH)));
      for (let step = 0; step < 3; step++) {
        for (const phase of [0, 1]) {
          // Ranks begin at different times, so that some messages come early.
          await Promise.all(
            planes.map(async (plane, rank) => {
              await new Promise((resolve) => setTimeout(resolve, rank * 20));
              await plane.reduce(
                step,
                phase,
                partials(worldSize, rank, step, numRounded),
                results[rank][phase],
                numRounded,
              );
            }),
          );
          const [expected] = partials(1, 0, step, numRounded);
          for (const result of results) {
            t.ok(
              Buffer.from(result[phase].buffer).equals(Buffer.from(expected.values.buffer)),
              `${worldSize}: ${step}/${phase}`,
            );
          }
        }
      }
      t.match(refused, [/msgpack|wrong/], "noise is refused, what a generation before has left over is not");
      stranger.close();
      for (const plane of planes) plane.close();
    }
  });
}

t.test("BatchQueue gives batches in any order of arrival, and null once training ends before", async (t) => {
  const queue = new BatchQueue(5);
  const later = queue.take(1);
  queue.put(0, new Uint8Array([0]));
  queue.put(1, new Uint8Array([1]));
  t.same(await later, new Uint8Array([1]));
  t.same(await queue.take(0), new Uint8Array([0]));
  t.equal(await queue.take(5), null, "the end");
  const waiting = queue.take(3);
  queue.interrupt();
  await t.rejects(waiting, Interrupted);
  await t.rejects(queue.take(4), Interrupted, "also later");
});
