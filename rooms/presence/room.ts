import * as z from "zod/mini";
import {
  type ConnectionMeta,
  defineRoom,
  perActor,
  type VeraniActor,
} from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { admitVisitor } from "./access.ts";
import { type PresenceEvents, presenceEvents } from "./contract.ts";
import { diffRoster, type Roster, type RosterEntry, type Status, snapshot } from "./roster.ts";

interface PresenceMeta extends ConnectionMeta {
  username: string;
  /** `mobile`, `tablet` or `desktop`, by the user agent. */
  device: string;
}

type PresenceActor = VeraniActor<PresenceMeta, Env, PresenceEvents>;
type PresenceSession = Session<PresenceMeta>;

const CHANNEL = "default";
/** A dead peer's 15 s of silence, this, and a ping interval before and after it are a minute. */
const PROBE_MS = 35_000;
/** Storage key of a user's status, kept while it is not `online`. */
const STATUS_PREFIX = "status:";

function deviceOf(request: Request): string {
  const agent = request.headers.get("User-Agent") ?? "";
  if (agent.includes("Mobile")) return "mobile";
  return agent.includes("Tablet") ? "tablet" : "desktop";
}

/**
 * Who is in one room. The sockets are the truth: an entry is made anew from the user's sessions
 * whenever one comes or goes, never counted up or down.
 */
class Presence {
  readonly #actor: PresenceActor;
  readonly roster: Roster = new Map();
  /** What clients of protocol 2 were told last … */
  readonly #told: Roster = new Map();
  /** … whose entry changed since, and how many syncs had been made when it did so first. */
  readonly #dirty = new Map<string, number>();
  #syncs = 0;
  /** Those whom a sync showed as they were in between, and how: undefined if only as absent. */
  readonly #restate = new Map<string, RosterEntry | undefined>();
  readonly #newcomers = new Set<PresenceSession>();
  readonly #statuses: Map<string, Status>;
  /** The users of `presence.sync` as JSON: joins add to it, all else has it made anew. */
  #encodedUsers: string | null = null;

