import * as z from "zod/mini";
import { isDirectoryOn, revoked } from "../../src/access/claims.ts";
import { Answers, storedEnvelopes } from "../../src/actor/answers.ts";
import { FrameBudget, type Limits } from "../../src/actor/limits.ts";
import type { Entry } from "../../src/actor/log.ts";
import { defineRoom, perActor, type RoomContext, type VeraniActor } from "../../src/actor/room.ts";
import { log } from "../../src/log.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  type AuthenticateSubscriber,
  type AuthenticateViewer,
  authorizeSubscriber,
  authorizeViewer,
  isUserId,
} from "./access.ts";
import { envelopeCodec } from "./codec.ts";
import {
  type Publication,
  type PublishOutcome,
  personUpdate,
  publication,
  report,
  WATCHED,
} from "./contract.ts";
import type { Envelope } from "./envelope.ts";
import { FilterIndex, type FilterKey, isFilterKey, parseFilter } from "./filters.ts";
import type { FanoutActor, FanoutEvents, FanoutMeta, FanoutSession, Subscription } from "./meta.ts";
import { People, REVOCATION } from "./people.ts";
import { areStarts, readStarts, writeStarts } from "./starts.ts";
import { type MaySee, NOTICES, RENEWAL, Watching } from "./watching.ts";

const FILTERS_PER_SOCKET = 500;
/** UTF-16 units of all filters of a socket: at two bytes each they fit into one storage row. */
const FILTER_UNITS = 900_000;
/** Old keys stay so long when nobody publishes any more, in ms: an alarm costs a row and a wake-up. */
const LEFT_BEHIND_MS = 24 * 3_600_000;
const CONFLICT = { status: 422 } as const;
/** Envelopes of a user that are kept. */
const ENVELOPES = 1_000;
/** Least time between two sweeps that publishes cause, in ms. */
const SWEEP_MS = 10_000;
/** Frames with a cursor that one socket may send. */
const REPLAYS = { framesBurst: 20, framesPerSecond: 1 };
/** In place of a cursor: nothing of before, but the cursor of now. */
const NOW = "now";
/** In the query of an upgrade: `1` for a socket of `/ws/people`. */
export const PEOPLE = "people";

/** Whether the filters of an attachment are what this release, or the one before, stored. */
function areFilters(filters: unknown): filters is Set<FilterKey> {
  return filters instanceof Set && [...filters].every(isFilterKey);
}

/** An envelope with acks that a publisher waits for. */
interface Awaited {
  sessions: Set<FanoutSession>;
  /** As JSON, in the order in which they came. */
  results: string[];
  finish(): void;
}

/** The subscriptions of one user's sockets, and the publishes that wait for their acks. */
class Fanout {
  readonly #actor: FanoutActor;
  readonly #historyMs: number;
  readonly #answers: Answers;
  readonly #index = new FilterIndex<FanoutSession>();
  readonly #replays = new WeakMap<FanoutSession, FrameBudget>();
  readonly #awaited = new Map<string, Awaited>();
  /** Keyed publishes that have not been answered yet. */
  readonly #running = new Map<string, { digest: string; answer: Promise<string> }>();
  /** When a publish last swept, in ms. */
  #sweptAtMs = 0;

  /** @param historyMs how long an envelope is kept; 0: not at all */
  constructor(actor: FanoutActor, historyMs: number) {
    this.#actor = actor;
    this.#historyMs = historyMs;
    this.#answers = new Answers(actor.getStorage(), historyMs);
    for (const session of actor.sessions.values()) if (session.open) this.joined(session);
  }

  /** A session whose stored filters are damaged is closed: its client subscribes again. */
  joined(session: FanoutSession): void {
    const { filters } = session.meta;
    if (!areFilters(filters)) {
      log("filters_damaged", {});
      session.close(CLOSE.internal, "Subscriptions could not be restored");
      return;
    }
    for (const filter of filters) this.#index.add(filter, session);
  }

