import { call } from "../../src/actor/call.ts";
import { FrameBudget } from "../../src/actor/limits.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { log } from "../../src/log.ts";
import type { PersonState, PersonUpdate, WatchCalls } from "../../src/people/directory.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { allows } from "../../src/wire/grant.ts";
import { WATCHED, watcherRecord } from "./contract.ts";
import type { FanoutActor, FanoutContext, FanoutMeta, FanoutSession } from "./meta.ts";
import type { People } from "./people.ts";

/** Storage key of a user whose actor watches this one. */
const WATCHER_PREFIX = "watcher:";
/** Actors that watch one user. */
const WATCHERS = 10_000;
/** How long an actor watches, and when it renews that, in ms. */
const LEASE_MS = 24 * 3_600_000;
const RENEW_MS = 12 * 3_600_000;
/** Least time between two changes that watchers of a user receive, in ms. */
const CHANGE_MS = 1_000;
/** The wait before calls that failed are made again, in ms. */
const RETRY_MS = 10_000;
/** Calls that are under way at once. */
const CALLS_AT_ONCE = 50;
/** Frames `watch` that the clients of one user may send: each may have many actors called. */
const WATCHES = { framesBurst: 30, framesPerSecond: 0.5 };
/** Names of the timers: leases to renew, and watchers that could not be reached. */
export const RENEWAL = "renewal";
export const NOTICES = "notices";

/** The user of a client that asks to see others. */
export interface Viewer {
  userId: string;
  /** Whether the viewer's token allows an operation on a resource, such as `presence` on `user:<id>`. */
  can(resource: string, operation: string): boolean;
}

/**
 * Which of the users `ids` a viewer may see. The others look to the viewer like users who are offline.
 *
 * @returns those ids
 */
export type MaySee<E> = (
  viewer: Viewer,
  ids: readonly string[],
  env: E,
) => Iterable<string> | Promise<Iterable<string>>;

/** The default {@link MaySee}: by the grant `user:<id>` `presence`. */
export function seeByGrant(viewer: Viewer, ids: readonly string[]): string[] {
  return ids.filter((id) => viewer.can(`user:${id}`, "presence"));
}

export interface WatchingOptions {
  /** Name of the binding of the users' actors. */
  binding: string;
  maySee: MaySee<unknown>;
}

/** Runs tasks, some at once. */
async function inTurn<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  const worker = async () => {
    for (let item = queue.pop(); item !== undefined; item = queue.pop()) await run(item);
  };
  await Promise.all(Array.from({ length: CALLS_AT_ONCE }, worker));
}

/**
 * Both ends of watching people: the actors that watch the user of this actor, each by a lease of 24 h, and
 * the users whom this user's clients watch.
 */
export class Watching {
  readonly #actor: FanoutActor;
  readonly #options: WatchingOptions;
  readonly #people: People;
  /** Until when (ms) an actor watches, by its user. Read when it is first needed. */
  #watchers: Map<string, number> | undefined;
  #notifiedAtMs = 0;
  #isNoticeDue = false;
  /** Users whom clients here watch and may see, with their sockets. */
  readonly #sessions = new Map<string, Set<FanoutSession>>();
  /** What is known of them, while their actors let this one know. */
  readonly #known = new Map<string, PersonState>();
  /** Users of a `watch` that a client has not been answered yet. */
  readonly #pending = new Map<FanoutSession, ReadonlySet<string>>();
  readonly #budget = new FrameBudget(WATCHES);

  constructor(actor: FanoutActor, people: People, options: WatchingOptions) {
    this.#actor = actor;
    this.#people = people;
    this.#options = options;
    for (const session of actor.sessions.values()) if (session.open) this.joined(session);
  }

  #calls(userId: string) {
    const stub = namespaceOf(this.#actor.env, this.#options.binding).getByName(userId);
    return call<{ "~calls"?: WatchCalls }>(stub);
  }

  // ── Watched: the user of this actor ─────────────────────────────────────────────────────────

  #loadWatchers(): Map<string, number> {
    if (this.#watchers) return this.#watchers;
    const watchers = new Map<string, number>();
    const { kv } = this.#actor.getStorage();
    for (const [key, stored] of kv.list({ prefix: WATCHER_PREFIX })) {
      const untilMs = watcherRecord.read(stored)?.untilMs;
      if (untilMs !== undefined) watchers.set(key.slice(WATCHER_PREFIX.length), untilMs);
    }
    this.#watchers = watchers;
    return watchers;
  }

