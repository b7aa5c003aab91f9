/**
 * How a generation is formed: members pause, the newest state is found, all take it and begin.
 *
 * @module
 */
import type { Position } from "../../shared/protocol.ts";
import { comparePositions } from "../../shared/protocol.ts";
import type { Effect, Member, MembershipConfig, MembershipState, StoredState, Transition } from "./state.ts";
import { andThen, end, fail, withJoining } from "./state.ts";
import { commitUpTo } from "./commits.ts";

/** Starts a generation if enough members are there and all of them have paused. */
export function tryStart(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  if (state.status !== "gathering" && state.status !== "regrouping") return { state, effects: [] };
  // The first generation waits for all; later ones go on with those that are left.
  const hasBegun = state.generation > 0 || state.members.some(({ paused }) => paused !== null);
  const needed = hasBegun ? config.run.minWorkers : state.wanted;
  // Who stops waits for nobody, and goes back to nothing: what nobody holds is saved or lost.
  const isOver = state.stopping && state.members.length === 0;
  if (isOver) return end(state, config);
  const wanted = state.stopping ? 1 : needed;
  if (state.members.length < wanted) return { state: { ...state, status: "gathering" }, effects: [] };
  const positions = state.members.map(({ paused }) => paused);
  if (positions.includes("running")) return { state: { ...state, status: "regrouping" }, effects: [] };
  const held = heldBy(state.members);
  const best = mostAdvanced(held);
  // What no member has may be on disk.
  if (best === null ? state.generation > 0 || state.stopping : best.globalStep < state.globalStep) {
    if (state.stopping) return end(state, config);
    return { state: { ...state, status: "restoring" }, effects: [{ type: "restore" }] };
  }
  return begin(state, held, nowMs, config);
}

/** Positions of the members that hold a state. */
function heldBy(members: readonly Member[]): readonly Position[] {
  return members.flatMap(({ paused }) => (paused === null || paused === "running" ? [] : [paused]));
}

function mostAdvanced(positions: readonly Position[]): Position | null {
  return positions.reduce<Position | null>(
    (most, other) => (most === null || comparePositions(other, most) > 0 ? other : most),
    null,
  );
}

/** Begins from the newest state on disk, unless a member with a newer one has come meanwhile. */
export function restored(
  state: MembershipState,
  stored: StoredState,
  nowMs: number,
  config: MembershipConfig,
): Transition {
  if (state.status !== "restoring") return { state, effects: [] };
  if (state.stopping) return tryStart({ ...state, status: "gathering", stored }, nowMs, config);
  const held = heldBy(state.members);
  const best = mostAdvanced(held);
  // Members may have come and gone meanwhile.
  const isReady =
    state.members.length >= config.run.minWorkers &&
    !state.members.some(({ paused }) => paused === "running");
  if (!isReady || (best !== null && best.globalStep >= state.globalStep)) {
    return tryStart({ ...state, status: "gathering", stored }, nowMs, config);
  }
  const isStored = best === null || best.globalStep < stored.globalStep;
  const { globalStep } = isStored ? stored : best;
  const to = !isStored
    ? `step ${globalStep}, which a worker holds`
    : stored.from === "seed"
      ? "the beginning"
      : `the checkpoint of step ${globalStep}`;
  const lost = state.globalStep - globalStep;
  const going = lost > 0 ? `going back ${lost} steps to` : "going on from";
  const text = `Every worker that held the state is gone: ${going} ${to}`;
  return andThen({ state: { ...state, stored }, effects: [{ type: "log", level: "warn", text }] }, (s) =>
    begin(s, isStored ? [] : held, nowMs, config),
  );
}

