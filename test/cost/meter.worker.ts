/** Counts what a bill is made of, at the interfaces that Workers and actors have with the runtime. */
import { DurableObject } from "cloudflare:workers";
import unsafe from "workerd:unsafe";
import type { Counters } from "./bill.ts";
import { breathe, clock, currentOwner, type Owner, runAs, type Timer } from "./clock.worker.ts";
import { EVENT_MS } from "./model.ts";
import { HIBERNATES_AFTER_MS } from "./prices.ts";

type Span = readonly [fromMs: number, toMs: number];

/** How long it is covered by at least one of `spans`, each longer by `tailMs`. */
export function covered(spans: readonly Span[], tailMs = 0): number {
  let total = 0;
  let end = Number.NEGATIVE_INFINITY;
  for (const [from, to] of spans.toSorted(([a], [b]) => a - b)) {
    const until = to + tailMs;
    if (until <= end) continue;
    total += until - Math.max(from, end);
    end = until;
  }
  return total;
}

/** What all actors of the deployment, and its Worker, did so far. */
export class Meters {
  readonly actors = new Map<string, Meter>();
  workerRequests = 0;
  /** Messages that clients, and the Worker for streams, sent to actors. */
  sent = 0;
  /** The actor that was called last. */
  called: Meter | undefined;
  /** Sockets taken with hibernation so far; each bears its number as a tag. */
  sockets = 0;
  /** When the clients of these sockets were lost: they have not pinged since. */
  readonly lostAtMs = new Map<string, number>();
  kvReads = 0;
  kvWrites = 0;
  d1RowsRead = 0;
  d1RowsWritten = 0;

  readonly #env: object;

  /** @param env bindings that the director may use: stubs belong to who made them */
  constructor(env: object) {
    this.#env = env;
  }

  of(binding: string, name: string): Meter {
    const key = `${binding}/${name}`;
    let meter = this.actors.get(key);
    if (!meter) {
      const namespace = Reflect.get(this.#env, binding) as DurableObjectNamespace;
      meter = new Meter(() => namespace.getByName(name));
      this.actors.set(key, meter);
    }
    return meter;
  }

  /** @param isMeant of which actors, by binding and name; the Worker's name is empty */
  counters(isMeant: (key: string) => boolean = () => true): Counters {
    const meant = [...this.actors].filter(([key]) => isMeant(key));
    const actors = meant.map(([, meter]) => meter);
    const byWorker = isMeant("") ? 1 : 0;
    const sum = (of: (meter: Meter) => number) =>
      actors.reduce((total, meter) => total + of(meter), 0);
    return {
      workerRequests: byWorker * this.workerRequests,
      actorCalls: sum(({ calls }) => calls),
      messages: sum(({ messages }) => messages),
      // What did not reach an actor's code was answered by the runtime.
      pings: byWorker * (this.sent - sum(({ messages }) => messages)),
      alarms: sum(({ alarms }) => alarms),
      wakeUps: sum(({ starts }) => starts),
      awakeSeconds: sum(({ spans }) => covered(spans)) / 1000,
      residentSeconds: sum(({ spans }) => covered(spans, HIBERNATES_AFTER_MS)) / 1000,
      rowsRead: sum(({ rowsRead }) => rowsRead),
      rowsWritten: sum(({ rowsWritten }) => rowsWritten),
      kvReads: byWorker * this.kvReads,
      kvWrites: byWorker * this.kvWrites,
      d1RowsRead: byWorker * this.d1RowsRead,
      d1RowsWritten: byWorker * this.d1RowsWritten,
    };
  }
}

let meters = new Meters({});

/** Begins to count anew. */
export function newMeters(env: object): Meters {
  meters = new Meters(env);
  return meters;
}

/** One actor. */
export class Meter implements Owner {
  /** Instances so far: wake-ups. */
  starts = 0;
  /** Fetches and RPC calls from a Worker or from another actor. */
  calls = 0;
  /** Incoming messages that reached its code. */
  messages = 0;
  alarms = 0;
  rowsRead = 0;
  rowsWritten = 0;
  /** When it ran, or could not have hibernated. */
  readonly spans: Span[] = [];
  alarmAtMs: number | null = null;
  /** How the director reaches it without being counted. */
  readonly stub: () => DurableObjectStub;
  isRunning = false;
  instant = 0;
  /** Its last eviction. */
  leaving: Promise<void> | undefined;
  /** Handlers, timers and sockets that keep it from hibernating now. */
  holds = 0;
  endedAtMs = 0;
  readonly #timers = new Map<Timer, () => void>();
  readonly #cursors: SqlStorageCursor<Record<string, SqlStorageValue>>[] = [];

