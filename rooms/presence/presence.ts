import { can } from "../../src/actor/meta.ts";
import type { Departure } from "../../src/actor/session.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { Audience, isFull } from "./audience.ts";
import type { Ledger, LedgerHost } from "./ledger.ts";
import { CHANNEL, type PresenceActor, type PresenceSession } from "./meta.ts";
import { Others } from "./others.ts";
import { Pace } from "./pace.ts";
import { PAGE_BYTES, PAGE_USERS, SortedTexts, takePage } from "./pages.ts";
import {
  diffRoster,
  type PresenceCount,
  type PresentSession,
  type Roster,
  type RosterDiff,
  type RosterEntry,
  type RosterPage,
  type RosterSync,
  snapshot,
} from "./roster.ts";
import { encodeStates, States, stateOf } from "./states.ts";
import { Statuses } from "./statuses.ts";

/** UTF-16 units of rosters that one session gets in a second, but for the first. */
const LISTED_UNITS_PER_SECOND = 32_768;
/** Pages that one session gets in a second: each has at most 64 KiB. */
const PAGES_PER_SECOND = 8;
/** The same in a room with shards, each of which is asked for a page. */
const SHARD_PAGES_PER_SECOND = 2;
/** Bytes of the first page, which a client of a large room gets when it joins. */
const FIRST_PAGE_BYTES = 6_144;
/** Connections of one user that a page names. */
const PAGE_SESSIONS = 20;
/** Changes of one user's status that are stored and sent in a second. */
const STATUSES_PER_SECOND = 10;
/** Storage key of whether the room is a large one, and since when. */
const SIZE_KEY = "size";
/** A session that is away for longer cannot be resumed, in ms. */
const LONGEST_AWAY_MS = 150_000;

/** What others were last told of a user. */
interface Told<S extends string> extends RosterEntry<S> {
  /** The ids of the sessions, in a row. */
  ids: string;
  /** What the server knows of the user, as JSON. */
  about: string;
}

/** The totals of a room, and a page of its users. */
type RoomInfo<S extends string> = PresenceCount & Partial<RosterPage<S>>;

export interface PresenceOptions<S extends string> {
  /** The first one is the default. */
  statuses: readonly S[];
  /** In a room with more users, clients get pages. */
  rosterLimit: number;
  onChange?: ((change: Omit<RosterDiff<S>, "states">) => void) | undefined;
  /** Stores and reports joins and leaves, where the directory or a webhook needs it. */
  ledger?: ((host: LedgerHost) => RoomLedger | undefined) | undefined;
}

/** The ledger of a room, as its presence needs it. */
export type RoomLedger = Pick<Ledger, "touch" | "commit" | "restore">;

/**
 * The users in one room. The sockets are the truth: an entry is made anew from the user's sessions at
 * each connect and disconnect, never counted up or down.
 */
export class Presence<S extends string> {
  readonly roster: Roster<S> = new Map();
  /** Sum of the entries' devices. */
  #connections = 0;
  readonly #actor: PresenceActor<S>;
  readonly #options: PresenceOptions<S>;
  readonly #statuses: Statuses<S>;
  readonly #states = new States<PresenceSession>();
  readonly #audience: Audience<S>;
  /** Undefined where the room is one actor. */
  readonly others: Others<S> | undefined;
  readonly #pace = new Pace();
  readonly #userIds = new SortedTexts();
  /** The roster as clients last received it. */
  readonly #told = new Map<string, Told<S>>();
  /** Users whose entry changed since, with the number of syncs at their first change. */
  readonly #changed = new Map<string, number>();
  /** Syncs so far. */
  #syncs = 0;
  /**
   * Users whose entry changed before and after a sync, since the last diff, with the entry that the
   * sync contained (undefined: none). So some clients know another entry than {@link #told}.
   */
  readonly #resend = new Map<string, RosterEntry<S> | undefined>();
  readonly #newcomers = new Set<PresenceSession>();
  /** Users whose status changed, with the one that clients of protocol 3 know. */
  readonly #newStatuses = new Map<string, S>();
  /** How users left since the last diff. */
  readonly #reasons = new Map<string, Departure>();
  /** The users of `presence.sync` as JSON, for each dialect. A join is appended; other changes discard it. */
  #plainUsers: string | null = null;
  #users: string | null = null;
  /** When a state in {@link #users} ends, in ms. */
  #usersUntilMs = Number.POSITIVE_INFINITY;
  /** Above the limit, and until it has halved: to and fro would cost a roster for each client. */
  #isLarge = false;
  #sizeChangedAtMs = 0;
  readonly #ledger: RoomLedger | undefined;

