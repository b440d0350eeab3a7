import * as z from "zod/mini";
import type { Limits } from "../../src/actor/limits.ts";
import {
  type ConnectionMeta,
  defineRoom,
  perActor,
  type VeraniActor,
} from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { log } from "../../src/log.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type AuthenticateSubscriber, authorizeSubscriber } from "./access.ts";
import { envelopeCodec } from "./codec.ts";
import { answerRecord, type Publication, type PublishOutcome, publication } from "./contract.ts";
import type { Envelope } from "./envelope.ts";
import { FilterIndex, type FilterKey, isFilterKey, parseFilter } from "./filters.ts";

const FILTERS_PER_SOCKET = 500;
/** UTF-16 units of all filters of a socket: at two bytes each they fit into one storage row. */
const FILTER_UNITS = 900_000;
/** A key answers with the first result for so long, in ms. */
const IDEMPOTENCY_MS = 600_000;
/** Least time between two clean-ups of old keys by publishes, in ms. */
const CLEAN_UP_MS = 60_000;
/** Old keys stay so long when nobody publishes any more, in ms: an alarm costs a row and a wake-up. */
const LEFT_BEHIND_MS = 24 * 3_600_000;
const CONFLICT = { status: 422 } as const;
/** Storage key of the answer to an idempotency key. */
const ANSWER_PREFIX = "answer:";
/** UTF-16 units of an answer that fit into one row. A longer one takes several. */
const ANSWER_UNITS = 900_000;

interface FanoutMeta extends ConnectionMeta {
  filters: Set<FilterKey>;
  /** Whether a publisher waits for its acks. A stream cannot ack. The stored name stays. */
  answers: boolean;
}

interface FanoutEvents {
  in: {
    subscribe: FilterKey[];
    unsubscribe: FilterKey[];
    /** `result` as JSON. */
    ack: { envelopeId: string; result: string };
  };
  out: { error: { code: "too_many_filters" } };
}

type FanoutActor = VeraniActor<FanoutMeta, unknown, FanoutEvents>;
type FanoutSession = Session<FanoutMeta>;

