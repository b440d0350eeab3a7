import type { Origin, Relay } from "./distribution.ts";

/** Limits of a room's log. The first that is reached trims it. */
export interface LogOptions {
  /** Age of an event, in ms. */
  ageMs: number;
  /** Number of events. */
  events: number;
  /** Size of all events, in UTF-16 units of their text. */
  bytes: number;
  /**
   * `false`: the log is in memory, and in storage too while a session is lost, with at most one row
   * in 5 s as long as anybody is connected. `true`: every event is stored before it is sent, with at most one row per flush.
   */
  durable: boolean;
}

export const LOG: LogOptions = {
  ageMs: 120_000,
  events: 1_000,
  bytes: 1_048_576,
  durable: false,
};

/**
 * The sessions that an event is for: those in a channel (null: all of the room) without one, or a
 * list of them by their ids.
 */
export type Target = { channel: string | null; except?: string } | { only: readonly string[] };

/** An event in the log. */
export interface Entry {
  readonly seq: number;
  readonly atMs: number;
  readonly target: Target;
  /** The frame as clients of protocol 3 receive it. */
  readonly text: string;
  /** The id of the emit that this is the answer to. */
  readonly answers?: string;
  /** The number of the event before; absent in rows of earlier releases. */
  readonly prev?: number;
  /** The room stores it, with a row of its own. */
  readonly isRooms?: true;
  /** Other actors of the room have to get it. */
  readonly relay?: Relay;
  /** Another actor of the room has relayed it. */
  readonly origin?: Origin;
}

/** A session, as far as the log must know it to find its events. */
export interface Reader {
  readonly id: string;
  /** The number of the last event before its `onConnect` was done. */
  readonly openSeq: number;
  /** The number of the last frame that was for this session by name: an event, an ack or a nack. */
  readonly directSeq: number;
  /** The same, as it was when the actor's instance started: such frames are not in its memory. */
  readonly restoredSeq: number;
  readonly channels: readonly string[];
  /** Channels that it joined later than it connected: the last number before. */
  readonly joined: Readonly<Record<string, number>> | undefined;
  /** Channels that it has left: the last number before it joined, and the last before it left. */
  readonly left: readonly [channel: string, from: number, to: number][] | undefined;
}

/** Why a reader cannot have all its events. */
export type Gap = "trimmed" | "restarted";

/** What proves that a session has missed nothing, once the log itself is gone. */
export interface Marks {
  /** The last number that was given, and the number of the last event. */
  seq: number;
  eventSeq: number;
  /** The last event of every channel that is not listed is not later than this. */
  rest: number;
  /** By channel (null: events for the whole room). The last event comes last. */
  channels: [channel: string | null, seq: number, except?: string, exceptSeq?: number][];
}

/** Where a log begins: all events after the number are in it. */
export interface Floor {
  seq: number;
  cause: Gap;
  /** The last events up to it, where they are known. Absent: each channel may have had one at the number. */
  last?: Pick<Marks, "rest" | "channels">;
}

/** How much of {@link Floor.last} is stored: channels, and the length of their names. */
const STORED_CHANNELS = 100;
const STORED_UNITS = 4_096;
/** Channels whose last events are known, and the length of all their names; the others share one. */
const KNOWN_CHANNELS = 1_000;
const KNOWN_UNITS = 256_000;
/** What an entry takes besides its text, in bytes, roughly. */
const ENTRY_BYTES = 100;
/** Sessions whose trimmed events are told apart. */
const TRIMMED_SESSIONS = 5_000;
/** Entries that are dropped from the front at once: moving the rest costs as much as dropping one. */
const DROPPED_AT_ONCE = 256;

/** The last events of a channel: the last one, who did not get it, and the last that this one got. */
interface Mark {
  seq: number;
  except: string | undefined;
  exceptSeq: number;
}

/** The last event of every channel, as far as a session must know it. */
class LastEvents {
  /** In the order of the last events, so that the oldest channels are the first. */
  readonly #channels = new Map<string | null, Mark>();
  /** The last event of every channel that is not listed is not later than this. */
  #rest: number;

  constructor(rest = 0, channels: Marks["channels"] = []) {
    this.#rest = rest;
    for (const [channel, seq, except, exceptSeq = 0] of channels) {
      this.#channels.set(channel, { seq, except, exceptSeq });
    }
  }

