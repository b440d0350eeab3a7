import type { ConnectionMeta, VeraniActor } from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { log } from "../../src/log.ts";
import { createTotals, keyOf, remaining, type Totals } from "../../src/shards/totals.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { encodeEvent } from "../../src/wire/frames.ts";
import type { MoodAccessEnv } from "./access.ts";
import { Headcount } from "./headcount.ts";
import { GONE, Journal } from "./journal.ts";
import {
  type MoodEvents,
  type MoodState,
  shardCount,
  shardIndex,
  shardName,
  toMoodState,
  totalName,
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

/** The variables that the room and its routes read. */
export interface MoodEnv extends MoodAccessEnv {
  MOOD_SHARDS?: string;
}

export interface MoodRoomOptions<M extends string> {
  name: string;
  websocketPath: string;
  binding: string;
  moods: readonly M[];
  defaultMood: M;
  ttlMs: number;
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
const CHANNEL = "default";

/** The user id of a session's sockets. */
export const userOf = (sessionId: string) => `session:${sessionId}`;

/** The sockets that receive the count. */
function* listenersOf<M extends string>(actor: MoodActor<M>): Generator<MoodSession<M>> {
  for (const session of actor.sessions.values()) if (!session.meta.isWitness) yield session;
}

/** The count in one instance of an actor: sessions of its own, and the count of all shards. */
export class MoodCount<M extends string> {
  readonly totals: Totals;
  readonly #actor: MoodActor<M>;
  readonly #options: MoodRoomOptions<M>;
  readonly #guests: Headcount;
  readonly #journal: Journal;
  #isSending = false;
  #sentAtMs: number;

  constructor(actor: MoodActor<M>, options: MoodRoomOptions<M>) {
    this.#actor = actor;
    this.#options = options;
    const { ttlMs, moods } = options;
    const moodCount = moods.length;
    this.#guests = new Headcount(moodCount, ttlMs);
    this.#journal = new Journal(actor.getStorage().kv, Date.now(), { moodCount, ttlMs });
    for (const { id, mood, beatAtMs } of this.#journal.restored) {
      this.#guests.beat(id, mood, beatAtMs);
    }
    const sockets = [...actor.sessions.values()];
    for (const { meta } of sockets) {
      if (meta.sessionId) this.#guests.attach(meta.sessionId, this.#indexOf(meta.mood));
    }
    this.#sentAtMs = sockets.reduce((at, { meta }) => Math.max(at, meta.toldAtMs ?? 0), 0);
    this.totals = this.#makeTotals();
  }

  #makeTotals(): Totals {
    const { name, env } = this.#actor;
    const { binding, moods } = this.#options;
    const shards = shardCount(env as MoodEnv);
    const own = () => this.#guests.tally;
    if (shards === 1) return { tally: own(), refresh: async () => {}, changed: () => {} };
    const index = name === totalName(shards) ? null : shardIndex(name);
    return createTotals(index, {
      ...{ actor: this.#actor, shards, own },
      width: moods.length,
      stub: (shard) =>
        namespaceOf(env, binding).getByName(shard === null ? totalName(shards) : shardName(shard)),
      isWatched: () => !listenersOf(this.#actor).next().done,
      onChange: () => this.#scheduleSend(),
    });
  }

  /** A mood that there is no longer counts as the default. */
  #indexOf(mood: M): number {
    const { moods, defaultMood } = this.#options;
    const index = moods.indexOf(mood);
    return index >= 0 ? index : moods.indexOf(defaultMood);
  }

  /** After a start: sends what the last instance was about to send. */
  resume(): void {
    this.#guests.expire(Date.now());
    this.#changed();
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
    this.#setAlarm();
    if (isNews) {
      if (guest.attached) this.#storeMood(sessionId, mood);
      this.#changed();
      await this.#journal.commit(guest);
    } else await this.#journal.keep(guest, now);
    return this.state();
  }

  async setMood(sessionId: string, mood: M): Promise<void> {
    this.#tick();
    // It may have left while the frame waited.
    if (this.#actor.sessionsOf(userOf(sessionId)).size === 0) return;
    const guest = this.#guests.attach(sessionId, this.#indexOf(mood));
    this.#storeMood(sessionId, mood);
    this.#changed();
    // Without a heartbeat the session lives by its sockets alone, and these store the mood.
    if (guest.beatAtMs > 0) await this.#journal.commit(guest);
  }

  /** A socket has closed, of this session or of one that only receives. */
  detach(sessionId: string | undefined): void {
    this.#tick();
    if (sessionId !== undefined && this.#actor.sessionsOf(userOf(sessionId)).size === 0) {
      this.#guests.detach(sessionId);
    }
    this.#changed();
  }

  async leave(sessionId: string): Promise<void> {
    const now = this.#tick();
    const guest = this.#guests.get(sessionId);
    if (!guest) return;
    const hadBeat = guest.beatAtMs > 0;
    this.#guests.leave(sessionId);
    for (const session of [...this.#actor.sessionsOf(userOf(sessionId))]) {
      session.close(1000, "Left");
    }
    this.#changed();
    if (hadBeat) await this.#journal.commit({ id: sessionId, mood: GONE, beatAtMs: now });
  }

  /** The global count, at most a second old. The own sessions are always counted as of now. */
  async state(): Promise<MoodState<M>> {
    await this.totals.refresh();
    return toMoodState(this.#options.moods, this.totals.tally, this.#tick());
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

  /** Sends the count to a new socket. If the total does not answer, the socket gets the next change. */
  async sendFirst(session: MoodSession<M>): Promise<void> {
    try {
      const state = await this.state();
      this.#send(session, keyOf(this.totals.tally), encodeState(state), state.timestamp);
    } catch (error) {
      log("moods_unknown", { error });
    }
    this.#setAlarm();
  }

  /** Begins every event: expired sessions are not counted, even if the alarm is late. @returns now */
  #tick(): number {
    const now = Date.now();
    if (this.#guests.expire(now)) this.#changed();
    return now;
  }

  #storeMood(sessionId: string, mood: M): void {
    for (const session of this.#actor.sessionsOf(userOf(sessionId))) {
      session.meta.mood = mood;
      session.store();
    }
  }

  #changed(): void {
    this.#setAlarm();
    this.totals.changed();
    this.#scheduleSend();
  }

  #setAlarm(): void {
    const { dueAtMs } = this;
    if (dueAtMs !== undefined) this.#actor.timers.wakeAt(dueAtMs);
  }

  /** Sends the count to the sockets, at most once a second; after a pause, at once. */
  #scheduleSend(): void {
    if (this.#isSending || listenersOf(this.#actor).next().done) return;
    this.#isSending = true;
    const delayMs = remaining(SEND_INTERVAL_MS, this.#sentAtMs);
    setTimeout(() => this.#actor.keep(this.#sendAll()), delayMs);
  }

  async #sendAll(): Promise<void> {
    try {
      const state = await this.state();
      const key = keyOf(this.totals.tally);
      const frame = encodeState(state);
      for (const session of listenersOf(this.#actor)) {
        if (session.open && session.meta.told !== key) {
          this.#send(session, key, frame, state.timestamp);
          this.#sentAtMs = state.timestamp;
        }
      }
    } finally {
      this.#isSending = false;
    }
  }

  /** Sends a count, and notes it with the socket: the next instance need not send it again. */
  #send(session: MoodSession<M>, key: string, frame: string, atMs: number): void {
    session.enqueue(frame);
    session.meta.told = key;
    session.meta.toldAtMs = atMs;
    session.store();
  }
}

const encodeState = (state: object) => encodeEvent("mood.state", state, CHANNEL);