  constructor(actor: PresenceActor) {
    this.#actor = actor;
    const stored = actor.getStorage().kv.list<Status>({ prefix: STATUS_PREFIX });
    this.#statuses = new Map(
      [...stored].map(([key, status]) => [key.slice(STATUS_PREFIX.length), status]),
    );
  }

  #entry(userId: string): RosterEntry | undefined {
    const sessions = this.#actor.sessionsOf(userId);
    const [first] = sessions;
    if (!first) return undefined;
    const { username } = first.meta;
    const status = this.#statuses.get(userId) ?? "online";
    return { userId, username, devices: sessions.size, status };
  }

  /**
   * Makes the roster from the sockets that are there, and forgets what is stored of users who are
   * not. Says whether there was any.
   */
  restore(): boolean {
    this.tell();
    for (const { meta } of this.#actor.sessions.values()) {
      const entry = this.#entry(meta.userId);
      if (!entry) continue;
      this.roster.set(meta.userId, entry);
      this.#told.set(meta.userId, entry);
    }
    this.#encodedUsers = null;
    const gone = [...this.#statuses.keys()].filter((userId) => !this.roster.has(userId));
    if (gone.length === 0) return false;
    const storage = this.#actor.getStorage();
    storage.transactionSync(() => {
      for (const userId of gone) storage.kv.delete(STATUS_PREFIX + userId);
    });
    for (const userId of gone) this.#statuses.delete(userId);
    return true;
  }

  joined(session: PresenceSession): void {
    this.#newcomers.add(session);
    this.#changed(session.meta.userId, session);
  }

  left(session: PresenceSession): void {
    const { userId } = session.meta;
    this.#newcomers.delete(session);
    if (this.#actor.sessionsOf(userId).size === 0 && this.#statuses.delete(userId)) {
      this.#actor.getStorage().kv.delete(STATUS_PREFIX + userId);
    }
    this.#changed(userId, session);
  }

  /** Stores a user's status, then tells everyone. */
  setStatus({ userId, username }: PresenceMeta, status: Status): void {
    // Whoever has not heard of the user's arrival yet must hear of it first.
    this.tell();
    const storage = this.#actor.getStorage();
    storage.transactionSync(() => {
      if (status !== (this.#statuses.get(userId) ?? "online")) {
        if (status === "online") storage.kv.delete(STATUS_PREFIX + userId);
        else storage.kv.put(STATUS_PREFIX + userId, status);
      }
      const data = { userId, username, status, timestamp: Date.now() };
      this.#actor.emit.to(CHANNEL).emit("presence.status", data);
    });
    if (status === "online") this.#statuses.delete(userId);
    else this.#statuses.set(userId, status);
    const entry = this.#entry(userId);
    if (!entry) return;
    this.roster.set(userId, entry);
    this.#told.set(userId, entry);
    this.#encodedUsers = null;
  }

  /** Brings a user's entry up to date and lets the others know. */
  #changed(userId: string, cause: PresenceSession): void {
    const old = this.roster.get(userId);
    const now = this.#entry(userId);
    if (now) this.roster.set(userId, now);
    else this.roster.delete(userId);
    if (!old && now && this.#encodedUsers !== null) {
      this.#encodedUsers += `${this.#encodedUsers === "" ? "" : ","}${JSON.stringify(now)}`;
    } else this.#encodedUsers = null;

    this.#tellLegacy(cause, old, now);
    const dirtySince = this.#dirty.get(userId);
    if (dirtySince === undefined) this.#dirty.set(userId, this.#syncs);
    else if (dirtySince < this.#syncs) this.#restate.set(userId, old ?? this.#restate.get(userId));
    this.#actor.atFlush("presence", () => this.tell());
  }

  /** Clients of protocol 1 get the single event at once: they take no lists, so it saves nothing to wait. */
  #tellLegacy(cause: PresenceSession, old?: RosterEntry, now?: RosterEntry): void {
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

  /** Tells clients of protocol 2 what changed since the last time. */
  tell(): void {
    // Some know this user otherwise than they were told: a whole entry, or a leave, sets all right.
    for (const [userId, shown] of this.#restate) {
      if (this.roster.has(userId)) this.#told.delete(userId);
      else if (shown) this.#told.set(userId, shown);
    }
    const diff = diffRoster(this.#told, this.roster, this.#dirty.keys(), Date.now());
    // A single newcomer has it all in its sync; among several, each needs to hear of the others.
    const isLone = this.#newcomers.size === 1 && this.#dirty.size === 1 && this.#restate.size === 0;
    const only = isLone ? [...this.#newcomers][0] : null;
    for (const userId of this.#dirty.keys()) {
      const entry = this.roster.get(userId);
      if (entry) this.#told.set(userId, entry);
      else this.#told.delete(userId);
    }
    this.#dirty.clear();
    this.#restate.clear();
    this.#newcomers.clear();
    if (!diff) return;
    const { emit } = this.#actor;
    emit.where((session) => session.protocol === 2 && session !== only).emit("presence.diff", diff);
  }

  /** `presence.sync` as a frame. */
  encodedSync(): string {
    this.#syncs += 1;
    this.#encodedUsers ??= [...this.roster.values()]
      .map((entry) => JSON.stringify(entry))
      .join(",");
    const head = `{"type":"event","channel":"${CHANNEL}","data":{"type":"presence.sync","users":[`;
    const totals = `"totalUsers":${this.roster.size},"totalConnections":${this.#actor.sessions.size}`;
    return `${head}${this.#encodedUsers}],${totals}}}`;
  }
}

const presenceOf = perActor((actor: PresenceActor) => new Presence(actor));

/** Who is online, with how many devices and which status. One actor per room name. */
export const presence = defineRoom<PresenceMeta, Env, PresenceEvents>({
  name: "presence-room",
  websocketPath: "/ws/presence",
  liveness: { probeMs: PROBE_MS },

  async extractMeta(request, env) {
    const { room: _, ...visitor } = await admitVisitor(request, env);
    const clientId = crypto.randomUUID();
    return { ...visitor, clientId, channels: [CHANNEL], device: deviceOf(request) };
  },

  onConnect({ actor, session }) {
    const here = presenceOf(actor);
    here.joined(session);
    session.enqueue(here.encodedSync());
  },

  onDisconnect({ actor, session }) {
    presenceOf(actor).left(session);
  },

  onHibernationRestore(actor) {
    const here = presenceOf(actor);
    if (here.restore())
      actor.emit.to(CHANNEL).emit("presence.sync", snapshot(here.roster.values()));
  },
});

const { "presence.status": statusChange } = presenceEvents.in;
presence.on("presence.status", statusChange, ({ actor, meta }, { status }) => {
  presenceOf(actor).setStatus(meta, status);
});

presence.on("presence.list", ({ actor, session }) => {
  session.enqueue(presenceOf(actor).encodedSync());
});

/** The same for those who only need a look. */
presence.ingest("list", z.undefined(), (actor) => {
  actor.cleanupStaleSessions();
  return snapshot(presenceOf(actor).roster.values());
});
