import {
  applyDiff,
  applyEvent,
  type PresenceCount,
  type PresenceEvent,
  type Roster,
  type RosterDiff,
  type RosterEntry,
  type RosterSync,
  rosterOf,
} from "../../../rooms/presence/roster.ts";
import { plural } from "../parts.tsx";
import { LEFT } from "../room.ts";
import { Store } from "../store.ts";
import type { Api } from "./api.ts";
import { followStream, type StreamEvent, type StreamState } from "./stream.ts";

/** Events that are kept. */
const LOG_LENGTH = 200;
/** Least ms between two readings of the list, for each page, where the events do not name the users. */
const RELOAD_MS = 3_000;

/** One event of the room, as this page received it. */
export interface RoomEvent {
  /** Of this page. */
  id: number;
  atMs: number;
  event: string;
  channel: string;
  data: unknown;
  /** What happened, in words, where this page knows the event; else empty. */
  text: string;
}

/** The users that this page has read, by id. */
export interface UserList {
  users: readonly RosterEntry<string>[];
  totals: PresenceCount | null;
  /** There are more in the room than in `users`. */
  hasMore: boolean;
}

/** A room as it is read over HTTP, and kept up to date by its stream. */
export class LiveRoom {
  readonly list = new Store<UserList>({ users: [], totals: null, hasMore: false });
  /** Newest first. They stand still while paused. */
  readonly events = new Store<readonly RoomEvent[]>([]);
  readonly isPaused = new Store(false);
  /** Events that arrived while paused. */
  readonly missed = new Store(0);
  readonly stream = new Store<StreamState>({ kind: "connecting" });
  /** Why the list could not be read. */
  readonly fault = new Store<unknown>(null);
  readonly #api: Api;
  readonly #room: string;
  #roster: Roster<string> = new Map();
  #totals: PresenceCount | null = null;
  /** The roster is known up to this user; null: to the end. */
  #next: string | null = null;
  /** The stream brings every change of every user. */
  #isComplete = false;
  #log: RoomEvent[] = [];
  #eventId = 0;
  #ended = new AbortController();
  #reload: ReturnType<typeof setTimeout> | undefined;
  #readAtMs = 0;
  /** As many as were read last, each by a request. */
  #pages = 1;

  constructor(api: Api, room: string) {
    this.#api = api;
    this.#room = room;
  }

  /** @returns ends it; it may be started again */
  start(): () => void {
    const ended = new AbortController();
    this.#ended = ended;
    void this.reload();
    const stop = followStream({
      open: (lastEventId, signal) => this.#api.openStream(this.#room, lastEventId, signal),
      onEvent: (event) => this.#received(event),
      onState: (state) => {
        this.stream.value = state;
      },
    });
    return () => {
      ended.abort();
      clearTimeout(this.#reload);
      this.#reload = undefined;
      stop();
    };
  }

  pause(isPaused: boolean): void {
    this.isPaused.value = isPaused;
    this.#showLog();
  }

  /** Reads the list again, as far as it was read before. */
  async reload(): Promise<void> {
    const last = [...this.#roster.keys()].at(-1) ?? "";
    await this.#read(async () => {
      const roster: Roster<string> = new Map();
      let next: string | null = null;
      this.#pages = 0;
      do {
        next = await this.#readPage(roster, next);
        this.#pages += 1;
      } while (next !== null && next < last);
      return { roster, next };
    });
  }

  /** Reads the next page. */
  async readMore(): Promise<void> {
    const from = this.#next;
    if (from === null) return;
    await this.#read(async () => {
      const roster = new Map(this.#roster);
      return { roster, next: await this.#readPage(roster, from) };
    });
  }

  async #read(read: () => Promise<{ roster: Roster<string>; next: string | null }>): Promise<void> {
    const { signal } = this.#ended;
    this.#readAtMs = Date.now();
    try {
      const { roster, next } = await read();
      // What the stream brings is newer.
      if (signal.aborted || this.#isComplete) return;
      this.#roster = roster;
      this.#next = next;
      this.fault.value = null;
      this.#showList();
    } catch (error) {
      if (!signal.aborted) this.fault.value = error;
    }
  }

  /** Adds a page to `roster`. @returns the user after whom the next one begins */
  async #readPage(roster: Roster<string>, after: string | null): Promise<string | null> {
    const page = await this.#api.readRoom(this.#room, after, this.#ended.signal);
    for (const entry of page.users) roster.set(entry.userId, entry);
    if (!this.#isComplete) this.#totals = page;
    return page.next;
  }

