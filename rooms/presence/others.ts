import * as z from "zod/mini";
import { call } from "../../src/actor/call.ts";
import type { Shard } from "../../src/actor/room.ts";
import { log } from "../../src/log.ts";
import { createTotals, remaining, type TotalCalls, type Totals } from "../../src/shards/totals.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import type { Audience } from "./audience.ts";
import type { PresenceActor } from "./meta.ts";
import { mergePages, PAGE_BYTES } from "./pages.ts";
import {
  applyDiff,
  applyEvent,
  type PresenceCount,
  type PresenceEvents,
  type Roster,
  type RosterDiff,
  type RosterEntry,
  type RosterPage,
} from "./roster.ts";

/** Storage key of the users that another shard watches here. */
const WATCHED_PREFIX = "watched:";
/** Users that one shard watches in another: a row has little room for more. */
const WATCHED = 20_000;
/** Least time between two requests for users of the same shard, in ms. */
const WATCH_MS = 500;

/** The calls between the shards of a room. */
export type ShardCalls<S extends string> = TotalCalls & {
  /** The caller's clients watch these users, and `drop` no more. Answers with those who are here. */
  watched: { in: WatchedRequest; out: RosterEntry<S>[] };
  /** A page of this shard's users, by `after`. */
  shardPage: { in: { after: string; limit: number }; out: RosterPage<S> };
};

export interface WatchedRequest {
  shard: number;
  add: string[];
  drop: string[];
  /** `add` are all: what was watched before counts no more. */
  isAll?: boolean | undefined;
}

const ids = z.array(z.string()).check(z.maxLength(WATCHED));
export const watchedRequest = z.object({
  shard: z.int(),
  add: ids,
  drop: ids,
  isAll: z.optional(z.boolean()),
});

/** The users that another shard watches here, in storage. */
interface WatchedRow {
  /** Of the layout in which the shard has its number. */
  shards: number;
  /** Of this actor's log, when it was stored. Another one now: what was sent since may be lost. */
  epoch: string;
  userIds: string[];
}

/** What shards send each other of users that are watched elsewhere. */
type Message<S extends string> =
  | { kind: "diff"; diff: RosterDiff<S> }
  | { kind: "status"; data: PresenceEvents<S>["out"]["presence.status"] }
  /** All that is known of these users, after a crash. */
  | { kind: "all"; userIds: string[]; entries: RosterEntry<S>[] };

/** Users of a shard that clients here watch from now on. */
interface Batch {
  userIds: Set<string>;
  done: Promise<void>;
}

export interface OthersHost<S extends string> {
  /** Users and connections of this shard. */
  count(): PresenceCount;
  entry(userId: string): RosterEntry<S> | undefined;
  /** The room's count is another. */
  onCount(): void;
}

/** The other shards of a room: how many users they have, and those that are watched across shards. */
export class Others<S extends string> {
  readonly totals: Totals;
  readonly #actor: PresenceActor<S>;
  readonly #shard: Shard;
  readonly #audience: Audience<S>;
  readonly #host: OthersHost<S>;
  /** By shard: users there that clients here watch, as that shard knows. */
  readonly #watched = new Map<number, Set<string>>();
  readonly #entries: Roster<S> = new Map();
  /** By shard: users that it is about to be asked for, and when it was asked last, in ms. */
  readonly #batches = new Map<number, Batch>();
  readonly #askedAtMs = new Map<number, number>();
  /** By shard: users here that its clients watch. */
  readonly #watchers = new Map<number, Set<string>>();

  constructor(actor: PresenceActor<S>, shard: Shard, audience: Audience<S>, host: OthersHost<S>) {
    this.#actor = actor;
    this.#shard = shard;
    this.#audience = audience;
    this.#host = host;
    this.totals = createTotals(shard.index, {
      ...{ actor, shards: shard.shards },
      width: 2,
      stub: (index) => shard.stub(index),
      own: () => {
        const { totalUsers, totalConnections } = host.count();
        return [totalUsers, totalConnections];
      },
      isWatched: () => actor.sessions.size > 0,
      onChange: () => host.onCount(),
    });
    for (const [key, row] of actor.getStorage().kv.list<WatchedRow>({ prefix: WATCHED_PREFIX })) {
      if (row.shards === shard.shards) {
        this.#watchers.set(Number(key.slice(WATCHED_PREFIX.length)), new Set(row.userIds));
      }
    }
  }

