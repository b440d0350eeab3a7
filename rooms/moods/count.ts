import type { ConnectionMeta, VeraniActor } from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { log } from "../../src/log.ts";
import { createTotals, keyOf, remaining, type Totals } from "../../src/shards/totals.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { encodeEvent } from "../../src/wire/frames.ts";
import type { MoodEnv } from "./access.ts";
import { type Guest, Headcount } from "./headcount.ts";
import { GONE, Journal } from "./journal.ts";
import {
  type MoodEvents,
  type MoodOptions,
  type MoodState,
  shardCount,
  shardIndex,
  shardName,
  toMoodState,
} from "./tally.ts";

/** The release before knows these fields by the same names: each reads the other's attachments. */
export interface MoodMeta<M extends string> extends ConnectionMeta {
  /** Absent: it only receives the count, as streams do. */
  sessionId?: string;
  /** Whether it is a socket of the total of an earlier release. It receives nothing. */
  isWitness?: boolean;
  mood: M;
  /** The count that this socket received last, as a key, and when (ms). */
  told?: string;
  toldAtMs?: number;
}

/** The actor as its count uses it. */
export type MoodActor<M extends string> = VeraniActor<MoodMeta<M>, unknown, MoodEvents<M>>;
type MoodSession<M extends string> = Session<MoodMeta<M>>;

/** Sessions of one shard: some 60 MB, half of what an actor may use. */
const MAX_SESSIONS = 250_000;
/** Time between two `mood.state` to one socket, in ms. */
const SEND_INTERVAL_MS = 1_000;
/** Expiries within this time share a wake-up, in ms. */
export const EXPIRY_STEP_MS = 500;

/** The user id of a session's sockets. */
export const userOf = (sessionId: string) => `session:${sessionId}`;

/** The count in one instance of an actor: sessions of its own, and the count of all shards. */
export class MoodCount<M extends string> {
  readonly totals: Totals;
  readonly #actor: MoodActor<M>;
  readonly #options: Required<MoodOptions<M>>;
  readonly #guests: Headcount;
  readonly #journal: Journal;
  readonly #isWatched = () => !this.#listeners().next().done;
  #isSending = false;
  #sentAtMs = 0;

  constructor(actor: MoodActor<M>, options: Required<MoodOptions<M>>) {
    this.#actor = actor;
    this.#options = options;
    const { ttlMs, binding } = options;
    const moodCount = options.moods.length;
    this.#guests = new Headcount(moodCount, ttlMs);
    this.#journal = new Journal(actor.getStorage().kv, Date.now(), { moodCount, ttlMs });
    for (const one of this.#journal.restored) this.#guests.beat(one.id, one.mood, one.beatAtMs);
    for (const { meta } of actor.sessions.values()) {
      if (meta.sessionId) this.#guests.attach(meta.sessionId, this.#indexOf(meta.mood));
      this.#sentAtMs = Math.max(this.#sentAtMs, meta.toldAtMs ?? 0);
    }
    const { tally } = this.#guests;
    this.totals = createTotals(shardIndex(actor.name), {
      ...{ actor, shards: shardCount(actor.env as MoodEnv), width: moodCount, own: () => tally },
      stub: (shard) => namespaceOf(actor.env, binding).getByName(shardName(shard)),
      isWatched: this.#isWatched,
      onChange: () => this.#scheduleSend(),
    });
  }

  /** A mood that there is no longer counts as the default. */
  #indexOf(mood: M): number {
    const { moods, defaultMood } = this.#options;
    return moods.indexOf(moods.includes(mood) ? mood : defaultMood);
  }