  left(session: FanoutSession): void {
    const { filters } = session.meta;
    if (areFilters(filters)) for (const filter of filters) this.#index.delete(filter, session);
    for (const awaited of this.#awaited.values()) this.#dismiss(awaited, session);
  }

  /** A session asks for more. @returns whether all its filters were taken */
  subscribe(ctx: RoomContext<FanoutMeta>, { filters, since }: Subscription): boolean {
    const { session } = ctx;
    const { log } = this.#actor;
    const entries = since === undefined || since === NOW ? undefined : log.after(since);
    const isServed = typeof entries === "object";
    const startSeq = isServed && entries[0] ? entries[0].seq - 1 : log.seq;
    const { filters: known } = session.meta;
    const earlier = startsOf(session);
    const numbers = [...earlier.values()];
    let units = 0;
    for (const filter of known) units += filter.length;
    let isRefused = false;
    const taken: FilterKey[] = [];
    for (const filter of new Set(filters)) {
      const isNew = !known.has(filter);
      const fits = known.size < FILTERS_PER_SOCKET && units + filter.length <= FILTER_UNITS;
      if (isNew && !fits) {
        isRefused = true;
        continue;
      }
      taken.push(filter);
      if (!isNew) continue;
      units += filter.length;
      ctx.meta.filters.add(filter);
      numbers.push(startSeq);
      this.#index.add(filter, session);
    }
    if (numbers.length > earlier.size) ctx.meta.starts = writeStarts(numbers);
    if (isServed) replay(session, entries, taken, earlier);
    else if (entries) this.#send(session, { type: "gap", reason: entries, cursor: log.cursor });
    else if (since === NOW) this.#send(session, { type: "cursor", cursor: log.cursor });
    return !isRefused;
  }

  #send(session: FanoutSession, message: object): void {
    session.enqueue(JSON.stringify(message));
  }

  unsubscribe(ctx: RoomContext<FanoutMeta>, { filters }: Subscription): void {
    const { session } = ctx;
    const starts = startsOf(session);
    for (const filter of filters) {
      if (!session.meta.filters.has(filter)) continue;
      ctx.meta.filters.delete(filter);
      starts.delete(filter);
      ctx.meta.starts = writeStarts(starts.values());
      this.#index.delete(filter, session);
    }
  }

  /** Whether a session may ask for earlier envelopes now: each time has all of them looked through. */
  mayReplay(session: FanoutSession): boolean {
    const budget = this.#replays.get(session) ?? new FrameBudget(REPLAYS);
    this.#replays.set(session, budget);
    return budget.take(Date.now()) === "ok";
  }

  acked(session: FanoutSession, envelopeId: string, result: string): void {
    const awaited = this.#awaited.get(envelopeId);
    if (!awaited?.sessions.has(session)) return;
    awaited.results.push(result);
    this.#dismiss(awaited, session);
  }

