/**
 * What must hold after every event of a simulated run: invariants 1 to 3 of
 * the design. A violation throws, so that the run ends where it happened.
 *
 * @module
 */
import type { Position } from "../../shared/protocol.ts";
import { keyOf } from "./toy-replica.ts";

export class InvariantError extends Error {
  override name = "InvariantError";
}

export class Checks {
  readonly #calm: ReadonlyMap<string, string>;
  /** Newest step that any coordinator has committed. */
  #committed = 0;
  /** Of one coordinator's process: the last commit. */
  readonly #last = new Map<string, number>();
  /** What was checked how often. */
  readonly counts = { applied: 0, restored: 0, commits: 0, begun: 0, stopped: 0, rewound: 0 };

  constructor(calm: ReadonlyMap<string, string>) {
    this.#calm = calm;
  }

  get committed(): number {
    return this.#committed;
  }

  /** Invariant 1: a replica at a position has the bits of the calm run there. */
  state(who: string, position: Position, hash: string, how: "applied" | "restored"): void {
    this.counts[how] += 1;
    const expected = this.#calm.get(keyOf(position));
    if (expected === hash) return;
    throw new InvariantError(
      `${who} ${how} a state of other bits at ${keyOf(position)}: ${hash}, not ${expected}`,
    );
  }

  /** Invariant 2: what is applied is a complete sum of one generation. */
  sum(who: string, position: Position, fault: string | null): void {
    if (fault !== null) throw new InvariantError(`${who} would apply ${fault} at ${keyOf(position)}`);
  }

  /** Invariant 2: a coordinator commits step after step, each once. */
  commit(term: string, globalStep: number): void {
    this.counts.commits += 1;
    const last = this.#last.get(term);
    if (last !== undefined && globalStep !== last + 1) {
      throw new InvariantError(`Coordinator ${term} committed step ${globalStep} after step ${last}`);
    }
    this.#last.set(term, globalStep);
    this.#committed = Math.max(this.#committed, globalStep);
  }

  /** A coordinator forgets committed steps, to train them again. */
  rewound(term: string, globalStep: number): void {
    this.counts.rewound += 1;
    this.wentTo(term, globalStep);
  }

  /** A coordinator goes on from another step than the one after its last commit. */
  wentTo(term: string, globalStep: number): void {
    this.#last.set(term, globalStep);
  }

  /**
   * Invariant 3: no generation begins before what was committed, while a replica lives that the coordinator can reach.
   *
   * @param best Most advanced step of the replicas that have joined the coordinator and can be reached, or null.
   */
  began(term: string, { globalStep }: Position, best: number | null): void {
    this.counts.begun += 1;
    if (best !== null && globalStep < Math.min(best, this.#committed)) {
      throw new InvariantError(
        `Coordinator ${term} went back to step ${globalStep} of ${this.#committed} committed although a replica lives at step ${best}`,
      );
    }
  }

  /**
   * Invariant 3: a run that stops has saved what was committed, unless the coordinator reaches no replica that has it.
   *
   * @param saved Newest step on disk, 0 if there is none.
   */
  stopped(term: string, globalStep: number, saved: number, best: number | null): void {
    this.counts.stopped += 1;
    if (saved >= globalStep || best === null || best < globalStep) return;
    throw new InvariantError(
      `Coordinator ${term} stopped at step ${globalStep} with step ${saved} saved although a replica lives at step ${best}`,
    );
  }

  /** At the end: the run is complete, its state and metrics are those of the calm run. */
  end(endStep: number, savedHash: string | null, metrics: readonly number[]): void {
    const expected = this.#calm.get(keyOf({ globalStep: endStep, phase: 0 }));
    if (savedHash !== expected) throw new InvariantError(`The run saved ${savedHash}, not ${expected}`);
    const wrong = metrics.findIndex((step, i) => step !== i + 1);
    if (wrong >= 0 || metrics.length !== endStep) {
      throw new InvariantError(`The run's metrics are of steps ${metrics.join()}, not of 1 to ${endStep}`);
    }
  }
}
