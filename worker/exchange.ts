/**
 * What a worker does with messages of its peers, without sockets: the
 * all-reduce under way, and states on their way from worker to worker.
 * Messages of a phase that this worker has not begun are kept; peers can be at
 * most one phase ahead, since the phase after that needs this worker's part.
 * Messages of another generation are kept until it begins here, or dropped
 * when a later one does.
 *
 * @module
 */
import { describeError, ProtocolError } from "../shared/errors.ts";
import type { Updates } from "../shared/phases.ts";
import { areUpdates } from "../shared/phases.ts";
import type { Position, StepReport } from "../shared/protocol.ts";
import type { Add, Partial } from "../shared/tree-sum.ts";
import type { Collective, CopyTo, Outgoing } from "./collective.ts";
import { SEGMENT_FLOATS, SegmentPool } from "./collective.ts";
import type { DataMessage, StateMessage } from "./data-messages.ts";
import { describeDataMessage } from "./data-messages.ts";
import { Interrupted } from "./interrupted.ts";
import { createCollective } from "./schedule.ts";

/** A generation, as the exchange of gradients sees it. */
export interface Group {
  /** Id of the coordinator's process: its successor counts generations from 1 again. */
  readonly term: string;
  readonly generation: number;
  readonly rank: number;
  readonly worldSize: number;
  readonly numShards: number;
  /** Where the generation begins. */
  readonly position: Position;
  /** Phases of a step. */
  readonly numPhases: number;
  readonly add: Add;
  /** Rounds to bfloat16, in place. */
  readonly round: (values: Float32Array) => void;
  /** {@linkcode SegmentPool.buffersFor} buffers for sums, of {@linkcode segmentFloats} values. */
  readonly buffers: readonly Float32Array[];
  /** Most values per message, SEGMENT_FLOATS if absent. */
  readonly segmentFloats?: number;
}

/** A replica's state on its way from another worker. */
export interface TransferredState {
  readonly generatorSteps: number;
  readonly discriminatorSteps: number;
  readonly measured: StateMessage["measured"];
  /** Of steps that the coordinator may not have recorded. */
  readonly reports: readonly StepReport[];
  /** STATE_FRAMES. */
  readonly vectors: readonly Float32Array[];
}

export interface StateSegment {
  readonly message: StateMessage;
  /** A view. */
  readonly values: Float32Array;
}

interface Received<Payload> {
  readonly message: DataMessage | StateMessage;
  readonly payload: Payload;
}

interface Receiving {
  readonly vectors: readonly Float32Array[];
  readonly updates: Updates;
  /** Segments that have come, as "vector/start". */
  readonly taken: Set<string>;
  missing: number;
  measured: StateMessage["measured"];
  reports: readonly StepReport[];
}

/** Messages kept for phases, and for generations, that have not begun: two phases of a large model, not more. */
const MAX_KEPT_MESSAGES = 20_000;
/** Bytes of either kind that are kept: whoever reaches the port can make them up. */
const MAX_KEPT_BYTES = 2 ** 30;

/** @typeParam Payload What came with a message, from which its values are taken when it is used. */
export class Exchange<Payload> {
  readonly #sourceOf: (message: DataMessage | StateMessage, payload: Payload) => CopyTo;
  readonly #sizeOf: (payload: Payload) => number;
  readonly #onRefused: (reason: string) => void;
  #group: Group | null = null;
  #pool = new SegmentPool([]);
  #isInterrupted = false;
  #running: { readonly key: string; readonly reduction: Collective } | null = null;
  /** Of the phase that is next, and of the one after it. */
  readonly #early = new Map<string, Received<Payload>[]>();
  #earlyState: Received<Payload>[] = [];
  /** Of both. */
  #numEarly = 0;
  #earlyBytes = 0;
  /** The phase of the sum under way, or of the next one. */
  #next: Position = { globalStep: 0, phase: 0 };
  #receiving: Receiving | null = null;
  /** Of generations that this worker does not know yet. */
  #ahead: Received<Payload>[] = [];
  #aheadBytes = 0;
  /** Highest generation of those. */
  #farthest = 0;
  /** The one term of all that is kept ahead, if that is known. */
  #aheadTerm: string | null = null;

  /**
   * @param sourceOf Where the values of a message are. Called once the group of its generation is connected.
   *   Throws {ProtocolError | RangeError} if they cannot be used.
   * @param sizeOf Bytes of a payload.
   * @param onRefused Told why a message that was kept is refused.
   */
  constructor(
    sourceOf: (message: DataMessage | StateMessage, payload: Payload) => CopyTo,
    sizeOf: (payload: Payload) => number,
    onRefused: (reason: string) => void,
  ) {
    this.#sourceOf = sourceOf;
    this.#sizeOf = sizeOf;
    this.#onRefused = onRefused;
  }

