import * as z from "zod/mini";
import type { RecordType } from "../../src/actor/record.ts";
import {
  type ConnectionMeta,
  defineRoom,
  perActor,
  type Room,
  type VeraniActor,
} from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { type Authenticate, authorizeVisitor } from "./access.ts";
import { statusChange, statusRecord } from "./contract.ts";
import {
  diffRoster,
  type PresenceEvents,
  type Roster,
  type RosterEntry,
  type RosterSync,
  snapshot,
} from "./roster.ts";

export interface PresenceMeta extends ConnectionMeta {
  username: string;
  /** `mobile`, `tablet` or `desktop`, by the user agent. */
  device: string;
}

/** The calls of a presence room. `list` answers with a snapshot. */
export type PresenceCalls<S extends string> = { list: { in: undefined; out: RosterSync<S> } };

export type PresenceRoom<E, S extends string> = Room<
  PresenceMeta,
  E,
  PresenceEvents<S>,
  PresenceCalls<S>
>;

type PresenceActor<S extends string> = VeraniActor<PresenceMeta, unknown, PresenceEvents<S>>;
type PresenceSession = Session<PresenceMeta>;

const CHANNEL = "default";
/** A dead peer's 15 s of silence, this, and a ping interval before and after it are a minute. */
const PROBE_MS = 35_000;
const SECOND_MS = 1_000;
/** UTF-16 units of rosters that one session gets in a second, but for the first. */
const LISTED_UNITS_PER_SECOND = 32_768;
/** Changes of one user's status that are stored and sent in a second. */
const STATUSES_PER_SECOND = 10;
/** Users and sessions whose activity is remembered. */
const RECENT = 10_000;
/** Storage key of a user's status, which is stored while it is not the default. */
const STATUS_PREFIX = "status:";

function deviceOf(request: Request): string {
  const agent = request.headers.get("User-Agent") ?? "";
  if (agent.includes("Mobile")) return "mobile";
  return agent.includes("Tablet") ? "tablet" : "desktop";
}

/**
 * The users in one room. The sockets are the truth: an entry is made anew from the user's sessions at
 * each connect and disconnect, never counted up or down.
 */
class Presence<S extends string> {
  readonly roster: Roster<S> = new Map();
  readonly #actor: PresenceActor<S>;
  readonly #record: RecordType<{ status: S }>;
  readonly #defaultStatus: S;
  /** The stored records by user; a user without one has the default status. */
  readonly #statuses = new Map<string, { status: S }>();
  /** The roster as clients of protocol 2 last received it. */
  readonly #sent: Roster<S> = new Map();
  /** Users whose entry changed since, with the number of syncs at their first change. */
  readonly #changed = new Map<string, number>();
  /** Syncs so far. */
  #syncs = 0;
  /**
   * Users whose entry changed before and after a sync, since the last diff, with the entry that the
   * sync contained (undefined: none). So some clients know another entry than {@link #sent}.
   */
  readonly #resend = new Map<string, RosterEntry<S> | undefined>();
  readonly #newcomers = new Set<PresenceSession>();
  /** How often users and sessions did something that costs much, lately. */
  readonly #recent = new Map<unknown, { sinceMs: number; times: number }>();
  /** What is left of what they did too often. */
  readonly #delayed = new Map<unknown, () => void>();
  /** The users of `presence.sync` as JSON. A join is appended; other changes discard it. */
  #encodedUsers: string | null = null;

  constructor(actor: PresenceActor<S>, statuses: readonly S[]) {
    this.#actor = actor;
    this.#record = statusRecord(statuses);
    this.#defaultStatus = statuses[0] as S;
    for (const [key, value] of actor.getStorage().kv.list({ prefix: STATUS_PREFIX })) {
      const record = this.#record.read(value);
      if (record) this.#statuses.set(key.slice(STATUS_PREFIX.length), record);
    }
  }

