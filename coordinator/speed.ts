/**
 * How fast a run goes.
 *
 * @module
 */

/** Speed is averaged over the commits of this long, in milliseconds. */
const WINDOW_MS = 5000;

export class Speed {
  readonly #commits: { readonly globalStep: number; readonly atMs: number }[] = [];
  #stepsPerSecond = 0;

  /** Over the last seconds; 0 until a step is committed. */
  get stepsPerSecond(): number {
    return this.#stepsPerSecond;
  }

  /** Training begins, or goes on after a pause, which does not count. @param nowMs Monotonic, in milliseconds. */
  begin(globalStep: number, nowMs: number): void {
    this.#commits.splice(0, Infinity, { globalStep, atMs: nowMs });
  }

  committed(globalStep: number, nowMs: number): void {
    this.#commits.push({ globalStep, atMs: nowMs });
    while (this.#commits.length > 2 && nowMs - this.#commits[0].atMs > WINDOW_MS) this.#commits.shift();
    const first = this.#commits[0];
    this.#stepsPerSecond = ((globalStep - first.globalStep) * 1000) / Math.max(1e-3, nowMs - first.atMs);
  }
}
