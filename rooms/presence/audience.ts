import { CHANNEL, type PresenceActor, type PresenceSession } from "./meta.ts";
import type { PresenceCount, RosterDiff } from "./roster.ts";

/** Least time between two counts, in ms; more in a room where a count for all takes long to send. */
const COUNT_MS = 1_000;
/** The same in a room with shards, whose counts were under way for up to a second. */
const SHARD_COUNT_MS = 300;
const COUNT_MS_PER_SESSION = 0.2;

/** Whether a session gets the whole roster, where the room is not a large one. */
export function isFull({ protocol, meta }: PresenceSession): boolean {
  return protocol === 3 && meta.detail === undefined;
}

/** Whether it gets entries of the users that it watches only. */
function isWatcher(session: PresenceSession, isLarge: boolean): boolean {
  const { protocol, meta } = session;
  return protocol === 3 && meta.watch !== undefined && (isLarge || meta.detail !== undefined);
}

function usersIn<S extends string>({ joins, leaves, updates }: RosterDiff<S>): Set<string> {
  return new Set([...joins, ...leaves, ...updates].map(({ userId }) => userId));
}

/** Who gets what of the changes, beside those who get all of them. */
export class Audience<S extends string> {
  readonly #actor: PresenceActor<S>;
  readonly #count: () => PresenceCount;
  #countedAtMs = 0;
  #isCountDue = false;
  #isLarge = false;

  constructor(actor: PresenceActor<S>, count: () => PresenceCount) {
    this.#actor = actor;
    this.#count = count;
  }

  /** The users that a session sees; undefined: all. */
  usersOf(session: PresenceSession, isLarge: boolean): readonly string[] | undefined {
    if (!isLarge && isFull(session)) return undefined;
    return session.meta.watch ?? [];
  }

  /** Whether a session sees a user. */
  whoSees(userId: string, isLarge: boolean): (session: PresenceSession) => boolean {
    return (session) =>
      (!isLarge && isFull(session)) ||
      (isWatcher(session, isLarge) && session.meta.watch?.includes(userId) === true);
  }

  /** Sessions that see the same part of `userIds`, with that part. */
  #groups(userIds: ReadonlySet<string>, isLarge: boolean) {
    const groups = new Map<string, { sessions: Set<PresenceSession>; userIds: Set<string> }>();
    for (const session of this.#actor.sessions.values()) {
      if (!isWatcher(session, isLarge)) continue;
      const seen = (session.meta.watch ?? []).filter((userId) => userIds.has(userId));
      if (seen.length === 0) continue;
      const key = JSON.stringify(seen);
      const group = groups.get(key) ?? { sessions: new Set(), userIds: new Set(seen) };
      groups.set(key, group);
      group.sessions.add(session);
    }
    return groups.values();
  }

  /**
   * Sends sessions what changed of the users that they watch.
   *
   * @param userIds those in the diff
   * @returns those of them that no session watches
   */
  sendWatched(
    diff: RosterDiff<S>,
    isLarge: boolean,
    userIds: ReadonlySet<string> = usersIn(diff),
  ): string[] {
    const { joins, leaves, updates, states, timestamp } = diff;
    const unseen = new Set(userIds);
    for (const group of this.#groups(userIds, isLarge)) {
      for (const userId of group.userIds) unseen.delete(userId);
      const isSeen = ({ userId }: { userId: string }) => group.userIds.has(userId);
      this.#actor.emit
        .where((session) => group.sessions.has(session))
        .emit("presence.diff", {
          joins: joins.filter(isSeen),
          leaves: leaves.filter(isSeen),
          updates: updates.filter(isSeen),
          ...(states && { states: states.filter(isSeen) }),
          timestamp,
        });
    }
    return [...unseen];
  }

  sendWatchedStates(
    changed: readonly PresenceSession[],
    isLarge: boolean,
    encode: (sessions: PresenceSession[]) => string,
  ): void {
    const userIds = new Set(changed.map(({ meta }) => meta.userId));
    for (const group of this.#groups(userIds, isLarge)) {
      const seen = changed.filter(({ meta }) => group.userIds.has(meta.userId));
      this.#actor.sendNewest(encode(seen), (session) => group.sessions.has(session));
    }
  }

  #encodeCount(): string {
    const count = JSON.stringify({ type: "presence.count", ...this.#count() });
    return `{"type":"event","channel":"${CHANNEL}","data":${count}}`;
  }

  sendCountTo(session: PresenceSession): void {
    session.sendSnapshot(this.#encodeCount());
  }

  /** Sends the count to those who get it, soon, and not too often. */
  requestCount(isLarge: boolean): void {
    this.#isLarge = isLarge;
    if (this.#isCountDue || !this.#hasReaders()) return;
    const leastMs = this.#actor.shard ? SHARD_COUNT_MS : COUNT_MS;
    const waitMs = Math.max(leastMs, this.#actor.sessions.size * COUNT_MS_PER_SESSION);
    const dueMs = this.#countedAtMs + waitMs - Date.now();
    this.#isCountDue = dueMs > 0;
    if (dueMs <= 0) this.#sendCount();
    else setTimeout(() => this.#sendCount(), Math.min(dueMs, waitMs));
  }

  #isReader({ protocol, meta }: PresenceSession): boolean {
    return (
      protocol === 3 && (meta.detail === "count" || (this.#isLarge && meta.detail === undefined))
    );
  }

  #hasReaders(): boolean {
    for (const session of this.#actor.sessions.values()) if (this.#isReader(session)) return true;
    return false;
  }

  #sendCount(): void {
    this.#isCountDue = false;
    this.#countedAtMs = Date.now();
    this.#actor.sendNewest(this.#encodeCount(), (session) => this.#isReader(session));
  }
}