  async heartbeat(sessionId: string, mood: M): Promise<MoodState<M>> {
    const now = this.#tick();
    const known = this.#guests.get(sessionId);
    if (!known && this.#guests.size >= MAX_SESSIONS) {
      throw new RollcallError("unavailable", "There are more sessions than this server takes");
    }
    const index = this.#indexOf(mood);
    const isNews = !known || known.beatAtMs === 0 || known.mood !== index;
    const guest = this.#guests.beat(sessionId, index, now);
    await (isNews ? this.#store(guest, mood) : this.#journal.keep(guest, now));
    return this.state();
  }

  async setMood(sessionId: string, mood: M): Promise<void> {
    this.#tick();
    // It may have left while the frame waited.
    if (this.#actor.sessionsOf(userOf(sessionId)).size === 0) return;
    await this.#store(this.#guests.attach(sessionId, this.#indexOf(mood)), mood);
  }

  /** Stores a new session or mood, with its sockets. Without a heartbeat it lives by these alone. */
  async #store(guest: Guest, mood: M): Promise<void> {
    for (const session of this.#actor.sessionsOf(userOf(guest.id))) {
      session.meta.mood = mood;
      session.store();
    }
    this.#changed();
    if (guest.beatAtMs > 0) await this.#journal.commit(guest);
  }

  /** After a start, and when a socket has closed: one of this session, or one that only receives. */
  update(sessionId?: string): void {
    this.#tick();
    if (sessionId !== undefined && this.#actor.sessionsOf(userOf(sessionId)).size === 0) {
      this.#guests.detach(sessionId);
    }
    this.#changed();
  }

  async leave(sessionId: string): Promise<void> {
    const beatAtMs = this.#tick();
    const guest = this.#guests.get(sessionId);
    if (!guest) return;
    this.#guests.leave(sessionId);
    this.#actor.closeUser(userOf(sessionId), 1000, "Left");
    this.#changed();
    if (guest.beatAtMs > 0) await this.#journal.commit({ id: sessionId, mood: GONE, beatAtMs });
  }

  /** The global count, at most a second old. The own sessions are always counted as of now. */
  async state(): Promise<MoodState<M>> {
    await this.totals.refresh();
    const now = this.#tick();
    return toMoodState(this.#options.moods, this.totals.tally, now);
  }

  /** When time alone changes the count, in ms. */
  get dueAtMs(): number | undefined {
    const own = this.#guests.expiresAtMs ?? this.#journal.obsoleteAtMs;
    return own && Math.ceil(own / EXPIRY_STEP_MS) * EXPIRY_STEP_MS;
  }

  /** {@link dueAtMs} has come. */
  due(): void {
    const now = this.#tick();
    if (this.#guests.expiresAtMs === undefined) this.#journal.sweep(now);
  }

  /** Begins every event: expired sessions are not counted, even if the alarm is late. @returns now */
  #tick(): number {
    const now = Date.now();
    if (this.#guests.expire(now)) this.#changed();
    return now;
  }

  #changed(): void {
    this.#actor.timers.wakeAt(this.dueAtMs ?? Number.POSITIVE_INFINITY);
    this.totals.changed();
    this.#scheduleSend();
  }

  /** The sockets that receive the count. */
  *#listeners(): Generator<MoodSession<M>> {
    for (const session of this.#actor.sessions.values()) if (!session.meta.isWitness) yield session;
  }

  /** Sends the count to the sockets, at most once a second; after a pause, at once. */
  #scheduleSend(): void {
    if (this.#isSending || !this.#isWatched()) return;
    this.#isSending = true;
    const sending = async () => {
      const state = await this.state().finally(() => {
        this.#isSending = false;
      });
      this.#send(this.#listeners(), state);
    };
    setTimeout(() => this.#actor.keep(sending()), remaining(SEND_INTERVAL_MS, this.#sentAtMs));
  }

  /** Sends the count to a new socket. If the total does not answer, the socket gets the next change. */
  async sendFirst(session: MoodSession<M>): Promise<void> {
    // A page that loads anew keeps the session, but not the count.
    delete session.meta.told;
    const sending = this.state().then((state) => this.#send([session], state));
    await sending.catch((error) => log("moods_unknown", { error }));
  }

  /** Sends the count, and notes it with the sockets: the next instance need not send it again. */
  #send(sessions: Iterable<MoodSession<M>>, state: MoodState<M>): void {
    const key = keyOf(Object.values(state.moods));
    const frame = encodeEvent("mood.state", state, "default");
    for (const session of sessions) {
      const { meta } = session;
      if (meta.told === key) continue;
      // The first does not count.
      if (meta.told !== undefined) this.#sentAtMs = state.timestamp;
      session.enqueue(frame);
      meta.told = key;
      meta.toldAtMs = state.timestamp;
      session.store();
    }
  }
}