  add(channel: string | null, seq: number, except: string | undefined): void {
    const last = this.#channels.get(channel);
    const lastSeq = last?.seq ?? this.#rest;
    const exceptSeq = last && last.except === except ? last.exceptSeq : lastSeq;
    this.#channels.delete(channel);
    this.#channels.set(channel, { seq, except, exceptSeq });
    if (this.#channels.size <= KNOWN_CHANNELS) return;
    const [oldest] = this.#channels;
    if (!oldest) return;
    this.#rest = Math.max(this.#rest, oldest[1].seq);
    this.#channels.delete(oldest[0]);
  }

  /** No event of a channel that was for `reader` has a higher number than this. */
  lastFor(reader: Reader): number {
    let last = this.#lastIn(null, reader);
    for (const channel of reader.channels) last = Math.max(last, this.#lastIn(channel, reader));
    for (const [channel, from, to] of reader.left ?? []) {
      const seq = Math.min(this.#lastSent(channel, reader), to);
      if (seq > from) last = Math.max(last, seq);
    }
    return last;
  }

  #lastIn(channel: string | null, reader: Reader): number {
    const seq = this.#lastSent(channel, reader);
    return seq > sinceOf(channel, reader) ? seq : 0;
  }

  /** The last event in a channel that was not sent to all but `reader`. */
  #lastSent(channel: string | null, reader: Reader): number {
    const mark = this.#channels.get(channel);
    if (mark === undefined) return this.#rest;
    return mark.except === reader.id ? mark.exceptSeq : mark.seq;
  }

  /** At most `channels` channels, whose names have at most `units` characters together. */
  list(channels: number, units: number): Pick<Marks, "rest" | "channels"> {
    const listed: Marks["channels"] = [];
    let rest = this.#rest;
    let leftUnits = units;
    for (const [channel, { seq, except, exceptSeq }] of [...this.#channels].reverse()) {
      leftUnits -= (channel?.length ?? 0) + (except?.length ?? 0);
      if (listed.length === channels || leftUnits < 0) {
        rest = Math.max(rest, seq);
        break;
      }
      listed.push(except === undefined ? [channel, seq] : [channel, seq, except, exceptSeq]);
    }
    return { rest, channels: listed.reverse() };
  }
}

/**
 * The events of an actor by number, from the oldest that the limits keep. Sessions that lost their
 * socket read from it what they have missed.
 */
export class Log {
  readonly #options: LogOptions;
  #entries: Entry[] = [];
  /** Index of the oldest entry that counts; those before it are dropped in batches. */
  #first = 0;
  #bytes = 0;
  #seq = 0;
  #eventSeq = 0;
  /** All events up to it have been relayed; undefined: all. */
  relayedSeq: number | undefined;
  #ownSeq = 0;
  /** All events after this number are in the log. */
  #floor = 0;
  #floorCause: Gap = "trimmed";
  #sent = new LastEvents();
  /** The last events that are in the log no more, by channel and by the session they were for. */
  #trimmed = new LastEvents();
  #trimmedDirect = new Map<string, number>();

  constructor(options: LogOptions) {
    this.#options = options;
  }

  /** The last number that was given. */
  get seq(): number {
    return this.#seq;
  }

  /** The number of the last event. */
  get eventSeq(): number {
    return this.#eventSeq;
  }

  /** The number of the last event that is to be stored with the log. */
  get ownSeq(): number {
    return this.#ownSeq;
  }

  /** A number for a frame that is not kept here: an ack or a nack. */
  next(): number {
    this.#seq += 1;
    return this.#seq;
  }

  /**
   * Adds an event.
   *
   * @param encode makes the frame with its number
   */
  append(
    target: Target,
    encode: (seq: number) => string,
    now: number,
    more: Pick<Entry, "answers" | "isRooms" | "relay" | "origin"> = {},
  ): Entry {
    const seq = this.next();
    const entry: Entry = {
      seq,
      atMs: now,
      target,
      text: encode(seq),
      prev: this.#eventSeq,
      ...more,
    };
    this.#add(entry);
    this.#eventSeq = seq;
    if (more.isRooms === undefined) this.#ownSeq = seq;
    if ("channel" in target) this.#sent.add(target.channel, seq, target.except);
    this.#trim(now);
    return entry;
  }

  #add(entry: Entry): void {
    this.#entries.push(entry);
    this.#bytes += entry.text.length + ENTRY_BYTES;
  }

  /** Drops what the limits do not keep at `now` (ms). */
  #trim(now: number): void {
    const { ageMs, events, bytes } = this.#options;
    const entries = this.#entries;
    for (;;) {
      const oldest = entries[this.#first];
      if (!oldest) break;
      const isKept =
        entries.length - this.#first <= events &&
        this.#bytes <= bytes &&
        now - oldest.atMs <= ageMs;
      if (isKept) break;
      this.#first += 1;
      this.#bytes -= oldest.text.length + ENTRY_BYTES;
      this.#floor = oldest.seq;
      this.#floorCause = "trimmed";
      this.#noteTrimmed(oldest);
    }
    if (this.#first < DROPPED_AT_ONCE && this.#first < entries.length) return;
    this.#entries = entries.slice(this.#first);
    this.#first = 0;
  }

  #noteTrimmed({ seq, target }: Entry): void {
    if ("channel" in target) {
      this.#trimmed.add(target.channel, seq, target.except);
      return;
    }
    if (this.#trimmedDirect.size > TRIMMED_SESSIONS) {
      this.#trimmed = new LastEvents(seq);
      this.#trimmedDirect.clear();
    }
    for (const id of target.only) this.#trimmedDirect.set(id, seq);
  }

  /** The entries after the number `after`, oldest first. */
  after(after: number): Entry[] {
    const entries = this.#entries;
    let low = this.#first;
    let high = entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((entries[middle] as Entry).seq <= after) low = middle + 1;
      else high = middle;
    }
    return entries.slice(low);
  }

