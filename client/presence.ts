import {
  applyDiff,
  applyEvent,
  diffRoster,
  type PresenceCount,
  type PresenceEvent,
  type Roster,
  type RosterEntry,
  rosterOf,
} from "../rooms/presence/roster.ts";
import type { Hello, Untyped } from "../src/wire/frames.ts";
import { Others } from "./others.ts";

/** The single events of a frame: those the app gets before the frame itself, and those after it. */
export interface Singles {
  before: PresenceEvent[];
  after: PresenceEvent[];
}

const NONE: Singles = { before: [], after: [] };

/**
 * The roster of a presence room, over breaks of the connection. What changed during a break reaches the
 * app as single events, like all other changes.
 */
export class RosterKeeper {
  roster: Roster = new Map();
  readonly others: Others;
  /** Of the whole room, where the roster is a part of it. */
  #count: PresenceCount | undefined;
  readonly #report: (events: PresenceEvent[]) => void;
  readonly #forgotten: (status: Untyped) => void;
  /** The status that this user has chosen, here or later on another device. */
  #own: { status: Untyped; userId?: string } | undefined;
  /** A new session begins with a sync, which is compared with the roster. */
  #isStale = false;
  /** Time that users of a room which lost its memory have to come back, in ms. */
  #graceMs = 0;
  readonly #missing = new Map<string, RosterEntry>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param report gives the app events that no frame brings
   * @param forgotten sets a status again that a room has forgotten
   * @param changed something of the others has changed without a message
   */
  constructor(
    report: (events: PresenceEvent[]) => void,
    forgotten: (data: { status: Untyped }) => void,
    changed: () => void,
  ) {
    this.others = new Others(changed);
    this.#report = report;
    this.#forgotten = (status) => forgotten({ status });
  }

  /** The app sets the user's status. */
  chose(data: Untyped): void {
    this.#own = { ...this.#own, status: data?.status };
  }

  begin({ session, nowMs = Date.now() }: Hello): void {
    this.others.begin(session, nowMs);
  }

  /** Users and connections in the room, as far as they are known. */
  get count(): PresenceCount {
    if (this.#count) return this.#count;
    let totalConnections = 0;
    for (const { devices } of this.roster.values()) totalConnections += devices;
    return { totalUsers: this.roster.size, totalConnections };
  }

  /** The next sync is of a new session. @param graceMs 0: who is not in it has left */
  restart(graceMs: number): void {
    this.#isStale = true;
    this.#graceMs = graceMs;
  }

  /** Folds an event into the roster. */
  fold(event: string, data: Untyped): Singles {
    if (!event.startsWith("presence.")) return NONE;
    try {
      if (event === "presence.sync") {
        const { partial = false, totalUsers, totalConnections } = data;
        this.#count = partial ? { totalUsers, totalConnections } : undefined;
        return { before: this.#sync(rosterOf(data), partial), after: [] };
      }
      if (event === "presence.count") {
        const { totalUsers, totalConnections } = data;
        this.#count = { totalUsers, totalConnections };
      }
      if (event === "presence.diff") {
        const after = applyDiff(this.roster, data);
        for (const { userId } of data.joins) this.#missing.delete(userId);
        return { before: [], after };
      }
      if (event === "presence.online") this.#missing.delete(data.userId);
      if (event === "presence.status" && this.#own) {
        // The server sends a status to its sender, too: that is how the client learns who it is.
        const { userId = data.userId, status } = this.#own;
        if (data.userId === userId && (this.#own.userId || data.status === status)) {
          this.#own = { userId, status: data.status };
        }
      }
      applyEvent(this.roster, { event, data } as PresenceEvent);
    } catch {
      // A room may mean something of its own by these names.
    }
    return NONE;
  }

  #sync(next: Roster, isPartial: boolean): PresenceEvent[] {
    const old = this.roster;
    this.roster = next;
    // Nobody can tell who is gone.
    if (isPartial) {
      this.#missing.clear();
      this.#isStale = false;
      return [];
    }
    if (!this.#isStale) {
      for (const [userId, entry] of this.#missing) if (!next.has(userId)) next.set(userId, entry);
      return [];
    }
    this.#isStale = false;
    clearTimeout(this.#timer);
    this.#missing.clear();
    if (this.#graceMs > 0) {
      for (const [userId, entry] of old) {
        if (next.has(userId)) continue;
        this.#missing.set(userId, entry);
        next.set(userId, entry);
      }
      if (this.#missing.size > 0) this.#timer = setTimeout(() => this.#giveUp(), this.#graceMs);
    }
    this.#restoreStatus(next);
    return this.#changes(old, next);
  }

  /** Another device of the user may have chosen later: only a status that no device kept is set again. */
  #restoreStatus(roster: Roster): void {
    if (!this.#own) return;
    const { userId = this.others.me?.userId, status } = this.#own;
    const me = userId === undefined ? undefined : roster.get(userId);
    if (!me || (me.devices === 1 && me.status !== status)) this.#forgotten(status);
  }

  /** The changes between two rosters as single events. */
  #changes(old: Roster, next: Roster): PresenceEvent[] {
    const diff = diffRoster(old, next, new Set([...old.keys(), ...next.keys()]), Date.now());
    return diff ? applyDiff(new Map(old), diff) : [];
  }

  /** The missing have not come back. */
  #giveUp(): void {
    const timestamp = Date.now();
    const gone = [...this.#missing.values()].filter(({ userId }) => this.roster.delete(userId));
    this.#missing.clear();
    this.#report(
      gone.map(({ userId, username }) => ({
        event: "presence.offline",
        data: { userId, username, timestamp },
      })),
    );
  }

  stop(): void {
    this.others.stop();
    clearTimeout(this.#timer);
  }
}