  constructor(actor: PresenceActor<S>, options: PresenceOptions<S>) {
    this.#actor = actor;
    this.#options = options;
    this.#statuses = new Statuses(actor.getStorage(), options.statuses);
    this.#audience = new Audience(actor, () => this.#count());
    if (actor.shard) {
      this.others = new Others(actor, actor.shard, this.#audience, {
        count: () => this.#ownCount(),
        entry: (userId) => this.#entry(userId, Date.now()),
        onCount: () => this.#audience.requestCount(true),
      });
      // What happens in other shards is not sent to all, however few they are.
      this.#isLarge = true;
    }
    this.#ledger = options.ledger?.({
      count: (userId) => ({
        sessions: actor.sessionsOf(userId).size,
        listed: this.#listedOf(userId).length,
      }),
      reasonOf: (userId) => this.#reasons.get(userId),
      totalListed: () => this.#connections,
    });
  }

  #ownCount(): PresenceCount {
    return { totalUsers: this.roster.size, totalConnections: this.#connections };
  }

  /** Of the whole room. */
  #count(): PresenceCount {
    return this.others?.count ?? this.#ownCount();
  }

  // ── Entries ─────────────────────────────────────────────────────────────────────────────────

  /** The sessions of a user that others see. */
  #listedOf(userId: string): PresenceSession[] {
    return [...this.#actor.sessionsOf(userId)].filter(({ meta }) => meta.listed !== false);
  }

  /** As clients of protocol 1 and 2 see a user; undefined for nobody. */
  #plainEntry(userId: string): RosterEntry<S> | undefined {
    const sessions = this.#listedOf(userId);
    const [first] = sessions;
    if (!first) return undefined;
    const { username } = first.meta;
    return { userId, username, devices: sessions.length, status: this.#statuses.of(userId) };
  }

  #sessionsOf(userId: string, now: number, withStates = true): PresentSession[] {
    return this.#listedOf(userId).map((session) => ({
      session: session.id,
      device: session.meta.device,
      since: session.meta.since ?? now,
      ...(withStates && stateOf(session, now)),
    }));
  }

  #userOf(userId: string) {
    const [first] = this.#listedOf(userId);
    return first?.meta.user;
  }

  #entry(userId: string, now: number): RosterEntry<S> | undefined {
    const entry = this.roster.get(userId);
    if (!entry) return undefined;
    const user = this.#userOf(userId);
    return { ...entry, ...(user && { user }), sessions: this.#sessionsOf(userId, now) };
  }

  /** An entry of a page: without states, and not with too many sessions. */
  #pageEntry(userId: string, now: number): RosterEntry<S> | undefined {
    const entry = this.roster.get(userId);
    if (!entry) return undefined;
    const user = this.#userOf(userId);
    const sessions = this.#sessionsOf(userId, now, false).slice(0, PAGE_SESSIONS);
    return { ...entry, ...(user && { user }), sessions };
  }

  #toldOf(userId: string, { username, devices, status }: RosterEntry<S>): Told<S> {
    let ids = "";
    for (const { id } of this.#listedOf(userId)) ids += id;
    const user = this.#userOf(userId);
    const about = user ? JSON.stringify(user) : "";
    return { userId, username, devices, status, ids, about };
  }

  // ── Start ───────────────────────────────────────────────────────────────────────────────────

  /** Makes the roster from the sockets that are there; where it is another than before, all get it. */
  restore(): void {
    this.sendDiff();
    for (const userId of this.#actor.getConnectedUserIds()) {
      const entry = this.#plainEntry(userId);
      if (!entry) continue;
      this.#put(userId, entry);
      this.#told.set(userId, this.#toldOf(userId, entry));
    }
    this.#forgetTexts();
    if (!this.others) {
      const size = this.#actor.getStorage().kv.get<{ isLarge: boolean; atMs: number }>(SIZE_KEY);
      this.#isLarge = size?.isLarge === true;
      this.#sizeChangedAtMs = size?.atMs ?? 0;
      this.#checkSize();
    }
    this.#ledger?.restore(this.#actor.getConnectedUserIds());
    if (this.#statuses.keepOnly((userId) => this.roster.has(userId))) this.#syncAll();
    this.others?.restore();
  }

  #put(userId: string, entry: RosterEntry<S>): void {
    if (!this.roster.has(userId)) this.#userIds.add(userId);
    this.#connections += entry.devices - (this.roster.get(userId)?.devices ?? 0);
    this.roster.set(userId, entry);
  }

  #forgetTexts(): void {
    this.#plainUsers = null;
    this.#users = null;
  }

  /** Everybody's `presence.sync`: clients of protocol 1 and 2 as an event, which Verani's rooms send. */
  #syncAll(): void {
    const plain = this.#actor.emit.where(({ protocol }) => protocol < 3);
    plain.emit("presence.sync", snapshot(this.roster.values()));
    for (const session of this.#actor.sessions.values()) {
      if (session.protocol === 3 && session.open) this.#sync(session);
    }
  }

  /** A large room sends pages instead of rosters. */
  #checkSize(): void {
    if (this.others) return;
    const { size } = this.roster;
    const { rosterLimit } = this.#options;
    const isLarge = size > rosterLimit || (this.#isLarge && size > rosterLimit / 2);
    if (isLarge === this.#isLarge) return;
    this.#isLarge = isLarge;
    this.#sizeChangedAtMs = Date.now();
    const row = { isLarge, atMs: this.#sizeChangedAtMs };
    this.#actor.getStorage().kv.put(SIZE_KEY, row);
    for (const session of this.#actor.sessions.values()) {
      const isPlain = session.protocol < 3 || session.meta.detail !== undefined;
      if (!isPlain && session.open) this.#sync(session);
    }
  }

  // ── Snapshots ───────────────────────────────────────────────────────────────────────────────

  /** What a session gets when it begins, or after a break. */
  #sync(session: PresenceSession): void {
    const { protocol, meta } = session;
    this.#syncs += 1;
    this.#states.told();
    if (protocol < 3) session.sendSnapshot(this.#encodePlainSync());
    else if (meta.detail === undefined) session.sendSnapshot(this.#encodeSync(session));
    else {
      if (meta.detail === "count") this.#audience.sendCountTo(session);
      if (meta.watch) session.sendSnapshot(this.#encodePartialSync(session, false));
    }
  }

  #totals(): string {
    const { totalUsers, totalConnections } = this.#count();
    return `"totalUsers":${totalUsers},"totalConnections":${totalConnections}`;
  }

  #frame(users: string, more: string): string {
    const head = `{"type":"event","channel":"${CHANNEL}","data":{"type":"presence.sync","users":[`;
    return `${head}${users}],${this.#totals()}${more}}}`;
  }

  #encodePlainSync(): string {
    this.#plainUsers ??= Array.from(this.roster.values(), (one) => JSON.stringify(one)).join(",");
    return this.#frame(this.#plainUsers, "");
  }

  #encodeSync(session: PresenceSession): string {
    if (this.#isLarge) return this.#encodePartialSync(session, true);
    const now = Date.now();
    if (this.#users === null || now >= this.#usersUntilMs) {
      this.#usersUntilMs = Number.POSITIVE_INFINITY;
      this.#users = Array.from(this.roster.keys(), (userId) =>
        this.#encodeEntry(userId, now),
      ).join();
    }
    return this.#frame(this.#users, "");
  }

  #encodeEntry(userId: string, now: number): string {
    for (const { state } of this.#listedOf(userId)) {
      const { untilMs = Number.POSITIVE_INFINITY } = state ?? {};
      if (untilMs > now) this.#usersUntilMs = Math.min(this.#usersUntilMs, untilMs);
    }
    return JSON.stringify(this.#entry(userId, now));
  }

  /** The users that the client watches, and the first page of a large room. */
  #encodePartialSync({ meta }: PresenceSession, withPage: boolean): string {
    const now = Date.now();
    const watched = new Set(meta.watch);
    const entries = [...watched].flatMap(
      (userId) => this.#entry(userId, now) ?? this.others?.entry(userId) ?? [],
    );
    const texts = entries.map((entry) => JSON.stringify(entry));
    let next: string | null = null;
    // Of several shards the client asks for the first page too.
    if (withPage && this.others) next = "";
    else if (withPage) {
      const bytes = FIRST_PAGE_BYTES - texts.reduce((sum, text) => sum + text.length + 1, 0);
      const encode = (userId: string) =>
        watched.has(userId) ? undefined : JSON.stringify(this.#pageEntry(userId, now));
      const page = takePage(this.#userIds.from(""), encode, { bytes });
      texts.push(...page.texts);
      next = page.next;
    }
    return this.#frame(texts.join(), `,"partial":true,"next":${JSON.stringify(next)}`);
  }

  /**
   * The entries after a userId.
   *
   * @throws RollcallError `rate_limited`
   */
  page(
    session: PresenceSession,
    after = "",
    limit = PAGE_USERS,
  ): RosterPage<S> | Promise<RosterPage<S>> {
    const perSecond = this.others ? SHARD_PAGES_PER_SECOND : PAGES_PER_SECOND;
    if (this.#pace.isOften(`page ${session.id}`, perSecond)) {
      throw new RollcallError("rate_limited", `At most ${perSecond} pages a second`);
    }
    const now = Date.now();
    const watched = new Set(session.meta.watch);
    const encode = (userId: string) =>
      JSON.stringify(watched.has(userId) ? this.#entry(userId, now) : this.#pageEntry(userId, now));
    const limits = { bytes: PAGE_BYTES, limit };
    const { texts, next } = takePage(this.#userIds.from(after), encode, limits);
    const own = { users: texts.map((text) => JSON.parse(text)), next };
    return this.others ? this.others.merge(own, after, limit) : own;
  }

  /**
   * Sends the roster to a session that asks for it: at once, or the newest one a second later where it
   * has had much in this second. A client must not make the server send much for little.
   */
  list(session: PresenceSession): void {
    const units = (this.#plainUsers ?? this.#users)?.length ?? this.roster.size * 100;
    const perSecond = Math.max(1, LISTED_UNITS_PER_SECOND / Math.max(1, units));
    this.#pace.run(session, perSecond, () => this.#sync(session));
  }

  /** The totals, and the users after a userId. */
  info(withUsers: boolean, after = ""): RoomInfo<S> | Promise<RoomInfo<S>> {
    const own = withUsers ? this.ownPage(after, PAGE_USERS) : undefined;
    return this.others ? this.#infoOfAll(own, after) : { ...this.#count(), ...own };
  }

  async #infoOfAll(own: RosterPage<S> | undefined, after: string): Promise<RoomInfo<S>> {
    await this.others?.prepare();
    const page = own && (await this.others?.merge(own, after, PAGE_USERS));
    return { ...this.#count(), ...page };
  }

  /** The users of this actor after a userId, without states. */
  ownPage(after: string, limit: number): RosterPage<S> {
    const now = Date.now();
    const encode = (userId: string) => JSON.stringify(this.#pageEntry(userId, now));
    const { texts, next } = takePage(this.#userIds.from(after), encode, {
      bytes: PAGE_BYTES,
      limit,
    });
    return { users: texts.map((text) => JSON.parse(text)), next };
  }

  snapshot(): RosterSync<S> {
    const now = Date.now();
    const users = [...this.roster.keys()].flatMap((userId) => this.#entry(userId, now) ?? []);
    return snapshot(users);
  }

  // ── Changes ─────────────────────────────────────────────────────────────────────────────────

  connected(session: PresenceSession): void {
    const { userId } = session.meta;
    this.#touch(userId);
    this.#update(userId, session);
    // A page that was loaded again changes nothing.
    if (this.#changed.has(userId)) this.#newcomers.add(session);
    this.#checkSize();
    this.#sync(session);
  }

  /** Others see a difference only if the session had been gone. */
  resumed(session: PresenceSession, missedSnapshot: boolean): void {
    this.#touch(session.meta.userId);
    this.#update(session.meta.userId, session);
    const awaySinceMs = Date.now() - LONGEST_AWAY_MS;
    if (missedSnapshot || this.#sizeChangedAtMs > awaySinceMs) this.#sync(session);
    else {
      if (session.meta.detail === "count" || this.#isLarge) this.#audience.sendCountTo(session);
      this.#sendStatesTo(session);
    }
  }

  disconnected(session: PresenceSession, reason: Departure): void {
    const { userId } = session.meta;
    this.#touch(userId);
    this.#newcomers.delete(session);
    if (this.#listedOf(userId).length === 0) {
      this.#pace.forget(userId);
      this.#statuses.delete(userId);
      this.#reasons.set(userId, reason);
    }
    this.#update(userId, session);
  }

  /**
   * Stores a user's status, then sends it to everyone: at once, or of many changes the newest a second
   * later, since each is a row and a message to all.
   */
  setStatus(session: PresenceSession, status: S): void {
    const { userId, username, listed } = session.meta;
    if (listed === false) throw new RollcallError("forbidden", "You are not listed here");
    this.#pace.run(userId, STATUSES_PER_SECOND, () => this.#changeStatus(userId, username, status));
  }

  #changeStatus(userId: string, username: string, status: S): void {
    // Clients that have not received the user's arrival yet must receive it first.
    this.sendDiff();
    const old = this.#statuses.of(userId);
    this.#statuses.set(userId, status, () => {
      const plain = this.#actor.emit.where(({ protocol }) => protocol < 3);
      plain.emit("presence.status", { userId, username, status, timestamp: Date.now() });
    });
    const entry = this.#plainEntry(userId);
    if (!entry) return;
    if (status !== old && !this.#newStatuses.has(userId)) this.#newStatuses.set(userId, old);
    this.#put(userId, entry);
    this.#told.set(userId, this.#toldOf(userId, entry));
    this.#forgetTexts();
    this.#requestFlush();
  }

  /** @param text of `encodeState` */
  setState(session: PresenceSession, text: string, ttlMs: number | undefined): void {
    const { meta } = session;
    if (meta.listed === false || !can(meta, this.#actor.name, "state")) {
      throw new RollcallError("forbidden", "You may not set a state here");
    }
    this.#states.set(session, text, ttlMs === undefined ? undefined : Date.now() + ttlMs);
    this.#users = null;
    this.#requestFlush();
  }

  /** Brings a user's entry up to date and notifies the others. */
  #update(userId: string, cause: PresenceSession): void {
    const old = this.roster.get(userId);
    const now = this.#plainEntry(userId);
    if (now) this.#put(userId, now);
    else if (this.roster.delete(userId)) {
      this.#userIds.delete(userId);
      this.#connections -= old?.devices ?? 0;
    }
    if (!old && now && this.#plainUsers !== null) {
      this.#plainUsers += `${this.#plainUsers === "" ? "" : ","}${JSON.stringify(now)}`;
    } else this.#plainUsers = null;
    if (!old && now && this.#users !== null) {
      this.#users += `${this.#users === "" ? "" : ","}${this.#encodeEntry(userId, Date.now())}`;
    } else this.#users = null;

    const isSame = old && now && isSameEntry(old, now);
    if (isSame && isSameTold(this.#told.get(userId), this.#toldOf(userId, now))) return;
    if (!isSame) this.#sendSingleEvent(cause, old, now);
    const changedAt = this.#changed.get(userId);
    if (changedAt === undefined) this.#changed.set(userId, this.#syncs);
    else if (changedAt < this.#syncs) this.#resend.set(userId, old ?? this.#resend.get(userId));
    this.#requestFlush();
  }

  /** Clients of protocol 1 get the single event at once: they take no lists, so waiting saves nothing. */
  #sendSingleEvent(cause: PresenceSession, old?: RosterEntry<S>, now?: RosterEntry<S>): void {
    const { emit } = this.#actor;
    const others = emit.where((session) => session.protocol === 1 && session !== cause);
    const { userId, username } = cause.meta;
    const timestamp = Date.now();
    if (!now) others.emit("presence.offline", { userId, username, timestamp });
    else if (!old) others.emit("presence.online", { ...now, timestamp });
    else {
      const { username, devices } = now;
      others.emit("presence.update", { userId, username, devices, timestamp });
    }
  }

  #touch(userId: string): void {
    if (!this.#ledger) return;
    this.#ledger.touch(userId);
    this.#requestFlush();
  }

  // ── Flush ───────────────────────────────────────────────────────────────────────────────────

  #requestFlush(): void {
    this.#actor.atFlush("presence", () => {
      this.sendDiff();
      this.#sendStatuses();
      this.#sendStates();
    });
  }

  /** Sends clients of protocol 2 and 3 what changed since the last diff. */
  sendDiff(): void {
    this.#checkSize();
    this.#ledger?.commit();
    if (this.#changed.size === 0) {
      this.#reasons.clear();
      return;
    }
    // A whole entry, or a leave, is right for clients with either of the two entries.
    for (const [userId, shown] of this.#resend) {
      if (this.roster.has(userId)) this.#told.delete(userId);
      else if (shown) this.#told.set(userId, { ...shown, ids: "", about: "" });
    }
    const timestamp = Date.now();
    const userIds = [...this.#changed.keys()];
    const plain = diffRoster(this.#told, this.roster, userIds, timestamp);
    const rich = this.#richDiff(userIds, timestamp);
    // A single newcomer has it all in its sync; several newcomers need the joins of each other.
    const isLone =
      this.#newcomers.size === 1 && this.#changed.size === 1 && this.#resend.size === 0;
    const only = isLone ? [...this.#newcomers][0] : null;
    for (const userId of userIds) {
      const entry = this.roster.get(userId);
      if (entry) this.#told.set(userId, this.#toldOf(userId, entry));
      else this.#told.delete(userId);
    }
    this.#changed.clear();
    this.#resend.clear();
    this.#newcomers.clear();
    this.#reasons.clear();
    const { emit } = this.#actor;
    if (plain) {
      const others = emit.where((session) => session.protocol === 2 && session !== only);
      others.emit("presence.diff", plain);
    }
    if (!rich) return;
    if (!this.#isLarge) {
      const others = emit.where((session) => isFull(session) && session !== only);
      others.emit("presence.diff", rich);
    }
    this.#audience.sendWatched(rich, this.#isLarge);
    this.#audience.requestCount(this.#isLarge);
    this.others?.sendDiff(rich);
    this.others?.totals.changed();
    this.#options.onChange?.(rich);
  }

  /** What changed of users, for clients of protocol 3. */
  #richDiff(userIds: readonly string[], timestamp: number): RosterDiff<S> | null {
    const diff: RosterDiff<S> = { joins: [], leaves: [], updates: [], timestamp };
    for (const userId of userIds) {
      const told = this.#told.get(userId);
      const entry = this.#entry(userId, timestamp);
      if (!entry) {
        const reason = this.#reasons.get(userId);
        if (!told) continue;
        diff.leaves.push({ userId, username: told.username, ...(reason && { reason }) });
      } else if (!told) diff.joins.push(entry);
      else {
        const now = this.#toldOf(userId, entry);
        if (isSameTold(told, now)) continue;
        const { username, devices, status, user = null, sessions = [] } = entry;
        diff.updates.push({
          userId,
          ...(username !== told.username && { username }),
          ...(devices !== told.devices && { devices }),
          ...(status !== told.status && { status }),
          ...(now.about !== told.about && { user }),
          ...(now.ids !== told.ids && { sessions }),
        });
      }
    }
    return diff.joins.length + diff.leaves.length + diff.updates.length === 0 ? null : diff;
  }

  /** Sends clients of protocol 3 the statuses that are not as they know them. */
  #sendStatuses(): void {
    if (this.#newStatuses.size === 0) return;
    const timestamp = Date.now();
    for (const [userId, old] of this.#newStatuses) {
      const entry = this.roster.get(userId);
      if (!entry || entry.status === old) continue;
      const { username, status } = entry;
      const sees = this.#audience.whoSees(userId, this.#isLarge);
      const data = { userId, username, status, timestamp };
      this.#actor.emit.where(sees).emit("presence.status", data);
      this.others?.sendStatus(data);
    }
    this.#newStatuses.clear();
  }

  /** Sends clients of protocol 3 the newest states. */
  #sendStates(): void {
    const now = Date.now();
    const sessions = this.#states.takeChanged(now);
    const [first] = sessions;
    if (!first) return;
    if (!this.#isLarge) {
      // A client knows its own state.
      const only = sessions.length === 1 ? first : null;
      const text = this.#encodeStatesFrame(sessions, now);
      this.#actor.sendNewest(text, (session) => isFull(session) && session !== only);
    }
    this.#audience.sendWatchedStates(sessions, this.#isLarge, (watched) =>
      this.#encodeStatesFrame(watched, now),
    );
    if (!this.others) return;
    const states = JSON.parse(encodeStates(sessions, now));
    this.others.sendDiff({ joins: [], leaves: [], updates: [], states, timestamp: now });
  }

  #encodeStatesFrame(sessions: Iterable<PresenceSession>, now: number): string {
    const states = encodeStates(sessions, now);
    const data = `"joins":[],"leaves":[],"updates":[],"states":${states},"timestamp":${now}`;
    return `{"type":"event","channel":"${CHANNEL}","data":{"type":"presence.diff",${data}}}`;
  }

  /** States are not sent again after a break: this is what they are now. */
  #sendStatesTo(session: PresenceSession): void {
    if (session.protocol < 3) return;
    this.#states.told();
    const sees = this.#audience.usersOf(session, this.#isLarge) ?? this.roster.keys();
    const sessions: PresenceSession[] = [];
    for (const userId of sees) {
      for (const one of this.#listedOf(userId)) {
        if (one !== session && one.state) sessions.push(one);
      }
    }
    if (sessions.length === 0) return;
    const text = this.#encodeStatesFrame(sessions, Date.now());
    this.#actor.sendNewest(text, (one) => one === session);
  }
}

function isSameEntry<S extends string>(a: RosterEntry<S>, b: RosterEntry<S>): boolean {
  return a.devices === b.devices && a.status === b.status && a.username === b.username;
}

function isSameTold<S extends string>(a: Told<S> | undefined, b: Told<S>): boolean {
  return a !== undefined && isSameEntry(a, b) && a.ids === b.ids && a.about === b.about;
}
