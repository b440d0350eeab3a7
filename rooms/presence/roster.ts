/**
 * Who is here: pure functions over a list of users. The server makes snapshots and diffs of it, the
 * client folds them back, with the very same code.
 */
export const STATUSES = ["online", "away", "busy"] as const;
export type Status = (typeof STATUSES)[number];

/** A user who is here. `devices` is the number of that user's live sockets, at least 1. */
export interface RosterEntry {
  userId: string;
  username: string;
  devices: number;
  status: Status;
}

export type Roster = Map<string, RosterEntry>;

/** `presence.sync`: everyone who is here. Authoritative: it replaces what a client knew. */
export interface RosterSync {
  users: RosterEntry[];
  totalUsers: number;
  totalConnections: number;
}

/** `presence.diff`: what changed since the last one. Times are the server's, in ms. */
export interface RosterDiff {
  joins: RosterEntry[];
  leaves: { userId: string; username: string }[];
  updates: { userId: string; username?: string; devices?: number; status?: Status }[];
  timestamp: number;
}

/** The single events of the presence contract, which Verani's clients know. */
export type PresenceEvent =
  | {
      event: "presence.online";
      data: RosterEntry & { timestamp: number };
    }
  | {
      event: "presence.update";
      data: { userId: string; username: string; devices: number; timestamp: number };
    }
  | { event: "presence.offline"; data: { userId: string; username: string; timestamp: number } }
  | {
      event: "presence.status";
      data: { userId: string; username: string; status: Status; timestamp: number };
    };

/** The whole roster as `presence.sync` tells it. */
export function snapshot(roster: Iterable<RosterEntry>): RosterSync {
  const users = [...roster];
  return {
    users,
    totalUsers: users.length,
    totalConnections: users.reduce((sum, user) => sum + user.devices, 0),
  };
}

/** A roster that holds exactly what a `presence.sync` says. */
export function rosterOf(sync: RosterSync): Roster {
  return new Map(
    sync.users.map(({ userId, username, devices, status }) => [
      userId,
      { userId, username, devices, status },
    ]),
  );
}

/**
 * What has to be told of `userIds` to someone who knows `before`, so that they know `after`.
 * Null when nothing changed.
 */
export function diffRoster(
  before: ReadonlyMap<string, RosterEntry>,
  after: ReadonlyMap<string, RosterEntry>,
  userIds: Iterable<string>,
  timestamp: number,
): RosterDiff | null {
  const diff: RosterDiff = { joins: [], leaves: [], updates: [], timestamp };
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
 * Folds a diff into `roster` and returns it as the single events of the contract. What `roster`
 * knew already (one's own join, a join that the last sync held) gives no event.
 */
export function applyDiff(roster: Roster, diff: RosterDiff): PresenceEvent[] {
  const { timestamp } = diff;
  const events: PresenceEvent[] = [];
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

/** Folds a single event, as a server without diffs sends it, into `roster`. */
export function applyEvent(roster: Roster, { event, data }: PresenceEvent): void {
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

function changes(old: RosterEntry, now: RosterEntry, timestamp: number): PresenceEvent[] {
  const { userId, username } = now;
  const events: PresenceEvent[] = [];
  // A user is called what their oldest device is called, which may leave before the others.
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
