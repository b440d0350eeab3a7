import * as z from "zod/mini";
import {
  type ConnectionMeta,
  defineRoom,
  perActor,
  type VeraniActor,
} from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { CLOSE } from "../../src/wire/close.ts";
import type { Codec } from "../../src/wire/codec.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes, type MessageFrame } from "../../src/wire/frames.ts";
import { identify } from "./access.ts";
import type { Envelope } from "./contract.ts";
import { FilterIndex, type FilterKey, parseFilter } from "./filters.ts";

/** Filters of one message that are looked at. */
const FILTERS_PER_FRAME = 50;
const FILTERS_PER_SOCKET = 500;
/** UTF-16 units of a socket's filters together: at two bytes each they fit into one storage row. */
const FILTER_UNITS = 900_000;
/** How long a key answers with the first result, in ms. */
const IDEMPOTENCY_MS = 600_000;
/** Least time between two clean-ups of old keys by those who publish, in ms. */
const CLEAN_UP_MS = 60_000;
/** Old keys stay this long where nobody publishes any more, in ms: an alarm is a row and a wake-up. */
const LEFT_BEHIND_MS = 24 * 3_600_000;
/** Storage key of what was answered under an idempotency key. */
const ANSWER_PREFIX = "answer:";
/** UTF-16 units of an answer that fit into one row; a longer one takes several. */
const ANSWER_UNITS = 900_000;

interface FanoutMeta extends ConnectionMeta {
  filters: Set<FilterKey>;
  /** Whether a publisher waits for its acks: nobody can answer over SSE. */
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

type FanoutActor = VeraniActor<FanoutMeta, Env, FanoutEvents>;
type FanoutSession = Session<FanoutMeta>;

/** A publish as its route hands it over. */
const publication = z.object({
  type: z.string(),
  /** As JSON, which it stays: nothing between publisher and socket changes it. */
  payload: z.optional(z.string()),
  ackTimeoutMs: z.number().check(z.gte(0), z.lte(5_000)),
  /** `digest` tells whether the same key came with another body. */
  idempotency: z.optional(z.object({ key: z.string(), digest: z.string() })),
});
type Publication = z.infer<typeof publication>;

/** `{"clientCount":n,"results":[…]}` as JSON; or why a key was refused. */
export type PublishOutcome = { status: 200; answer: string } | { status: 422 };

/** What an idempotency key stands for, in storage: one row, or the first of several. */
interface KeptAnswer {
  digest: string;
  answer: string;
  /** Rows that the answer takes. */
  rows: number;
  expiresAtMs: number;
}

function answerRow(key: string, row: number): string {
  return `${ANSWER_PREFIX}${row}:${key}`;
}

/** An envelope whose acks a publisher waits for. */
interface Awaited {
  sessions: Set<FanoutSession>;
  /** As JSON, in the order in which they came. */
  results: string[];
  finish(): void;
}

/** The subscriptions of one user's sockets, and who waits for their answers. */
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

  joined(session: FanoutSession): void {
    for (const filter of session.meta.filters) this.#index.add(filter, session);
  }

