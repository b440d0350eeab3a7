import type {
  AnyState,
  AnyUser,
  PresentSession,
  Roster,
  RosterEntry,
  Status,
} from "../rooms/presence/roster.ts";
import { LONGEST_TIMER_MS } from "./socket.ts";

/** A connection in a presence room. */
export interface Other<State = AnyState, User = AnyUser, S extends string = Status> {
  /** The connection's id. */
  readonly session: string;
  readonly userId: string;
  readonly username: string;
  /** What the server knows of the user. */
  readonly user?: User;
  readonly status: S;
  /** `mobile`, `tablet` or `desktop`. */
  readonly device: string;
  /** When it connected first: server time in ms. */
  readonly since: number;
  /** What it says of itself. Absent: nothing. */
  readonly state?: State;
}

function sessionOf(entry: RosterEntry, one: PresentSession, isOver: boolean): Other {
  const { devices: _, sessions: __, ...user } = entry;
  const { state, untilMs: ___, ...session } = one;
  return { ...user, ...session, ...(state !== undefined && !isOver && { state }) };
}

/** The connections of a roster. What did not change stays the same object. */
export class Others {
  /** By session; a new map for each change. */
  all: ReadonlyMap<string, Other> = new Map();
  me: Other | null = null;
  readonly #changed: () => void;
  /** The entry that each user's connections were made of. */
  #seen = new Map<string, RosterEntry>();
  #session: string | undefined;
  /** How far the server's clock is ahead of this one, in ms. */
  #aheadMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param changed a state has ended */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** A session begins. @param nowMs the server's time */
  begin(session: string, nowMs: number): void {
    this.#session = session;
    this.#aheadMs = nowMs - Date.now();
  }

  /** Takes up what changed in the roster. @returns whether something did */
  follow(roster: Roster): boolean {
    const changed = new Set<string>();
    for (const [userId, entry] of roster) {
      if (this.#seen.get(userId) !== entry) changed.add(userId);
    }
    for (const userId of this.#seen.keys()) if (!roster.has(userId)) changed.add(userId);
    return changed.size > 0 && this.#rebuild(roster, changed);
  }

  #rebuild(roster: Roster, changed: ReadonlySet<string>): boolean {
    const now = Date.now() + this.#aheadMs;
    // Those that stay keep their places.
    const next = new Map(this.all);
    for (const [id, { userId }] of next) {
      const isGone = !roster.get(userId)?.sessions?.some(({ session }) => session === id);
      if (changed.has(userId) && isGone) next.delete(id);
    }
    if (this.me && changed.has(this.me.userId)) this.me = null;
    for (const userId of changed) {
      const entry = roster.get(userId);
      if (entry) this.#seen.set(userId, entry);
      else this.#seen.delete(userId);
      for (const one of entry?.sessions ?? []) {
        const made = sessionOf(entry as RosterEntry, one, (one.untilMs ?? Infinity) <= now);
        if (one.session === this.#session) this.me = made;
        else next.set(one.session, made);
      }
    }
    this.all = next;
    this.#watch(now);
    return true;
  }

  /** Wakes when the next state ends. */
  #watch(now: number): void {
    clearTimeout(this.#timer);
    let next = Number.POSITIVE_INFINITY;
    for (const { sessions = [] } of this.#seen.values()) {
      for (const { untilMs = Infinity } of sessions)
        if (untilMs > now) next = Math.min(next, untilMs);
    }
    if (next === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#end(), Math.min(next - now + 1, LONGEST_TIMER_MS));
  }

  #end(): void {
    const now = Date.now() + this.#aheadMs;
    const ended = new Set<string>();
    for (const [userId, { sessions = [] }] of this.#seen) {
      for (const { session, untilMs = Infinity } of sessions) {
        if (untilMs <= now && this.all.get(session)?.state !== undefined) ended.add(userId);
      }
    }
    if (ended.size === 0) this.#watch(now);
    else {
      this.#rebuild(new Map(this.#seen), ended);
      this.#changed();
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}