  #reloadSoon(): void {
    const waitMs = Math.max(0, this.#readAtMs + RELOAD_MS * this.#pages - Date.now());
    this.#reload ??= setTimeout(() => {
      this.#reload = undefined;
      void this.reload();
    }, waitMs);
  }

  #received({ event: name, data: json }: StreamEvent): void {
    let frame: { event?: unknown; channel?: unknown; data?: unknown; type?: unknown };
    try {
      frame = JSON.parse(json) ?? {};
    } catch {
      return;
    }
    if (name === "gap") {
      this.#isComplete = false;
      this.#reloadSoon();
      this.#report("gap", "", frame, "Events of a break are missing here.");
      return;
    }
    const { event, channel, data } = frame;
    if (typeof event !== "string") return;
    let text = "";
    try {
      text = this.#fold(event, data);
    } catch {
      // A room may mean something of its own by these names.
    }
    this.#report(event, typeof channel === "string" ? channel : "", data, text);
  }

  /** Brings the list up to date. @returns what happened, in words */
  #fold(event: string, data: unknown): string {
    switch (event) {
      case "presence.sync":
        return this.#sync(data as RosterSync<string>);
      case "presence.diff":
        return this.#diff(data as RosterDiff<string>);
      case "presence.count":
        this.#totals = data as PresenceCount;
        if (!this.#isComplete) this.#reloadSoon();
        this.#showList();
        return totalsText(this.#totals);
      case "presence.online":
      case "presence.update":
      case "presence.offline":
      case "presence.status": {
        const single = { event, data } as PresenceEvent<string>;
        applyEvent(this.#roster, single);
        this.#showList();
        return singleText(single);
      }
      default:
        return "";
    }
  }

  #sync(sync: RosterSync<string>): string {
    const wasComplete = this.#isComplete;
    this.#totals = sync;
    this.#isComplete = sync.partial !== true;
    if (this.#isComplete || wasComplete || this.#roster.size === 0) {
      this.#roster = inOrder(rosterOf(sync));
      this.#next = sync.next ?? null;
      this.fault.value = null;
    } else this.#reloadSoon();
    this.#showList();
    return totalsText(sync);
  }

  #diff(diff: RosterDiff<string>): string {
    const next = this.#next;
    // Users after the last page stay out until it is read.
    const joins = diff.joins.filter(({ userId }) => next === null || userId <= next);
    const before = new Map(this.#roster);
    applyDiff(this.#roster, { ...diff, joins });
    if (joins.some(({ userId }) => !before.has(userId))) {
      this.#roster = inOrder(this.#roster);
    }
    this.#showList();
    return diffText(diff, before);
  }

  #showList(): void {
    const users = [...this.#roster.values()];
    if (this.#isComplete) {
      const totalConnections = users.reduce((sum, { devices }) => sum + devices, 0);
      this.#totals = { totalUsers: users.length, totalConnections };
    }
    this.list.value = { users, totals: this.#totals, hasMore: this.#next !== null };
  }

  #report(event: string, channel: string, data: unknown, text: string): void {
    const item = { id: ++this.#eventId, atMs: Date.now(), event, channel, data, text };
    this.#log = [item, ...this.#log].slice(0, LOG_LENGTH);
    this.#showLog();
  }

  #showLog(): void {
    if (!this.isPaused.value) {
      this.events.value = this.#log;
      this.missed.value = 0;
      return;
    }
    const newest = this.events.value[0]?.id ?? 0;
    this.missed.value = this.#eventId - newest;
  }
}

/** By id, as pages are. */
function inOrder(roster: Roster<string>): Roster<string> {
  return new Map([...roster].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function totalsText({ totalUsers, totalConnections }: PresenceCount): string {
  return `${plural(totalUsers, "user")} on ${plural(totalConnections, "connection")}`;
}

function singleText({ event, data }: PresenceEvent<string>): string {
  switch (event) {
    case "presence.online":
      return `${data.username} joined`;
    case "presence.offline":
      return `${data.username} ${LEFT[data.reason ?? "left"]}`;
    case "presence.update":
      return `${data.username} has ${plural(data.devices, "device")}`;
    case "presence.status":
      return `${data.username} is ${data.status}`;
  }
}

/** Changes that a line names; of more it gives the number. */
const NAMED = 3;

function diffText(
  diff: RosterDiff<string>,
  before: ReadonlyMap<string, RosterEntry<string>>,
): string {
  const texts = [
    ...diff.joins.map(({ username }) => `${username} joined`),
    ...diff.leaves.map(({ username, reason = "left" }) => `${username} ${LEFT[reason]}`),
    ...diff.updates.map(({ userId, devices, status, username }) => {
      const name = username ?? before.get(userId)?.username ?? userId;
      if (devices !== undefined) return `${name} has ${plural(devices, "device")}`;
      return status === undefined ? `${name} changed` : `${name} is ${status}`;
    }),
    ...(diff.states ?? []).map(({ userId }) => {
      return `${before.get(userId)?.username ?? userId} has a new state`;
    }),
  ];
  const more = texts.length - NAMED;
  return texts.slice(0, NAMED).join(", ") + (more > 0 ? `, and ${more} more` : "");
}