  left(session: FanoutSession): void {
    for (const filter of session.meta.filters) this.#index.delete(filter, session);
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

  /** Delivers before it returns, so that what is published in a row arrives in a row. */
  publish(message: Publication): Promise<PublishOutcome> {
    const { idempotency } = message;
    if (idempotency) return this.#publishOnce(message, idempotency.key, idempotency.digest);
    return this.#deliver(message).answer.then((answer) => ({ status: 200, answer }));
  }

  async #publishOnce(message: Publication, key: string, digest: string): Promise<PublishOutcome> {
    const earlier = this.#running.get(key) ?? this.#recall(key);
    if (earlier) {
      if (earlier.digest !== digest) return { status: 422 };
      return { status: 200, answer: await earlier.answer };
    }

    const now = Date.now();
    const expiresAtMs = now + IDEMPOTENCY_MS;
    if (now - this.#cleanedUpMs >= CLEAN_UP_MS) this.#forgetOld(now);
    const { answer, soFar } = this.#deliver(message);
    // Leaves together with the envelopes: should this instance end while it waits, the key answers
    // with what there is, and delivers no second time.
    this.#keep(key, digest, soFar, expiresAtMs);
    this.#actor.timers.soonest("answers", now + LEFT_BEHIND_MS);
    this.#running.set(key, { digest, answer });
    try {
      const final = await answer;
      if (final !== soFar) this.#keep(key, digest, final, expiresAtMs);
      return { status: 200, answer: final };
    } finally {
      this.#running.delete(key);
    }
  }

  #keep(key: string, digest: string, answer: string, expiresAtMs: number): void {
    const storage = this.#actor.getStorage();
    const rows = Math.ceil(answer.length / ANSWER_UNITS);
    storage.transactionSync(() => {
      for (let row = 0; row < rows; row++) {
        const part = answer.slice(row * ANSWER_UNITS, (row + 1) * ANSWER_UNITS);
        const kept: KeptAnswer = { digest, answer: part, rows, expiresAtMs };
        storage.kv.put(answerRow(key, row), kept);
      }
    });
  }

  #recall(key: string): { digest: string; answer: string } | undefined {
    const { kv } = this.#actor.getStorage();
    const first = kv.get<KeptAnswer>(answerRow(key, 0));
    if (!first || first.expiresAtMs <= Date.now()) return undefined;
    let { answer } = first;
    for (let row = 1; row < first.rows; row++) {
      answer += kv.get<KeptAnswer>(answerRow(key, row))?.answer ?? "";
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
      // A sweep is rare here: nobody is to wait for the ack of a socket that has fallen silent.
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

  /** What `sessions` answer, until all have answered or closed, or for `timeoutMs`. */
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

  /** Deletes answers that are too old to be given again; says whether any is left. */
  #forgetOld(now: number): boolean {
    this.#cleanedUpMs = now;
    const storage = this.#actor.getStorage();
    return storage.transactionSync(() => {
      let isAnyLeft = false;
      for (const [row, { expiresAtMs }] of storage.kv.list<KeptAnswer>({ prefix: ANSWER_PREFIX })) {
        if (expiresAtMs <= now) storage.kv.delete(row);
        else isAnyLeft = true;
      }
      return isAnyLeft;
    });
  }

