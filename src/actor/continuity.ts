import { log as report } from "../log.ts";
import { CLOSE } from "../wire/close.ts";
import { numberFrame, type ResumeRefusal, unnumberFrame } from "../wire/frames.ts";
import type { Loss } from "./attachment.ts";
import type { Origin } from "./distribution.ts";
import { type Entry, Log, type LogOptions, type Target } from "./log.ts";
import { LogStore, type Stored } from "./logstore.ts";
import type { ConnectionMeta } from "./meta.ts";
import { generationOf, makeEpoch, randomDigits, SessionReader } from "./reader.ts";
import { type Kept, type ResumeRequest, readKept } from "./resume.ts";
import type { Session } from "./session.ts";

/** How long sessions outlive their sockets, and what the log keeps for them. */
export interface ContinuityOptions {
  /**
   * A session that lost its socket counts as present for so long after its last sign of life, in ms;
   * 0: it disconnects at once.
   */
  graceMs: number;
  /** A client can resume its session for so long after the loss, in ms; 0: never. */
  resumeMs: number;
  log: LogOptions;
}

export const GRACE_MS = 5_000;
export const RESUME_MS = 120_000;
/** Sockets whose attachments hold what the actor must know after a sleep: one may close meanwhile. */
const KEEPERS = 2;
/** Channels that an attachment of 16 384 bytes holds marks for, and the length of their names. */
const KEPT_CHANNELS = 40;
const KEPT_CHANNEL_UNITS = 2_000;
/** Length of the lost sessions as JSON that an attachment holds. */
const KEPT_LOST_UNITS = 5_000;
/** Sessions that are remembered as expired. */
const EXPIRED = 1_000;
/** Storage key of a session in a durable room, which outlives a crash that takes the attachments. */
const SESSION_PREFIX = "rollcall:durable:";
/** After a crash, emits with ids of before may come again within this time, in ms. */
const REPEATED_MS = 2_000;
/** The session that a client may resume with the frames that it missed; or why it gets a new one. */
export type Found<M extends ConnectionMeta> =
  | { session: Session<M>; frames: string[]; reason?: "reloaded" }
  | { session?: undefined; superseded?: Session<M>; reason: Exclude<ResumeRefusal, "reloaded"> };

/** What the continuity of an actor needs of it. */
interface Host<M extends ConnectionMeta> {
  /** Names the actor, or its room, in the epochs of sessions. */
  readonly owner: string;
  readonly firstGeneration: string | undefined;
  readonly storage: DurableObjectStorage;
  readonly options: ContinuityOptions;
  /** Events that the room has stored with rows of its own. */
  roomsEntries(): Iterable<Entry>;
  readonly sessions: ReadonlyMap<WebSocket, Session<M>>;
  /** {@link Continuity.beforeFlush} is due in this tick. */
  requestFlush(): void;
  /** The same, not later. */
  requestPlainFlush(): void;
  wakeAt(atMs: number): void;
  restoreLost(stored: unknown): Session<M> | null;
  /** Lists a session by its user and channels: it is present. */
  list(session: Session<M>): void;
  /** Its grace is over: it is present no more, and `onDisconnect` runs. */
  depart(session: Session<M>): void;
}

/** The clock was set back since the loss: it counts as one of now. */
function keepUp(loss: Loss, now: number): void {
  const aheadMs = loss.atMs - now;
  if (aheadMs <= 0) return;
  loss.atMs -= aheadMs;
  loss.graceEndsMs -= aheadMs;
}

