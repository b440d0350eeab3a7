import type { StandardSchemaV1 } from "@standard-schema/spec";
import type { Codec } from "../wire/codec.ts";
import type { AckOf, Payload } from "../wire/events.ts";
import type { MessageFrame, Untyped } from "../wire/frames.ts";
import type { CallableRoom, CallMap } from "./call.ts";
import type { Counters } from "./counters.ts";
import type { Shard } from "./distribution.ts";
import type {
  ActorEmit,
  AnyEvents,
  BroadcastOptions,
  EmitBuilder,
  EventMap,
  SocketEmit,
} from "./emit.ts";
import type { RoomLog } from "./history.ts";
import type { Limits } from "./limits.ts";
import type { Liveness } from "./liveness.ts";
import type { Entry, LogOptions } from "./log.ts";
import type { ConnectionMeta } from "./meta.ts";
import type { DepartureInfo, Session } from "./session.ts";
import type { Timers } from "./timers.ts";

export type { Shard } from "./distribution.ts";
export type { EventMap } from "./emit.ts";
export type { ConnectionMeta } from "./meta.ts";

type Awaitable<T> = T | Promise<T>;

/** What a session that was resumed has gone through. */
export interface ResumeInfo {
  /** How many frames it had missed, and has been sent now. */
  replayed: number;
  /** Whether it had missed a frame of `session.sendSnapshot`: the newest one is due. */
  missedSnapshot: boolean;
  /** Whether its grace was over, so that `onDisconnect` had run. */
  wasGone: boolean;
}

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
  /**
   * Stores the name, once. Some runtimes do not know it when an alarm starts the actor: `wrangler dev`, after
   * it was started anew. For rooms whose timers need it.
   */
  keepName(): void;
  readonly emit: ActorEmit<M, V>;
  /** Named deadlines that survive hibernation; each runs the room's `timer` of that name. */
  readonly timers: Timers;
  /** What is counted for Analytics Engine, where the deployment has the binding `METRICS`. */
  readonly counters: Counters;
  /** Its place in a room that has {@link RoomDefinition.shards}; undefined where the room is one actor. */
  readonly shard: Shard | undefined;
  /** The events that were emitted, as far back as {@link RoomDefinition.log} keeps them. */
  readonly log: RoomLog;
  /** Emits `data`, whose `type` is the event, to a channel. Verani's; use `emit.to(channel)`. @returns to how many sockets */
  broadcast(channel: string, data: unknown, options?: BroadcastOptions): number;
  /** Emits to all in a channel. @returns to how many sockets */
  emitToChannel<K extends keyof V["out"] & string>(
    channel: string,
    event: K,
    ...[data]: Payload<V["out"][K]>
  ): number;
  /** Emits to all sockets of a user. @returns to how many sockets */
  emitToUser<K extends keyof V["out"] & string>(
    userId: string,
    event: K,
    ...[data]: Payload<V["out"][K]>
  ): number;
  /** As `broadcast`, to the sockets of a user. Verani's; use `emit.toUser(userId)`. */
  sendToUser(userId: string, channel: string, data?: unknown): number;
  /** The number of live connections. */
  getSessionCount(): number;
  /** The users with live connections, each once. */
  getConnectedUserIds(): string[];
  /** The sockets of a user. Verani's; use `sessionsOf`. */
  getUserSessions(userId: string): WebSocket[];
  /** The live connections of a user. */
  sessionsOf(userId: string): ReadonlySet<Session<M>>;
  /**
   * Closes a user's connections, and ends the sessions that could be resumed. With 4401 the user's
   * departure is `expired`, with 4403 and 4404 `kicked`.
   *
   * @param code 4401, 4403 or 4404: after another one clients of protocol 3 resume
   * @param matches default: all
   * @returns how many sessions
   */
  closeUser(
    userId: string,
    code: number,
    reason: string,
    matches?: (session: Session<M>) => boolean,
  ): number;
  /** Ends sessions whose socket is dead or not open any more. @returns how many */
  cleanupStaleSessions(): number;
  /** The actor's storage. Events emitted inside its `transaction` leave with the commit. */
  getStorage(): DurableObjectStorage;
  /**
   * Sends a frame of which clients need only the newest to the sessions for which `matches` is true.
   * After a break it is not sent again: a room whose `onResume` runs sends what is newest then.
   *
   * @returns how many sessions get it
   */
  sendNewest(text: string, matches: (session: Session<M>) => boolean): number;
  /** Runs `build` once before the next flush, however often it is requested: for diffs. */
  atFlush(key: string, build: () => void): void;
  /** Keeps the actor awake until `promise` settles; a rejection is logged. */
  keep(promise: Promise<unknown>): void;
}

/** The argument of the lifecycle hooks. */
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
  /** Emits to all sockets of a user, whatever channels have the same name. */
  toUser(userId: string): EmitBuilder<V>;
  /** Emits to all in a channel but this socket. */
  toChannel(channel: string): EmitBuilder<V>;
  /**
   * Whether the token allows an operation in this room: `meta.cap`, as `rollcall/access` reads it, on
   * `room:<name of the actor>`. True where the meta has no `cap`.
   */
  can(operation: string): boolean;
}