  #dismiss(awaited: Awaited, session: FanoutSession): void {
    if (awaited.sessions.delete(session) && awaited.sessions.size === 0) awaited.finish();
  }

  /** Delivers before it returns, so that envelopes arrive in the order of their publishes. */
  publish(message: Publication): Promise<PublishOutcome> {
    this.#sweep();
    const { idempotency } = message;
    if (idempotency) return this.#publishOnce(message, idempotency);
    return this.#deliver(message).answer.then((answer) => ({ status: 200, answer }));
  }

  /** The actor is awake: this costs no row, and alarms sweep rarely. */
  #sweep(): void {
    const now = Date.now();
    if (Math.abs(now - this.#sweptAtMs) < SWEEP_MS) return;
    this.#sweptAtMs = now;
    this.#actor.cleanupStaleSessions();
  }

  async #publishOnce(
    message: Publication,
    { key: given, digest, publisher }: NonNullable<Publication["idempotency"]>,
  ): Promise<PublishOutcome> {
    const key = this.#answers.nameOf(given, publisher);
    const earlier = this.#running.get(key) ?? this.#answers.recall(key);
    if (earlier) {
      const isSame = earlier.digest === digest;
      this.#actor.counters.add("publishes", isSame ? "repeated" : "conflict");
      if (!isSame) return CONFLICT;
      return { status: 200, answer: await earlier.answer };
    }

    const now = Date.now();
    const expiresAtMs = this.#answers.expiryOf(now);
    const { answer, soFar, envelope } = this.#deliver(message, this.#historyMs > 0);
    // Stored before the envelopes leave. If this instance ends while it waits, the key answers with
    // this, and delivers no second time.
    const published = { digest, publisher, expiresAtMs, envelope };
    const keep = (text: string) => this.#answers.keep(key, published, text);
    keep(soFar);
    this.#actor.timers.soonest("answers", now + LEFT_BEHIND_MS);
    this.#running.set(key, { digest, answer });
    try {
      const final = await answer;
      if (final !== soFar) keep(final);
      return { status: 200, answer: final };
    } finally {
      this.#running.delete(key);
    }
  }

  /** @param isKept with the answer to its key, which saves a row */
  #deliver(
    message: Publication,
    isKept = false,
  ): { answer: Promise<string>; soFar: string; envelope: Entry | undefined } {
    const { type, payload, ackTimeoutMs, from } = message;
    this.#actor.counters.add("publishes", "delivered");
    const fields: unknown = payload === undefined ? undefined : JSON.parse(payload);
    const envelopeId = crypto.randomUUID();
    const timestamp = new Date().toISOString();
    const userId = this.#actor.name;
    let cursor = "";
    const entry = this.#actor.log.append((at) => {
      cursor = at;
      const envelope: Envelope = { envelopeId, type, userId, timestamp, cursor };
      if (from !== undefined) envelope.publisher = from;
      const head = JSON.stringify(envelope);
      return payload === undefined ? head : `${head.slice(0, -1)},"payload":${payload}}`;
    }, isKept);
    const envelope = isKept ? entry : undefined;
    const now = Date.now();
    const reached: FanoutSession[] = [];
    for (const session of [...this.#index.match(type, fields)]) {
      // Sweeps are rare here, and a publisher must not wait for the ack of a dead socket.
      if (session.isDead(now)) session.close(CLOSE.dead, "No ping", "dead");
      else if (session.enqueue(entry.text)) reached.push(session);
    }

    const answerOf = (results: readonly string[]) =>
      `{"clientCount":${reached.length},"results":[${results.join(",")}],"cursor":"${cursor}"}`;
    const soFar = answerOf([]);
    const answering = reached.filter(({ meta }) => meta.answers);
    if (answering.length === 0 || ackTimeoutMs === 0) {
      return { answer: Promise.resolve(soFar), soFar, envelope };
    }
    const answer = this.#results(envelopeId, answering, ackTimeoutMs).then(answerOf);
    return { answer, soFar, envelope };
  }

  /** The acks of `sessions`, until all have acked or closed, or for `timeoutMs`. */
  async #results(
    envelopeId: string,
    sessions: readonly FanoutSession[],
    timeoutMs: number,
  ): Promise<string[]> {
    const { promise, resolve: finish } = Promise.withResolvers<void>();
    const results: string[] = [];
    this.#awaited.set(envelopeId, { sessions: new Set(sessions), results, finish });
    const timer = setTimeout(finish, timeoutMs);
    await promise;
    clearTimeout(timer);
    this.#awaited.delete(envelopeId);
    return results;
  }

  /** Deletes all answers and envelopes. */
  deleteAll(): void {
    this.#answers.deleteAll();
    this.#actor.log.clear();
    this.#actor.timers.clear("answers");
  }

  /** Deletes answers that no publish has cleaned up. */
  cleanUp(): void {
    const now = Date.now();
    if (this.#answers.forgetOld(now)) this.#actor.timers.set("answers", now + LEFT_BEHIND_MS);
  }
}

/** Since when each filter of a session holds. */
function startsOf({ meta }: FanoutSession): Map<FilterKey, number> {
  return readStarts(meta.filters, areStarts(meta.starts) ? meta.starts : []);
}

/**
 * Sends earlier envelopes, in order, each once.
 *
 * @param earlier filters that the session had before, which have brought it what came since they hold
 */
