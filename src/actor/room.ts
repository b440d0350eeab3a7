import type { StandardSchemaV1 } from "@standard-schema/spec";
import type { Codec } from "../wire/codec.ts";
import type { MessageFrame, Untyped } from "../wire/frames.ts";
import type { CallableRoom, CallMap } from "./call.ts";
import type { ActorEmit, SocketEmit } from "./emit.ts";
import type { Session } from "./session.ts";
import type { Timers } from "./timers.ts";

type Awaitable<T> = T | Promise<T>;

/** What a room knows of a connection. Kept with the socket, so it survives hibernation. */
export interface ConnectionMeta {
  /** 1–256 characters. */
  userId: string;
  /** 1–256 characters; one per connection, by the room's own choice. */
  clientId: string;
  /** Channels this connection hears. */
  channels: string[];
  /** Server time in ms at which the connection is closed with 4401, for tokens that expire. */
  expiresAtMs?: number;
}

/** Names and types the events of a room, seen from the server: `in` from clients, `out` to them. */
export interface EventMap {
  in: object;
  out: object;
}
export interface AnyEvents {
  in: Record<string, Untyped>;
  out: Record<string, Untyped>;
}

/** Whom {@link VeraniActor.broadcast} reaches within the channel. */
export interface BroadcastOptions {
  except?: WebSocket;
  userIds?: string[];
  clientIds?: string[];
}
/** As {@link BroadcastOptions}, without the socket, which cannot travel over RPC. */
export type RpcBroadcastOptions = Omit<BroadcastOptions, "except">;

/** The actor as a room's handlers see it. */
export interface VeraniActor<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> {
  /** Live connections by socket. */
  readonly sessions: ReadonlyMap<WebSocket, Session<M>>;
  readonly env: E;
  /** The name the actor was addressed by (`idFromName`), or its id where it has none. */
  readonly name: string;
  readonly emit: ActorEmit<M, V>;
  /** Named deadlines that survive hibernation; each runs the room's `timer` of that name. */
  readonly timers: Timers;
  broadcast(channel: string, data: unknown, options?: BroadcastOptions): number;
  emitToChannel(channel: string, event: string, data?: unknown): number;
  emitToUser(userId: string, event: string, data?: unknown): number;
  sendToUser(userId: string, channel: string, data?: unknown): number;
  getSessionCount(): number;
  getConnectedUserIds(): string[];
  getUserSessions(userId: string): WebSocket[];
  /** The live connections of a user. */
  sessionsOf(userId: string): ReadonlySet<Session<M>>;
  /** Drops sessions whose socket is not open any more; says how many. */
  cleanupStaleSessions(): number;
  /** The actor's storage. What is emitted inside its `transaction` leaves with the commit. */
  getStorage(): DurableObjectStorage;
  /** Runs `build` once, before the next flush, however often it is asked: for diffs. */
  atFlush(key: string, build: () => void): void;
  /** Keeps the actor awake until `promise` settles; a rejection is logged. */
  keep(promise: Promise<unknown>): void;
}

/** What the lifecycle hooks get. */
export interface RoomContext<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> {
  readonly actor: VeraniActor<M, E, V>;
  readonly ws: WebSocket;
  readonly session: Session<M>;
  /** Mutate it freely: it is written back after the handler. */
  meta: M;
  readonly emit: SocketEmit<V>;
}

/** What event handlers get. */
export interface MessageContext<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> extends RoomContext<M, E, V> {
  readonly frame: MessageFrame;
}

/** What a handler returns is the ack of a frame that asked for one. */
export type EventHandler<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
  D = Untyped,
> = (ctx: MessageContext<M, E, V>, data: D) => unknown;

/** Runs in the actor for a call of `stub.ingest(name, data)`; returns plain values. */
export type IngestHandler<M extends ConnectionMeta, E, V extends EventMap, D> = (
  actor: VeraniActor<M, E, V>,
  data: D,
) => unknown;

export type TimerHandler<M extends ConnectionMeta, E, V extends EventMap> = (
  actor: VeraniActor<M, E, V>,
) => Awaitable<void>;

/** Each limit with the attack or mishap it stops. `Infinity` takes one away. */
export interface Limits {
  /** Bytes of one frame from a client; more closes the socket with 1009. */
  frameBytes: number;
  /** Frames a socket may send per second, on the long run; more gives `rate_limited`, then 4429. */
  framesPerSecond: number;
  /** Frames a socket may send at once. */
  framesBurst: number;
  /** Sockets of one user in this room. */
  socketsPerUser: number;
  /** Sockets in this room; the runtime itself takes 32 768. */
  sockets: number;
}