/** The argument of event handlers. */
export interface MessageContext<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> extends RoomContext<M, E, V> {
  readonly frame: MessageFrame;
}

/** A handler of an event. Its return value is the ack of a frame that asked for one. */
export type EventHandler<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
  D = Untyped,
  R = unknown,
> = (ctx: MessageContext<M, E, V>, data: D) => R;

/** What a handler of `K` returns: the ack that the event map declares, or anything. */
type Returned<V extends EventMap, K> = Awaitable<AckOf<V, K, unknown>>;

/**
 * Nothing more where the schema `S` fits an event with data `D`: it gives what the event has, or takes
 * all that the event has, and so may give something else of it.
 */
type Fitting<S extends StandardSchemaV1, D> = [StandardSchemaV1.InferOutput<S>] extends [D]
  ? unknown
  : [D] extends [StandardSchemaV1.InferInput<S>]
    ? unknown
    : StandardSchemaV1<unknown, D>;

/** Runs in the actor for a call from a Worker; returns plain data. */
type CallHandler<M extends ConnectionMeta, E, V extends EventMap, D> = (
  actor: VeraniActor<M, E, V>,
  data: D,
) => unknown;

type TimerHandler<M extends ConnectionMeta, E, V extends EventMap> = (
  actor: VeraniActor<M, E, V>,
) => Awaitable<void>;

/** What {@link defineRoom} takes. Every hook and option may be absent. */
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
   * The meta of a client that connects. Throwing refuses the upgrade: a RollcallError with its
   * status, anything else with 401. By default the user is `userId=` of the query, or `anonymous`.
   */
  extractMeta?(req: Request, env: E): Awaitable<M>;
  /** The socket gets events of its channels once this is done. Throwing closes it. */
  onConnect?(ctx: RoomContext<M, E, V>): Awaitable<void>;
  /**
   * Runs in place of `onConnect` when a client has resumed its session (protocol 3), once what it had
   * missed is sent. Meta, channels and state are as they were.
   */
  onResume?(ctx: RoomContext<M, E, V>, info: ResumeInfo): Awaitable<void>;
  /**
   * Runs before a new token of a client counts, which it shows without connecting again. Throwing refuses
   * the token: the session goes on with the one before. `fresh` is the meta that the token would give.
   */
  onRefresh?(ctx: RoomContext<M, E, V>, fresh: M): Awaitable<void>;
  /**
   * Exactly once per session whose `onConnect` succeeded, however it ends. A session of protocol 3
   * that lost its socket ends after `graceMs`; if its client resumes it even later, once more.
   */
  onDisconnect?(ctx: RoomContext<M, E, V>, info: DepartureInfo): Awaitable<void>;
  /** Takes frames for which no handler of {@link Room.on} exists. Its return value is the ack. */
  onMessage?(ctx: MessageContext<M, E, V>, frame: MessageFrame): unknown;
  /** Called with what a hook or handler throws, beside the error that the client receives. */
  onError?(error: Error, ctx: RoomContext<M, E, V>): Awaitable<void>;
  /**
   * Runs after every start of an instance, before its first event, also when no socket is left. The
   * sessions are those of the last instance, including one whose close woke the actor.
   */
  onHibernationRestore?(actor: VeraniActor<M, E, V>): Awaitable<void>;
  /** Gets what another shard of the room has sent by `actor.shard.relay`. What it throws is logged. */
  onRelay?(actor: VeraniActor<M, E, V>, data: unknown, from: number): void;
  /**
   * When {@link onDue} must run, in ms since the epoch: for a deadline that follows from the room's
   * state, and so needs no row as `actor.timers.set` does. Called at a start, before
   * `onHibernationRestore`, and after each alarm; if it comes nearer in between, call
   * `actor.timers.wakeAt`. A time that has passed comes at once. If this or `onDue` throws, or the
   * deadline stays after `onDue`, it is tried again ever more rarely, and given up after a day.
   */
  dueAt?(actor: VeraniActor<M, E, V>): number | undefined;
  /** Runs when the time of {@link RoomDefinition.dueAt} has come. */
  onDue?(actor: VeraniActor<M, E, V>): Awaitable<void>;
  codec?: Codec;
  flushMs?: number;
  /**
   * How long a session of protocol 3 that lost its socket counts as present, in ms. Default 5 000;
   * 0: it disconnects at once.
   */
  graceMs?: number;
  /** How long after the loss its client can resume it, in ms. Default 120 000; 0: never. */
  resumeMs?: number;
  /** What is kept of the room's events, for sessions that resume and for history. */
  log?: Partial<LogOptions> | ((env: E) => Partial<LogOptions>);
  /**
   * Whether a client may read events of before it connected, in a room whose log is durable. Default:
   * every client whose token allows `history`, of the channels that it is in.
   */
  mayReadHistory?(meta: M): boolean;
  /** The events of `actor.log.append` that the room has stored itself, with a row of its own. */
  storedEvents?(storage: DurableObjectStorage): Iterable<Entry>;
  limits?: Partial<Limits>;
  /**
   * Events of which only the newest of a client counts, such as where its cursor is, with the frames
   * that a client may send of each in a second. They do not count towards `limits`; beyond their own
   * limit the newest waits, and those before it are dropped. More than a second's worth at once beyond
   * it closes the socket with 4429.
   */
  newest?: Readonly<Record<string, number>>;
  liveness?: Partial<Liveness>;
  /**
   * Distributes each room over so many actors, by the ids of its users: an integer from 1 to 256, or what a
   * function gives for a room's name. Default 1. Needs `createActorHandler` of `rollcall`, and Workers that
   * reach a room by the class's `get(name)` or by `roomStub`. Where it changes, all connections begin anew.
   */
  shards?: number | ((room: string, env: E) => number);
}