function replay(
  session: FanoutSession,
  entries: readonly Entry[],
  filters: readonly FilterKey[],
  earlier: ReadonlyMap<FilterKey, number>,
): void {
  const wanted = new FilterIndex<FilterKey>();
  for (const filter of filters) wanted.add(filter, filter);
  const had = new FilterIndex<FilterKey>();
  for (const filter of earlier.keys()) had.add(filter, filter);
  for (const { seq, text } of entries) {
    const { type, payload } = JSON.parse(text) as Envelope;
    if (wanted.match(type, payload).size === 0) continue;
    const matching = [...had.match(type, payload)];
    if (matching.some((filter) => seq > (earlier.get(filter) ?? seq))) continue;
    session.enqueue(text);
  }
}

export interface FanoutRoomOptions<E> {
  name: string;
  websocketPath: string;
  /** Name of the users' binding, and of that of the devices. */
  binding: string;
  devices: string;
  authenticateSubscriber: AuthenticateSubscriber<E>;
  authenticateViewer: AuthenticateViewer<E>;
  maySee: MaySee<E>;
  limits: Partial<Limits>;
  /** How long envelopes are kept, in ms; 0: not at all. */
  historyMs(env: E): number;
}

/** The room of a fan-out: one actor per user, named by the user's id. */
export function defineFanout<E extends object>(options: FanoutRoomOptions<E>) {
  const { name, websocketPath, authenticateSubscriber, authenticateViewer, limits } = options;
  const { binding, devices, historyMs } = options;
  const fanoutOf = perActor(
    (actor: VeraniActor<FanoutMeta, E, FanoutEvents>) => new Fanout(actor, historyMs(actor.env)),
  );
  const peopleOf = perActor((actor: FanoutActor): People => {
    return new People(actor, { devices }, () => watchingOf(actor).changed());
  });
  const watchingOf = perActor((actor: FanoutActor): Watching => {
    const maySee: MaySee<unknown> = (viewer, ids, env) => options.maySee(viewer, ids, env as E);
    return new Watching(actor, peopleOf(actor), { binding, maySee });
  });

  const room = defineRoom<FanoutMeta, E, FanoutEvents>({
    name,
    websocketPath,
    codec: envelopeCodec,
    // Each envelope causes an ack, so publishers set the rate, not clients. A flood harms only the
    // user whose client sends it.
    limits: { framesBurst: 4_000, framesPerSecond: 2_000, ...limits },
    // The contract names no interval to clients, so one that pings every half minute is alive. A
    // publish finds dead sockets. Each sweep of an actor that nobody publishes to is a row and a wake-up.
    // A client that has sent nothing receives nothing, and may have left during its upgrade.
    liveness: { legacyDeadAfterMs: 100_000, sweepMs: 10 * 60_000, requireFrame: true },
    log: (env) => ({ durable: historyMs(env) > 0, ageMs: historyMs(env), events: ENVELOPES }),
    storedEvents: storedEnvelopes,

    /**
     * `?filter=` belongs to the stream, whose route has checked it. A client that reaches the actor with
     * it by another way gets a subscription, and no publisher waits for its acks.
     */
    async extractMeta(request, env) {
      const { searchParams } = new URL(request.url);
      const clientId = crypto.randomUUID();
      if (searchParams.get(PEOPLE) === "1") {
        const viewer = await authorizeViewer(request, env, authenticateViewer);
        const none = { channels: [], filters: new Set<FilterKey>(), answers: false };
        return { ...viewer, clientId, ...none, people: [] };
      }
      const { userId, expiresAtMs, issuedAtS } = await authorizeSubscriber(
        request,
        env,
        authenticateSubscriber,
      );
      const filter = searchParams.get("filter");
      const parsed = filter === null ? null : parseFilter(JSON.parse(filter));
      return {
        userId,
        ...(expiresAtMs !== undefined && { expiresAtMs }),
        ...(issuedAtS !== undefined && { issuedAtS }),
        clientId,
        channels: [],
        filters: new Set(),
        answers: filter === null,
        ...(parsed && { first: parsed, since: searchParams.get("since") ?? NOW }),
      };
    },

    onConnect(ctx) {
      const { actor, session } = ctx;
      // A mistake in a Worker must not show one user the envelopes of another.
      if (session.meta.userId !== actor.name) {
        throw new RollcallError("forbidden", "This is another user's actor");
      }
      if (peopleOf(actor).isRevoked(session.meta.issuedAtS)) throw revoked();
      if (session.meta.people) return;
      const fanout = fanoutOf(actor);
      fanout.joined(session);
      const { first, since } = session.meta;
      if (first === undefined) return;
      delete ctx.meta.first;
      delete ctx.meta.since;
      fanout.subscribe(ctx, { filters: [first], ...(since !== undefined && { since }) });
    },

    async onRefresh({ actor, session }, fresh) {
      if (peopleOf(actor).isRevoked(fresh.issuedAtS)) throw revoked();
      if (session.meta.people) await watchingOf(actor).refreshed(session, fresh);
    },

    onDisconnect({ actor, session }) {
      if (session.meta.people) watchingOf(actor).left(session);
      else fanoutOf(actor).left(session);
    },

    onHibernationRestore(actor) {
      if (isDirectoryOn(actor.env as object)) watchingOf(actor).restored();
    },
  })
    .call("publish", z.array(publication), (actor, messages): Promise<PublishOutcome[]> => {
      const fanout = fanoutOf(actor);
      return Promise.all(messages.map((message) => fanout.publish(message)));
    })
    .call("deleteUser", z.undefined(), (actor) => {
      fanoutOf(actor).deleteAll();
      peopleOf(actor).forget();
    })
    .call("report", report, (actor, given) => peopleOf(actor).report(given))
    .call("whereabouts", z.undefined(), (actor) => peopleOf(actor).whereabouts())
    .call("close", z.object({ floorS: z.optional(z.number()) }), (actor, { floorS }) =>
      peopleOf(actor).close(floorS),
    )
    .call("watchedBy", z.string(), (actor, userId) => watchingOf(actor).watchedBy(userId))
    .call("personChanged", personUpdate, (actor, update) =>
      watchingOf(actor).personChanged(update),
    );

  room.on("watch", (ctx, { ids }) => watchingOf(ctx.actor).watch(ctx, checkIds(ctx, ids)));
  room.on("unwatch", (ctx, { ids }) => {
    watchingOf(ctx.actor).unwatch(ctx, checkIds(ctx, ids));
  });
  room.timer(RENEWAL, (actor) => watchingOf(actor).renew());
  room.timer(NOTICES, (actor) => watchingOf(actor).notifyWatchers());
  room.timer(REVOCATION, (actor) => peopleOf(actor).retryRevocation());

  // `session.meta` to read, `ctx.meta` to change: every access to the latter writes it back.
  room.on("subscribe", (ctx, subscription) => {
    if (ctx.session.meta.people) {
      throw new RollcallError("forbidden", "This socket is for people: connect to /ws/fanout");
    }
    const fanout = fanoutOf(ctx.actor);
    if (subscription.since !== undefined && !fanout.mayReplay(ctx.session)) {
      throw new RollcallError("rate_limited", "Earlier envelopes were asked for too often");
    }
    if (!fanout.subscribe(ctx, subscription)) ctx.emit.emit("error", { code: "too_many_filters" });
  });

  room.on("unsubscribe", (ctx, subscription) => fanoutOf(ctx.actor).unsubscribe(ctx, subscription));

  room.on("ack", ({ actor, session }, { envelopeId, result }) => {
    fanoutOf(actor).acked(session, envelopeId, result);
  });

  room.timer("answers", (actor) => fanoutOf(actor).cleanUp());
  return room;
}

/** The ids of a `watch` or `unwatch`. @throws RollcallError `forbidden`, `invalid_data` */
function checkIds({ session }: RoomContext<FanoutMeta>, ids: unknown): string[] {
  if (!session.meta.people) {
    throw new RollcallError("forbidden", "This socket is for envelopes: connect to /ws/people");
  }
  if (Array.isArray(ids) && ids.length <= WATCHED && ids.every(isUserId)) return [...new Set(ids)];
  throw new RollcallError("invalid_data", `ids must be a list of up to ${WATCHED} userIds`, "ids");
}

/** A fan-out room: `createActorHandler` takes it, and its calls have types. */
export type FanoutRoom<E extends object = object> = ReturnType<typeof defineFanout<E>>;
