/**
 * Batches that the coordinator streamed ahead of use, by step.
 *
 * @module
 */
export class BatchQueue {
  readonly #batches = new Map<number, Uint8Array>();
  #endStep: number;
  #waiting: { readonly globalStep: number; resolve(batch: Uint8Array | null): void } | null = null;

  /** @param endStep Steps from this one on will get no batch. */
  constructor(endStep: number) {
    this.#endStep = endStep;
  }

  get endStep(): number {
    return this.#endStep;
  }

  put(globalStep: number, batch: Uint8Array): void {
    this.#batches.set(globalStep, batch);
    this.#settle();
  }

  /** Brings the end nearer; a wait for a batch beyond it ends with null. */
  finishAt(endStep: number): void {
    this.#endStep = Math.min(this.#endStep, endStep);
    this.#settle();
  }

  /** The batch of a step, or null once it is known that training ends before it. */
  take(globalStep: number): Promise<Uint8Array | null> {
    return new Promise((resolve) => {
      this.#waiting = { globalStep, resolve };
      this.#settle();
    });
  }

  #settle(): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    const batch = this.#batches.get(waiting.globalStep);
    if (batch === undefined && waiting.globalStep < this.#endStep) return;
    this.#waiting = null;
    this.#batches.delete(waiting.globalStep);
    waiting.resolve(waiting.globalStep < this.#endStep && batch !== undefined ? batch : null);
  }
}