  get count(): PresenceCount {
    const [totalUsers = 0, totalConnections = 0] = this.totals.tally;
    return { totalUsers, totalConnections };
  }

  #calls(index: number) {
    return call<{ "~calls"?: ShardCalls<S> }>(this.#shard.stub(index));
  }

  /** After a start: what watchers elsewhere know may not be true any more. */
  restore(): void {
    const { epoch } = this.#actor.log;
    const { kv } = this.#actor.getStorage();
    for (const [shard, users] of this.#watchers) {
      const row = kv.get<WatchedRow>(WATCHED_PREFIX + shard);
      if (row?.epoch === epoch) continue;
      this.#store(shard);
      const userIds = [...users];
      const entries = userIds.flatMap((userId) => this.#host.entry(userId) ?? []);
      this.#send({ kind: "all", userIds, entries }, shard);
    }
    this.totals.changed();
  }

  // ── Users here that are watched elsewhere ───────────────────────────────────────────────────

  #store(shard: number): void {
    const { kv } = this.#actor.getStorage();
    const userIds = [...(this.#watchers.get(shard) ?? [])];
    const { epoch } = this.#actor.log;
    if (userIds.length === 0) kv.delete(WATCHED_PREFIX + shard);
    else kv.put(WATCHED_PREFIX + shard, { shards: this.#shard.shards, epoch, userIds });
  }

  /** Another shard watches users here. @throws RollcallError `unavailable` for too many */
  watchedBy({ shard, add, drop, isAll = false }: WatchedRequest): RosterEntry<S>[] {
    const before = this.#watchers.get(shard) ?? new Set();
    const users = new Set(isAll ? [] : before);
    for (const userId of drop) users.delete(userId);
    for (const userId of add) users.add(userId);
    if (users.size > WATCHED) {
      throw new RollcallError("too_large", "Too many users are watched here");
    }
    const isSame = users.size === before.size && add.every((userId) => before.has(userId));
    if (users.size > 0) this.#watchers.set(shard, users);
    else this.#watchers.delete(shard);
    if (!isSame) this.#store(shard);
    return add.flatMap((userId) => this.#host.entry(userId) ?? []);
  }

  #send(message: Message<S>, to: number): void {
    this.#shard.relay(message, to);
  }

  /** Sends a change of users here to the shards where they are watched. */
  sendDiff(diff: RosterDiff<S>): void {
    for (const [shard, users] of this.#watchers) {
      const isWatched = ({ userId }: { userId: string }) => users.has(userId);
      const part: RosterDiff<S> = {
        joins: diff.joins.filter(isWatched),
        leaves: diff.leaves.filter(isWatched),
        updates: diff.updates.filter(isWatched),
        ...(diff.states && { states: diff.states.filter(isWatched) }),
        timestamp: diff.timestamp,
      };
      const size = part.joins.length + part.leaves.length + part.updates.length;
      if (size + (part.states?.length ?? 0) > 0) this.#send({ kind: "diff", diff: part }, shard);
    }
  }

  sendStatus(data: PresenceEvents<S>["out"]["presence.status"]): void {
    for (const [shard, users] of this.#watchers) {
      if (users.has(data.userId)) this.#send({ kind: "status", data }, shard);
    }
  }

  // ── Users elsewhere that are watched here ───────────────────────────────────────────────────

  entry(userId: string): RosterEntry<S> | undefined {
    return this.#entries.get(userId);
  }

  /** Connections in other shards. */
  get connections(): number {
    return this.count.totalConnections - this.#host.count().totalConnections;
  }

  /** Before a session's first roster: the count, and the users that it watches in other shards, are known. */
  async prepare(userIds: readonly string[] = []): Promise<void> {
    const counted = this.totals.refresh().catch((error) => log("count_unknown", { error }));
    await Promise.all([counted, this.watch(userIds)]);
  }

  /**
   * Resolves when the users of other shards among these are known. A shard that does not answer is left out.
   * Each is asked at most once in a while, since each time costs a row: clients may come as they like.
   */
  async watch(userIds: readonly string[]): Promise<void> {
    const batches = new Set<Batch>();
    for (const userId of userIds) {
      const shard = this.#shard.ofUser(userId);
      if (shard === this.#shard.index || this.#watched.get(shard)?.has(userId)) continue;
      const batch = this.#batches.get(shard) ?? this.#schedule(shard);
      batch.userIds.add(userId);
      batches.add(batch);
    }
    await Promise.all([...batches].map(({ done }) => done));
  }

  #schedule(shard: number): Batch {
    const send = async (): Promise<void> => {
      await scheduler.wait(remaining(WATCH_MS, this.#askedAtMs.get(shard) ?? 0));
      this.#batches.delete(shard);
      this.#askedAtMs.set(shard, Date.now());
      await this.#request(shard, [...batch.userIds]);
    };
    const batch: Batch = { userIds: new Set(), done: Promise.resolve() };
    this.#batches.set(shard, batch);
    batch.done = send();
    return batch;
  }

  async #request(shard: number, add: string[], drop: string[] = []): Promise<void> {
    const { index } = this.#shard;
    if (index === null) return;
    try {
      const calls = this.#calls(shard);
      let entries: RosterEntry<S>[];
      try {
        entries = await calls.watched({ shard: index, add, drop });
      } catch (error) {
        if (!(error instanceof RollcallError && error.code === "too_large")) throw error;
        // Of clients that are gone: only those of now are needed.
        const all = [...new Set([...this.#neededOf(shard), ...add])];
        entries = await calls.watched({ shard: index, add: all, drop: [], isAll: true });
        this.#watched.delete(shard);
      }
      const users = this.#watched.get(shard) ?? new Set();
      this.#watched.set(shard, users);
      for (const userId of add) users.add(userId);
      for (const entry of entries) this.#entries.set(entry.userId, entry);
    } catch (error) {
      log("shard_not_watched", { shard, error });
    }
  }

  /** The users of a shard that clients here watch. */
  #neededOf(shard: number): string[] {
    const sessions = [...this.#actor.sessions.values()];
    return sessions
      .flatMap(({ meta }) => meta.watch ?? [])
      .filter((userId) => this.#shard.ofUser(userId) === shard);
  }

  /** Takes what the shard `from` sends. */
  receive(data: unknown, from: number): void {
    const message = data as Message<S>;
    // A kind of a later release is ignored.
    if (message.kind === "diff") this.#receiveDiff(message.diff, from);
    else if (message.kind === "all") {
      const here = new Set(message.entries.map(({ userId }) => userId));
      const gone = message.userIds.filter((userId) => !here.has(userId));
      const leaves = gone.map((userId) => {
        const username = this.#entries.get(userId)?.username ?? userId;
        return { userId, username, reason: "lost" as const };
      });
      const diff = { joins: message.entries, leaves, updates: [], timestamp: Date.now() };
      this.#receiveDiff(diff, from);
    } else if (message.kind === "status") {
      applyEvent(this.#entries, { event: "presence.status", data: message.data });
      const sees = this.#audience.whoSees(message.data.userId, true);
      this.#actor.emit.where(sees).emit("presence.status", message.data as never);
    }
  }

  #receiveDiff(diff: RosterDiff<S>, from: number): void {
    applyDiff(this.#entries, diff);
    const all = [...diff.joins, ...diff.leaves, ...diff.updates, ...(diff.states ?? [])];
    const userIds = new Set(all.map(({ userId }) => userId));
    const unseen = this.#audience.sendWatched(diff, true, userIds);
    for (const userId of unseen) {
      this.#watched.get(from)?.delete(userId);
      this.#entries.delete(userId);
    }
    if (unseen.length > 0) this.#actor.keep(this.#request(from, [], unseen));
  }

  // ── Pages ───────────────────────────────────────────────────────────────────────────────────

  /** Adds the users of the other shards after a userId to those here. A shard that does not answer is left out. */
  async merge(own: RosterPage<S>, after: string, limit: number): Promise<RosterPage<S>> {
    const { index, shards } = this.#shard;
    const others = Array.from({ length: shards }, (_, i) => i).filter((i) => i !== index);
    const pages = await Promise.all(
      others.map(async (i) => {
        try {
          return [await this.#calls(i).shardPage({ after, limit })];
        } catch (error) {
          log("shard_unreachable", { shard: i, error });
          return [];
        }
      }),
    );
    return mergePages([own, ...pages.flat()], { bytes: PAGE_BYTES, limit });
  }
}
