import { RollcallError } from "../wire/errors.ts";
import type { Untyped } from "../wire/frames.ts";
import { FrameBudget } from "./limits.ts";
import type { Entry, Gap, Log } from "./log.ts";
import type { ConnectionMeta } from "./meta.ts";
import { parseCursor } from "./resume.ts";

/** Events of a page, and their length together, in UTF-16 units: the first that is reached ends it. */
const PAGE_EVENTS = 100;
const PAGE_UNITS = 262_144;

/** Pages that one client may ask for: each has all events of the log looked through. */
const PAGES = { framesBurst: 10, framesPerSecond: 5 };

/** An event in the log, as its room reads it. */
export interface LoggedEvent {
  cursor: string;
  /** When it was emitted, in ms. */
  atMs: number;
  /** Null for an event to the whole room. */
  channel: string | null;
  event: string;
  data: Untyped;
}

/** A range of the log. */
export interface LogRange {
  /** Oldest first. */
  events: LoggedEvent[];
  /** Why it does not begin at `after`: then it begins with the oldest event that is known. */
  reason?: CursorGap;
}

/** Why what follows a cursor is not known. `unknown`: it is no cursor of this log. */
export type CursorGap = Gap | "unknown";

/** What keeps the log. */
interface Host {
  readonly log: Log;
  /** Differs whenever numbers of before cannot be trusted. */
  readonly logEpoch: string;
  requestStore(): void;
  clear(): void;
}

/** The log of an actor, for its room. A cursor is `<epoch>:<number>`. */
export class RoomLog {
  readonly #log: Log;
  readonly #host: Host;

  constructor(host: Host) {
    this.#log = host.log;
    this.#host = host;
  }

  /** The epoch of cursors. */
  get epoch(): string {
    return this.#host.logEpoch;
  }

  /** The number of the newest event. */
  get seq(): number {
    return this.#log.eventSeq;
  }

  /** The cursor of the newest event. */
  get cursor(): string {
    return this.#cursorOf(this.seq);
  }

