/**
 * (c) The sum of a gradient over processes, without training around it.
 *
 * @module
 */
import type { ChildProcess } from "node:child_process";
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { NO_PEER_CELL } from "./peer.ts";
import type { ReduceRequest, ReduceResult } from "./reducing-process.ts";
import type { BenchOptions, Row, Section } from "./section.ts";
import { ratioOfRounds, summarize } from "./statistics.ts";

/** Parameters of both networks of the reference model: 8 MB. */
const FLOATS = 2_019_857;

const PROCESSES = [2, 4];

const RANK_SCRIPT = fileURLToPath(new URL("./reducing-process.js", import.meta.url));

export const allReduce: Section = async (options) => {
  const rows: Row[] = [];
  for (const processes of PROCESSES) rows.push(await rowOf(options, processes));
  return {
    title: `(c) All-reduce of ${FLOATS} float32 on one machine [ms]`,
    notes: [
      "Each sum begins after a barrier, and is timed on rank 0; the median of a round, then median (min-max) over rounds. Ours sums in the canonical tree, so with the same bits for any number of processes.",
      "The ratio is gloo's time over ours through shared memory, which is what workers on one host use: above 1, Lockstep is faster.",
    ],
    columns: ["processes", "Lockstep", "Lockstep by tcp", "gloo", "ratio"],
    rows,
  };
};

async function rowOf({ rounds, repetitions, peer, progress }: BenchOptions, processes: number): Promise<Row> {
  const shared: number[] = [];
  const tcp: number[] = [];
  const gloo: number[] = [];
  for (let round = 0; round < rounds; round++) {
    progress(`${processes} processes, round ${round + 1} of ${rounds}`);
    shared.push(await ourMs({ processes, repetitions, shared: true }));
    if (peer !== null) gloo.push(await peer.allReduceMs(processes, FLOATS, repetitions));
    tcp.push(await ourMs({ processes, repetitions, shared: false }));
  }
  const theirs = peer === null ? [NO_PEER_CELL, null] : [summarize(gloo), ratioOfRounds(gloo, shared)];
  return { name: `${processes}`, cells: [summarize(shared), summarize(tcp), ...theirs] };
}

async function ourMs(request: Omit<ReduceRequest, "rank" | "floats">): Promise<number> {
  const ranks = Array.from({ length: request.processes }, () => fork(RANK_SCRIPT));
  try {
    const addresses = ranks.map((rank) => messageOf(rank));
    for (const [rank, child] of ranks.entries()) {
      child.send({ ...request, rank, floats: FLOATS } satisfies ReduceRequest);
    }
    const all = await Promise.all(addresses);
    const result = messageOf(ranks[0]);
    for (const child of ranks) child.send(all);
    return ((await result) as ReduceResult).ms;
  } finally {
    await Promise.all(ranks.map(ended));
  }
}

/** The next message. @throws {Error} If the process ends before. */
async function messageOf(child: ChildProcess): Promise<unknown> {
  const exit = once(child, "exit").then(([code]) => {
    throw new Error(`Cannot measure the all-reduce as a rank exited with code ${String(code)}`);
  });
  const message = once(child, "message").then(([value]: unknown[]) => value);
  return Promise.race([message, exit]);
}

/** Ends a process, if it has not ended, by hanging up. */
async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  if (child.connected) child.disconnect();
  await exit;
}
