/**
 * Batches that the coordinator streamed ahead of use, by step.
 *
 * @module
 */
import { Interrupted } from "./interrupted.ts";

export class BatchQueue {
  readonly #batches = new Map<number, Uint8Array>();
  readonly #endStep: number;
  #interrupted = false;
  #waiting: {
    readonly globalStep: number;
    resolve(batch: Uint8Array | null): void;
    reject(error: Error): void;
  } | null = null;

  /** @param endStep Steps from this one on will get no batch. */
  constructor(endStep: number) {
    this.#endStep = endStep;
  }

  put(globalStep: number, batch: Uint8Array): void {
    this.#batches.set(globalStep, batch);
    this.#settle();
  }

  /** Lets every wait, also later ones, fail. */
  interrupt(): void {
    this.#interrupted = true;
    this.#settle();
  }

  /**
   * The batch of a step, or null once it is known that training ends before it.
   *
   * @throws {Interrupted} After interrupt().
   */
  take(globalStep: number): Promise<Uint8Array | null> {
    return new Promise((resolve, reject) => {
      this.#waiting = { globalStep, resolve, reject };
      this.#settle();
    });
  }

  #settle(): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    if (this.#interrupted) {
      this.#waiting = null;
      waiting.reject(new Interrupted());
      return;
    }
    const batch = this.#batches.get(waiting.globalStep);
    if (batch === undefined && waiting.globalStep < this.#endStep) return;
    this.#waiting = null;
    this.#batches.delete(waiting.globalStep);
    waiting.resolve(waiting.globalStep < this.#endStep && batch !== undefined ? batch : null);
  }
}