  #statusOf(userId: string): S {
    return this.#statuses.get(userId)?.status ?? this.#defaultStatus;
  }

  #entryOf(userId: string): RosterEntry<S> | undefined {
    const sessions = this.#actor.sessionsOf(userId);
    const [first] = sessions;
    if (!first) return undefined;
    const { username } = first.meta;
    return { userId, username, devices: sessions.size, status: this.#statusOf(userId) };
  }

  /**
   * Makes the roster from the sockets that are there, and deletes the stored statuses of users without
   * one.
   *
   * @returns whether there was such a status
   */
  restore(): boolean {
    this.sendDiff();
    for (const userId of this.#actor.getConnectedUserIds()) {
      const entry = this.#entryOf(userId);
      if (!entry) continue;
      this.roster.set(userId, entry);
      this.#sent.set(userId, entry);
    }
    this.#encodedUsers = null;
    const absent = [...this.#statuses.keys()].filter((userId) => !this.roster.has(userId));
    if (absent.length === 0) return false;
    const storage = this.#actor.getStorage();
    storage.transactionSync(() => {
      for (const userId of absent) storage.kv.delete(STATUS_PREFIX + userId);
    });
    for (const userId of absent) this.#statuses.delete(userId);
    return true;
  }

  /**
   * Sends the roster to a session that asks for it: at once, or the newest one a second later where it
   * has had much in this second. A client must not make the server send much for little.
   */
  list(session: PresenceSession): void {
    const text = this.encodeSync();
    const perSecond = Math.max(1, LISTED_UNITS_PER_SECOND / text.length);
    if (this.#isOften(session, perSecond)) {
      this.#later(session, () => session.sendSnapshot(this.encodeSync()));
    } else session.sendSnapshot(text);
  }

  /**
   * Stores a user's status, then sends it to everyone: at once, or of many changes the newest a second
   * later, since each is a row and a message to all.
   */
  setStatus(meta: PresenceMeta, status: S): void {
    const { userId } = meta;
    if (this.#isOften(userId, STATUSES_PER_SECOND)) {
      this.#later(userId, () => this.#changeStatus(meta, status));
    } else this.#changeStatus(meta, status);
  }

  /** Whether `key` has done something more than `perSecond` times within a second. */
  #isOften(key: unknown, perSecond: number): boolean {
    if (this.#delayed.has(key)) return true;
    const now = Date.now();
    let recent = this.#recent.get(key);
    if (!recent || Math.abs(now - recent.sinceMs) >= SECOND_MS) recent = { sinceMs: now, times: 0 };
    recent.times += 1;
    if (this.#recent.size >= RECENT) this.#recent.clear();
    this.#recent.set(key, recent);
    return recent.times > perSecond;
  }

  /** Runs the last `task` of `key` within a second. */
  #later(key: unknown, task: () => void): void {
    if (this.#delayed.size === 0) {
      setTimeout(() => {
        const tasks = [...this.#delayed.values()];
        this.#delayed.clear();
        for (const due of tasks) due();
      }, SECOND_MS);
    }
    this.#delayed.set(key, task);
  }

  connected(session: PresenceSession): void {
    this.#newcomers.add(session);
    this.#update(session.meta.userId, session);
  }

  /** Others see a difference only if the session had been gone. */
  resumed(session: PresenceSession): void {
    this.#update(session.meta.userId, session);
  }

  disconnected(session: PresenceSession): void {
    const { userId } = session.meta;
    this.#newcomers.delete(session);
    if (this.#actor.sessionsOf(userId).size === 0) this.#delayed.delete(userId);
    if (this.#actor.sessionsOf(userId).size === 0 && this.#statuses.delete(userId)) {
      this.#actor.getStorage().kv.delete(STATUS_PREFIX + userId);
    }
    this.#update(userId, session);
  }

  #changeStatus({ userId, username }: PresenceMeta, status: S): void {
    // Clients that have not received the user's arrival yet must receive it first.
    this.sendDiff();
    const record = { ...this.#statuses.get(userId), status };
    const stored = this.#record.write(record);
    // Bare, so a record with fields of a later version is kept.
    const isDefault = stored === this.#defaultStatus;
    const storage = this.#actor.getStorage();
    storage.transactionSync(() => {
      if (status !== this.#statusOf(userId)) {
        if (isDefault) storage.kv.delete(STATUS_PREFIX + userId);
        else storage.kv.put(STATUS_PREFIX + userId, stored);
      }
      const data = { userId, username, status, timestamp: Date.now() };
      this.#actor.emit.to(CHANNEL).emit("presence.status", data);
    });
    if (isDefault) this.#statuses.delete(userId);
    else this.#statuses.set(userId, record);
    const entry = this.#entryOf(userId);
    if (!entry) return;
    this.roster.set(userId, entry);
    this.#sent.set(userId, entry);
    this.#encodedUsers = null;
  }

  /** Brings a user's entry up to date and notifies the others. */
  #update(userId: string, cause: PresenceSession): void {
    const old = this.roster.get(userId);
    const now = this.#entryOf(userId);
    if (now) this.roster.set(userId, now);
    else this.roster.delete(userId);
    if (!old && now && this.#encodedUsers !== null) {
      this.#encodedUsers += `${this.#encodedUsers === "" ? "" : ","}${JSON.stringify(now)}`;
    } else this.#encodedUsers = null;

    if (old && now && isSameEntry(old, now)) return;
    this.#sendSingleEvent(cause, old, now);
    const changedAt = this.#changed.get(userId);
    if (changedAt === undefined) this.#changed.set(userId, this.#syncs);
    else if (changedAt < this.#syncs) this.#resend.set(userId, old ?? this.#resend.get(userId));
    this.#actor.atFlush("presence", () => this.sendDiff());
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

  /** Sends clients of protocol 2 what changed since the last diff. */
  sendDiff(): void {
    // A whole entry, or a leave, is right for clients with either of the two entries.
    for (const [userId, shown] of this.#resend) {
      if (this.roster.has(userId)) this.#sent.delete(userId);
      else if (shown) this.#sent.set(userId, shown);
    }
    const diff = diffRoster(this.#sent, this.roster, this.#changed.keys(), Date.now());
    // A single newcomer has it all in its sync; several newcomers need the joins of each other.
    const isLone =
      this.#newcomers.size === 1 && this.#changed.size === 1 && this.#resend.size === 0;
    const only = isLone ? [...this.#newcomers][0] : null;
    for (const userId of this.#changed.keys()) {
      const entry = this.roster.get(userId);
      if (entry) this.#sent.set(userId, entry);
      else this.#sent.delete(userId);
    }
    this.#changed.clear();
    this.#resend.clear();
    this.#newcomers.clear();
    if (!diff) return;
    const { emit } = this.#actor;
    emit.where((session) => session.protocol >= 2 && session !== only).emit("presence.diff", diff);
  }

  /** `presence.sync` as a frame. */
  encodeSync(): string {
    this.#syncs += 1;
    this.#encodedUsers ??= [...this.roster.values()]
      .map((entry) => JSON.stringify(entry))
      .join(",");
    const head = `{"type":"event","channel":"${CHANNEL}","data":{"type":"presence.sync","users":[`;
    const totals = `"totalUsers":${this.roster.size},"totalConnections":${this.#actor.getSessionCount()}`;
    return `${head}${this.#encodedUsers}],${totals}}}`;
  }
}

function isSameEntry<S extends string>(a: RosterEntry<S>, b: RosterEntry<S>): boolean {
  return a.devices === b.devices && a.status === b.status && a.username === b.username;
}

export interface PresenceRoomOptions<E, S extends string> {
  name: string;
  websocketPath: string;
  authenticate: Authenticate<E>;
  /** The first one is the default. */
  statuses: readonly S[];
}

/** The room of a presence system: one actor per room name. */
export function definePresence<E, S extends string>(
  options: PresenceRoomOptions<E, S>,
): PresenceRoom<E, S> {
  const { name, websocketPath, authenticate, statuses } = options;
  const presenceOf = perActor((actor: PresenceActor<S>) => new Presence(actor, statuses));

  const room = defineRoom<PresenceMeta, E, PresenceEvents<S>>({
    name,
    websocketPath,
    liveness: { probeMs: PROBE_MS },

    async extractMeta(request, env) {
      const { room: _, ...visitor } = await authorizeVisitor(request, env, authenticate);
      const clientId = crypto.randomUUID();
      return { ...visitor, clientId, channels: [CHANNEL], device: deviceOf(request) };
    },

    onConnect({ actor, session }) {
      const here = presenceOf(actor);
      here.connected(session);
      session.sendSnapshot(here.encodeSync());
    },

    onResume({ actor, session }, { missedSnapshot }) {
      const here = presenceOf(actor);
      here.resumed(session);
      if (missedSnapshot) session.sendSnapshot(here.encodeSync());
    },

    onDisconnect({ actor, session }) {
      presenceOf(actor).disconnected(session);
    },

    onHibernationRestore(actor) {
      const here = presenceOf(actor);
      if (!here.restore()) return;
      actor.emit.to(CHANNEL).emit("presence.sync", snapshot(here.roster.values()));
    },
  });

  room.on("presence.status", statusChange(statuses), ({ actor, meta }, { status }) => {
    presenceOf(actor).setStatus(meta, status);
  });

  room.on("presence.list", ({ actor, session }) => {
    presenceOf(actor).list(session);
  });

  return room.call("list", z.undefined(), (actor) => {
    actor.cleanupStaleSessions();
    return snapshot(presenceOf(actor).roster.values());
  });
}
