/**
 * Events in order of time; those of the same moment in the order in which they
 * were added, so that a simulation is a function of its parameters alone.
 *
 * @module
 */
interface Entry<T> {
  readonly atMs: number;
  readonly order: number;
  readonly event: T;
}

export class EventQueue<T> {
  /** Binary heap: no entry comes before its parent, which stands at (i - 1) >> 1. */
  readonly #heap: Entry<T>[] = [];
  #numAdded = 0;

  add(atMs: number, event: T): void {
    const heap = this.#heap;
    const entry = { atMs, order: this.#numAdded++, event };
    let i = heap.length;
    heap.push(entry);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!isBefore(entry, heap[parent])) break;
      heap[i] = heap[parent];
      i = parent;
    }
    heap[i] = entry;
  }

  /** Removes and returns the earliest event, or null if none is left. */
  take(): { readonly atMs: number; readonly event: T } | null {
    const heap = this.#heap;
    const first = heap.at(0);
    const last = heap.pop();
    if (first === undefined || last === undefined) return null;
    if (heap.length === 0) return first;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child += 1;
      if (!isBefore(heap[child], last)) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = last;
    return first;
  }
}

function isBefore<T>(a: Entry<T>, b: Entry<T>): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
