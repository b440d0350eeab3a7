import { z } from "zod";
import { callIngest } from "../../src/actor/call.ts";
import {
  type ConnectionMeta,
  defineRoom,
  perActor,
  type VeraniActor,
} from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { encodeEvent } from "../../src/wire/frames.ts";
import { type MoodEvents, moodEvents, mood as moodSchema } from "./contract.ts";
import { Headcount } from "./headcount.ts";
import { GONE, Journal } from "./journal.ts";
import {
  MOODS,
  type Mood,
  type MoodState,
  parseMood,
  parseSessionId,
  SESSION_TTL_MS,
  shardCount,
  shardName,
  type Tally,
  toMoodState,
  totalName,
} from "./tally.ts";

interface MoodMeta extends ConnectionMeta {
  /** Absent: it only watches, as streams do. */
  sessionId?: string;
  /** The total holds this socket, to notice when a crash takes it. It is told nothing. */
  isWitness?: boolean;
  mood: Mood;
  /** What this socket was told last, as {@link keyOf}, and when (ms). */
  told?: string;
  toldAtMs?: number;
}

type MoodActor = VeraniActor<MoodMeta, Env, MoodEvents>;
type MoodSession = Session<MoodMeta>;

/** What a shard tells the total. Absolute numbers: one that gets lost is mended by the next. */
interface Report {
  shard: number;
  tally: Tally;
  /** Whether it has sockets: these want to hear of the others, and a crash takes them. */
  watched: boolean;
  atMs: number;
}

/** What the total tells a shard: how many are in all the others. */
interface Others {
  tally: Tally;
  /** Grows with every telling: an answer and a call may overtake each other. */
  version: number;
}

/** Sessions of one shard: some 60 MB, half of what an actor may use. */
const MOST_SESSIONS = 250_000;
/** Time between two `mood.state` to one socket, in ms. */
const TELL_EVERY_MS = 1_000;
/** A report, and what a shard knows of the others, are at most this old each: together within 1 s. */
const REPORT_EVERY_MS = 500;
/** How long the total believes a report of what a crash does not take, in ms. */
const TRUST_MS = 30_000;
/** After which a shard that did not answer is asked again, in ms. */
const RETRY_MS = 1_000;
/** Time that a shard has to answer the total, in ms, and that the total has, which may ask shards first. */
const SHARD_ANSWER_MS = 2_000;
const TOTAL_ANSWER_MS = 2 * SHARD_ANSWER_MS;
/** Expiries within this time share a wake-up, in ms. */
const EXPIRY_STEP_MS = 500;

const userOf = (sessionId: string) => `session:${sessionId}`;
const keyOf = (tally: Tally) => tally.join();
const moodIndex = (mood: Mood) => MOODS.indexOf(mood);
const sum = (tallies: Iterable<Tally>): Tally => {
  const total = MOODS.map(() => 0);
  for (const tally of tallies) for (const [i, n] of tally.entries()) total[i] = (total[i] ?? 0) + n;
  return total;
};

/** What is left of a pause of `everyMs` that began at `sinceMs`, by a clock that may be set back. */
const restOf = (everyMs: number, sinceMs: number) =>
  Math.min(Math.max(sinceMs + everyMs - Date.now(), 0), everyMs);

const nobodyIn = (shard: number): Report => ({ shard, tally: sum([]), watched: false, atMs: 0 });

/** The host is nobody's: a shard is called through its stub. */
const WITNESS_URL = "https://moods/ws/moods?witness";

/** Who wants to hear how many are here. */
function* listenersOf(actor: MoodActor): Generator<MoodSession> {
  for (const session of actor.sessions.values()) if (!session.meta.isWitness) yield session;
}

