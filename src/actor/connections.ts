import type { Codec } from "../wire/codec.ts";
import { RollcallError } from "../wire/errors.ts";
import { sweepMetas } from "./attachment.ts";
import type { Limits } from "./limits.ts";
import type { Liveness } from "./liveness.ts";
import type { ConnectionMeta } from "./meta.ts";
import type { Outbox } from "./outbox.ts";
import { type EndReason, Session, type SessionHost } from "./session.ts";

/** Sessions under a key, for keys that come and go with them. */
class Index<M extends ConnectionMeta> {
  readonly #sets = new Map<string, Set<Session<M>>>();

  get(key: string): ReadonlySet<Session<M>> | undefined {
    return this.#sets.get(key);
  }

  keys(): Iterable<string> {
    return this.#sets.keys();
  }

  get size(): number {
    return this.#sets.size;
  }

  add(key: string, session: Session<M>): void {
    const set = this.#sets.get(key);
    if (set) set.add(session);
    else this.#sets.set(key, new Set([session]));
  }

  delete(key: string, session: Session<M>): void {
    const set = this.#sets.get(key);
    if (set?.delete(session) && set.size === 0) this.#sets.delete(key);
  }
}

function isSameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i]);
}

/** What the sessions of an actor share. */
export interface Shared {
  readonly state: DurableObjectState;
  readonly codec: Codec;
  readonly limits: Limits;
  readonly liveness: Liveness;
  readonly outbox: Outbox;
}

/**
 * The sessions of an actor by socket, user and channel. They are made from the sockets at every
 * start, and each ends here, once. The indexes follow a session's meta when it is stored; the channels
 * that a running handler has changed count at once.
 */
export class Connections<M extends ConnectionMeta> implements SessionHost<M> {
  readonly state: DurableObjectState;
  readonly codec: Codec;
  readonly limits: Limits;
  readonly liveness: Liveness;
  readonly sessions = new Map<WebSocket, Session<M>>();
  readonly #outbox: Outbox;
  readonly #onEnd: (session: Session<M>, reason: EndReason) => void;
  readonly #byUser = new Index<M>();
  readonly #byChannel = new Index<M>();
  /** Sessions whose meta a handler may be changing. */
  readonly #changing = new Set<Session<M>>();
  /** The list copied last: most sessions of a room are in the same channels and share one copy. */
  #lastCopy: readonly string[] = [];

  /** @param onEnd runs once for each session that had been open */
  constructor(shared: Shared, onEnd: (session: Session<M>, reason: EndReason) => void) {
    this.state = shared.state;
    this.codec = shared.codec;
    this.limits = shared.limits;
    this.liveness = shared.liveness;
    this.#outbox = shared.outbox;
    this.#onEnd = onEnd;
  }

  add(session: Session<M>): void {
    this.sessions.set(session.ws, session);
    this.#listUser(session);
    this.#listChannels(session);
  }

  /** Makes and adds the session of a socket that outlived the actor's last instance, if it has one. */
  restore(ws: WebSocket): Session<M> | null {
    const session = Session.restore<M>(this, ws);
    if (session) this.add(session);
    return session;
  }

  /** @throws RollcallError `too_many_sockets` when the room, or the user in it, may have no more */
  checkLimits(userId: string): void {
    if (this.sessions.size >= this.limits.sockets) {
      throw new RollcallError("too_many_sockets", "The room is full");
    }
    if (this.ofUser(userId).size >= this.limits.socketsPerUser) {
      throw new RollcallError("too_many_sockets", "This user has too many connections");
    }
  }

  /** Ends the sessions whose socket is not open any more, but for `except`. */
  endStale(except?: Session<M> | null): void {
    for (const session of [...this.sessions.values()]) {
      if (session !== except && session.ws.readyState !== WebSocket.OPEN) {
        session.disconnect("stale");
      }
    }
  }

  /** Deletes what sessions that are gone left in storage. */
  sweepStorage(): void {
    const live = new Set([...this.sessions.values()].map(({ id }) => id));
    sweepMetas(this.state, (id) => live.has(id));
  }

  get userCount(): number {
    return this.#byUser.size;
  }

  userIds(): string[] {
    return [...this.#byUser.keys()];
  }

  /** All sessions of a user, also those whose `onConnect` still runs. */
  ofUser(userId: string): ReadonlySet<Session<M>> {
    return this.#byUser.get(userId) ?? new Set();
  }

  /** The open sessions of a user. */
  openOf(userId: string): Session<M>[] {
    const open: Session<M>[] = [];
    for (const session of this.#byUser.get(userId) ?? []) if (session.open) open.push(session);
    return open;
  }

  /** The open sessions in a channel, without that of the socket `except`. */
  inChannel(channel: string, except?: WebSocket): Session<M>[] {
    for (const session of this.#changing) this.#listChannels(session);
    const open: Session<M>[] = [];
    for (const session of this.#byChannel.get(channel) ?? []) {
      if (session.open && session.ws !== except) open.push(session);
    }
    return open;
  }

  /** The open sessions for which `matches` is true. */
  where(matches: (session: Session<M>) => boolean): Session<M>[] {
    const open: Session<M>[] = [];
    for (const session of this.sessions.values()) {
      if (session.open && matches(session)) open.push(session);
    }
    return open;
  }

  // ── What sessions report ────────────────────────────────────────────────────────────────────

  requestFlush(session: Session<M>): void {
    this.#outbox.request(session);
  }

  changing(session: Session<M>): void {
    if (!session.ended) this.#changing.add(session);
  }

  stored(session: Session<M>): void {
    this.#changing.delete(session);
    if (!this.sessions.has(session.ws)) return;
    this.#listUser(session);
    this.#listChannels(session);
  }

  ended(session: Session<M>, reason: EndReason): void {
    const wasOpen = session.open;
    session.open = false;
    this.sessions.delete(session.ws);
    this.#changing.delete(session);
    this.#byUser.delete(session.listedUser, session);
    for (const channel of session.listedChannels) this.#byChannel.delete(channel, session);
    if (wasOpen) this.#onEnd(session, reason);
  }

  // ── Indexes ─────────────────────────────────────────────────────────────────────────────────

  #listUser(session: Session<M>): void {
    const { userId } = session.meta;
    if (session.listedUser === userId) return;
    this.#byUser.delete(session.listedUser, session);
    this.#byUser.add(userId, session);
    session.listedUser = userId;
  }

  #listChannels(session: Session<M>): void {
    const { channels } = session.meta;
    // A handler may hold an invalid list: storing it fails, and the last good one holds then.
    if (!Array.isArray(channels) || isSameList(session.listedChannels, channels)) return;
    for (const channel of session.listedChannels) this.#byChannel.delete(channel, session);
    if (!isSameList(this.#lastCopy, channels)) this.#lastCopy = [...channels];
    for (const channel of this.#lastCopy) this.#byChannel.add(channel, session);
    session.listedChannels = this.#lastCopy;
  }
}