  constructor(stub: () => DurableObjectStub) {
    this.stub = stub;
  }

  /** It is busy until the function that this returns is called. */
  hold(leastMs = 0): () => void {
    const fromMs = clock.now;
    this.holds += 1;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.holds -= 1;
      this.endedAtMs = Math.max(this.endedAtMs, clock.now);
      this.spans.push([fromMs, clock.now + leastMs]);
      this.#countCursors();
    };
  }

  /** Runs an event's handler as this actor's. */
  async event<T>(handler: () => T | Promise<T>): Promise<T> {
    const release = this.hold(EVENT_MS);
    try {
      return await runAs(this, handler);
    } finally {
      release();
    }
  }

  timerSet(timer: Timer): void {
    this.#timers.set(timer, this.hold());
  }

  timerGone(timer: Timer): void {
    this.#timers.get(timer)?.();
    this.#timers.delete(timer);
  }

  async ring(timer: Timer): Promise<void> {
    ringing.set(timer.id, timer);
    await backstage(this).costTimer(timer.id);
  }

  cursor(cursor: SqlStorageCursor<Record<string, SqlStorageValue>>): void {
    this.#cursors.push(cursor);
  }

  #countCursors(): void {
    for (const { rowsRead, rowsWritten } of this.#cursors.splice(0)) {
      this.rowsRead += rowsRead;
      this.rowsWritten += rowsWritten;
    }
  }
}

/** What the director asks of an actor, past all counting. */
interface Backstage {
  costTimer(id: number): Promise<void>;
  costAlarm(): Promise<void>;
}

/** Timers on the way to their actor: functions do not travel over RPC. */
const ringing = new Map<number, Timer>();

interface Actor extends DurableObject<never> {
  ingest?(name: string, data: unknown): unknown;
}
type ActorClass = new (state: DurableObjectState, env: never) => Actor;