  /** Begins a generation; everything of the one before it is over. */
  connect(group: Group): void {
    this.interrupt();
    this.#isInterrupted = false;
    this.#early.clear();
    this.#numEarly = 0;
    this.#earlyBytes = 0;
    this.#earlyState = [];
    this.#next = group.position;
    this.#group = group;
    this.#pool = new SegmentPool(group.buffers);
    const ahead = this.#ahead;
    this.#ahead = [];
    this.#aheadBytes = 0;
    this.#farthest = 0;
    this.#aheadTerm = null;
    for (const { message, payload } of ahead) {
      // A peer may have begun this generation, or even the next, before this worker.
      if (message.term !== group.term || message.generation < group.generation) continue;
      this.#kept(() => void this.receive(message, payload));
    }
  }

  /** Ends what is under way; whatever is asked for before the next connect() throws {@linkcode Interrupted}. */
  interrupt(): void {
    this.#isInterrupted = true;
    this.#running = null;
    this.#receiving = null;
  }

  /** @throws {Interrupted} Between interrupt() and connect(). */
  get group(): Group {
    if (this.#isInterrupted) throw new Interrupted();
    if (this.#group === null) throw new Error("Cannot exchange before a generation has begun");
    return this.#group;
  }

  /**
   * Begins a sum over all shards of the run.
   *
   * @param partials This rank's partial sums: the covering nodes of its shards.
   * @param result Receives the sum.
   * @param numRounded The values below this index are rounded to bfloat16 in every sum; 0 for none.
   * @returns Messages to send. {@linkcode isReduced} says when the result is complete.
   * @throws {Interrupted} If the generation is over.
   */
  reduce(
    globalStep: number,
    phase: number,
    partials: readonly Partial[],
    result: Float32Array,
    numRounded: number,
  ): readonly Outgoing[] {
    const group = this.group;
    if (this.#running !== null) throw new Error("Cannot reduce as another sum is under way");
    const plan = { ...group, length: result.length, numRounded, pool: this.#pool };
    const reduction = createCollective(plan, globalStep, phase, result);
    const key = keyOf({ globalStep, phase });
    this.#running = { key, reduction };
    this.#next = { globalStep, phase };
    const outgoing = [...reduction.start(partials)];
    const early = this.#early.get(key) ?? [];
    this.#early.delete(key);
    this.#forget(early);
    for (const { message, payload } of early) {
      this.#kept(() => {
        outgoing.push(...reduction.receive(message as DataMessage, this.#sourceOf(message, payload)));
      });
    }
    return outgoing;
  }

  /** Whether the sum that was begun last is complete, if one was. */
  get isReduced(): boolean {
    return this.#running?.reduction.done === true;
  }

  /** Ends the complete sum. */
  settle(): void {
    this.#running = null;
    this.#next = this.#after(this.#next);
  }

  #after({ globalStep, phase }: Position): Position {
    const isLast = phase + 1 === this.#group?.numPhases;
    return isLast ? { globalStep: globalStep + 1, phase: 0 } : { globalStep, phase: phase + 1 };
  }

  /**
   * Takes in a message.
   *
   * @returns Messages to send.
   * @throws {ProtocolError | RangeError} If it is refused.
   */
  receive(message: DataMessage | StateMessage, payload: Payload): readonly Outgoing[] {
    const group = this.#group;
    if (message.term !== group?.term || message.generation > group.generation) {
      this.#keepAhead(message, payload);
      return [];
    }
    // What was under way when the members changed.
    if (message.generation < group.generation || this.#isInterrupted) return [];
    if (message.from >= group.worldSize || message.from === group.rank) {
      throw new ProtocolError(`Cannot use message of rank ${message.from} in a world of ${group.worldSize}`);
    }
    if (message.type === "state") {
      if (this.#receiving !== null) {
        this.#takeState(this.#receiving, message, payload);
        return [];
      }
      this.#keepEarly(this.#earlyState, { message, payload });
      return [];
    }
    const key = keyOf(message);
    if (this.#running?.key === key) {
      return this.#running.reduction.receive(message, this.#sourceOf(message, payload));
    }
    const isNext = this.#running === null && key === keyOf(this.#next);
    if (!isNext && key !== keyOf(this.#after(this.#next))) {
      throw new ProtocolError(`Cannot use ${describeDataMessage(message)}: no peer can be in that phase`);
    }
    let early = this.#early.get(key);
    if (early === undefined) this.#early.set(key, (early = []));
    this.#keepEarly(early, { message, payload });
    return [];
  }

  #keepEarly(early: Received<Payload>[], received: Received<Payload>): void {
    const numBytes = this.#sizeOf(received.payload);
    if (this.#numEarly >= MAX_KEPT_MESSAGES || this.#earlyBytes + numBytes > MAX_KEPT_BYTES) {
      throw new RangeError("Cannot keep more messages of what has not begun");
    }
    early.push(received);
    this.#numEarly += 1;
    this.#earlyBytes += numBytes;
  }

  #forget(early: readonly Received<Payload>[]): void {
    this.#numEarly -= early.length;
    this.#earlyBytes -= this.#bytesOf(early);
  }

  #bytesOf(kept: readonly Received<Payload>[]): number {
    return kept.reduce((sum, { payload }) => sum + this.#sizeOf(payload), 0);
  }

  #keepAhead(message: DataMessage | StateMessage, payload: Payload): void {
    const numBytes = this.#sizeOf(payload);
    const isFull = (): boolean =>
      this.#ahead.length >= MAX_KEPT_MESSAGES || this.#aheadBytes + numBytes > MAX_KEPT_BYTES;
    // Not again for every message of a flood, where it would find nothing.
    if (isFull() && this.#aheadTerm !== message.term) {
      // Those of a coordinator that is gone are of no use to anybody.
      this.#aheadTerm = message.term;
      this.#keepOnlyAhead(({ term }) => term === message.term);
    }
    // One generation comes after the other: those far ahead are made up, and may not take the room of the next.
    if (isFull() && message.generation < this.#farthest)
      this.#keepOnlyAhead(({ generation }) => generation <= message.generation);
    if (isFull()) throw new RangeError("Cannot keep more messages of later generations");
    if (this.#aheadTerm !== message.term) this.#aheadTerm = null;
    this.#ahead.push({ message, payload });
    this.#aheadBytes += numBytes;
    this.#farthest = Math.max(this.#farthest, message.generation);
  }

  #keepOnlyAhead(isKept: (message: DataMessage | StateMessage) => boolean): void {
    this.#ahead = this.#ahead.filter(({ message }) => isKept(message));
    this.#aheadBytes = this.#bytesOf(this.#ahead);
    this.#farthest = this.#ahead.reduce((most, { message }) => Math.max(most, message.generation), 0);
  }

  /**
   * Expects a state that a peer sends in this generation; {@linkcode takeState} returns it.
   *
   * @param lengths Of its vectors.
   * @param updates That it has seen: a state of others is refused.
   * @throws {Interrupted} If the generation is over.
   */
  expectState(lengths: readonly number[], updates: Updates): void {
    void this.group;
    const receiving: Receiving = {
      ...{ vectors: lengths.map((length) => new Float32Array(length)), updates, taken: new Set() },
      ...{ missing: lengths.reduce((sum, length) => sum + length, 0), measured: null, reports: [] },
    };
    this.#receiving = receiving;
    const early = this.#earlyState;
    this.#earlyState = [];
    this.#forget(early);
    for (const { message, payload } of early) {
      this.#kept(() => this.#takeState(receiving, message as StateMessage, payload));
    }
  }

  /** The state that was expected, once it is complete; null until then. */
  takeState(): TransferredState | null {
    const receiving = this.#receiving;
    if (receiving === null || receiving.missing > 0) return null;
    this.#receiving = null;
    const { measured, reports, updates, vectors } = receiving;
    return { ...updates, measured, reports, vectors };
  }

  /** @throws {RangeError} If the values are no segment of the vector, or one that has come, or of another state. */
  #takeState(receiving: Receiving, message: StateMessage, payload: Payload): void {
    const { vector, start, end, measured, reports } = message;
    const { segmentFloats = SEGMENT_FLOATS } = this.group;
    const target = receiving.vectors.at(vector);
    const name = `${vector}/${start}`;
    const isSegment =
      target !== undefined &&
      start % segmentFloats === 0 &&
      start < end &&
      end === Math.min(start + segmentFloats, target.length);
    if (!isSegment || receiving.taken.has(name) || !areUpdates(message, receiving.updates))
      throw new RangeError(`Cannot use values ${start}..${end} of a state's vector ${vector}`);
    this.#sourceOf(message, payload)(target.subarray(start, end));
    receiving.taken.add(name);
    receiving.missing -= end - start;
    receiving.measured = measured;
    if (reports.length > 0) receiving.reports = reports;
  }

  /** A state in messages, for a peer of the generation. @param state Its vectors may not change any more. */
  stateSegments({ vectors, reports, ...steps }: TransferredState): readonly StateSegment[] {
    const { term, generation, rank: from, segmentFloats = SEGMENT_FLOATS } = this.group;
    return vectors.flatMap((values, vector) =>
      Array.from({ length: Math.ceil(values.length / segmentFloats) }, (_, i): StateSegment => {
        const start = i * segmentFloats;
        const end = Math.min(start + segmentFloats, values.length);
        const message: StateMessage = {
          ...{ type: "state", term, generation, from, ...steps },
          ...{ reports: vector === 0 && i === 0 ? [...reports] : [], vector, start, end },
        };
        return { message, values: values.subarray(start, end) };
      }),
    );
  }

  /** Uses a message that was kept. */
  #kept(use: () => void): void {
    try {
      use();
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.#onRefused(describeError(error));
    }
  }

  /** For whom and what the sum under way waits, or null. */
  describeWaiting(): string | null {
    return this.#running?.reduction.describeMissing() ?? null;
  }

  /** Ranks for which the sum under way waits. */
  get waitingRanks(): readonly number[] {
    return [...new Set(this.#running?.reduction.missingFrom() ?? [])];
  }
}

/** Whether an error is about the message, not about this worker. */
export function isRefusal(error: unknown): boolean {
  return error instanceof ProtocolError || error instanceof RangeError;
}

function keyOf({ globalStep, phase }: Position): string {
  return `${globalStep}/${phase}`;
}