/** The sessions of protocol 3 and the log of their events: what lets a session outlive its socket. */
export class Continuity<M extends ConnectionMeta> {
  readonly log: Log;
  readonly options: ContinuityOptions;
  /** What other actors of the room have relayed, by their numbers. */
  readonly origins = new Map<number, { epoch: string; seq: number }>();
  readonly #host: Host<M>;
  readonly #store: LogStore<unknown>;
  /** Sessions of protocol 3 by their ids, with a socket or without. */
  readonly #sessions = new Map<string, Session<M>>();
  /** Those without, in the order in which they were lost. */
  readonly #lost = new Map<string, Session<M>>();
  /** The epochs of sessions that can be resumed no more, by their ids. */
  readonly #expired = new Map<string, string>();
  /** Sessions whose readers have changed since they were stored. */
  readonly #unsaved = new Set<Session<M>>();
  /** The number that was kept last, and whether the lost sessions have changed since. */
  #keptSeq = 0;
  #isLostChanged = false;
  /** Whether attachments held the lost sessions. */
  #didFit = true;
  #writes = 0;
  /** Differs whenever the log was lost. */
  #generation: string;
  /** The lost sessions as they are stored. */
  #storedLost: unknown[] = [];
  /** The number this instance began with when it could know nothing of the past. */
  #blankSeq: number | null = null;