function answerRow(key: string, row: number): string {
  return `${ANSWER_PREFIX}${row}:${key}`;
}

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
  readonly #index = new FilterIndex<FanoutSession>();
  readonly #awaited = new Map<string, Awaited>();
  /** Keyed publishes that have not been answered yet. */
  readonly #running = new Map<string, { digest: string; answer: Promise<string> }>();
  #cleanedUpMs = 0;

  constructor(actor: FanoutActor) {
    this.#actor = actor;
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

  subscribed(session: FanoutSession, filter: FilterKey): void {
    this.#index.add(filter, session);
  }

  unsubscribed(session: FanoutSession, filter: FilterKey): void {
    this.#index.delete(filter, session);
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
    const { idempotency } = message;
    if (idempotency) return this.#publishOnce(message, idempotency);
    return this.#deliver(message).answer.then((answer) => ({ status: 200, answer }));
  }

  async #publishOnce(
    message: Publication,
    { key: given, digest, publisher }: NonNullable<Publication["idempotency"]>,
  ): Promise<PublishOutcome> {
    const key = this.#keyOf(given, publisher);
    const earlier = this.#running.get(key) ?? this.#recall(key);
    if (earlier) {
      if (earlier.digest !== digest) return CONFLICT;
      return { status: 200, answer: await earlier.answer };
    }

    const now = Date.now();
    const expiresAtMs = now + IDEMPOTENCY_MS;
    if (now - this.#cleanedUpMs >= CLEAN_UP_MS) this.#forgetOld(now);
    const { answer, soFar } = this.#deliver(message);
    // Stored before the envelopes leave. If this instance ends while it waits, the key answers with
    // this, and delivers no second time.
    const keep = (text: string) => this.#keep(key, { digest, publisher, expiresAtMs }, text);
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

  /**
   * The name under which a publisher's key is stored: the key itself, which earlier releases find too,
   * unless another publisher has used it.
   */
  #keyOf(key: string, publisher: string | undefined): string {
    if (publisher === undefined) return key;
    const { kv } = this.#actor.getStorage();
    const now = Date.now();
    const own = `${key}\0${publisher}`;
    // It may outlive the other publisher's answer.
    const second = answerRecord.read(kv.get(answerRow(own, 0)));
    if (second && second.expiresAtMs > now) return own;
    const first = answerRecord.read(kv.get(answerRow(key, 0)));
    const isOthers =
      first?.publisher !== undefined && first.publisher !== publisher && first.expiresAtMs > now;
    return isOthers ? own : key;
  }

  #keep(
    key: string,
    { publisher, ...kept }: { digest: string; publisher: string | undefined; expiresAtMs: number },
    answer: string,
  ): void {
    const storage = this.#actor.getStorage();
    const rows = Math.ceil(answer.length / ANSWER_UNITS);
    storage.transactionSync(() => {
      for (let row = 0; row < rows; row++) {
        const part = answer.slice(row * ANSWER_UNITS, (row + 1) * ANSWER_UNITS);
        const record = { ...kept, answer: part, rows };
        const stored = answerRecord.write(
          publisher === undefined ? record : { ...record, publisher },
        );
        storage.kv.put(answerRow(key, row), stored);
      }
    });
  }

  #recall(key: string): { digest: string; answer: string } | undefined {
    const { kv } = this.#actor.getStorage();
    const first = answerRecord.read(kv.get(answerRow(key, 0)));
    if (!first || first.expiresAtMs <= Date.now()) return undefined;
    let { answer } = first;
    for (let row = 1; row < first.rows; row++) {
      const next = answerRecord.read(kv.get(answerRow(key, row)));
      // Half an answer is none: the key counts as new.
      if (!next) return undefined;
      answer += next.answer;
    }
    return { digest: first.digest, answer };
  }

  #deliver(message: Publication): { answer: Promise<string>; soFar: string } {
    const { type, payload, ackTimeoutMs } = message;
    const fields: unknown = payload === undefined ? undefined : JSON.parse(payload);
    const envelopeId = crypto.randomUUID();
    const timestamp = new Date().toISOString();
    const envelope: Envelope = { envelopeId, type, userId: this.#actor.name, timestamp };
    const head = JSON.stringify(envelope);
    const text = payload === undefined ? head : `${head.slice(0, -1)},"payload":${payload}}`;
    const now = Date.now();
    const reached: FanoutSession[] = [];
    for (const session of [...this.#index.match(type, fields)]) {
      // Sweeps are rare here, and a publisher must not wait for the ack of a dead socket.
      if (session.isDead(now)) session.close(CLOSE.dead, "No ping", "dead");
      else if (session.enqueue(text)) reached.push(session);
    }

    const answerOf = (results: readonly string[]) =>
      `{"clientCount":${reached.length},"results":[${results.join(",")}]}`;
    const soFar = answerOf([]);
    const answering = reached.filter(({ meta }) => meta.answers);
    if (answering.length === 0 || ackTimeoutMs === 0) {
      return { answer: Promise.resolve(soFar), soFar };
    }
    return { answer: this.#results(envelopeId, answering, ackTimeoutMs).then(answerOf), soFar };
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

  /** Deletes answers that have expired. Rows that are no answers stay. @returns whether any answer is left */
  #forgetOld(now: number): boolean {
    this.#cleanedUpMs = now;
    const storage = this.#actor.getStorage();
    return storage.transactionSync(() => {
      let isAnyLeft = false;
      for (const [row, stored] of storage.kv.list({ prefix: ANSWER_PREFIX })) {
        const kept = answerRecord.read(stored);
        if (kept && kept.expiresAtMs <= now) storage.kv.delete(row);
        else if (kept) isAnyLeft = true;
      }
      return isAnyLeft;
    });
  }

  /** Deletes all answers. */
  deleteAll(): void {
    const { kv } = this.#actor.getStorage();
    for (const [row] of kv.list({ prefix: ANSWER_PREFIX })) kv.delete(row);
    this.#actor.timers.clear("answers");
  }

  /** Deletes answers that no publish has cleaned up. */
  cleanUp(): void {
    const now = Date.now();
    if (this.#forgetOld(now)) this.#actor.timers.set("answers", now + LEFT_BEHIND_MS);
  }
}

export interface FanoutRoomOptions<E> {
  name: string;
  websocketPath: string;
  authenticateSubscriber: AuthenticateSubscriber<E>;
  limits: Partial<Limits>;
}

/** The room of a fan-out: one actor per user, named by the user's id. */
export function defineFanout<E extends object>(options: FanoutRoomOptions<E>) {
  const { name, websocketPath, authenticateSubscriber, limits } = options;
  const fanoutOf = perActor((actor: VeraniActor<FanoutMeta, E, FanoutEvents>) => new Fanout(actor));

  const room = defineRoom<FanoutMeta, E, FanoutEvents>({
    name,
    websocketPath,
    codec: envelopeCodec,
    // Each envelope causes an ack, so publishers set the rate, not clients. A flood harms only the
    // user whose client sends it.
    limits: { framesBurst: 4_000, framesPerSecond: 2_000, ...limits },
    // The contract names no interval to clients, so one that pings every half minute is alive. A
    // publish finds dead sockets. Each sweep of an actor that nobody publishes to is a row and a wake-up.
    liveness: { legacyDeadAfterMs: 100_000, sweepMs: 10 * 60_000 },

    /**
     * `?filter=` belongs to the stream, whose route has checked it. A client that reaches the actor with
     * it by another way gets a subscription, and no publisher waits for its acks.
     */
    async extractMeta(request, env) {
      const { userId, expiresAtMs } = await authorizeSubscriber(
        request,
        env,
        authenticateSubscriber,
      );
      const filter = new URL(request.url).searchParams.get("filter");
      const parsed = filter === null ? null : parseFilter(JSON.parse(filter));
      return {
        userId,
        ...(expiresAtMs !== undefined && { expiresAtMs }),
        clientId: crypto.randomUUID(),
        channels: [],
        filters: new Set(parsed === null ? [] : [parsed]),
        answers: filter === null,
      };
    },

    onConnect({ actor, session }) {
      // A mistake in a Worker must not show one user the envelopes of another.
      if (session.meta.userId !== actor.name) {
        throw new RollcallError("forbidden", "This is another user's actor");
      }
      fanoutOf(actor).joined(session);
    },

    onDisconnect({ actor, session }) {
      fanoutOf(actor).left(session);
    },
  })
    .call("publish", z.array(publication), (actor, messages): Promise<PublishOutcome[]> => {
      const fanout = fanoutOf(actor);
      return Promise.all(messages.map((message) => fanout.publish(message)));
    })
    .call("deleteUser", z.undefined(), (actor) => {
      fanoutOf(actor).deleteAll();
    });

  // `session.meta` to read, `ctx.meta` to change: every access to the latter writes it back.
  room.on("subscribe", (ctx, filters) => {
    const { actor, session } = ctx;
    const known = session.meta.filters;
    let units = 0;
    for (const filter of known) units += filter.length;
    const fresh = new Set(filters.filter((filter) => !known.has(filter)));
    let isRefused = false;
    for (const filter of fresh) {
      const fits = known.size < FILTERS_PER_SOCKET && units + filter.length <= FILTER_UNITS;
      if (fits) {
        units += filter.length;
        ctx.meta.filters.add(filter);
        fanoutOf(actor).subscribed(session, filter);
      } else isRefused = true;
    }
    if (isRefused) ctx.emit.emit("error", { code: "too_many_filters" });
  });

  room.on("unsubscribe", (ctx, filters) => {
    const { actor, session } = ctx;
    for (const filter of filters) {
      if (!session.meta.filters.has(filter)) continue;
      ctx.meta.filters.delete(filter);
      fanoutOf(actor).unsubscribed(session, filter);
    }
  });

  room.on("ack", ({ actor, session }, { envelopeId, result }) => {
    fanoutOf(actor).acked(session, envelopeId, result);
  });

  room.timer("answers", (actor) => fanoutOf(actor).cleanUp());
  return room;
}

/** A fan-out room: `createActorHandler` takes it, and its calls have types. */
export type FanoutRoom<E extends object = object> = ReturnType<typeof defineFanout<E>>;
