import type { DistributionHost, Relay, Scope } from "../actor/distribution.ts";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import { unnumberFrame } from "../wire/frames.ts";
import { callWithin } from "./within.ts";

/** The name of the call that relays. Every release must know it. */
export const RELAY = "rollcall:relay";
/** UTF-16 units of the events of a call: the runtime takes 32 MiB. */
const BATCH_UNITS = 1_048_576;
const BATCH_EVENTS = 1_000;
/** A shard must answer within this time, in ms. */
const ANSWER_MS = 5_000;
/** The wait after a failure, in ms; each further one doubles it. */
const RETRY_MS = 100;
const LONGEST_RETRY_MS = 2_000;
/** A shard that fails for so long gets nothing more until the next deadline, in ms. */
const GIVE_UP_MS = 60_000;
/** Storage key of the shards that have missed events, as a list of their numbers. */
const GAPS_KEY = "rollcall:gaps";
/** Storage key of the number up to which the events of before a crash have been relayed. */
const RELAYED_KEY = "rollcall:relayed";

type Entry = ReturnType<DistributionHost["log"]["after"]>[number];

/** What one shard sends another. Fields of a later release are ignored. */
interface Batch {
  /** The number of the sender. */
  from: number;
  /** The number of shards, as the sender knows it. */
  shards: number;
  /** Of the sender's log. */
  epoch: string;
  /** In the order of their numbers. */
  events: { seq: number; text: string; scope: Scope }[];
  /** The sender has lost events for this shard: before these ones, if there are any. */
  gap?: boolean;
}

function isBatch(value: unknown): value is Batch {
  const { from, shards, epoch, events } = (value ?? {}) as Partial<Batch>;
  return (
    Number.isInteger(from) &&
    Number.isInteger(shards) &&
    typeof epoch === "string" &&
    Array.isArray(events) &&
    events.every(({ seq, text }) => Number.isInteger(seq) && typeof text === "string")
  );
}

/** @throws RollcallError `bad_request` */
export function readBatch(value: unknown): Batch {
  if (isBatch(value)) return value;
  throw new RollcallError("bad_request", "This is no batch of events");
}

/** The way to one other shard. It carries one call at a time, so that events arrive in order. */
class Line {
  readonly #relays: Relays;
  readonly #to: number;
  /** All events up to this number have arrived. */
  seq: number;
  /** Events have been lost that were for this shard. */
  hasGap: boolean;
  #isRunning = false;

  constructor(relays: Relays, to: number, seq: number, hasGap: boolean) {
    this.#relays = relays;
    this.#to = to;
    this.seq = seq;
    this.hasGap = hasGap;
  }

  flush(): void {
    if (this.#isRunning) return;
    if (!this.hasGap && this.#relays.nextFor(this.#to, this.seq).length === 0) {
      this.seq = this.#relays.lastSeq;
      return;
    }
    this.#isRunning = true;
    this.#relays.host.keep(
      this.#run().finally(() => {
        this.#isRunning = false;
        this.#relays.moved();
      }),
    );
  }

  async #run(): Promise<void> {
    const { host } = this.#relays;
    let failures = 0;
    let sinceMs = 0;
    for (;;) {
      // A log that has dropped events may have dropped some of these.
      this.hasGap ||= host.log.floor.seq > this.seq;
      const lastSeq = this.#relays.lastSeq;
      const entries = this.#relays.nextFor(this.#to, this.seq);
      if (entries.length === 0 && !this.hasGap) {
        this.seq = lastSeq;
        return;
      }
      const gap = this.hasGap;
      try {
        await this.#relays.send(this.#to, entries, gap);
        this.seq = entries.at(-1)?.seq ?? lastSeq;
        if (gap) {
          this.hasGap = false;
          this.#relays.gapsChanged();
        }
        failures = 0;
      } catch (error) {
        sinceMs = failures === 0 ? Date.now() : sinceMs;
        failures += 1;
        if (failures === 1) log("shard_unreachable", { shard: this.#to, error });
        if (Math.abs(Date.now() - sinceMs) >= GIVE_UP_MS) {
          this.hasGap = true;
          this.seq = this.#relays.lastSeq;
          this.#relays.gapsChanged();
          return;
        }
        const waitMs = Math.min(RETRY_MS * 2 ** (failures - 1), LONGEST_RETRY_MS);
        await scheduler.wait(waitMs);
      }
    }
  }
}

/**
 * Sends the events of a shard to the others, as a reader of its log: each shard gets each event once, in
 * the order of the log. What cannot be sent is retried for a minute; a shard that fails for longer has
 * missed events, which it learns when it answers again.
 */
export class Relays {
  readonly host: DistributionHost;
  readonly #index: number;
  readonly #shards: number;
  readonly #stub: (index: number) => ReturnType<DistributionHost["stub"]>;
  readonly #lines: Line[] = [];
  /** The last event before a crash, while others may not have it. */
  #crashedSeq: number | undefined;
  /** The events after a number that all others get: most lines are at the same one. */
  #common: { after: number; last: number; entries: readonly Entry[] } | undefined;

