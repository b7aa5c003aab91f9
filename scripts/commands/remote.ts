/**
 * `lockstep status`, `scale` and `stop`: a user's word with a coordinator that
 * is at work.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { endpointOf, runPaths } from "../../coordinator/run-directory.ts";
import { shellCommand } from "../../shared/command-line.ts";
import { UsageError } from "../../shared/errors.ts";
import { explainToClient, watchHandshakes } from "../../shared/handshakes.ts";
import { keyOf } from "../../shared/keys.ts";
import type { AdminAnswer, AdminRequest, RunStatus } from "../../shared/protocol.ts";
import { decodeHeader, encodeHeader, MAX_HEADER_BYTES } from "../../shared/header.ts";
import { parseAdminAnswer } from "../../shared/protocol.ts";
import { describeRefused } from "../../shared/refusals.ts";
import { isIPv6Endpoint, parseEndpoint } from "../../shared/endpoint.ts";
import { dealer, receiveAll } from "../../shared/sockets.ts";
import { seconds } from "../../shared/text.ts";

/** How long to wait for an answer, in milliseconds. */
const ANSWER_MS = 5000;

/** Where a command goes. */
export interface Remote {
  /** Folder of a run, or the coordinator's address. */
  readonly run: string;
  /** Key file, or null for that of the environment, if there is one. */
  readonly key: string | null;
}

/** @throws {UsageError} If it cannot be done. */
export async function status(remote: Remote, json: boolean): Promise<void> {
  const answer = await ask(remote, { type: "status" });
  if (answer.type !== "status") throw new UsageError(`Cannot use the coordinator's answer "${answer.type}"`);
  console.log(json ? JSON.stringify(answer.run, null, 2) : describe(answer.run));
}

/** @throws {UsageError} If it cannot be done. */
export async function command(remote: Remote, request: AdminRequest): Promise<void> {
  const answer = await ask(remote, request);
  if (answer.type === "done") console.log(answer.text);
}

async function ask({ run, key: keyFile }: Remote, request: AdminRequest): Promise<AdminAnswer> {
  const key = keyOf(keyFile)?.key ?? null;
  const endpoint = run.startsWith("tcp://") ? run : await endpointOf(runPaths(run));
  try {
    parseEndpoint(endpoint);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const ipv6 = await isIPv6Endpoint(endpoint);
  const socket = dealer(randomUUID(), { maxFrameBytes: MAX_HEADER_BYTES, key, ipv6 });
  try {
    const answered = new Promise<AdminAnswer>((resolve, reject) => {
      const onFrames = (frames: Buffer[]): void => resolve(parseAdminAnswer(decodeHeader(frames.at(0))));
      receiveAll(socket, onFrames).catch(reject);
      watchHandshakes(socket, (failure) => {
        const why = explainToClient(failure, key !== null);
        reject(new UsageError(`Cannot talk to the coordinator at ${endpoint}: ${why}`));
      });
    });
    // It may fail while the request still waits to be sent.
    answered.catch(() => undefined);
    socket.connect(endpoint);
    await Promise.race([socket.send([encodeHeader(request)]), answered, sleep(ANSWER_MS)]);
    const answer = await Promise.race([answered, sleep(ANSWER_MS, null)]);
    if (answer === null) {
      throw new UsageError(
        `Cannot reach a coordinator at ${endpoint}: no answer within ${ANSWER_MS / 1000} s. If its process is gone, continue the run with ${resumeCommand(run)}`,
      );
    }
    if (answer.type === "cannot") throw new UsageError(answer.reason);
    return answer;
  } finally {
    socket.close();
  }
}

/** Of a run by its folder; who knows only the address knows where the run is. */
function resumeCommand(run: string): string {
  return shellCommand([
    "lockstep",
    "train",
    "--resume",
    "--run-dir",
    run.startsWith("tcp://") ? "RUN" : resolve(run),
  ]);
}

function describe({ status: name, members, lastFaults, refused, ...run }: RunStatus): string {
  const { generation, globalStep, endStep, imagesPerSecond } = run;
  const turnedAway = describeRefused(refused);
  return [
    `${name}, generation ${generation}, step ${globalStep} of ${endStep}, ${Math.round(imagesPerSecond)} img/s`,
    ...members.map((m) => {
      const rank = m.rank === null ? "joining" : `rank ${m.rank}`;
      const shards = m.shards === null ? "" : `, shards ${m.shards[0]}..${m.shards[1] - 1}`;
      const waits = m.waitingFor === null ? "" : `, waits for ${m.waitingFor}`;
      const computes = m.busyMs === 0 ? "" : `, computing for ${seconds(m.busyMs)}`;
      return `  ${rank}  "${m.workerId}" (pid ${m.pid} on ${m.host}, ${m.runtime})${shards}, at ${m.position}${waits}${computes}, heard ${seconds(m.silentMs)} ago`;
    }),
    ...(turnedAway === null ? [] : [`Refused so far: ${turnedAway}`]),
    ...(lastFaults.length === 0 ? [] : ["Last faults:"]),
    ...lastFaults.map(({ at, text }) => `  ${at}  ${text}`),
  ].join("\n");
}
