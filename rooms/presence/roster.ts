/**
 * Who is in a presence room: types of its events, and pure functions over a list of users. The server
 * makes snapshots and diffs with this code, and the client folds them back with the same code.
 */

import type { Untyped } from "../../src/wire/frames.ts";

/** The statuses of the service's own rooms. The first one is the default. */
export const STATUSES = ["online", "away", "busy"] as const;
/** The statuses of a room that declares none of its own. */
export type Status = (typeof STATUSES)[number];

/** What a connection says of itself: a JSON object of at most 4 KiB. */
export type AnyState = Record<string, Untyped>;
/** What the server knows of a user: at most 1 KiB of JSON. */
export type AnyUser = Record<string, Untyped>;

/** A connection of a user. */
export interface PresentSession<State = AnyState> {
  /** As `hello` names it. */
  session: string;
  /** `mobile`, `tablet` or `desktop`. */
  device: string;
  /** When it connected first: server time in ms. */
  since: number;
  state?: State;
  /** Server time in ms from which the state holds no more. Absent: it holds until it is replaced. */
  untilMs?: number;
}

/** A user in the room. */
export interface RosterEntry<S extends string = Status, State = AnyState, User = AnyUser> {
  userId: string;
  username: string;
  /** Number of the user's live connections, at least 1. */
  devices: number;
  status: S;
  /** Protocol 3, where the server knows more of the user. */
  user?: User;
  /** Protocol 3: the connections. Of more than 20, a page of a large room names 20. */
  sessions?: PresentSession<State>[];
}

/** The users of a room by `userId`. */
export type Roster<S extends string = Status, State = AnyState, User = AnyUser> = Map<
  string,
  RosterEntry<S, State, User>
>;

/** `presence.sync`: everyone in the room. Authoritative: it replaces what a client knew. */
export interface RosterSync<S extends string = Status, State = AnyState, User = AnyUser> {
  users: RosterEntry<S, State, User>[];
  totalUsers: number;
  totalConnections: number;
  /** Protocol 3: `users` are the watched ones, and in a large room its first page. */
  partial?: boolean;
  /** Where `partial`: `presence.page` goes on after this userId; null: there is no more. */
  next?: string | null;
}

/** The answer to `presence.page`. */
export interface RosterPage<S extends string = Status, State = AnyState, User = AnyUser> {
  /** By their ids, in order of code units; without states, except for watched users. */
  users: RosterEntry<S, State, User>[];
  /** The next page begins after this userId; null: there is no more. */
  next: string | null;
}

/** `presence.count`. */
export interface PresenceCount {
  totalUsers: number;
  totalConnections: number;
}

/** Why a user's last session ended. */
export type LeaveReason = "left" | "lost" | "kicked" | "expired";

/** A connection's new state; null: it has none. */
export interface StateChange<State = AnyState> {
  userId: string;
  session: string;
  state: State | null;
  untilMs?: number;
}

/** `presence.diff`: what changed since the last one. `timestamp` is server time in ms. */
export interface RosterDiff<S extends string = Status, State = AnyState, User = AnyUser> {
  joins: RosterEntry<S, State, User>[];
  /** `reason`: protocol 3. */
  leaves: { userId: string; username: string; reason?: LeaveReason }[];
  /** The new values of what changed. A `user` of null: the server knows nothing more of the user. */
  updates: {
    userId: string;
    username?: string;
    devices?: number;
    status?: S;
    user?: User | null;
    sessions?: PresentSession<State>[];
  }[];
  /** Protocol 3. */
  states?: StateChange<State>[];
  timestamp: number;
}

/** The events of a presence room, as both ends type them. */
export interface PresenceEvents<S extends string = Status, State = AnyState, User = AnyUser> {
  in: {
    "presence.status": { status: S };
    "presence.list": object;
    /** `ttlMs`: 100 to 600 000. */
    "presence.state": { state: State | null; ttlMs?: number };
    /** `limit`: 1 to 200, which is the default. */
    "presence.page": { after?: string; limit?: number };
  };
  acks: { "presence.page": RosterPage<S, State, User> };
  out: {
    "presence.sync": RosterSync<S, State, User>;
    /** Only to clients of protocol 2 and 3, in place of the single events but `presence.status`. */
    "presence.diff": RosterDiff<S, State, User>;
    /** Only with `detail=count`, and in large rooms. */
    "presence.count": PresenceCount;
    "presence.online": RosterEntry<S> & { timestamp: number };
    "presence.update": { userId: string; username: string; devices: number; timestamp: number };
    "presence.offline": {
      userId: string;
      username: string;
      timestamp: number;
      /** Protocol 3. */
      reason?: LeaveReason;
    };
    "presence.status": { userId: string; username: string; status: S; timestamp: number };
  };
}

/** The single events of the presence contract, which Verani's clients know. */
export type PresenceEvent<S extends string = Status> = {
  [K in SingleEvent]: { event: K; data: PresenceEvents<S>["out"][K] };
}[SingleEvent];
type SingleEvent = "presence.online" | "presence.update" | "presence.offline" | "presence.status";