  /** All entries after the number `after`, oldest first; or why they are not all known. */
  since(after: number, now: number): Entry[] | Gap {
    if (after > this.#seq) return "restarted";
    this.#trim(now);
    return after < this.#floor ? this.#floorCause : this.after(after);
  }

  /** All entries, oldest first. */
  all(now: number): Entry[] {
    this.#trim(now);
    return this.after(0);
  }

  /** Forgets all entries. */
  clear(): void {
    const { seq, eventSeq } = this;
    const marks = { seq, eventSeq, ...this.#sent.list(KNOWN_CHANNELS, KNOWN_UNITS) };
    this.restore(marks, [], { seq, cause: "trimmed" });
  }

  /** No number of an event that was for `reader` is higher than this. */
  lastFor(reader: Reader): number {
    return Math.max(reader.directSeq, this.#sent.lastFor(reader));
  }

  /**
   * The events that `reader` has missed after the number `after`, oldest first; or why they are not
   * all known. A reader that has missed none gets none, however far the log has been trimmed.
   */
  missedBy(reader: Reader, after: number, now: number): Entry[] | Gap {
    if (after > this.#seq) return "restarted";
    if (this.lastFor(reader) <= after) return [];
    this.#trim(now);
    // Events that are gone matter only if they were for this reader.
    const lostDirect = Math.max(reader.restoredSeq, this.#trimmedDirect.get(reader.id) ?? 0);
    const lost = Math.max(lostDirect, this.#trimmed.lastFor(reader));
    if (after < this.#floor && after < Math.min(lost, this.#floor)) return this.#floorCause;
    return this.after(after).filter((entry) => isFor(entry, reader));
  }

  /**
   * What proves that sessions missed nothing.
   *
   * @param channels how many channels are listed at most
   * @param units how long their names are together at most
   */
  marks(channels = KNOWN_CHANNELS, units = KNOWN_UNITS): Marks {
    return { seq: this.#seq, eventSeq: this.#eventSeq, ...this.#sent.list(channels, units) };
  }

  /** Continues the numbers of an instance that is gone, with the entries that it stored. */
  restore(marks: Marks, entries: readonly Entry[], floor: Floor): void {
    this.#seq = marks.seq;
    this.#eventSeq = marks.eventSeq;
    this.#ownSeq = marks.eventSeq;
    this.#sent = new LastEvents(marks.rest, marks.channels);
    // Without entries, all that was sent is gone; else only what came before the floor.
    const { rest, channels } =
      entries.length === 0 ? marks : (floor.last ?? { rest: floor.seq, channels: [] });
    this.#trimmed = new LastEvents(rest, channels);
    this.#trimmedDirect.clear();
    this.#entries = [];
    this.#first = 0;
    this.#bytes = 0;
    this.#floor = floor.seq;
    this.#floorCause = floor.cause;
    for (const entry of entries) this.#add(entry);
  }

  /** The numbers so far cannot be trusted: they go on from `seq`, and nothing before is known. */
  restartAt(seq: number): void {
    this.restore({ seq, eventSeq: seq, rest: seq, channels: [] }, [], { seq, cause: "restarted" });
  }

  /** All events after this number are in the log. */
  get floor(): Floor {
    return { seq: this.#floor, cause: this.#floorCause };
  }

  /** As {@link floor}, with the last events up to it. */
  get storedFloor(): Floor {
    return { ...this.floor, last: this.#trimmed.list(STORED_CHANNELS, STORED_UNITS) };
  }
}

/** The last number that is not for `reader`, as it was not in the channel then. */
function sinceOf(channel: string | null, { openSeq, joined }: Reader): number {
  return channel === null ? openSeq : (joined?.[channel] ?? openSeq);
}

/** Whether an event is for `reader`. */
export function isFor({ seq, target }: Entry, reader: Reader): boolean {
  if ("only" in target) return target.only.includes(reader.id);
  const { channel, except } = target;
  if (except === reader.id) return false;
  if (channel === null || reader.channels.includes(channel)) {
    if (seq > sinceOf(channel, reader)) return true;
  }
  return (
    reader.left?.some(([left, from, to]) => left === channel && seq > from && seq <= to) === true
  );
}