/** The calls of a room that has declared none. */
export type NoCalls = Record<never, never>;

/** Verani's interface to a room's handlers. */
export interface RoomEventEmitter<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
> {
  /** Adds a handler. */
  on(event: string, handler: EventHandler<M, E, V>): void;
  /** Removes a handler, or all of the event. */
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
  /** For types only: a client's, by `typeof`. */
  readonly "~events"?: V;
  /** Handlers of an event in the order they were added; those of `*` come after, for every event. */
  handlersOf(event: string): readonly Handler<M, E, V>[];
  readonly callHandlers: ReadonlyMap<
    string,
    { schema: StandardSchemaV1; run: CallHandler<M, E, V, Untyped> }
  >;
  readonly timerHandlers: ReadonlyMap<string, TimerHandler<M, E, V>>;
  /**
   * Adds a handler of an event, which gets whatever the client has sent.
   *
   * @param handler returns the ack; of the shape that the event map's `acks` declare, where they do
   */
  on<K extends keyof V["in"] & string>(
    event: K,
    handler: EventHandler<M, E, V, V["in"][K], Returned<V, K>>,
  ): void;
  /**
   * Adds a handler of an event with a schema.
   *
   * @param schema a Standard Schema (zod, valibot, …): bad data gives the sender an `error` event
   *   with code `invalid_data`, and the handler is not run
   * @param handler gets what the schema makes of the data; returns the ack
   */
  on<K extends keyof V["in"] & string, S extends StandardSchemaV1>(
    event: K,
    schema: S & Fitting<S, V["in"][K]>,
    handler: EventHandler<M, E, V, StandardSchemaV1.InferOutput<S>, Returned<V, K>>,
  ): void;
  /** Adds a handler of every event. */
  on(event: "*", handler: EventHandler<M, E, V>): void;
  /**
   * Removes a handler.
   *
   * @param handler default: all of the event
   */
  off(event: (keyof V["in"] & string) | "*", handler?: EventHandler<M, E, V, never>): void;
  /**
   * Declares a call: what a Worker runs with `call(stub, room).<name>(data)`.
   *
   * @param name not one that the room has, nor `then`, which would make a promise of {@link call}
   * @param schema of the data, which is checked in the actor
   * @param handler returns plain data, or throws a RollcallError or AppError, which reaches the caller
   * @returns the same room, whose type now has the call
   *
   * @example
   * const tally = defineRoom<ConnectionMeta, Env>({ name: "tally" })
   *   .call("add", z.number(), (actor, n) => sumOf(actor).add(n));
   * await call(env.TALLY.getByName("main"), tally).add(3);
   */
  call<N extends string, S extends StandardSchemaV1, R>(
    name: N extends "then" | keyof C ? never : N,
    schema: S,
    handler: (actor: VeraniActor<M, E, V>, data: StandardSchemaV1.InferOutput<S>) => R,
  ): Room<M, E, V, C & { [K in N]: { in: StandardSchemaV1.InferInput<S>; out: Awaited<R> } }>;
  /** @deprecated use {@link Room.call}, which types the caller too */
  ingest<S extends StandardSchemaV1>(
    name: string,
    schema: S,
    handler: CallHandler<M, E, V, StandardSchemaV1.InferOutput<S>>,
  ): void;
  /** Declares the handler that runs when the deadline `name` of `actor.timers` has come. */
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
  const callHandlers = new Map<
    string,
    { schema: StandardSchemaV1; run: CallHandler<M, E, V, Untyped> }
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
    handlersOf(event) {
      const own = handlers.get(event) ?? [];
      const any = event === "*" ? undefined : handlers.get("*");
      return any ? [...own, ...any] : own;
    },
    callHandlers,
    timerHandlers,
    on,
    off,
    call(name, schema, run) {
      callHandlers.set(name, { schema, run });
      return room as never;
    },
    ingest(name, schema, run) {
      callHandlers.set(name, { schema, run });
    },
    timer(name, run) {
      timerHandlers.set(name, run);
    },
  };
  return room;
}

/** State of one actor instance: made at the first call for it, gone with the instance. */
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