  #dropWatcher(userId: string): void {
    this.#loadWatchers().delete(userId);
    this.#actor.getStorage().kv.delete(WATCHER_PREFIX + userId);
  }

  /** Another user's actor watches this user for the next 24 h. */
  watchedBy(watcher: string): PersonState {
    const watchers = this.#loadWatchers();
    const { isOnline, seq } = this.#people;
    if (!this.#isNoticeDue) this.#people.shown(isOnline);
    const now = Date.now();
    const untilMs = now + LEASE_MS;
    if (watchers.size >= WATCHERS && !watchers.has(watcher)) {
      for (const [userId, endsMs] of watchers) if (endsMs <= now) this.#dropWatcher(userId);
      if (watchers.size >= WATCHERS) {
        log("watchers_full");
        return { isOnline, seq };
      }
    }
    // A lease that was renewed a moment ago is as good.
    if ((watchers.get(watcher) ?? 0) < untilMs - RENEW_MS / 2) {
      watchers.set(watcher, untilMs);
      const { kv } = this.#actor.getStorage();
      kv.put(WATCHER_PREFIX + watcher, watcherRecord.write({ untilMs }));
    }
    return { isOnline, seq };
  }

  /** The user came online or went offline: watchers get to know, at most once a second. */
  changed(): void {
    if (this.#isNoticeDue) return;
    if (this.#loadWatchers().size === 0) return;
    this.#isNoticeDue = true;
    const waitMs = Math.min(CHANGE_MS, this.#notifiedAtMs + CHANGE_MS - Date.now());
    if (waitMs > 0) setTimeout(() => this.#notify(), waitMs);
    else this.#notify();
  }

  #notify(): void {
    this.#isNoticeDue = false;
    if (!this.#people.isNews) return;
    this.#notifiedAtMs = Date.now();
    this.#actor.keep(this.notifyWatchers());
  }

  /** Sends all watchers the state of now. */
  async notifyWatchers(): Promise<void> {
    const { isOnline, seq } = this.#people;
    const now = Date.now();
    const update: PersonUpdate = { userId: this.#actor.name, isOnline, seq };
    let hasFailed = false;
    await inTurn([...this.#loadWatchers()], async ([watcher, untilMs]) => {
      try {
        const isWatching = untilMs > now && (await this.#calls(watcher).personChanged(update));
        // One that has watched again meanwhile has a new lease.
        if (!isWatching && this.#watchers?.get(watcher) === untilMs) this.#dropWatcher(watcher);
      } catch (error) {
        hasFailed = true;
        log("watcher_unreachable", { error });
      }
    });
    if (hasFailed) this.#actor.timers.soonest(NOTICES, Date.now() + RETRY_MS);
    else this.#people.shown(isOnline);
  }

  /** An instance begins: the one before may have ended before all watchers knew. */
  restored(): void {
    if (this.#people.isNews) this.changed();
  }

  // ── Watching: the clients of this user ──────────────────────────────────────────────────────

  /** Lists a session whose socket outlived the last instance, or is new. */
  joined(session: FanoutSession): void {
    for (const id of session.meta.people ?? []) this.#add(id, session);
  }

  #add(id: string, session: FanoutSession): void {
    const sessions = this.#sessions.get(id);
    if (sessions) sessions.add(session);
    else this.#sessions.set(id, new Set([session]));
  }

  /** Leases of users whom nobody watches any more end at the next change of theirs. */
  left(session: FanoutSession): void {
    for (const id of session.meta.people ?? []) this.#delete(id, session);
    this.#pending.delete(session);
  }

  #delete(id: string, session: FanoutSession): void {
    const sessions = this.#sessions.get(id);
    sessions?.delete(session);
    if (sessions?.size === 0) {
      this.#sessions.delete(id);
      this.#known.delete(id);
    }
  }

  #visible({ userId, cap }: FanoutMeta, ids: readonly string[]): Promise<Set<string>> {
    const viewer: Viewer = {
      userId,
      can: (resource, operation) => cap === undefined || allows(cap, userId, resource, operation),
    };
    return (async () => {
      const asked = new Set(ids);
      const seen = await this.#options.maySee(viewer, ids, this.#actor.env);
      return new Set([...seen].filter((id) => asked.has(id)));
    })();
  }

  /**
   * A client watches more users, and receives how they are now.
   *
   * @throws RollcallError `unprocessable` for too many users, `rate_limited`
   */
  async watch(ctx: FanoutContext, ids: readonly string[]): Promise<void> {
    const { session } = ctx;
    const { people = [], hidden = [] } = session.meta;
    const all = new Set([...people, ...hidden, ...ids]);
    if (all.size > WATCHED) {
      throw new RollcallError("unprocessable", `A socket watches at most ${WATCHED} users`);
    }
    if (this.#budget.take(Date.now()) !== "ok") {
      throw new RollcallError("rate_limited", "Too many frames of this type");
    }
    const visible = await this.#visible(session.meta, ids);
    if (session.ended) return;
    const asked = new Set(ids);
    ctx.meta.people = [...people.filter((id) => !asked.has(id)), ...visible];
    ctx.meta.hidden = [
      ...hidden.filter((id) => !asked.has(id)),
      ...ids.filter((id) => !visible.has(id)),
    ];
    for (const id of ids) {
      if (visible.has(id)) this.#add(id, session);
      else this.#delete(id, session);
    }
    this.#pending.set(session, visible);
    await this.#lease([...visible].filter((id) => !this.#known.has(id)));
    this.#pending.delete(session);
    if (session.ended) return;
    this.#actor.timers.soonest(RENEWAL, Date.now() + RENEW_MS);
    const users = [...asked].map((userId) => ({
      userId,
      online: visible.has(userId) && this.#known.get(userId)?.isOnline === true,
    }));
    session.enqueue(JSON.stringify({ type: "people.sync", users }));
  }

  async #lease(ids: readonly string[]): Promise<void> {
    let hasFailed = false;
    await inTurn(ids, async (id) => {
      try {
        this.#learn(id, await this.#calls(id).watchedBy(this.#actor.name), false);
      } catch (error) {
        hasFailed = true;
        if (!this.#known.has(id)) this.#learn(id, { isOnline: false, seq: -1 }, false);
        log("person_unreachable", { error });
      }
    });
    if (hasFailed) this.#actor.timers.soonest(RENEWAL, Date.now() + RETRY_MS);
  }

  /** The newest that is known of a user. Messages of two actors may pass each other. */
  #learn(id: string, { isOnline, seq }: PersonState, isChange: boolean): void {
    const known = this.#known.get(id);
    if (!this.#sessions.has(id) || (known && known.seq > seq)) return;
    this.#known.set(id, { isOnline, seq });
    // After a sleep nothing is known, and clients are up to date.
    if (known ? known.isOnline === isOnline : !isChange) return;
    const text = JSON.stringify({ type: "people.update", userId: id, online: isOnline });
    for (const session of this.#sessions.get(id) ?? []) {
      // The sync that it waits for has it.
      if (this.#pending.get(session)?.has(id) !== true) session.enqueue(text);
    }
  }

  unwatch(ctx: FanoutContext, ids: readonly string[]): void {
    const { session } = ctx;
    const gone = new Set(ids);
    const { people = [], hidden = [] } = session.meta;
    ctx.meta.people = people.filter((id) => !gone.has(id));
    ctx.meta.hidden = hidden.filter((id) => !gone.has(id));
    for (const id of gone) this.#delete(id, session);
  }

  /** A client shows a new token. Where it may see others by it, it connects and watches again. */
  async refreshed(session: FanoutSession, fresh: FanoutMeta): Promise<void> {
    const { people = [], hidden = [] } = session.meta;
    const visible = await this.#visible(fresh, [...people, ...hidden]);
    if (visible.size === people.length && people.every((id) => visible.has(id))) return;
    session.close(CLOSE.goingAway, "Watch again");
  }

  /** A user whom this one watches came online or went offline. @returns whether a client here watches */
  personChanged({ userId, ...state }: PersonUpdate): boolean {
    this.#learn(userId, state, true);
    return this.#sessions.has(userId);
  }

  /** Renews all leases, as far as the users may still be seen. */
  async renew(): Promise<void> {
    const ids = new Set<string>();
    const sessions = [...this.#actor.sessions.values()].filter(({ meta }) => meta.people);
    for (const session of sessions) {
      const { people = [] } = session.meta;
      const visible = await this.#visible(session.meta, people);
      // Its client connects again, and does not see those any more that it may not.
      if (visible.size < people.length) session.close(CLOSE.goingAway, "Watch again");
      else for (const id of people) ids.add(id);
    }
    if (ids.size === 0) return;
    await this.#lease([...ids]);
    this.#actor.timers.soonest(RENEWAL, Date.now() + RENEW_MS);
  }
}