  #cursorOf(seq: number): string {
    return `${this.#host.logEpoch}:${seq}`;
  }

  /**
   * Reads events to channels and to the whole room, not those to users or single sessions.
   *
   * @param options.channel only this one
   * @param options.after a cursor: the events that follow it; without one, the newest
   * @param options.limit 1–1 000 events, default 100
   */
  read(options: { channel?: string; after?: string; limit?: number } = {}): LogRange {
    const { channel, after, limit = PAGE_EVENTS } = options;
    const count = Math.min(Math.max(Math.trunc(limit) || 1, 1), 1_000);
    const known = after === undefined ? this.#all() : this.after(after);
    const entries = (typeof known === "string" ? this.#all() : known).filter(
      ({ target }) => "channel" in target && (channel === undefined || target.channel === channel),
    );
    const page = after === undefined ? entries.slice(-count) : entries.slice(0, count);
    const events = page.map((entry) => this.#toEvent(entry));
    return typeof known === "string" ? { events, reason: known } : { events };
  }

  #all(): Entry[] {
    return this.#log.all(Date.now());
  }

  #toEvent({ seq, atMs, target, text }: Entry): LoggedEvent {
    const frame = JSON.parse(text) as { type: string; data?: Untyped };
    const at = { cursor: this.#cursorOf(seq), atMs };
    const channel = "channel" in target ? target.channel : null;
    if (frame.type !== "event" || typeof frame.data?.type !== "string") {
      return { ...at, channel, event: frame.type, data: frame.data };
    }
    const { type, ...data } = frame.data;
    return { ...at, channel, event: type, data };
  }

  /**
   * Adds an event that the room sends itself, to sessions of its choice. For rooms with a codec of their
   * own, whose clients know cursors.
   *
   * @param encode makes its text
   * @param isRooms the room stores it, with a row of its own, and gives it back by
   *   {@link RoomDefinition.storedEvents}
   */
  append(encode: (cursor: string) => string, isRooms = false): Entry {
    const text = (seq: number) => encode(this.#cursorOf(seq));
    const more = isRooms ? ({ isRooms } as const) : {};
    const entry = this.#log.append({ only: [] }, text, Date.now(), more);
    this.#host.requestStore();
    return entry;
  }

  /** The entries after a cursor, oldest first; or why they are not all known. */
  after(cursor: string): Entry[] | CursorGap {
    const parsed = parseCursor(cursor);
    if (!parsed) return "unknown";
    if (parsed.epoch !== this.#host.logEpoch) return "restarted";
    return this.#log.since(parsed.seq, Date.now());
  }

  /** @internal The events to `channels`, and to the whole room, after a cursor. */
  channelEventsAfter(cursor: string, channels: readonly string[]): Entry[] | CursorGap {
    const entries = this.after(cursor);
    return typeof entries === "string" ? entries : entries.filter(isIn(channels));
  }

  /** @internal The last `count` events to `channels`, and to the whole room, oldest first. */
  lastChannelEvents(channels: readonly string[], count: number): Entry[] {
    return count > 0 ? this.#all().filter(isIn(channels)).slice(-count) : [];
  }

  /**
   * @internal A page for a client that is in `channels`: the last events before the number `before`, as
   * JSON. The frames are as they were sent.
   */
  pageBefore(channels: readonly string[], before: number, limit: number): string {
    const page: string[] = [];
    let first = before;
    let units = 0;
    let isMore = false;
    for (const entry of this.#all().filter(isIn(channels)).reverse()) {
      if (entry.seq >= before) continue;
      units += entry.text.length;
      isMore = page.length === limit || (units > PAGE_UNITS && page.length > 0);
      if (isMore) break;
      page.push(`{"atMs":${entry.atMs},"frame":${entry.text}}`);
      first = entry.seq;
    }
    const next = isMore ? JSON.stringify(this.#cursorOf(first)) : "null";
    return `{"events":[${page.reverse().join(",")}],"before":${next}}`;
  }

  /** Forgets all events, and deletes them from storage. */
  clear(): void {
    this.#host.clear();
  }
}

/** Pages of the log for clients that ask. */
export class HistoryPages<M extends ConnectionMeta> {
  readonly #log: RoomLog;
  readonly #mayRead: (meta: M) => boolean;
  readonly #budgets = new WeakMap<object, FrameBudget>();

  /** @param mayRead whether a client may read the log */
  constructor(log: RoomLog, mayRead: (meta: M) => boolean) {
    this.#log = log;
    this.#mayRead = mayRead;
  }

  /**
   * @param data of the frame: `{before?: <cursor>, limit?}`
   * @returns `{events: [{atMs, frame}], before: <cursor of the next page> or null}` as JSON
   * @throws RollcallError `rate_limited`, `forbidden`, or `not_found` for a cursor of another log
   */
  read(session: { readonly meta: M }, data: unknown, now: number): string {
    const { meta } = session;
    const budget = this.#budgets.get(session) ?? new FrameBudget(PAGES);
    this.#budgets.set(session, budget);
    if (budget.take(now) !== "ok") throw new RollcallError("rate_limited", "Too many pages");
    if (!this.#mayRead(meta)) throw new RollcallError("forbidden", "No history for this client");
    const { before, limit } = (data ?? {}) as { before?: unknown; limit?: unknown };
    const cursor = typeof before === "string" ? parseCursor(before) : undefined;
    if (before !== undefined && before !== null && cursor?.epoch !== this.#log.epoch) {
      throw new RollcallError("not_found", "Not a cursor of this log");
    }
    const count = Math.min(Math.max(Math.trunc(Number(limit)) || PAGE_EVENTS, 1), PAGE_EVENTS);
    return this.#log.pageBefore(meta.channels, cursor?.seq ?? Number.POSITIVE_INFINITY, count);
  }
}

function isIn(channels: readonly string[]): (entry: Entry) => boolean {
  return ({ target }) =>
    "channel" in target && (target.channel === null || channels.includes(target.channel));
}
