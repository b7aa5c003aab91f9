/**
 * The last protocol events of a process, kept in memory and written out when
 * its run dies, so that a failure can be explained afterwards.
 *
 * @module
 */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

const CAPACITY = 1000;

interface Entry {
  readonly at: number;
  readonly what: string;
  readonly event: object;
}

export class EventRing {
  readonly #entries: (Entry | undefined)[] = Array<undefined>(CAPACITY);
  #numAdded = 0;

  /** @param event Is not copied: it may not change any more. */
  add(what: string, event: object): void {
    this.#entries[this.#numAdded % CAPACITY] = { at: Date.now(), what, event };
    this.#numAdded += 1;
  }

  /** One JSON object per event, oldest first. */
  get lines(): readonly string[] {
    const start = this.#numAdded % CAPACITY;
    return [...this.#entries.slice(start), ...this.#entries.slice(0, start)].flatMap((entry) => {
      if (entry === undefined) return [];
      const { at, what, event } = entry;
      return [JSON.stringify({ at: new Date(at).toISOString(), what, event }, shortened)];
    });
  }

  /** Makes the folder if it is not there. */
  async write(path: string): Promise<void> {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, this.lines.map((line) => `${line}\n`).join(""));
  }
}

/** Lists that only repeat other events are named by their length; a configuration is in the run's folder. */
function shortened(key: string, value: unknown): unknown {
  if (Array.isArray(value) && value.length > 16) return `${value.length} items`;
  return key === "config" ? undefined : value;
}
