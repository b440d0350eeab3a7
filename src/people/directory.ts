/**
 * How rooms and users' actors call each other, where `DIRECTORY` is on. A user's actor, the one of the
 * fan-out, knows in which rooms the user is. A room reports a user's first session and the end of the
 * last one, and gets to know which tokens were revoked.
 */

/** A room, as a user's actor finds it. */
export interface RoomAddress {
  /** Name of the rooms' Durable Object binding. */
  binding: string;
  room: string;
  /** The number of the actor that has the user, where the room has several. */
  shard?: number | undefined;
}

/** A user's presence in a room. The newest report of a room counts. */
export interface Report extends RoomAddress {
  /** Server time in ms; grows with each report of a room. */
  atMs: number;
  /** Whether the user has a session in the room, and one that others see. */
  isPresent: boolean;
  isListed: boolean;
}

export interface ReportAnswer {
  /** The newest report that is known. Later than that of the report: it did not count. */
  atMs: number;
  /** Tokens that were issued up to this second do not hold any more. */
  floorS?: number;
  /** The user is in too many rooms, and may not be in this one. */
  isFull?: true;
}

/** What rooms call of a user's actor. */
export type DirectoryCalls = {
  report: { in: Report; out: ReportAnswer };
};

/** Where to close a user's connections. */
export interface CloseUser {
  userId: string;
  /** Only sessions whose token was issued up to this second, or has no issue time. */
  floorS?: number;
}

/** What a user's actor calls of a room. */
export type RoomCalls = {
  /** A user's devices and status in the room; null for one that nobody sees there. */
  whereIs: { in: string; out: { devices: number; status: string } | null };
  /** Closes a user's connections with 4401, and ends the sessions that could be resumed. @returns how many */
  closeUser: { in: CloseUser; out: number };
};

/** Whether a user is online. `seq` grows with each change. */
export interface PersonState {
  isOnline: boolean;
  seq: number;
}

export interface PersonUpdate extends PersonState {
  userId: string;
}

/** What users' actors call of each other, so that one user watches another. */
export type WatchCalls = {
  /** The actor of the user `in` gets to know of changes, for 24 h. */
  watchedBy: { in: string; out: PersonState };
  /** The user of another actor came online or went offline. Answers whether anybody here still watches. */
  personChanged: { in: PersonUpdate; out: boolean };
};

/** What a user's actor, and the route of a user, call of the user's devices. */
export type DeviceCalls = {
  list: { in: undefined; out: { devices: unknown[] } };
  closeUser: { in: CloseUser; out: number };
};