  /** @param index the number of this shard */
  constructor(
    host: DistributionHost,
    index: number,
    shards: number,
    stub: (index: number) => ReturnType<DistributionHost["stub"]>,
  ) {
    this.host = host;
    this.#index = index;
    this.#shards = shards;
    this.#stub = stub;
  }

  /**
   * An instance with events to send does not sleep. After a crash some may wait in a log that is stored: from
   * the last number that is known to have arrived. Those that had arrived are ignored there.
   */
  start(): void {
    const { kv } = this.host.storage;
    const { relayedSeq, floor } = this.host.log;
    const gaps = new Set(kv.get<number[]>(GAPS_KEY));
    const seq =
      relayedSeq === undefined
        ? this.lastSeq
        : Math.max(relayedSeq, kv.get<number>(RELAYED_KEY) ?? 0, floor.seq);
    for (let to = 0; to < this.#shards; to++) {
      if (to === this.#index) continue;
      this.#lines.push(new Line(this, to, seq, gaps.has(to)));
    }
    this.host.log.relayedSeq = seq;
    if (seq === this.lastSeq) return;
    this.#crashedSeq = this.lastSeq;
    this.flush();
  }

  /** Lines have got further. */
  moved(): void {
    const seq = Math.min(...this.#lines.map((line) => line.seq));
    this.host.log.relayedSeq = seq;
    if (this.#crashedSeq === undefined || seq < this.#crashedSeq) return;
    this.#crashedSeq = undefined;
    this.host.storage.kv.put(RELAYED_KEY, seq);
  }

  get lastSeq(): number {
    return this.host.log.seq;
  }

  flush(): void {
    // Before the start there are none.
    if (this.#lines.length === 0) return;
    for (const line of this.#lines) line.flush();
    this.moved();
  }

  /** Some shards have, or have no more, missed events: stored, so that they learn it after a crash too. */
  gapsChanged(): void {
    const { kv } = this.host.storage;
    const gaps = [...this.#lines.entries()]
      .filter(([, line]) => line.hasGap)
      .map(([i]) => this.#toOf(i));
    if (gaps.length === 0) kv.delete(GAPS_KEY);
    else {
      kv.put(GAPS_KEY, gaps);
      this.host.wakeAt(RELAY, Date.now() + GIVE_UP_MS);
    }
  }

  #toOf(line: number): number {
    return line < this.#index ? line : line + 1;
  }

  /** The events after a number that the shard `to` gets, as many as one call carries. */
  nextFor(to: number, after: number): readonly Entry[] {
    const entries = this.#relayedAfter(after).filter(
      ({ relay }) => relay?.to === undefined || relay.to === to,
    );
    let units = 0;
    const end = entries.findIndex(({ text }, i) => {
      units += text.length;
      return i > 0 && (i >= BATCH_EVENTS || units > BATCH_UNITS);
    });
    return end < 0 ? entries : entries.slice(0, end);
  }

  #relayedAfter(after: number): readonly Entry[] {
    const { log } = this.host;
    if (this.#common?.after !== after || this.#common.last !== log.seq) {
      const entries = log.after(after).filter(({ relay }) => relay !== undefined);
      this.#common = { after, last: log.seq, entries };
    }
    return this.#common.entries;
  }

  /** @throws whatever keeps the shard from answering */
  async send(to: number, entries: readonly Entry[], gap: boolean): Promise<void> {
    const batch: Batch = {
      from: this.#index,
      shards: this.#shards,
      epoch: this.host.epoch(),
      events: entries.map(({ seq, text, relay }) => ({
        seq,
        text: unnumberFrame(text),
        scope: scopeOf(relay ?? {}),
      })),
      ...(gap && { gap }),
    };
    await callWithin(ANSWER_MS, this.#stub(to), RELAY, batch);
  }

  /** Ends all sessions here. What others have not been sent yet is lost with the log. */
  restart(reason: string): void {
    for (const [i, line] of this.#lines.entries()) {
      line.hasGap ||= this.nextFor(this.#toOf(i), line.seq).length > 0;
    }
    this.host.restart(reason);
    for (const line of this.#lines) line.seq = this.lastSeq;
  }

  /** Takes what another shard relays. */
  receive({ from, epoch, events, gap }: Batch): void {
    const { origins } = this.host;
    const known = origins.get(from);
    let seq = known?.epoch === epoch ? known.seq : 0;
    if (gap) this.restart("Events were lost");
    for (const event of events) {
      // It came already, and only the answer was lost.
      if (event.seq <= seq) continue;
      seq = event.seq;
      origins.set(from, { epoch, seq });
      this.host.deliver(event.scope, event.text, [from, epoch, seq]);
    }
    origins.set(from, { epoch, seq });
    this.host.store();
  }
}

function scopeOf({ to: _, ...scope }: Relay): Scope {
  return scope;
}