/** @param held Positions of the members that hold a state; if none does, all take the stored one. */
function begin(
  state: MembershipState,
  held: readonly Position[],
  nowMs: number,
  config: MembershipConfig,
): Transition {
  const position = mostAdvanced(held) ?? { globalStep: state.stored.globalStep, phase: 0 };
  const isThere = ({ paused }: Member): boolean =>
    paused !== null && paused !== "running" && comparePositions(paused, position) === 0;
  const source = state.members.findIndex(isThere);
  const behind = [...state.members.keys()].filter((rank) => source >= 0 && !isThere(state.members[rank]));
  const generation = state.generation + 1;
  // A step that is begun is brought to its end.
  const lastStep = position.globalStep + (position.phase > 0 ? 1 : 0);
  const endStep = state.stopping ? Math.min(state.endStep, lastStep) : state.endStep;
  const peers = state.members.map(({ workerId, data }, rank) => ({ rank, workerId, data }));
  const starts = state.members.map((member, rank): Effect => {
    const stateFrom = source < 0 ? state.stored.from : isThere(member) ? "own" : "peer";
    return {
      type: "send",
      to: member.incarnation,
      message: {
        type: "start",
        term: config.term,
        generation,
        rank,
        worldSize: peers.length,
        peers,
        runId: config.runId,
        position,
        endStep,
        numImages: config.numImages,
        dataset: config.dataset,
        folder: config.folder,
        stateFrom,
        stateTo: rank === source ? behind : [],
        bulkPort: config.bulkPort,
        config: config.run,
      },
    };
  });
  const committed = commitUpTo(state, position.globalStep);
  const members = state.members.map((m): Member => ({
    ...m,
    started: true,
    paused: "running",
    readyHash: null,
    waitedMs: 0,
    waitingRanks: [],
    finished: false,
  }));
  return {
    state: {
      ...committed.state,
      ...{ status: "starting", generation, endStep, members, beganMs: nowMs, progressMs: nowMs },
      ...{ nonFinite: new Map(), nonFiniteSinceMs: null },
    },
    effects: [...committed.effects, ...starts],
  };
}

/** Lets every member stop where it is, and forms the next generation with those that are joining and prepared. */
export function regroup(state: MembershipState, nowMs: number, config: MembershipConfig): Transition {
  const generation = state.generation + 1;
  const forming = withJoining(state, nowMs);
  const asked = forming.members.filter(({ started, paused }) => started && paused === "running");
  const sends = asked.map(({ incarnation }): Effect => ({
    type: "send",
    to: incarnation,
    message: { type: "regroup", generation },
  }));
  const next: MembershipState = {
    ...{ ...forming, status: "regrouping" },
    ...{ nonFinite: new Map(), nonFiniteSinceMs: null },
  };
  return andThen({ state: next, effects: [{ type: "pause" }, ...sends] }, (s) => tryStart(s, nowMs, config));
}

/** Trains once every member holds the same state. */
export function ready(state: MembershipState, nowMs: number): Transition {
  if (state.status !== "starting" || state.members.some((m) => m.readyHash === null))
    return { state, effects: [] };
  const hashes = new Set(state.members.map((m) => m.readyHash));
  if (hashes.size > 1) {
    const list = state.members.map((m) => `"${m.workerId}" ${m.readyHash} (${m.runtime})`).join(", ");
    return fail(state, `Cannot train as all workers must start from the same state: got ${list}`);
  }
  const { generation, globalStep, endStep, members, lostMs } = state;
  const took = lostMs === null ? "" : `, ${Math.round(nowMs - lostMs)} ms after the loss`;
  const text = `Generation ${generation}: ${members.length} workers hold the same state (${digest([...hashes].join(""))}) at step ${globalStep}${took}`;
  return {
    state: { ...state, status: "training", lostMs: null, progressMs: nowMs },
    effects: [
      { type: "log", level: "info", text },
      { type: "train", generation, globalStep, endStep },
    ],
  };
}

/** The first hash of each network is that of its parameters. */
function digest(hash: string): string {
  return hash
    .split("/")
    .map((network) => network.split("-")[0])
    .join("-");
}