/** The whole roster as the data of `presence.sync`. */
export function snapshot<S extends string = Status, State = AnyState, User = AnyUser>(
  roster: Iterable<RosterEntry<S, State, User>>,
): RosterSync<S, State, User> {
  const users = [...roster];
  return {
    users,
    totalUsers: users.length,
    totalConnections: users.reduce((sum, user) => sum + user.devices, 0),
  };
}

/** A roster with exactly the users of a `presence.sync`. */
export function rosterOf<S extends string = Status>(sync: RosterSync<S>): Roster<S> {
  return new Map(sync.users.map((entry) => [entry.userId, { ...entry }]));
}

/**
 * The changes to `userIds` that turn the roster `before` into the roster `after`; null when there is
 * none.
 */
export function diffRoster<S extends string = Status>(
  before: ReadonlyMap<string, RosterEntry<S>>,
  after: ReadonlyMap<string, RosterEntry<S>>,
  userIds: Iterable<string>,
  timestamp: number,
): RosterDiff<S> | null {
  const diff: RosterDiff<S> = { joins: [], leaves: [], updates: [], timestamp };
  for (const userId of userIds) {
    const old = before.get(userId);
    const now = after.get(userId);
    if (!now) {
      if (old) diff.leaves.push({ userId, username: old.username });
    } else if (!old) {
      diff.joins.push(now);
    } else if (
      old.devices !== now.devices ||
      old.status !== now.status ||
      old.username !== now.username
    ) {
      diff.updates.push({
        userId,
        ...(old.username === now.username ? {} : { username: now.username }),
        ...(old.devices === now.devices ? {} : { devices: now.devices }),
        ...(old.status === now.status ? {} : { status: now.status }),
      });
    }
  }
  return diff.joins.length + diff.leaves.length + diff.updates.length === 0 ? null : diff;
}

/**
 * Folds a diff into `roster` and returns the changes as single events. A change that `roster` already
 * has gives no event: the client's own join, or a join that the last sync contained.
 */
export function applyDiff<S extends string = Status>(
  roster: Roster<S>,
  diff: RosterDiff<S>,
): PresenceEvent<S>[] {
  const { timestamp } = diff;
  const events: PresenceEvent<S>[] = [];
  for (const { userId, username, reason } of diff.leaves) {
    if (!roster.delete(userId)) continue;
    const data = { userId, username, timestamp, ...(reason && { reason }) };
    events.push({ event: "presence.offline", data });
  }
  for (const entry of diff.joins) {
    const known = roster.get(entry.userId);
    roster.set(entry.userId, { ...entry });
    const { sessions: _, ...online } = entry;
    if (!known) events.push({ event: "presence.online", data: { ...online, timestamp } });
    else events.push(...changes(known, entry, timestamp));
  }
  for (const { user, ...update } of diff.updates) {
    const known = roster.get(update.userId);
    if (!known) continue;
    const next = { ...known, ...update };
    if (user) next.user = user;
    else if (user === null) delete next.user;
    roster.set(update.userId, next);
    events.push(...changes(known, next, timestamp));
  }
  for (const change of diff.states ?? []) applyState(roster, change);
  return events;
}

function applyState<S extends string>(
  roster: Roster<S>,
  { userId, session, state, untilMs }: StateChange,
): void {
  const known = roster.get(userId);
  if (!known?.sessions) return;
  const sessions = known.sessions.map((one) => {
    if (one.session !== session) return one;
    const { state: _, untilMs: __, ...bare } = one;
    return state === null ? bare : { ...bare, state, ...(untilMs !== undefined && { untilMs }) };
  });
  roster.set(userId, { ...known, sessions });
}

/** Folds a single event, as a server of protocol 1 sends it, into `roster`. */
export function applyEvent<S extends string = Status>(
  roster: Roster<S>,
  { event, data }: PresenceEvent<S>,
): void {
  const { userId } = data;
  // Protocol 1 has the event's name in the data, too.
  const { timestamp: _, type: __, ...fields } = data as typeof data & { type?: string };
  const known = roster.get(userId);
  if (event === "presence.offline") roster.delete(userId);
  else if (event === "presence.online") roster.set(userId, fields as RosterEntry<S>);
  else if (known) roster.set(userId, { ...known, ...fields });
}

function changes<S extends string>(
  old: RosterEntry<S>,
  now: RosterEntry<S>,
  timestamp: number,
): PresenceEvent<S>[] {
  const { userId, username } = now;
  const events: PresenceEvent<S>[] = [];
  // The username is the oldest device's, so it changes when that device leaves before the others.
  if (old.devices !== now.devices || old.username !== now.username) {
    const { devices } = now;
    events.push({ event: "presence.update", data: { userId, username, devices, timestamp } });
  }
  if (old.status !== now.status) {
    const { status } = now;
    events.push({ event: "presence.status", data: { userId, username, status, timestamp } });
  }
  return events;
}