  /** What nobody's publish has deleted. */
  cleanUp(): void {
    const now = Date.now();
    if (this.#forgetOld(now)) this.#actor.timers.set("answers", now + LEFT_BEHIND_MS);
  }
}

const fanoutOf = perActor((actor: FanoutActor) => new Fanout(actor));

function parseFilters(value: unknown): FilterKey[] | null {
  if (!Array.isArray(value)) return null;
  return value
    .slice(0, FILTERS_PER_FRAME)
    .map(parseFilter)
    .filter((filter) => filter !== null);
}

/** A frame of the contract's table; null for all else, which is ignored. */
function parseMessage(raw: string): MessageFrame | null {
  if (/^\s*ping\s*$/i.test(raw)) return { type: "ping" };
  try {
    const message: unknown = JSON.parse(raw);
    if (typeof message !== "object" || message === null) return null;
    const { type, filters, envelopeId, result } = message as Record<string, unknown>;
    if (type === "subscribe" || type === "unsubscribe") {
      const data = parseFilters(filters);
      return data && { type, data };
    }
    if (type !== "ack" || typeof envelopeId !== "string") return null;
    return { type, data: { envelopeId, result: JSON.stringify(result ?? null) } };
  } catch {
    // No JSON, or nested deeper than the stack.
    return null;
  }
}

/** Envelopes as they stand, and a bare `ping` with its `pong`. */
const envelopeCodec: Codec = {
  ping: "ping",
  pong: "pong",
  protocol2: false,
  parse(raw, limitBytes) {
    const isTooLarge =
      typeof raw === "string" ? exceedsBytes(raw, limitBytes) : raw.byteLength > limitBytes;
    if (isTooLarge) throw new RollcallError("too_large", `At most ${limitBytes} bytes`);
    return typeof raw === "string" ? parseMessage(raw) : null;
  },
  // The event's name stands first and wins over a `type` of the data.
  encodeEvent: (type, data) => JSON.stringify(Object.assign({ type }, data, { type })),
  encodeError: (error) => JSON.stringify({ type: "error", ...error }),
};

/** Envelopes to one user's sockets, by content. One actor per user, named by the user's id. */
export const fanout = defineRoom<FanoutMeta, Env, FanoutEvents>({
  name: "fanout-room",
  websocketPath: "/ws/fanout",
  codec: envelopeCodec,
  // Each envelope brings an ack, so that publishers, not clients, set the pace. A flood hurts no
  // user but the one who sends it.
  limits: { framesBurst: 4_000, framesPerSecond: 2_000 },
  // Clients of this contract were told of no interval: one that pings every half minute lives. Whoever
  // publishes finds the dead; each look at those to whom nobody writes is a row and a wake-up.
  liveness: { legacyDeadAfterMs: 100_000, sweepMs: 10 * 60_000 },

  /**
   * `?filter=` is the stream's, made by the route that checked it. Whoever reaches the actor with it
   * by other means asks for no more than a subscription, and gives up being waited for.
   */
  async extractMeta(request, env) {
    const { scopes: _, ...bearer } = await identify(request, env);
    const filter = new URL(request.url).searchParams.get("filter");
    const parsed = filter === null ? null : parseFilter(JSON.parse(filter));
    return {
      ...bearer,
      clientId: crypto.randomUUID(),
      channels: [],
      filters: new Set(parsed === null ? [] : [parsed]),
      answers: filter === null,
    };
  },

  onConnect({ actor, session }) {
    // A mistake of whoever calls the actor must not show one user another's envelopes.
    if (session.meta.userId !== actor.name) {
      throw new RollcallError("forbidden", "This is another user's actor");
    }
    fanoutOf(actor).joined(session);
  },

  onDisconnect({ actor, session }) {
    fanoutOf(actor).left(session);
  },
});

// `session.meta` to look, `ctx.meta` to change: asking for the latter writes it back.
fanout.on("subscribe", (ctx, filters) => {
  const { actor, session } = ctx;
  const held = session.meta.filters;
  let units = 0;
  for (const filter of held) units += filter.length;
  const fresh = new Set(filters.filter((filter) => !held.has(filter)));
  let isRefused = false;
  for (const filter of fresh) {
    const fits = held.size < FILTERS_PER_SOCKET && units + filter.length <= FILTER_UNITS;
    if (fits) {
      units += filter.length;
      ctx.meta.filters.add(filter);
      fanoutOf(actor).subscribed(session, filter);
    } else isRefused = true;
  }
  if (isRefused) ctx.emit.emit("error", { code: "too_many_filters" });
});

fanout.on("unsubscribe", (ctx, filters) => {
  const { actor, session } = ctx;
  for (const filter of filters) {
    if (!session.meta.filters.has(filter)) continue;
    ctx.meta.filters.delete(filter);
    fanoutOf(actor).unsubscribed(session, filter);
  }
});

fanout.on("ack", ({ actor, session }, { envelopeId, result }) => {
  fanoutOf(actor).acked(session, envelopeId, result);
});

fanout.ingest("publish", z.array(publication), (actor, messages): Promise<PublishOutcome[]> => {
  const here = fanoutOf(actor);
  return Promise.all(messages.map((message) => here.publish(message)));
});

fanout.timer("answers", (actor) => fanoutOf(actor).cleanUp());
