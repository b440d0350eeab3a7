import { CLOSE } from "../wire/close.ts";
import type { Codec } from "../wire/codec.ts";
import { RollcallError } from "../wire/errors.ts";
import { numberFrame } from "../wire/frames.ts";
import { sweepMetas } from "./attachment.ts";
import { Continuity, type ContinuityOptions } from "./continuity.ts";
import type { Counters } from "./counters.ts";
import type { Distribution, Relay, Scope } from "./distribution.ts";
import { RoomLog } from "./history.ts";
import type { Limits } from "./limits.ts";
import type { Liveness } from "./liveness.ts";
import type { Entry, Target } from "./log.ts";
import type { ConnectionMeta } from "./meta.ts";
import type { Outbox } from "./outbox.ts";
import type { SessionReader } from "./reader.ts";
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
  readonly continuity: ContinuityOptions;
  readonly counters: Counters;
  /** A session's deadline has come nearer, in ms. */
  wakeAt(atMs: number): void;
  roomsEntries(): Iterable<Entry>;
  /** Names the actor, or its room where that has several, in the epochs of sessions. */
  readonly owner: string;
  /** Of a durable log that has given no number; where it is known. */
  readonly firstGeneration: string | undefined;
  /** Undefined where the room is one actor. */
  readonly distribution: () => Distribution | undefined;
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
  readonly counters: Counters;
  /** Those with a socket. */
  readonly sessions = new Map<WebSocket, Session<M>>();
  /** Those without one that may come back, and the log that they resume from. */
  readonly continuity: Continuity<M>;
  /** The log, for the room. */
  readonly log: RoomLog;
  readonly #outbox: Outbox;
  readonly #distribution: Shared["distribution"];
  readonly #onEnd: (session: Session<M>, reason: EndReason) => void;
  readonly #byUser = new Index<M>();
  readonly #byChannel = new Index<M>();
  /** Sessions whose meta a handler may be changing. */
  readonly #changing = new Set<Session<M>>();
  /** Sessions that were lost with these sockets, whose closes had not been reported. */
  readonly #stale = new WeakMap<WebSocket, Session<M>>();
  /** The list copied last: most sessions of a room are in the same channels and share one copy. */
  #lastCopy: readonly string[] = [];

  /** @param onEnd runs once for each session that had been open */
  constructor(shared: Shared, onEnd: (session: Session<M>, reason: EndReason) => void) {
    this.state = shared.state;
    this.codec = shared.codec;
    this.limits = shared.limits;
    this.liveness = shared.liveness;
    this.counters = shared.counters;
    this.#outbox = shared.outbox;
    this.#distribution = shared.distribution;
    this.#onEnd = onEnd;
    this.continuity = new Continuity<M>({
      owner: shared.owner,
      firstGeneration: shared.firstGeneration,
      storage: shared.state.storage,
      options: shared.continuity,
      sessions: this.sessions,
      requestFlush: () => shared.outbox.requestFlush(),
      requestPlainFlush: () => shared.outbox.requestPlainFlush(),
      wakeAt: shared.wakeAt,
      roomsEntries: shared.roomsEntries,
      restoreLost: (stored) => Session.restoreLost<M>(this, stored),
      list: (session) => this.#list(session),
      depart: (session) => {
        this.#unlist(session);
        this.#onEnd(session, "lost");
      },
    });
    this.log = new RoomLog(this.continuity);
    shared.outbox.beforeFlush = () => {
      this.continuity.beforeFlush();
      this.#distribution()?.flush();
    };
  }

  add(session: Session<M>): void {
    this.sessions.set(session.ws, session);
    this.#list(session);
    this.continuity.add(session);
  }

  /** A client is back with the socket `ws`, and has the meta `fresh` now. */
  resume(session: Session<M>, ws: WebSocket, fresh: M): void {
    this.sessions.delete(session.ws);
    this.continuity.resumed(session);
    session.resume(ws, fresh);
    this.sessions.set(ws, session);
    this.#list(session);
  }

  /** Makes and adds the session of a socket that outlived the actor's last instance, if it has one. */
  restore(ws: WebSocket): Session<M> | null {
    const session = Session.restore<M>(this, ws);
    if (session) this.add(session);
    return session;
  }

  /**
   * The close of a socket is reported. If it closed while the actor slept, its session is made now: it
   * is present, so that the room sees it before its end, but no event reaches it.
   *
   * @returns whether it was made now
   */
  noteClosing(ws: WebSocket): boolean {
    const known = this.sessions.get(ws);
    if (known) known.isLate = true;
    if (known || this.#stale.has(ws)) return false;
    const session = Session.restore<M>(this, ws);
    if (!session) return false;
    session.isLate = true;
    this.add(session);
    this.continuity.restoreFrom(session);
    return true;
  }

  /** The session that a socket whose close was reported has, or had when it was found closed. */
  closedWith(ws: WebSocket): Session<M> | undefined {
    const session = this.sessions.get(ws) ?? this.#stale.get(ws);
    return session?.ws === ws ? session : undefined;
  }

  /** @throws RollcallError `too_many_sockets` when the room, or the user in it, may have no more */
  checkLimits(userId: string): void {
    const { sockets, socketsPerUser } = this.limits;
    if (this.count >= sockets && !this.continuity.endOldest()) {
      throw new RollcallError("too_many_sockets", "The room is full");
    }
    if (this.ofUser(userId).size >= socketsPerUser && !this.continuity.endOldest(userId)) {
      throw new RollcallError("too_many_sockets", "This user has too many connections");
    }
  }

  /** Sessions that are present, with a socket or within their grace. */
  get count(): number {
    return this.sessions.size + this.continuity.presentCount;
  }

  /** Ends the sessions whose socket is not open any more, and whose close will not be reported. */
  endStale(): void {
    for (const session of [...this.sessions.values()]) {
      if (!session.isLate && session.ws.readyState !== WebSocket.OPEN) {
        // 1006: it closed without a close frame that the actor has seen.
        this.#stale.set(session.ws, session);
        session.closed(1006, "stale");
      }
    }
  }

  /** Deletes what sessions that are gone left in storage. */
  sweepStorage(): void {
    const live = new Set([...this.sessions.values()].map(({ id }) => id));
    sweepMetas(this.state.storage, (id) => live.has(id) || this.continuity.has(id));
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

  /** Closes all sessions of a user for which `matches` is true, also those that only might resume. */
  closeUser(
    userId: string,
    code: number,
    reason: string,
    matches: (session: Session<M>) => boolean,
  ): number {
    const all = new Set([...this.ofUser(userId), ...this.continuity.lostOf(userId)]);
    const closed = [...all].filter(matches);
    const end = code === CLOSE.unauthorized ? "expired" : "refused";
    for (const session of closed) session.close(code, reason, end);
    return closed.length;
  }

  /** The open sessions of a user. */
  openOf(userId: string): Session<M>[] {
    const open: Session<M>[] = [];
    for (const session of this.#byUser.get(userId) ?? [])
      if (isReachable(session)) open.push(session);
    return open;
  }

  /** The open sessions in a channel, without that of the socket `except`. */
  inChannel(channel: string, except?: WebSocket): Session<M>[] {
    for (const session of this.#changing) this.#listChannels(session);
    const open: Session<M>[] = [];
    for (const session of this.#byChannel.get(channel) ?? []) {
      if (isReachable(session) && session.ws !== except) open.push(session);
    }
    return open;
  }

  /** The open sessions for which `matches` is true. */
  where(matches: (session: Session<M>) => boolean): Session<M>[] {
    const open: Session<M>[] = [];
    for (const session of this.sessions.values()) {
      if (isReachable(session) && matches(session)) open.push(session);
    }
    return open;
  }

  // ── Events ──────────────────────────────────────────────────────────────────────────────────

  /**
   * Sends an event, encoded as `text`, to `sessions`, and keeps it for those of `target` that are
   * connected with protocol 3, or lost.
   */
  deliver(
    sessions: readonly Session<M>[],
    target: Target | undefined,
    text: string,
    more?: Pick<Entry, "relay" | "origin">,
  ): void {
    const numbered = target && this.continuity.append(target, text, more);
    for (const session of sessions) session.enqueue(session.reader ? (numbered ?? text) : text);
  }

  /** Where an event has to go beside this actor. */
  relayOf(scope: Scope): Relay | undefined {
    return this.#distribution()?.relayOf(scope);
  }

  /** Ends all sessions. Those that come back get `restarted`. */
  restart(reason: string): void {
    for (const session of [...this.sessions.values()]) session.close(CLOSE.goingAway, reason);
    this.continuity.restart();
  }

  /** The sessions of a user, as a target of the log. */
  targetOfUser(userId: string): Target {
    return this.continuity.targetOfUser(userId, this.ofUser(userId));
  }

  sendTo(session: Session<M>, text: string): void {
    this.deliver([session], session.reader && { only: [session.id] }, text);
  }

  /** Sends a frame that is not kept to the sessions for which `matches` is true. @returns how many */
  sendNewest(text: string, matches: (session: Session<M>) => boolean): number {
    const sessions = this.where(matches);
    if (sessions.length === 0) return 0;
    const numbered = numberFrame(text, this.continuity.nextNumber());
    for (const session of sessions) session.enqueue(session.reader ? numbered : text);
    return sessions.length;
  }

  newReader(id: string): SessionReader {
    return this.continuity.newReader(id);
  }

  get lastSeq(): number {
    return this.continuity.log.seq;
  }

  changed(session: Session<M>): void {
    this.continuity.changed(session);
  }

  nextSeq(session: Session<M>): number {
    return this.continuity.nextSeq(session);
  }

  answerSeq(session: Session<M>, id: string, text: string): number {
    return this.continuity.answerSeq(session, id, text);
  }

  // ── What sessions report ────────────────────────────────────────────────────────────────────

  requestFlush(session: Session<M>): void {
    this.#outbox.request(session);
  }

  changing(session: Session<M>): void {
    if (!session.ended) this.#changing.add(session);
  }

  stored(session: Session<M>, isChanged: boolean): void {
    this.#changing.delete(session);
    if (this.sessions.has(session.ws)) this.#list(session);
    // After the channels, of which a resume must know since when it has them.
    if (isChanged) this.continuity.metaChanged(session);
  }

  lost(session: Session<M>, code: number): boolean {
    if (!this.continuity.outlives(code)) return false;
    this.sessions.delete(session.ws);
    this.#changing.delete(session);
    this.continuity.lose(session, code);
    return true;
  }

  ended(session: Session<M>, reason: EndReason): void {
    const isListed = session.loss?.gone !== true;
    const wasOpen = session.open;
    session.open = false;
    this.sessions.delete(session.ws);
    this.#changing.delete(session);
    this.continuity.forget(session);
    if (!isListed) return;
    this.#unlist(session);
    if (wasOpen) this.#onEnd(session, reason);
  }

  // ── Indexes ─────────────────────────────────────────────────────────────────────────────────

  #list(session: Session<M>): void {
    this.#listUser(session);
    this.#listChannels(session);
  }

  #unlist(session: Session<M>): void {
    this.#byUser.delete(session.listedUser, session);
    for (const channel of session.listedChannels) this.#byChannel.delete(channel, session);
    session.listedUser = "";
    session.listedChannels = [];
  }

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
    if (session.open) this.continuity.moved(session);
    else if (session.reader) session.reader.channels = this.#lastCopy;
  }
}

function isReachable({ open, loss, isLate }: Session): boolean {
  return open && loss === undefined && !isLate;
}