export const LIMITS: Limits = {
  frameBytes: 65_536,
  framesPerSecond: 50,
  framesBurst: 100,
  socketsPerUser: 256,
  sockets: 20_000,
};

/** When a silent socket counts as dead. Pings are answered by the runtime and wake nobody. */
export interface Liveness {
  /** The longest ping interval that a client may have, in ms; told in `hello`. */
  pingMs: number;
  /**
   * Time for the ping with which a client of protocol 2 begins, in ms: an upgrade whose client went
   * before its answer came leaves a socket that looks open. One look for all who came meanwhile.
   */
  firstPingMs: number;
  /** Silence after which a socket of protocol 2 is closed with 4408, in ms. */
  deadAfterMs: number;
  /** The same for a client of protocol 1, which was not told `pingMs`. */
  legacyDeadAfterMs: number;
  /** Least time between two looks at the sockets, each a wake-up and a row, in ms. */
  sweepMs: number;
  /**
   * Above 0: clients that can (those of protocol 2 with `probe=1`, as `VeraniClient`) have the actor
   * look, one for all, where nobody has for so long, in ms, and a ping interval more. While all can,
   * looks cost no row, and only a room in which all died at once keeps them for up to 10 minutes: none
   * of its members is left to see it. For rooms whose `onDisconnect` nobody else waits for.
   */
  probeMs: number;
  /**
   * Whether a socket of protocol 1 that never pinged can be dead: false spares clients that never
   * ping. Those of protocol 2 have to, unless `pingMs` is 0.
   */
  requirePing: boolean;
}

/**
 * A dead peer is gone within a minute, at one alarm per 45 s while anyone is connected; one that
 * never came about within 7 s, at one more after a join.
 */
export const LIVENESS: Liveness = {
  pingMs: 5_000,
  firstPingMs: 7_000,
  deadAfterMs: 15_000,
  legacyDeadAfterMs: 45_000,
  sweepMs: 45_000,
  probeMs: 0,
  requirePing: false,
};

/** Time that frames to one socket are gathered while events keep coming, in ms. */
export const FLUSH_MS = 20;

export interface RoomDefinition<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> {
  /** In PascalCase it is the class's name, by which `createActorHandler(room).get(id)` finds it. */
  name?: string;
  /** Path of the upgrade (default `/ws`). */
  websocketPath?: string;
  /**
   * Who connects. Throwing refuses the upgrade: a RollcallError with its status, anything else
   * with 401. Without it everyone is `userId=` of the query, or `anonymous`.
   */
  extractMeta?(req: Request, env: E): Awaitable<M>;
  /** The socket hears its channels from when this is done. Throwing closes it. */
  onConnect?(ctx: RoomContext<M, E, V>): Awaitable<void>;
  /** Exactly once per connection whose `onConnect` succeeded, however it ends. */
  onDisconnect?(ctx: RoomContext<M, E, V>): Awaitable<void>;
  /** Frames that no handler of {@link Room.on} takes. What it returns is the ack. */
  onMessage?(ctx: MessageContext<M, E, V>, frame: MessageFrame): unknown;
  onError?(error: Error, ctx: RoomContext<M, E, V>): Awaitable<void>;
  /**
   * After every start of an instance, before its first event, also when no socket is left. The
   * sessions are those that were there before, also one whose close woke the actor.
   */
  onHibernationRestore?(actor: VeraniActor<M, E, V>): Awaitable<void>;
  /**
   * When {@link onDue} must run, in ms since the epoch: for a deadline that follows from what the
   * room knows anyway, and so costs no row of its own as `actor.timers.set` would. Asked at a start,
   * before `onHibernationRestore`, and after each alarm; when it comes nearer in between, say so
   * with `actor.timers.wakeAt`.
   */
  dueAt?(actor: VeraniActor<M, E, V>): number | undefined;
  onDue?(actor: VeraniActor<M, E, V>): Awaitable<void>;
  codec?: Codec;
  flushMs?: number;
  limits?: Partial<Limits>;
  liveness?: Partial<Liveness>;
}

/** The calls of a room that has declared none. */
export type NoCalls = Record<never, never>;

/** Verani's view of a room's handlers. */
export interface RoomEventEmitter<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> {
  on(event: string, handler: EventHandler<M, E, V>): void;
  off(event: string, handler?: EventHandler<M, E, V>): void;
}

interface Handler<M extends ConnectionMeta, E, V extends EventMap> {
  schema: StandardSchemaV1 | undefined;
  run: EventHandler<M, E, V>;
}

/** A declared room: its definition and its handlers. */
export interface Room<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
  C extends CallMap = NoCalls,
