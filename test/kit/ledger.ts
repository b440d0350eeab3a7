/** Accounts of what was sent and received: nothing lost, nothing twice, in order. */

/** A message that has not arrived after this time counts as lost, in ms. */
export const LOST_MS = 15_000;
/** The server may report a change of less than this age or not, in ms: machines stall for 1–3 s. */
export const SETTLE_MS = 10_000;

const KEPT_FAULTS = 20;

/** What must not happen: all are counted, the first ones kept. */
export class Faults {
  readonly #kept: string[] = [];
  count = 0;

  add(what: string): void {
    this.count += 1;
    if (this.#kept.length < KEPT_FAULTS) this.#kept.push(`${new Date().toISOString()} ${what}`);
  }

  get first(): readonly string[] {
    return this.#kept;
  }

  /** The first faults since the last call. */
  take(): string[] {
    this.count = 0;
    return this.#kept.splice(0);
  }
}

/** One message and the clients that must receive it, each once. */
export class Delivery<Receiver> {
  readonly sentAtMs = performance.now();
  /** By receiver, whether it received the message. */
  readonly #receivers: Map<Receiver, boolean>;
  #missing: number;

  constructor(receivers: Iterable<Receiver>) {
    this.#receivers = new Map([...receivers].map((receiver) => [receiver, false]));
    this.#missing = this.#receivers.size;
  }

  /** @returns whether it arrived for the first time; undefined for a client that need not receive it */
  reached(receiver: Receiver): boolean | undefined {
    const before = this.#receivers.get(receiver);
    if (before === undefined) return undefined;
    if (!before) this.#missing -= 1;
    this.#receivers.set(receiver, true);
    return !before;
  }

  /** A client that left need not receive it any more. */
  excuse(receiver: Receiver): void {
    if (this.#receivers.get(receiver) === false) this.#missing -= 1;
    this.#receivers.delete(receiver);
  }

  /** The clients that were connected when it was sent, and still are. */
  get receivers(): Iterable<Receiver> {
    return this.#receivers.keys();
  }

  get missing(): number {
    return this.#missing;
  }

  get isLate(): boolean {
    return this.#missing > 0 && performance.now() - this.sentAtMs > LOST_MS;
  }
}

/** Numbered messages that one client receives. */
export class Sequence {
  last = Number.NEGATIVE_INFINITY;
  count = 0;

  /** @returns what is wrong with the next one: it came twice or out of order */
  take(n: number): string | undefined {
    const { last } = this;
    this.count += 1;
    this.last = n;
    return n > last ? undefined : `${n} arrived after ${last}`;
  }
}