  constructor(host: Host<M>) {
    this.#host = host;
    this.options = host.options;
    const { log, resumeMs } = host.options;
    // Where nobody can resume, only the numbers are needed.
    const options = resumeMs > 0 || log.durable ? log : { ...log, events: 0 };
    // A durable log with nothing in storage has given no number.
    const firstGeneration = log.durable ? host.firstGeneration : undefined;
    this.#generation = firstGeneration ?? randomDigits(8);
    this.log = new Log(options);
    this.#store = new LogStore({
      storage: host.storage,
      log: this.log,
      options,
      lost: () => this.#storedLost,
      isNeeded: () => [...this.#lost.values()].some((session) => !this.#isPageGone(session)),
      isConnected: () => this.#sessions.size > this.#lost.size,
      generation: () => this.#generation,
      roomsEntries: host.roomsEntries,
      wakeAt: host.wakeAt,
    });
  }

  /** The epoch of cursors. */
  get logEpoch(): string {
    return this.#generation;
  }

  /** Stores what has to be stored, at the end of this tick. */
  requestStore(): void {
    this.#host.requestPlainFlush();
  }

  /** Forgets all events. */
  clear(): void {
    this.#store.clear();
  }

  /** Ends the lost sessions, and forgets all events: no cursor of before can be served. */
  restart(): void {
    for (const session of [...this.#lost.values()]) session.disconnect("lost");
    this.#expired.clear();
    this.#generation = randomDigits(8);
    this.log.restartAt(Math.max(Date.now(), this.log.seq));
    this.origins.clear();
    this.#store.clear();
    this.#lostChanged();
  }

  // ── Start ───────────────────────────────────────────────────────────────────────────────────

  /** Continues where the last instance ended. Its sessions with a socket have been added. */
  restore(): void {
    const stored = this.#store.load();
    const kept = this.#newestKept(this.#sessions.values());
    if (kept) this.#restoreKept(kept, stored);
    else if (stored && (stored.sealed || this.options.log.durable)) {
      this.log.restore(stored.marks, stored.entries, stored.floor);
      this.log.relayedSeq = stored.relayed;
      this.#generation = stored.generation;
      this.#restoreOrigins(stored.entries.map(({ origin }) => origin));
      this.#restoreLost(stored.lost);
    } else if (stored || this.#sessions.size > 0) {
      // Numbers that grow with the time are higher than any that was given before.
      this.log.restartAt(Math.max(Date.now(), stored?.marks.seq ?? 0));
      this.#blankSeq = this.log.seq;
      this.#restoreLost(stored?.lost ?? []);
    }
    if (this.options.log.durable) this.#restoreCrashed(stored?.entries ?? []);
    this.#keptSeq = this.log.seq;
  }

  /** Sessions of a durable room whose sockets are gone: lost just now, as far as anybody knows. */
  #restoreCrashed(entries: readonly Entry[]): void {
    const now = Date.now();
    const loss: Loss = {
      atMs: now,
      code: 1006,
      graceEndsMs: now + this.options.graceMs,
      gone: false,
    };
    const rows = this.#host.storage.kv.list({ prefix: SESSION_PREFIX });
    const cut = new Set<string>();
    const records = [...rows].map(([key, row]) => {
      if (!row || typeof row !== "object" || "loss" in row) return row;
      cut.add(key.slice(SESSION_PREFIX.length));
      return { ...row, loss };
    });
    this.#restoreLost(records);
    const { floor } = this.log;
    for (const session of this.#lost.values()) {
      const { reader } = session;
      if (!reader) continue;
      // What it was sent by name since it was stored, or may have been.
      if (floor.seq > reader.openSeq) reader.directSeq = Math.max(reader.directSeq, floor.seq);
      // Nothing tells which emits of a session that was connected had come.
      if (cut.has(session.id)) reader.unsureUntilMs = Number.POSITIVE_INFINITY;
      if (session.loss && !session.loss.gone) this.#host.wakeAt(session.loss.graceEndsMs);
    }
    this.#restoreAnswers(entries);
  }

  /** What sessions were sent by name, their answers above all, is in a durable log. */
  #restoreAnswers(entries: readonly Entry[]): void {
    const { floor } = this.log;
    for (const { reader } of this.#sessions.values()) reader?.answersSince(floor.seq);
    for (const { seq, target, text, answers } of entries) {
      if (!("only" in target)) continue;
      for (const id of target.only) {
        const { reader } = this.#sessions.get(id) ?? {};
        if (!reader) continue;
        reader.directSeq = Math.max(reader.directSeq, seq);
        if (answers !== undefined) reader.answer(answers, seq, unnumberFrame(text));
      }
    }
  }

  #newestKept(sessions: Iterable<Session<M>>): Kept | undefined {
    let newest: Kept | undefined;
    for (const session of sessions) {
      const kept = readKept(session.kept);
      if (kept && (!newest || kept.write > newest.write)) newest = kept;
    }
    return newest;
  }

  #restoreKept(kept: Kept, stored: Stored<unknown> | undefined): void {
    this.#writes = kept.write;
    this.#generation = kept.generation;
    this.#restoreOrigins(kept.origins ?? []);
    const isComplete =
      stored !== undefined &&
      (this.options.log.durable || stored.marks.eventSeq === kept.marks.eventSeq);
    if (isComplete) this.log.restore(kept.marks, stored.entries, stored.floor);
    else {
      const floor = { seq: kept.marks.eventSeq, cause: "restarted" } as const;
      this.log.restore(kept.marks, [], floor);
    }
    this.#restoreLost(kept.lost ?? stored?.lost ?? []);
  }

  #restoreLost(records: readonly unknown[]): void {
    const now = Date.now();
    for (const record of records) {
      const session = this.#host.restoreLost(record);
      if (!session?.reader || !session.loss || this.#sessions.has(session.id)) continue;
      if (this.#isExpired(session, now)) {
        this.#remember(session);
        if (session.loss.gone) continue;
      }
      this.#sessions.set(session.id, session);
      this.#lost.set(session.id, session);
      if (!session.loss.gone) this.#host.list(session);
    }
    // A durable room has a row for each session.
    if (!this.options.log.durable) this.#storedLost = [...records];
  }

  /** A socket that closed while the actor slept brings what its attachment kept. */
  restoreFrom(session: Session<M>): void {
    const kept = readKept(session.kept);
    if (!kept || this.#blankSeq === null || this.log.seq !== this.#blankSeq) return;
    this.#blankSeq = null;
    this.#restoreKept(kept, this.#store.load());
  }

  // ── Sessions ────────────────────────────────────────────────────────────────────────────────

  newReader(id: string): SessionReader {
    const epoch = makeEpoch(this.#host.owner, id, this.#generation);
    return SessionReader.create(id, epoch, this.log.seq);
  }

  has(id: string): boolean {
    return this.#sessions.has(id);
  }

  add(session: Session<M>): void {
    if (session.reader) this.#sessions.set(session.id, session);
  }

  /** A handler may have changed the meta of a session. */
  metaChanged(session: Session<M>): void {
    if (this.#sessions.has(session.id)) this.#storeDurably(session);
  }

  /** Stores a session where a crash does not reach it. */
  #storeDurably(session: Session<M>): void {
    if (!session.reader || !this.options.log.durable) return;
    this.#host.storage.kv.put(SESSION_PREFIX + session.id, session.toStored());
  }

  /** The stored channels of a session have changed. */
  moved(session: Session<M>): void {
    if (!session.reader) return;
    session.reader.moveTo(session.listedChannels, this.log.seq);
    this.changed(session);
    this.#host.requestFlush();
  }

  /** Whether a session whose socket closed with `code` outlives it. */
  outlives(_code: number): boolean {
    const { graceMs, resumeMs } = this.options;
    return graceMs > 0 || resumeMs > 0;
  }

  lose(session: Session<M>, code: number): void {
    const now = Date.now();
    // A client that was found dead has given no sign for longer than it takes to find out.
    const seenAtMs = code === CLOSE.dead ? session.seenAtMs : now;
    const graceEndsMs = seenAtMs + this.options.graceMs;
    session.loss = { atMs: now, code, graceEndsMs, gone: false };
    this.#lost.set(session.id, session);
    this.#unsaved.delete(session);
    if (graceEndsMs <= now) this.#depart(session);
    else this.#host.wakeAt(graceEndsMs);
    this.#storeDurably(session);
    this.#lostChanged();
  }

  #depart(session: Session<M>): void {
    if (!session.loss) return;
    session.loss.gone = true;
    this.#host.depart(session);
    if (this.#isPageGone(session) || this.options.resumeMs === 0) session.disconnect("lost");
  }

  /** It was lost because its page is gone, so that only a reload can bring it back, soon. */
  #isPageGone({ loss }: Session<M>): boolean {
    return loss?.code === CLOSE.goingAway;
  }

  #isExpired(session: Session<M>, now: number): boolean {
    const { loss } = session;
    if (!loss) return false;
    return loss.gone && (this.#isPageGone(session) || now >= loss.atMs + this.options.resumeMs);
  }

  /** Lost sessions whose grace is over disconnect; those that nobody can resume any more are forgotten. */
  sweep(now: number): void {
    this.#store.sweep(now);
    for (const session of [...this.#lost.values()]) {
      if (!session.loss) continue;
      keepUp(session.loss, now);
      if (!session.loss.gone && now >= session.loss.graceEndsMs) {
        this.#depart(session);
        if (!session.ended) this.#storeDurably(session);
        this.#lostChanged();
      }
      if (this.#isExpired(session, now)) session.disconnect("lost");
    }
  }

  /** When the grace of the next lost session is over, or rows are to be deleted, in ms. */
  nextDeadline(): number {
    let next = this.#store.deleteAtMs;
    const now = Date.now();
    for (const { loss } of this.#lost.values()) {
      if (!loss || loss.gone) continue;
      keepUp(loss, now);
      next = Math.min(next, loss.graceEndsMs);
    }
    return next;
  }

  /** Lost sessions that count as present. */
  get presentCount(): number {
    let count = 0;
    for (const { loss } of this.#lost.values()) if (loss?.gone === false) count += 1;
    return count;
  }

  /** The sessions of a user that are without a socket, also those that do not count as present. */
  lostOf(userId: string): Session<M>[] {
    return [...this.#lost.values()].filter(({ meta }) => meta.userId === userId);
  }

  /** Ends the session that has been lost for longest, of a user or of all. @returns whether there was one */
  endOldest(userId?: string): boolean {
    for (const session of this.#lost.values()) {
      if (session.loss?.gone !== false) continue;
      if (userId !== undefined && session.meta.userId !== userId) continue;
      session.disconnect("lost");
      return true;
    }
    return false;
  }

  /** The session has ended. */
  forget(session: Session<M>): void {
    this.#unsaved.delete(session);
    if (!this.#sessions.delete(session.id)) return;
    if (this.options.log.durable) this.#host.storage.kv.delete(SESSION_PREFIX + session.id);
    if (!this.#lost.delete(session.id)) {
      // With the last socket goes the last attachment.
      if (this.#lost.size > 0) this.#lostChanged();
      return;
    }
    this.#remember(session);
  }

  #remember({ id, reader }: Session<M>): void {
    if (!reader) return;
    this.#expired.set(id, reader.epoch);
    if (this.#expired.size > EXPIRED) {
      const [oldest = ""] = this.#expired.keys();
      this.#expired.delete(oldest);
    }
  }

  // ── Resume ──────────────────────────────────────────────────────────────────────────────────

  /** What a client that connects with the meta `fresh` gets for `request`. */
  find(request: ResumeRequest, fresh: M): Found<M> {
    const now = Date.now();
    this.sweep(now);
    const session = this.#sessions.get(request.id);
    if (!session?.reader) {
      return { reason: this.#whyUnknown(request) };
    }
    const { reader, loss, meta } = session;
    if (!reader.hasEpoch(request.epoch) || meta.userId !== fresh.userId || !session.open) {
      return { reason: "unknown" };
    }
    if (loss && this.options.resumeMs > 0 && this.#isExpired(session, now)) {
      return { reason: "expired" };
    }
    if (this.options.resumeMs === 0) return { reason: "unknown", superseded: session };
    if (request.seq === undefined) return { session, frames: [], reason: "reloaded" };
    const events = this.log.missedBy(reader, request.seq, now);
    if (typeof events === "string") return { reason: events, superseded: session };
    const answers = reader.answersAfter(request.seq);
    if (typeof answers === "string") return { reason: answers, superseded: session };
    const channels = session.revokedBy(fresh);
    const frames = new Map<number, string>();
    for (const { seq, target, text } of events) {
      const isRevoked =
        "channel" in target && target.channel !== null && channels.has(target.channel);
      if (!isRevoked) frames.set(seq, text);
    }
    for (const { seq, text } of answers) frames.set(seq, numberFrame(text, seq));
    const inOrder = [...frames].sort(([a], [b]) => a - b).map(([, text]) => text);
    return { session, frames: inOrder };
  }

  #whyUnknown({ id, epoch }: ResumeRequest): "expired" | "restarted" | "unknown" {
    if (this.#expired.get(id) === epoch) return "expired";
    const generation = generationOf(this.#host.owner, id, epoch);
    return generation === undefined || generation === this.#generation ? "unknown" : "restarted";
  }

  /** A client is back, and its session gets a socket. */
  resumed(session: Session<M>): void {
    if (this.#lost.delete(session.id)) this.#lostChanged();
    const { reader } = session;
    if (reader && reader.unsureUntilMs > 0) reader.unsureUntilMs = Date.now() + REPEATED_MS;
  }

  // ── Events ──────────────────────────────────────────────────────────────────────────────────

  /** Whether events have to be kept. */
  get isLogged(): boolean {
    return this.#sessions.size > 0 || this.options.log.durable;
  }

  /**
   * Keeps an event, if a session of protocol 3 may have to receive it again.
   *
   * @returns its frame with its number
   */
  append(
    target: Target,
    text: string,
    more: Pick<Entry, "relay" | "origin"> = {},
  ): string | undefined {
    if ("only" in target && target.only.length === 0 && !more.relay && !more.origin) {
      return undefined;
    }
    const entry = this.log.append(target, (seq) => numberFrame(text, seq), Date.now(), more);
    if ("only" in target) {
      for (const id of target.only) this.#sent(this.#sessions.get(id), entry.seq);
    }
    this.#host.requestFlush();
    return entry.text;
  }

  #sent(session: Session<M> | undefined, seq: number): void {
    if (!session?.reader) return;
    session.reader.directSeq = seq;
    this.changed(session);
  }

  /** What is kept with a session beside its meta has changed. */
  changed(session: Session<M>): void {
    if (session.loss) this.#lostChanged();
    else {
      this.#unsaved.add(session);
      this.#host.requestFlush();
    }
  }

  /** A number for a frame that is not in the log, and that several clients may get. */
  nextNumber(): number {
    this.#host.requestFlush();
    return this.log.next();
  }

  /** A number for a frame that only the client of `session` gets, and that is not in the log. */
  nextSeq(session: Session<M>): number {
    this.changed(session);
    return this.log.next();
  }

  /** A number for the answer `text` to the emit `id`, which a durable log keeps, too. */
  answerSeq(session: Session<M>, id: string, text: string): number {
    if (!this.options.log.durable) return this.nextSeq(session);
    const encode = (seq: number) => numberFrame(text, seq);
    const more = { answers: id };
    const { seq } = this.log.append({ only: [session.id] }, encode, Date.now(), more);
    this.#sent(session, seq);
    return seq;
  }

  /** The sessions for which `matches` is true, as shortly as they can be named. */
  targetOf(matches: (session: Session<M>) => boolean): Target {
    const only: string[] = [];
    const others: string[] = [];
    for (const [id, session] of this.#sessions) {
      if (session.open) (matches(session) ? only : others).push(id);
    }
    if (only.length === 0 || others.length > 1) return { only };
    const [except] = others;
    return except === undefined ? { channel: null } : { channel: null, except };
  }

  /** The sessions of a user, of which `present` are those that count as present. */
  targetOfUser(userId: string, present: Iterable<Session<M>>): Target {
    const only: string[] = [];
    for (const { id, reader, open } of present) if (reader && open) only.push(id);
    for (const { id, loss, meta } of this.#lost.values()) {
      if (loss?.gone && meta.userId === userId) only.push(id);
    }
    return { only };
  }

  // ── Storage ─────────────────────────────────────────────────────────────────────────────────

  #lostChanged(): void {
    this.#isLostChanged = true;
    this.#host.requestFlush();
  }

  /** Before frames are sent: keeps what must be known when the actor has slept. */
  beforeFlush(): void {
    const { seq } = this.log;
    const isLostChanged = this.#isLostChanged;
    const keepers = this.#keepers();
    const isKept = seq === this.#keptSeq && keepers.every(({ kept }) => kept !== undefined);
    if (isKept && !isLostChanged && this.#unsaved.size === 0) return;
    this.#keptSeq = seq;
    this.#isLostChanged = false;
    if (isLostChanged && !this.options.log.durable)
      this.#storedLost = [...this.#lost.values()].map((session) => session.toStored());
    this.#writes += 1;
    const kept: Kept = {
      write: this.#writes,
      generation: this.#generation,
      marks: this.log.marks(KEPT_CHANNELS, KEPT_CHANNEL_UNITS),
      lost: null,
      ...(this.origins.size > 0 && { origins: this.#originList() }),
    };
    let fits = keepers.length > 0 && this.#lostFits();
    // A client may have filled its attachment so far that there is room for less.
    fits &&= this.#attach(keepers, { ...kept, lost: this.#storedLost });
    if (!fits) this.#attach(keepers, kept);
    for (const session of this.#unsaved) if (!keepers.includes(session)) this.#attach([session]);
    this.#unsaved.clear();
    const isMoved = this.#didFit && this.#lost.size > 0;
    this.#didFit = fits;
    if (!fits && (isLostChanged || isMoved)) this.#store.lostChanged();
    else this.#store.flush();
  }

  #originList(): Origin[] {
    return Array.from(this.origins, ([shard, { epoch, seq }]) => [shard, epoch, seq] as const);
  }

  #restoreOrigins(origins: Iterable<Origin | undefined>): void {
    for (const origin of origins) {
      if (origin) this.origins.set(origin[0], { epoch: origin[1], seq: origin[2] });
    }
  }

  #lostFits(): boolean {
    if (this.#lost.size === 0) return true;
    if (this.#lost.size > KEPT_LOST_UNITS / 200) return false;
    try {
      return JSON.stringify(this.#storedLost).length <= KEPT_LOST_UNITS;
    } catch {
      // A meta may hold what JSON cannot; a row can.
      return false;
    }
  }

  /** The sockets that keep what the actor must know. */
  #keepers(): Session<M>[] {
    const keepers: Session<M>[] = [];
    if (this.#sessions.size === 0) return keepers;
    for (const session of this.#host.sessions.values()) {
      if (session.reader) keepers.push(session);
      if (keepers.length === KEEPERS) break;
    }
    return keepers;
  }

  /** Writes sessions' attachments. @returns false when one has no room */
  #attach(sessions: readonly Session<M>[], kept?: Kept): boolean {
    try {
      for (const session of sessions) session.storeReader(kept);
      return true;
    } catch (error) {
      if (!kept?.lost) report("session_not_kept", { error });
      return false;
    }
  }
}
