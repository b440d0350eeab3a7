/**
 * Who is in a presence room: types of its events, and pure functions over a list of users. The server
 * makes snapshots and diffs with this code, and the client folds them back with the same code.
 */

/** The statuses of the service's own rooms. The first one is the default. */
export const STATUSES = ["online", "away", "busy"] as const;
export type Status = (typeof STATUSES)[number];

/** A user in the room. `devices` is the number of the user's live sockets, at least 1. */
export interface RosterEntry<S extends string = Status> {
  userId: string;
  username: string;
  devices: number;
  status: S;
}

/** The users of a room by `userId`. */
export type Roster<S extends string = Status> = Map<string, RosterEntry<S>>;

/** `presence.sync`: everyone in the room. Authoritative: it replaces what a client knew. */
export interface RosterSync<S extends string = Status> {
  users: RosterEntry<S>[];
  totalUsers: number;
  totalConnections: number;
}

/** `presence.diff`: what changed since the last one. `timestamp` is server time in ms. */
export interface RosterDiff<S extends string = Status> {
  joins: RosterEntry<S>[];
  leaves: { userId: string; username: string }[];
  updates: { userId: string; username?: string; devices?: number; status?: S }[];
  timestamp: number;
}

/** The events of a presence room, as both ends type them. */
export interface PresenceEvents<S extends string = Status> {
  in: { "presence.status": { status: S }; "presence.list": object };
  out: {
    "presence.sync": RosterSync<S>;
    /** Only to clients of protocol 2, in place of the single events but `presence.status`. */
    "presence.diff": RosterDiff<S>;
    "presence.online": RosterEntry<S> & { timestamp: number };
    "presence.update": { userId: string; username: string; devices: number; timestamp: number };
    "presence.offline": { userId: string; username: string; timestamp: number };
    "presence.status": { userId: string; username: string; status: S; timestamp: number };
  };
}

/** The single events of the presence contract, which Verani's clients know. */
export type PresenceEvent<S extends string = Status> = {
  [K in SingleEvent]: { event: K; data: PresenceEvents<S>["out"][K] };
}[SingleEvent];
type SingleEvent = "presence.online" | "presence.update" | "presence.offline" | "presence.status";

/** The whole roster as the data of `presence.sync`. */
export function snapshot<S extends string = Status>(
  roster: Iterable<RosterEntry<S>>,
): RosterSync<S> {
  const users = [...roster];
  return {
    users,
    totalUsers: users.length,
    totalConnections: users.reduce((sum, user) => sum + user.devices, 0),
  };
}

/** A roster with exactly the users of a `presence.sync`. */
export function rosterOf<S extends string = Status>(sync: RosterSync<S>): Roster<S> {
  return new Map(
    sync.users.map(({ userId, username, devices, status }) => [
      userId,
      { userId, username, devices, status },
    ]),
  );
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
  for (const { userId, username } of diff.leaves) {
    if (!roster.delete(userId)) continue;
    events.push({ event: "presence.offline", data: { userId, username, timestamp } });
  }
  for (const entry of diff.joins) {
    const known = roster.get(entry.userId);
    roster.set(entry.userId, { ...entry });
    if (!known) events.push({ event: "presence.online", data: { ...entry, timestamp } });
    else events.push(...changes(known, entry, timestamp));
  }
  for (const update of diff.updates) {
    const known = roster.get(update.userId);
    if (!known) continue;
    const next = { ...known, ...update };
    roster.set(update.userId, next);
    events.push(...changes(known, next, timestamp));
  }
  return events;
}

/** Folds a single event, as a server of protocol 1 sends it, into `roster`. */
export function applyEvent<S extends string = Status>(
  roster: Roster<S>,
  { event, data }: PresenceEvent<S>,
): void {
  const known = roster.get(data.userId);
  if (event === "presence.online") {
    const { userId, username, devices, status } = data;
    roster.set(userId, { userId, username, devices, status });
  } else if (event === "presence.offline") roster.delete(data.userId);
  else if (known && event === "presence.update") {
    known.username = data.username;
    known.devices = data.devices;
  } else if (known && event === "presence.status") known.status = data.status;
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