> extends RoomDefinition<M, E, V>,
    CallableRoom<C> {
  readonly eventEmitter: RoomEventEmitter<M, E, V>;
  /** Handlers of an event in the order they were added; those of `*` come after, for every event. */
  handlersOf(event: string): Handler<M, E, V>[];
  readonly ingests: ReadonlyMap<
    string,
    { schema: StandardSchemaV1; run: IngestHandler<M, E, V, Untyped> }
  >;
  readonly timerHandlers: ReadonlyMap<string, TimerHandler<M, E, V>>;
  /**
   * @param event its name, or `*` for every event
   * @param schema a Standard Schema (zod, valibot, …): bad data gives the sender an `error` event
   *   with code `invalid_data`, and the handler is not run
   */
  on<K extends keyof V["in"] & string>(event: K, handler: EventHandler<M, E, V, V["in"][K]>): void;
  on<K extends keyof V["in"] & string, S extends StandardSchemaV1>(
    event: K,
    schema: S,
    handler: EventHandler<M, E, V, StandardSchemaV1.InferOutput<S>>,
  ): void;
  on(event: "*", handler: EventHandler<M, E, V>): void;
  off(event: string, handler?: EventHandler<M, E, V, never>): void;
  /**
   * Declares a call: what a Worker runs with `call(stub, room).<name>(data)`.
   *
   * @param schema of the data, which is checked in the actor
   * @param handler returns plain data, or throws a RollcallError, which reaches the caller
   * @returns the same room, whose type now has the call
   *
   * @example
   * const tally = defineRoom<ConnectionMeta, Env>({ name: "tally" })
   *   .call("add", z.number(), (actor, n) => sumOf(actor).add(n));
   * await call(env.TALLY.getByName("main"), tally).add(3);
   */
  call<N extends string, S extends StandardSchemaV1, R>(
    name: N,
    schema: S,
    handler: (actor: VeraniActor<M, E, V>, data: StandardSchemaV1.InferOutput<S>) => R,
  ): Room<M, E, V, C & { [K in N]: { in: StandardSchemaV1.InferInput<S>; out: Awaited<R> } }>;
  /** @deprecated use {@link Room.call}, which types the caller too */
  ingest<S extends StandardSchemaV1>(
    name: string,
    schema: S,
    handler: IngestHandler<M, E, V, StandardSchemaV1.InferOutput<S>>,
  ): void;
  /** Declares what runs when the deadline `name` of `actor.timers` has come. */
  timer(name: string, handler: TimerHandler<M, E, V>): void;
}
/** Verani's name for {@link Room}. */
export type RoomDefinitionWithHandlers<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
> = Room<M, E>;

/**
 * Declares a room.
 *
 * @example
 * const chat = defineRoom<ConnectionMeta, Env>({ name: "chat", websocketPath: "/ws/chat" });
 * chat.on("say", z.object({ text: z.string().max(500) }), (ctx, { text }) => {
 *   ctx.actor.emit.to("default").emit("said", { from: ctx.meta.userId, text });
 * });
 * export class Chat extends createActorHandler(chat) {}
 */
export function defineRoom<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
>(definition: RoomDefinition<M, E, V>): Room<M, E, V> {
  const handlers = new Map<string, Handler<M, E, V>[]>();
  const ingests = new Map<
    string,
    { schema: StandardSchemaV1; run: IngestHandler<M, E, V, Untyped> }
  >();
  const timerHandlers = new Map<string, TimerHandler<M, E, V>>();

  function on(event: string, ...rest: unknown[]): void {
    const run = rest.at(-1) as EventHandler<M, E, V>;
    const schema = rest.length > 1 ? (rest[0] as StandardSchemaV1) : undefined;
    handlers.set(event, [...(handlers.get(event) ?? []), { schema, run }]);
  }
  function off(event: string, handler?: unknown): void {
    const left = (handlers.get(event) ?? []).filter(({ run }) => handler && run !== handler);
    if (left.length > 0) handlers.set(event, left);
    else handlers.delete(event);
  }

  const room: Room<M, E, V> = {
    ...definition,
    eventEmitter: { on, off },
    handlersOf: (event) => [...(handlers.get(event) ?? []), ...(handlers.get("*") ?? [])],
    ingests,
    timerHandlers,
    on,
    off,
    call(name, schema, run) {
      ingests.set(name, { schema, run });
      return room as never;
    },
    ingest(name, schema, run) {
      ingests.set(name, { schema, run });
    },
    timer(name, run) {
      timerHandlers.set(name, run);
    },
  };
  return room;
}

/** State of one actor instance, made when first asked for and gone with the instance. */
export function perActor<A extends object, S>(create: (actor: A) => S): (actor: A) => S {
  const states = new WeakMap<A, S>();
  return (actor) => {
    let state = states.get(actor);
    if (state === undefined) {
      state = create(actor);
      states.set(actor, state);
    }
    return state;
  };
}
