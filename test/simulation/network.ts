/**
 * Simulated time, processes that can stop, go on and die, and a network that
 * delivers in order on every connection and in any order between them. A
 * partition holds messages back; a reset loses those under way.
 *
 * @module
 */
import { EventQueue } from "../../shared/event-queue.ts";
import type { TestRandom } from "../reference/mulberry32.ts";
import { mulberry32 } from "../reference/mulberry32.ts";

/** An operating system's process: what happens to it while it is stopped, it sees when it goes on. */
export class Process {
  readonly name: string;
  readonly host: string;
  readonly #backlog: (() => void)[] = [];
  #alive = true;
  #stopped = false;

  constructor(name: string, host: string) {
    this.name = name;
    this.host = host;
  }

  get alive(): boolean {
    return this.#alive;
  }

  get running(): boolean {
    return this.#alive && !this.#stopped;
  }

  /** Runs something in the process, now or when it goes on. */
  run(work: () => void): void {
    if (!this.#alive) return;
    if (this.#stopped) this.#backlog.push(work);
    else work();
  }

  stop(): void {
    this.#stopped = true;
  }

  continue(): void {
    if (!this.#stopped) return;
    this.#stopped = false;
    // Work may stop or end the process again.
    while (this.running) {
      const work = this.#backlog.shift();
      if (work === undefined) return;
      work();
    }
  }

  end(): void {
    this.#alive = false;
    this.#backlog.length = 0;
  }
}

interface InFlight {
  readonly from: Process;
  readonly deliver: () => void;
  isLost: boolean;
}

interface Connection {
  readonly from: string;
  readonly to: string;
  lastMs: number;
  /** Sent and not arrived. */
  underway: InFlight[];
  /** Arrived at a partition. */
  held: InFlight[];
}

export class World {
  readonly random: TestRandom;
  readonly #queue = new EventQueue<() => void>();
  readonly #connections = new Map<string, Connection>();
  readonly #blocked = new Map<string, number>();
  readonly #slow = new Map<string, number>();
  /** Longest delay of a message, in milliseconds. */
  readonly #maxDelayMs: number;
  #nowMs = 0;
  numEvents = 0;

  constructor(seed: number, maxDelayMs: number) {
    this.random = mulberry32(seed);
    this.#maxDelayMs = maxDelayMs;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Runs the next event. @returns False if there is none. */
  step(): boolean {
    const next = this.#queue.take();
    if (next === null) return false;
    this.#nowMs = next.atMs;
    this.numEvents += 1;
    next.event();
    return true;
  }

  after(delayMs: number, event: () => void): void {
    this.#queue.add(this.#nowMs + delayMs, event);
  }

  /** A timer of a process. */
  every(process: Process, intervalMs: number, work: () => void): void {
    const tick = (): void => {
      if (!process.alive) return;
      process.run(work);
      this.after(intervalMs, tick);
    };
    // Processes do not tick together.
    this.after(intervalMs * this.random.uniform(), tick);
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * this.random.uniform();
  }

  chance(probability: number): boolean {
    return this.random.uniform() < probability;
  }

  /** How much longer a host takes for everything. */
  slownessOf(host: string): number {
    return this.#slow.get(host) ?? 1;
  }

  setSlowness(host: string, factor: number): void {
    this.#slow.set(host, factor);
  }

  /**
   * Sends over a connection; messages of one connection arrive in order.
   *
   * @param deliver Called on arrival; finds out who listens there then.
   */
  send(from: Process, toHost: string, connection: string, deliver: () => void): void {
    const key = `${connection}@${from.name}`;
    let link = this.#connections.get(key);
    if (link === undefined) {
      link = { from: from.host, to: toHost, lastMs: 0, underway: [], held: [] };
      this.#connections.set(key, link);
    }
    const message: InFlight = { from, deliver, isLost: false };
    link.underway.push(message);
    // Now and then a delay as long as they get.
    const delayMs = this.chance(0.9) ? this.between(0.1, 1) : this.between(0.1, this.#maxDelayMs);
    link.lastMs = Math.max(link.lastMs, this.#nowMs + delayMs);
    this.#queue.add(link.lastMs, () => this.#arrive(link, message));
  }

  #arrive(link: Connection, message: InFlight): void {
    if (message.isLost) return;
    link.underway.shift();
    if (link.held.length > 0 || this.#isBlocked(link)) link.held.push(message);
    else message.deliver();
  }

  #isBlocked({ from, to }: Connection): boolean {
    return (this.#blocked.get(`${from}>${to}`) ?? 0) > 0;
  }

  /** Cuts one direction between two hosts for a while. */
  block(from: string, to: string, forMs: number): void {
    const key = `${from}>${to}`;
    this.#blocked.set(key, (this.#blocked.get(key) ?? 0) + 1);
    this.after(forMs, () => {
      this.#blocked.set(key, (this.#blocked.get(key) ?? 0) - 1);
      for (const link of this.#connections.values()) {
        if (link.held.length === 0 || this.#isBlocked(link)) continue;
        const held = link.held.splice(0);
        // TCP sends again, or has given up meanwhile.
        if (forMs > 5000 && this.chance(0.5)) continue;
        for (const message of held) message.deliver();
      }
    });
  }

  /** Whether a message could pass now, both ways. */
  areConnected(a: string, b: string): boolean {
    return [`${a}>${b}`, `${b}>${a}`].every((key) => (this.#blocked.get(key) ?? 0) === 0);
  }

  /** Breaks connections between two hosts: what is under way is lost, the next messages pass. */
  reset(a: string, b: string): void {
    for (const link of this.#connections.values()) {
      if ((link.from === a && link.to === b) || (link.from === b && link.to === a)) this.#lose(link);
    }
  }

  #lose(link: Connection): void {
    for (const message of [...link.underway, ...link.held]) message.isLost = true;
    link.underway = [];
    link.held = [];
  }

  /** Ends a process. @param isMachineGone What it has sent and nobody has received is lost. */
  kill(process: Process, isMachineGone: boolean): void {
    process.end();
    for (const [key, link] of this.#connections) {
      if (!key.endsWith(`@${process.name}`)) continue;
      if (isMachineGone) this.#lose(link);
      if (link.underway.length === 0 && link.held.length === 0) this.#connections.delete(key);
    }
  }
}