/** An answer in time: an actor that is silent must not silence those who ask it. */
function within<T>(limitMs: number, answer: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = () => reject(new RollcallError("timeout", "An actor did not answer in time"));
    const timer = setTimeout(late, limitMs);
    answer.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Where the global count comes from. */
interface Totals {
  /** As far as known now. */
  readonly tally: Tally;
  /** Resolves when {@link tally} is at most a second old. */
  fresh(): Promise<void>;
  /** The own count, or whether anyone here listens, has changed. */
  changed(): void;
  /** When {@link fresh} should be called though nobody asks, in ms. */
  readonly dueAtMs: number | undefined;
}

/** The only shard: its count is the count. */
class Alone implements Totals {
  readonly tally: Tally;
  readonly dueAtMs = undefined;

  constructor(own: Tally) {
    this.tally = own;
  }

  async fresh(): Promise<void> {}
  changed(): void {}
}

/** One shard of several: its own count, and what the total said of the others. */
class Shard implements Totals {
  readonly dueAtMs = undefined;
  readonly #actor: MoodActor;
  readonly #index: number;
  readonly #own: Tally;
  readonly #onOthers: () => void;
  #others: Others | null = null;
  #othersAtMs = 0;
  #reporting: Promise<void> | null = null;
  #reportedAtMs = 0;
  #unreported = false;
  #scheduled = false;

  constructor(actor: MoodActor, index: number, own: Tally, onOthers: () => void) {
    this.#actor = actor;
    this.#index = index;
    this.#own = own;
    this.#onOthers = onOthers;
  }

  get tally(): Tally {
    return sum([this.#own, this.#others?.tally ?? []]);
  }

  /** @throws RollcallError `unavailable` when the total does not answer and never has */
  async fresh(): Promise<void> {
    if (Date.now() - this.#othersAtMs < REPORT_EVERY_MS) return;
    try {
      await this.report();
    } catch (error) {
      if (!this.#others) throw new RollcallError("unavailable", "The total does not answer");
      log("moods_total_unreachable", { error });
    }
  }

  changed(): void {
    this.#unreported = true;
    if (this.#scheduled || this.#reporting) return;
    this.#scheduled = true;
    setTimeout(
      () => {
        this.#scheduled = false;
        if (this.#unreported) this.#actor.keep(this.report());
      },
      restOf(REPORT_EVERY_MS, this.#reportedAtMs),
    );
  }

  /** Tells the total how many are here, and learns of the others. What fails is tried again. */
  report(): Promise<void> {
    this.#reporting ??= this.#exchange().finally(() => {
      this.#reporting = null;
      if (this.#unreported) this.changed();
    });
    return this.#reporting;
  }

  async #exchange(): Promise<void> {
    const { env, timers } = this.#actor;
    this.#reportedAtMs = Date.now();
    const stub = env.MOODS.getByName(totalName(shardCount(env)));
    try {
      const answer = callIngest(stub, "report", this.ownReport());
      this.hear(othersSchema.parse(await within(TOTAL_ANSWER_MS, answer)));
    } catch (error) {
      timers.soonest("report", Date.now() + RETRY_MS);
      throw error;
    }
  }

  ownReport(): Report {
    this.#unreported = false;
    const watched = listenersOf(this.#actor).next().done === false;
    return { shard: this.#index, tally: [...this.#own], watched, atMs: Date.now() };
  }

  hear(others: Others): void {
    if (this.#others && this.#others.version > others.version) return;
    const isNews = keyOf(others.tally) !== keyOf(this.#others?.tally ?? []);
    this.#others = others;
    this.#othersAtMs = Date.now();
    if (isNews) this.#onOthers();
  }
}

/** What the total knows of a shard. */
interface Known {
  report: Report;
  /** From then on it is to be asked, should anybody want to know, in ms. */
  staleAtMs: number;
  /** What it was told last of the others, as {@link keyOf}. */
  told: string | undefined;
  isWitnessed: boolean;
}

/**
 * Adds up the shards. Holds nothing that it could not ask for again.
 *
 * What a shard has stored outlives a crash, and its alarm has it report what became of that. The
 * sockets that it had do not, and nothing then wakes it. So the total has a socket of its own to
 * every shard that has any, the witness, which the crash closes as well. Asking such shards every
 * second would be as exact, but would keep all of them awake; a socket that goes out keeps just the
 * total in memory, and that while anybody is connected.
 */
class Total implements Totals {
  readonly #actor: MoodActor;
  readonly #shards: number;
  readonly #onNews: () => void;
  readonly #known = new Map<number, Known>();
  #asking: Promise<void> | null = null;
  #version = 0;
  #spreading = false;
  #spreadAtMs = 0;

  constructor(actor: MoodActor, shards: number, onNews: () => void) {
    this.#actor = actor;
    this.#shards = shards;
    this.#onNews = onNews;
  }

  get tally(): Tally {
    return sum([...this.#known.values()].map(({ report }) => report.tally));
  }

  /** Asks every shard that never reported, and those whose last report is too old to be believed. */
  fresh(): Promise<void> {
    this.#asking ??= this.#askAll().finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  async #askAll(): Promise<void> {
    const now = Date.now();
    const unsure = Array.from({ length: this.#shards }, (_, shard) => shard).filter(
      (shard) => (this.#known.get(shard)?.staleAtMs ?? 0) <= now,
    );
    await Promise.all(unsure.map((shard) => this.#ask(shard)));
  }

  /** Has a shard report, and tells it of the others on the way. */
  async #ask(shard: number, others?: Others): Promise<void> {
    try {
      const answer = callIngest(this.#stub(shard), "count", others);
      this.adopt(reportSchema.parse(await within(SHARD_ANSWER_MS, answer)));
    } catch (error) {
      log("moods_shard_unreachable", { shard, error });
      const known = this.#knownOf(shard);
      const now = Date.now();
      // No heartbeat got through to it either: whom it last spoke of has expired by now.
      if (now - known.report.atMs >= TRUST_MS) known.report = nobodyIn(shard);
      known.told = undefined;
      known.staleAtMs = now + RETRY_MS;
      this.#onNews();
    }
  }

  adopt(report: Report): void {
    const known = this.#knownOf(report.shard);
    const { report: old, told } = known;
    if (old.atMs > report.atMs) return;
    // A shard that has nobody can only be wrong until its next event, which it then reports.
    const isEmpty = !report.watched && report.tally.every((n) => n === 0);
    known.report = report;
    known.staleAtMs = isEmpty ? Number.POSITIVE_INFINITY : Date.now() + TRUST_MS;
    if (report.watched) this.#actor.keep(this.#witness(known));
    const isBehind = report.watched && told === undefined;
    if (isBehind || keyOf(old.tally) !== keyOf(report.tally)) this.changed();
  }

  /** Holds a socket until the shard closes it, as it does after a while with all that do not ping. */
  async #witness(known: Known): Promise<void> {
    if (known.isWitnessed) return;
    known.isWitnessed = true;
    const { shard } = known.report;
    try {
      const upgrade = new Request(WITNESS_URL, { headers: { Upgrade: "websocket" } });
      const { webSocket } = await within(SHARD_ANSWER_MS, this.#stub(shard).fetch(upgrade));
      if (!webSocket) throw new RollcallError("unavailable", "The shard takes no sockets");
      const ended = new Promise((resolve) => {
        webSocket.addEventListener("close", resolve);
        webSocket.addEventListener("error", resolve);
      });
      webSocket.accept();
      await ended;
      known.isWitnessed = false;
      await this.#ask(shard);
    } catch (error) {
      log("moods_unwitnessed", { shard, error });
      known.isWitnessed = false;
      known.staleAtMs = Date.now() + RETRY_MS;
      this.#onNews();
    }
  }

  /** How many there are in all shards but this one; notes that it knows. */
  tellOthers(shard: number): Others {
    const others = [...this.#known.values()].filter(({ report }) => report.shard !== shard);
    const tally = sum(others.map(({ report }) => report.tally));
    this.#knownOf(shard).told = keyOf(tally);
    // The clock, so that the next instance of the total goes on from there.
    this.#version = Math.max(this.#version + 1, Date.now());
    return { tally, version: this.#version };
  }

  changed(): void {
    this.#onNews();
    if (this.#spreading) return;
    this.#spreading = true;
    setTimeout(
      () => {
        this.#spreading = false;
        this.#spreadAtMs = Date.now();
        this.#actor.keep(this.#spread());
      },
      restOf(REPORT_EVERY_MS, this.#spreadAtMs),
    );
  }

  /** Lets shards with sockets know. The others learn it when they report. */
  async #spread(): Promise<void> {
    const watched = [...this.#known.values()].filter(({ report }) => report.watched);
    const calls = watched.map(({ report: { shard }, told }) => {
      const others = this.tellOthers(shard);
      return keyOf(others.tally) === told ? undefined : this.#ask(shard, others);
    });
    await Promise.all(calls);
  }

  get dueAtMs(): number | undefined {
    const known = [...this.#known.values()];
    const isWatched = this.#actor.sessions.size > 0 || known.some(({ report }) => report.watched);
    const dueAtMs = Math.min(...known.map(({ staleAtMs }) => staleAtMs));
    return isWatched && dueAtMs < Number.POSITIVE_INFINITY ? dueAtMs : undefined;
  }

  #knownOf(shard: number): Known {
    let known = this.#known.get(shard);
    if (!known) {
      known = { report: nobodyIn(shard), staleAtMs: 0, told: undefined, isWitnessed: false };
      this.#known.set(shard, known);
    }
    return known;
  }

  #stub(shard: number) {
    return this.#actor.env.MOODS.getByName(shardName(shard));
  }
}

/** What one instance of the actor knows. */
class Moods {
  readonly totals: Totals;
  readonly #actor: MoodActor;
  readonly #guests = new Headcount();
  readonly #journal: Journal;
  #telling = false;
  #toldAtMs: number;

  constructor(actor: MoodActor) {
    this.#actor = actor;
    const now = Date.now();
    this.#journal = new Journal(actor.getStorage().kv, now);
    for (const { id, mood, beatAtMs } of this.#journal.restored) {
      this.#guests.beat(id, mood, beatAtMs);
    }
    const sockets = [...actor.sessions.values()];
    for (const { meta } of sockets) {
      if (meta.sessionId) this.#guests.attach(meta.sessionId, moodIndex(meta.mood));
    }
    this.#toldAtMs = sockets.reduce((at, { meta }) => Math.max(at, meta.toldAtMs ?? 0), 0);
    this.totals = this.#makeTotals();
  }

  #makeTotals(): Totals {
    const { name, env } = this.#actor;
    const shards = shardCount(env);
    const onNews = () => {
      this.#arm();
      this.#tellSoon();
    };
    if (shards === 1) return new Alone(this.#guests.tally);
    if (name === totalName(shards)) return new Total(this.#actor, shards, onNews);
    const index = Number(name.slice(shardName(0).length - 1));
    return new Shard(this.#actor, index, this.#guests.tally, onNews);
  }

  /** After a start: what the last instance was about to say is said now. */
  resume(): void {
    this.#guests.expire(Date.now());
    this.#changed();
  }

  async heartbeat(sessionId: string, mood: Mood): Promise<MoodState> {
    const now = this.#turn();
    const known = this.#guests.get(sessionId);
    if (!known && this.#guests.size >= MOST_SESSIONS) {
      throw new RollcallError("unavailable", "There are more sessions than this server takes");
    }
    const isNews = !known || known.beatAtMs === 0 || known.mood !== moodIndex(mood);
    const guest = this.#guests.beat(sessionId, moodIndex(mood), now);
    this.#arm();
    if (isNews) {
      if (guest.attached) this.#rememberMood(sessionId, mood);
      this.#changed();
      await this.#journal.commit(guest);
    } else await this.#journal.keep(guest, now);
    return this.state();
  }

  async setMood(sessionId: string, mood: Mood): Promise<void> {
    this.#turn();
    // It may have left while the frame was being looked at.
    if (this.#actor.sessionsOf(userOf(sessionId)).size === 0) return;
    const guest = this.#guests.attach(sessionId, moodIndex(mood));
    this.#rememberMood(sessionId, mood);
    this.#changed();
    // Without a heartbeat it lives by its sockets alone, and these know the mood.
    if (guest.beatAtMs > 0) await this.#journal.commit(guest);
  }

  /** A socket has gone, of this session or of a watcher. */
  detach(sessionId: string | undefined): void {
    this.#turn();
    if (sessionId !== undefined && this.#actor.sessionsOf(userOf(sessionId)).size === 0) {
      this.#guests.detach(sessionId);
    }
    this.#changed();
  }

  async leave(sessionId: string): Promise<void> {
    const now = this.#turn();
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

  /** The global count, at most a second old; the own sessions are always counted as of now. */
  async state(): Promise<MoodState> {
    await this.totals.fresh();
    return toMoodState(this.totals.tally, this.#turn());
  }

  /** When time alone changes something here, in ms. */
  get dueAtMs(): number | undefined {
    const own = this.#guests.expiresAtMs ?? this.#journal.obsoleteAtMs;
    const stepped = own && Math.ceil(own / EXPIRY_STEP_MS) * EXPIRY_STEP_MS;
    const times = [stepped, this.totals.dueAtMs].filter((time) => time !== undefined);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  /** Time has passed. */
  async due(): Promise<void> {
    const now = this.#turn();
    if (this.#guests.expiresAtMs === undefined) this.#journal.sweep(now);
    if ((this.totals.dueAtMs ?? now + 1) <= now) await this.totals.fresh();
  }

  /** Tells a socket that has just connected; where the total is silent it waits for the next news. */
  async welcome(session: MoodSession): Promise<void> {
    try {
      const state = await this.state();
      this.#tell(session, keyOf(this.totals.tally), frameOf(state), state.timestamp);
    } catch (error) {
      log("moods_unknown", { error });
    }
    this.#arm();
  }

  /** Every event begins here: whoever has expired is not counted, alarm or not. */
  #turn(): number {
    const now = Date.now();
    if (this.#guests.expire(now)) this.#changed();
    return now;
  }

  #rememberMood(sessionId: string, mood: Mood): void {
    for (const session of this.#actor.sessionsOf(userOf(sessionId))) {
      session.meta.mood = mood;
      session.store();
    }
  }

  #changed(): void {
    this.#arm();
    this.totals.changed();
    this.#tellSoon();
  }

  /** Sees to it that the alarm comes in time. */
  #arm(): void {
    const { dueAtMs } = this;
    if (dueAtMs !== undefined) this.#actor.timers.wakeAt(dueAtMs);
  }

  /** Tells the sockets, at most once a second; the first news leave at once. */
  #tellSoon(): void {
    if (this.#telling || listenersOf(this.#actor).next().done) return;
    this.#telling = true;
    setTimeout(() => this.#actor.keep(this.#tellAll()), restOf(TELL_EVERY_MS, this.#toldAtMs));
  }

  async #tellAll(): Promise<void> {
    try {
      const state = await this.state();
      const key = keyOf(this.totals.tally);
      const frame = frameOf(state);
      for (const session of listenersOf(this.#actor)) {
        if (session.open && session.meta.told !== key) {
          this.#tell(session, key, frame, state.timestamp);
          this.#toldAtMs = state.timestamp;
        }
      }
    } finally {
      this.#telling = false;
    }
  }

  /** Says it, and notes with the socket that it did: the next instance need not say it again. */
  #tell(session: MoodSession, key: string, frame: string, atMs: number): void {
    session.enqueue(frame);
    session.meta.told = key;
    session.meta.toldAtMs = atMs;
    session.store();
  }
}

const frameOf = (state: MoodEvents["out"]["mood.state"]) =>
  encodeEvent("mood.state", state, "default");
const moodsOf = perActor((actor: MoodActor) => new Moods(actor));

/**
 * How many anonymous sessions are here, and in which mood. Actors named `shard:<i>` count; with more
 * than one of them (`MOOD_SHARDS`) the actor named `total` adds up.
 */
export const moods = defineRoom<MoodMeta, Env, MoodEvents>({
  name: "mood-room",
  websocketPath: "/ws/moods",
  liveness: {
    pingMs: 10_000,
    firstPingMs: SESSION_TTL_MS,
    deadAfterMs: SESSION_TTL_MS,
    legacyDeadAfterMs: SESSION_TTL_MS,
    sweepMs: EXPIRY_STEP_MS,
    requirePing: true,
  },

  extractMeta(request) {
    const query = new URL(request.url).searchParams;
    const clientId = crypto.randomUUID();
    const own = query.get("sessionId");
    if (own === null) {
      const isWitness = query.has("witness");
      return { userId: `watcher:${clientId}`, clientId, channels: [], mood: "presence", isWitness };
    }
    const sessionId = parseSessionId(own);
    const mood = parseMood(query.get("mood") ?? undefined);
    return { userId: userOf(sessionId), clientId, channels: [], sessionId, mood };
  },

  async onConnect({ actor, session, meta }) {
    const here = moodsOf(actor);
    if (meta.sessionId !== undefined) await here.setMood(meta.sessionId, meta.mood);
    if (!meta.isWitness) await here.welcome(session);
  },

  onDisconnect({ actor, meta }) {
    moodsOf(actor).detach(meta.sessionId);
  },

  onHibernationRestore(actor) {
    moodsOf(actor).resume();
  },

  dueAt(actor) {
    return moodsOf(actor).dueAtMs;
  },

  onDue(actor) {
    return moodsOf(actor).due();
  },
});

moods.on("mood.set", moodEvents.in["mood.set"], async ({ actor, meta }, { mood }) => {
  if (meta.sessionId === undefined) throw new RollcallError("forbidden", "A watcher has no mood");
  await moodsOf(actor).setMood(meta.sessionId, mood);
});

const sessionId = z.string().min(1);
moods.ingest("heartbeat", z.object({ sessionId, mood: moodSchema }), (actor, data) =>
  moodsOf(actor).heartbeat(data.sessionId, data.mood),
);
moods.ingest("leave", z.object({ sessionId }), async (actor, data) => {
  await moodsOf(actor).leave(data.sessionId);
});
moods.ingest("state", z.undefined(), (actor) => moodsOf(actor).state());

// Between the actors.
const tallySchema = z.array(z.int().nonnegative()).length(MOODS.length);
const othersSchema = z.object({ tally: tallySchema, version: z.number() });
const reportSchema = z.object({
  shard: z.int().nonnegative(),
  tally: tallySchema,
  watched: z.boolean(),
  atMs: z.number(),
});
function roleOf<T>(actor: MoodActor, role: new (...args: never[]) => T): T {
  const { totals } = moodsOf(actor);
  if (totals instanceof role) return totals;
  throw new RollcallError("unprocessable", `${actor.name} is no ${role.name} here`);
}
moods.ingest("report", reportSchema, async (actor, report) => {
  const total = roleOf(actor, Total);
  total.adopt(report);
  await total.fresh();
  return total.tellOthers(report.shard);
});
moods.ingest("count", othersSchema.optional(), (actor, others) => {
  const shard = roleOf(actor, Shard);
  if (others) shard.hear(others);
  return shard.ownReport();
});
moods.timer("report", (actor) => roleOf(actor, Shard).report());