/** An actor as it is, with a meter on all that it has to do with the runtime. */
export function metered(binding: string, actorClass: unknown) {
  return class extends DurableObject<object> {
    readonly #actor: Actor;
    readonly #meter: Meter;

    constructor(state: DurableObjectState, env: object) {
      super(state, env);
      const meter = meters.of(binding, state.id.name ?? "");
      meter.starts += 1;
      meter.isRunning = true;
      const release = meter.hold(EVENT_MS);
      Object.defineProperty(state, "storage", { value: meteredStorage(state.storage, meter) });
      const stampOf = state.getWebSocketAutoResponseTimestamp.bind(state);
      // The runtime's stamp is of another clock; who pings at all does so in time.
      state.getWebSocketAutoResponseTimestamp = (ws) => {
        const atMs = meters.lostAtMs.get(state.getTags(ws)[0] ?? "") ?? clock.now;
        return stampOf(ws) && new Date(atMs - (atMs % 5_000));
      };
      const accept = state.acceptWebSocket.bind(state);
      state.acceptWebSocket = (ws) => accept(ws, [String(++meters.sockets)]);
      this.#meter = meter;
      const Actor = actorClass as ActorClass;
      this.#actor = runAs(meter, () => new Actor(state, meteredEnv(env) as never));
      release();
    }

    override async fetch(request: Request): Promise<Response> {
      const response = await this.#meter.event(() => this.#actor.fetch?.(request));
      if (!response) throw new Error(`${binding} takes no requests`);
      return response.body && !response.webSocket ? held(response, this.#meter) : response;
    }

    override async webSocketMessage(ws: WebSocket, message: string | ArrayBuffer): Promise<void> {
      this.#meter.messages += 1;
      await this.#meter.event(() => this.#actor.webSocketMessage?.(ws, message));
    }

    override async webSocketClose(
      ...event: [ws: WebSocket, code: number, reason: string, wasClean: boolean]
    ): Promise<void> {
      await this.#meter.event(() => this.#actor.webSocketClose?.(...event));
    }

    override async webSocketError(ws: WebSocket, error: unknown): Promise<void> {
      await this.#meter.event(() => this.#actor.webSocketError?.(ws, error));
    }

    ingest(name: string, data: unknown): Promise<unknown> {
      return this.#meter.event(() => this.#actor.ingest?.(name, data));
    }

    async costTimer(id: number): Promise<void> {
      const timer = ringing.get(id);
      ringing.delete(id);
      await this.#meter.event(async () => timer?.run());
    }

    async costAlarm(): Promise<void> {
      this.#meter.alarms += 1;
      const scheduledTime = this.#meter.alarmAtMs ?? clock.now;
      this.#meter.alarmAtMs = null;
      const info = { scheduledTime, isRetry: false, retryCount: 0 };
      await this.#meter.event(() => this.#actor.alarm?.(info));
    }
  };
}

/** A response whose body keeps the actor busy until the last byte. */
function held(response: Response, meter: Meter): Response {
  const release = meter.hold();
  const { readable, writable } = new TransformStream();
  response.body?.pipeTo(writable).then(release, release);
  return new Response(readable, response);
}

/** A socket that an actor takes without hibernation keeps it awake while it is open. */
const inActors = new WeakSet<WebSocket>();
const acceptSocket = WebSocket.prototype.accept;
WebSocket.prototype.accept = function accept(this: WebSocket, options) {
  const owner = currentOwner();
  if (owner instanceof Meter) {
    inActors.add(this);
    const release = owner.hold();
    this.addEventListener("message", () => {
      owner.messages += 1;
      owner.hold(EVENT_MS)();
    });
    this.addEventListener("close", release);
    this.addEventListener("error", release);
  }
  acceptSocket.call(this, options);
};

const sendMessage = WebSocket.prototype.send;
WebSocket.prototype.send = function send(this: WebSocket, message) {
  if (!currentOwner() && !inActors.has(this)) meters.sent += 1;
  sendMessage.call(this, message);
};

// ── Storage ─────────────────────────────────────────────────────────────────────────────────────

/** `target` with some members in place of its own. Host objects insist on their own `this`. */
function proxied<T extends object>(target: T, own: Record<string, unknown>): T {
  return new Proxy(target, {
    get(_, key) {
      if (typeof key === "string" && Object.hasOwn(own, key)) return own[key];
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/**
 * Storage that counts rows as they are billed: a `put` or a `delete` that deletes is a row written, and
 * so is each `setAlarm`; a `get` is a row read, a `list` as many as it gives; SQL says itself. The alarm
 * stands by the moved clock.
 */
function meteredStorage(storage: DurableObjectStorage, meter: Meter): DurableObjectStorage {
  const { kv, sql } = storage;
  const reads = <T>(rows: number, value: T): T => {
    meter.rowsRead += Math.max(rows, 1);
    return value;
  };
  const writes = (rows: number): void => {
    meter.rowsWritten += rows;
  };
  const syncKv = {
    get: (key: string) => reads(1, kv.get(key)),
    list: (options?: SyncKvListOptions) => {
      const all = [...kv.list(options)];
      return reads(all.length, all);
    },
    put: (key: string, value: unknown) => {
      kv.put(key, value);
      writes(1);
    },
    delete: (key: string) => {
      const isDeleted = kv.delete(key);
      writes(isDeleted ? 1 : 0);
      return isDeleted;
    },
  };
  const count = (keys: unknown): number => (Array.isArray(keys) ? keys.length : 1);
  return proxied(storage, {
    kv: proxied(kv, syncKv),
    sql: proxied(sql, {
      exec: (query: string, ...bindings: unknown[]) => {
        const cursor = sql.exec(query, ...bindings);
        meter.cursor(cursor);
        return cursor;
      },
    }),
    get: (keys: never, options?: never) => reads(count(keys), storage.get(keys, options)),
    list: async (options?: DurableObjectListOptions) => {
      const all = await storage.list(options);
      return reads(all.size, all);
    },
    put: (...args: [never, never]) => {
      const [key] = args as [unknown, unknown];
      writes(typeof key === "string" ? 1 : Object.keys(key as object).length);
      return storage.put(...args);
    },
    delete: (keys: never, options?: never) => {
      writes(count(keys));
      return storage.delete(keys, options);
    },
    getAlarm: async () => reads(1, meter.alarmAtMs),
    setAlarm: async (at: number | Date) => {
      meter.alarmAtMs = Number(at);
      writes(1);
    },
    deleteAlarm: async () => {
      writes(meter.alarmAtMs === null ? 0 : 1);
      meter.alarmAtMs = null;
    },
  });
}

// ── Bindings ────────────────────────────────────────────────────────────────────────────────────

/** An actor's stub that counts what is asked of it. */
function meteredStub(stub: DurableObjectStub, meter: Meter): DurableObjectStub {
  return new Proxy(stub, {
    get(_, name) {
      if (name !== "fetch" && name !== "ingest") return Reflect.get(stub, name, stub);
      return async (...args: unknown[]) => {
        meter.calls += 1;
        meters.called = meter;
        await evictIdle(meter, () => stub);
        const method = Reflect.get(stub, name, stub) as (...args: unknown[]) => Promise<unknown>;
        return Reflect.apply(method, stub, args);
      };
    },
  });
}

let overrides: Record<string, string> = {};

/** Gives variables another value, for Worker and actors. */
export function override(variables: Record<string, string>): void {
  overrides = variables;
}

/** Bindings that count what is asked of them. */
export function meteredEnv<E extends object>(env: E): E {
  const own = Object.entries({ ...env, ...overrides }).map(([name, binding]) => [
    name,
    meteredBinding(name, binding),
  ]);
  return Object.fromEntries(own);
}

function meteredBinding(name: string, binding: unknown): unknown {
  if (isNamespace(binding)) {
    const get = (id: DurableObjectId) =>
      meteredStub(binding.get(id), meters.of(name, id.name ?? ""));
    return proxied(binding, {
      get,
      getByName: (actor: string) => get(binding.idFromName(actor)),
    });
  }
  if (isKv(binding)) {
    return proxied(binding, {
      get: (...args: Parameters<KVNamespace["get"]>) => {
        meters.kvReads += 1;
        return binding.get(...args);
      },
      put: (...args: Parameters<KVNamespace["put"]>) => {
        meters.kvWrites += 1;
        return binding.put(...args);
      },
    });
  }
  return isD1(binding)
    ? proxied(binding, { prepare: (sql: string) => counted(binding.prepare(sql)) })
    : binding;
}

/** A statement whose rows are counted, as D1 says that it bills them. */
function counted(statement: D1PreparedStatement): D1PreparedStatement {
  const note = <T>({ results, meta, ...rest }: D1Result<T>): D1Result<T> => {
    meters.d1RowsRead += meta.rows_read;
    meters.d1RowsWritten += meta.rows_written;
    return { results, meta, ...rest };
  };
  return proxied(statement, {
    bind: (...values: unknown[]) => counted(statement.bind(...values)),
    run: async () => note(await statement.run()),
    all: async () => note(await statement.all()),
    first: async (column?: string) => {
      const [row] = note(await statement.all<Record<string, unknown>>()).results;
      return column === undefined ? (row ?? null) : (row?.[column] ?? null);
    },
  });
}

const has = (binding: unknown, ...methods: string[]): boolean =>
  typeof binding === "object" &&
  binding !== null &&
  methods.every((name) => typeof Reflect.get(binding, name) === "function");
const isNamespace = (binding: unknown): binding is DurableObjectNamespace =>
  has(binding, "idFromName", "getByName");
const isKv = (binding: unknown): binding is KVNamespace => has(binding, "getWithMetadata", "put");
const isD1 = (binding: unknown): binding is D1Database => has(binding, "prepare", "batch");

// ── The director's means ────────────────────────────────────────────────────────────────────────

/** Evicts an actor that has hibernated by the moved clock: its next event starts it anew, for real. */
export async function evictIdle(meter: Meter, stub = meter.stub): Promise<void> {
  while (meter.instant > 0) await breathe();
  const isIdle = meter.isRunning && meter.holds === 0;
  if (isIdle && clock.now - meter.endedAtMs >= HIBERNATES_AFTER_MS) {
    meter.isRunning = false;
    meter.leaving = unsafe.evict(stub(), { webSockets: "hibernate" }).catch((error: unknown) => {
      if (!/not.*running/i.test(String(error))) throw error;
    });
  }
  await meter.leaving;
}

export async function ringAlarm(meter: Meter): Promise<void> {
  await evictIdle(meter);
  await backstage(meter).costAlarm();
}

function backstage(meter: Meter): Backstage {
  return meter.stub() as unknown as Backstage;
}

/** Waits until nobody does anything but wait for the clock, or for a message. */
export async function settle(sent: () => boolean = () => true): Promise<void> {
  const ROUNDS = 200;
  let busyBefore = -1;
  for (let round = 0, quiet = 0; round < ROUNDS && quiet < 3; round++) {
    await breathe();
    let busy = 0;
    for (const { holds } of meters.actors.values()) busy += holds;
    quiet = busy === busyBefore && sent() ? quiet + 1 : 0;
    busyBefore = busy;
  }
}
