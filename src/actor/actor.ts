import { DurableObject, env as workerEnv, exports as workerExports } from "cloudflare:workers";
import { log } from "../log.ts";
import { CLOSE, sendableCode } from "../wire/close.ts";
import { veraniCodec } from "../wire/codec.ts";
import { RollcallError } from "../wire/errors.ts";
import { encodeFrame, type Hello } from "../wire/frames.ts";
import { negotiateProtocol } from "../wire/version.ts";
import type { CallResult, CallTarget, Inspection } from "./call.ts";
import { Connections } from "./connections.ts";
import { Dispatcher } from "./dispatch.ts";
import {
  type ActorEmit,
  type AnyEvents,
  type BroadcastOptions,
  Emitter,
  type EventMap,
  type RpcBroadcastOptions,
} from "./emit.ts";
import { LIMITS } from "./limits.ts";
import { LIVENESS, Sweeper } from "./liveness.ts";
import { type ConnectionMeta, checkMeta } from "./meta.ts";
import { FLUSH_MS, Outbox } from "./outbox.ts";
import type { Room, VeraniActor } from "./room.ts";
import { Session } from "./session.ts";
import { Timers } from "./timers.ts";
import { afterCommit, bufferEmits, outsideTransaction } from "./transaction.ts";

/** The actor over RPC. */
export interface ActorStub extends CallTarget {
  fetch(request: Request): Promise<Response>;
  emitToChannel(channel: string, event: string, data?: unknown): Promise<number>;
  emitToUser(userId: string, event: string, data?: unknown): Promise<number>;
  /** @deprecated use emitToUser */
  sendToUser(userId: string, channel: string, data?: unknown): Promise<number>;
  /** @deprecated use emitToChannel */
  broadcast(channel: string, data: unknown, options?: RpcBroadcastOptions): Promise<number>;
  getSessionCount(): Promise<number>;
  getConnectedUserIds(): Promise<string[]>;
  cleanupStaleSessions(): Promise<number>;
  inspect(): Promise<Inspection>;
}

/** A Durable Object class made of a room. */
export interface ActorHandlerClass<E = unknown> {
  new (
    state: DurableObjectState,
    env: E,
  ): DurableObject<E> & {
    [K in keyof ActorStub]: ActorStub[K] extends (...args: infer A) => Promise<infer R>
      ? (...args: A) => R | Promise<R>
      : never;
  };
  /**
   * The actor named `id`, found by this class's name among the Worker's bindings and exports.
   *
   * @throws Error when no binding or export bears the name
   */
  get(id: string): ActorStub;
}

/** Storage key of the number of starts, in development. */
const STARTS_KEY = "rollcall:starts";
/** Time after which a timer whose handler threw is tried again, in ms. */
const RETRY_MS = 5_000;

/** `user-presence` → `UserPresence`. */
function className(name: string): string {
  const words = name.split(/[^A-Za-z0-9]+/).filter(Boolean);
  return (
    words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("") || "VeraniActor"
  );
}

function defaultMeta(request: Request): ConnectionMeta {
  const userId = new URL(request.url).searchParams.get("userId") ?? "anonymous";
  return { userId, clientId: crypto.randomUUID(), channels: ["default"] };
}

function refusal(error: RollcallError): Response {
  return Response.json({ error: error.code, details: error.message }, { status: error.status });
}

/**
 * The Durable Object class of a room. Its class needs SQLite storage (`new_sqlite_classes`) and the
 * compatibility flag `nodejs_als` (or `nodejs_compat`).
 *
 * @example
 * export class Chat extends createActorHandler(chat) {}
 */
export function createActorHandler<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
>(room: Room<M, E, V>): ActorHandlerClass<E> {
  const codec = room.codec ?? veraniCodec;
  const limits = { ...LIMITS, ...room.limits };
  const liveness = { ...LIVENESS, ...room.liveness };
  const websocketPath = room.websocketPath ?? "/ws";
  const label = room.name ?? websocketPath;

  class Actor extends DurableObject<E> implements VeraniActor<M, E, V> {
    declare readonly env: E;
    readonly name: string;
    readonly sessions: ReadonlyMap<WebSocket, Session<M>>;
    readonly emit: ActorEmit<M, V>;
    readonly timers: Timers;
    readonly #state: DurableObjectState;
    readonly #storage: DurableObjectStorage;
    readonly #connections: Connections<M>;
    readonly #outbox: Outbox;
    readonly #sweeper: Sweeper;
    readonly #emitter: Emitter<M, V>;
    readonly #dispatcher: Dispatcher<M, E, V>;
    readonly #instance = crypto.randomUUID();
    readonly #startedAt = new Date();
    readonly #wakeUps = { fetch: 0, message: 0, close: 0, alarm: 0, rpc: 0 };
    #starts: number | null = null;
    #isAwake = false;
    /** After `onDue` has failed, the earliest time of the next try, in ms. */
    #dueNotBefore = 0;

    static get(id: string): ActorStub {
      const bindings = { ...workerExports, ...(workerEnv as object) } as Record<string, unknown>;
      // `name` is that of the class that was exported, or the room's in PascalCase.
      const namespace = bindings[this.name] as DurableObjectNamespace | undefined;
      if (typeof namespace?.idFromName !== "function") {
        throw new Error(
          `No Durable Object is bound or exported as ${this.name}: export the class under this name and list it under migrations in wrangler.toml`,
        );
      }
      return namespace.get(namespace.idFromName(id)) as unknown as ActorStub;
    }

    constructor(state: DurableObjectState, env: E) {
      super(state, env);
      this.name = state.id.name ?? state.id.toString();
      this.#state = state;
      this.#storage = bufferEmits(state.storage);
      this.#outbox = new Outbox(room.flushMs ?? FLUSH_MS, () => this.sessions.size);
      this.#connections = new Connections(
        { state, codec, limits, liveness, outbox: this.#outbox },
        (session) => this.#ended(session),
      );
      this.sessions = this.#connections.sessions;
      this.#sweeper = new Sweeper(liveness, () => this.sessions.values());
      this.#emitter = new Emitter(this.#connections);
      this.emit = this.#emitter.actor;
      this.timers = new Timers(state.storage, () => this.#nextDeadline());
      this.#dispatcher = new Dispatcher(room, label, this, {
        emitter: this.#emitter,
        sweeper: this.#sweeper,
        codec,
        frameBytes: limits.frameBytes,
      });
      state.setWebSocketAutoResponse(new WebSocketRequestResponsePair(codec.ping, codec.pong));
      for (const ws of state.getWebSockets()) {
        const session = this.#connections.restore(ws);
        if (!session) ws.close(CLOSE.internal, "Session could not be restored");
      }
      void state.blockConcurrencyWhile(async () => {
        await this.timers.load();
        if ((env as { ENVIRONMENT?: unknown }).ENVIRONMENT === "development") {
          this.#starts = (state.storage.kv.get<number>(STARTS_KEY) ?? 0) + 1;
          state.storage.kv.put(STARTS_KEY, this.#starts);
        }
      });
    }

    /**
     * Runs before the first event of an instance, and lets the room restore itself. If a close wakes
     * the actor, the runtime does not list the closed socket any more: its session is restored here,
     * so that the room sees it before its end. If several sockets have closed, the room restores
     * itself once more for each.
     */
    #wake(closing?: WebSocket): Promise<void> | undefined {
      const late = closing && !this.sessions.has(closing) && this.#connections.restore(closing);
      if (this.#isAwake && !late) return undefined;
      if (!this.#isAwake) this.#connections.sweepStorage();
      this.#isAwake = true;
      return this.#state.blockConcurrencyWhile(async () => {
        try {
          await room.onHibernationRestore?.(this);
        } catch (error) {
          log("restore_failed", { room: label, error });
        }
        this.#connections.endStale(late || undefined);
      });
    }

    // ── Events of the runtime ─────────────────────────────────────────────────────────────────

    override async fetch(request: Request): Promise<Response> {
      this.#wakeUps.fetch += 1;
      try {
        await this.#wake();
        return await this.#upgrade(request);
      } catch (thrown) {
        if (thrown instanceof RollcallError) return refusal(thrown);
        log("upgrade_failed", { room: label, error: thrown });
        return refusal(new RollcallError("internal", "Internal error"));
      }
    }

    async #upgrade(request: Request): Promise<Response> {
      const { pathname, searchParams } = new URL(request.url);
      if (pathname !== websocketPath) {
        throw new RollcallError("not_found", `WebSocket endpoint is ${websocketPath}`);
      }
      if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") {
        throw new RollcallError("upgrade_required", `${websocketPath} takes WebSockets only`);
      }
      const meta = await this.#extractMeta(request);
      this.#sweeper.sweepBeforeJoin();
      this.#connections.checkLimits(meta.userId);

      const { 0: client, 1: server } = new WebSocketPair();
      this.#state.acceptWebSocket(server);
      const protocol = negotiateProtocol(searchParams, codec.protocol2 ? 2 : 1);
      const probes = liveness.probeMs > 0 && protocol === 2 && searchParams.get("probe") === "1";
      let session: Session<M>;
      try {
        session = Session.accept(this.#connections, server, meta, protocol, probes);
      } catch (thrown) {
        server.close(CLOSE.internal, "Internal error");
        throw thrown;
      }
      this.#connections.add(session);
      this.timers.wakeAt(this.#sweeper.deadlineOf(session));
      if (protocol === 2) session.enqueue(this.#hello(session));
      await session.run(() => this.#dispatcher.connect(session));
      return new Response(null, { status: 101, webSocket: client });
    }

    async #extractMeta(request: Request): Promise<M> {
      let meta: M;
      try {
        meta = room.extractMeta
          ? await room.extractMeta(request, this.env)
          : (defaultMeta(request) as M);
      } catch (thrown) {
        if (thrown instanceof RollcallError) throw thrown;
        // Verani's rooms refuse with a plain Error; and a bug here must not let anybody in either.
        log("refused", { room: label, error: thrown });
        throw new RollcallError("unauthorized", "Connection refused");
      }
      return checkMeta(meta);
    }

    #hello(session: Session<M>): string {
      const { pingMs, probeMs } = liveness;
      const hello: Hello = {
        protocol: 2,
        session: session.id,
        epoch: this.#instance,
        seq: 0,
        pingMs,
        ...(session.probes && { lookMs: probeMs }),
      };
      return encodeFrame({ type: "hello", data: hello });
    }

    override webSocketMessage(ws: WebSocket, raw: string | ArrayBuffer): Promise<void> | void {
      this.#wakeUps.message += 1;
      const waking = this.#wake();
      return waking ? waking.then(() => this.#receive(ws, raw)) : this.#receive(ws, raw);
    }

    #receive(ws: WebSocket, raw: string | ArrayBuffer): Promise<void> | void {
      const session = this.sessions.get(ws);
      if (session) return this.#dispatcher.receive(session, raw);
    }

    override async webSocketClose(ws: WebSocket, code: number, reason: string): Promise<void> {
      this.#wakeUps.close += 1;
      await this.#wake(ws);
      const session = this.sessions.get(ws);
      try {
        WebSocket.prototype.close.call(ws, sendableCode(code), reason);
      } catch {
        // Closed on both sides already.
      }
      session?.disconnect("closed");
      await session?.run(() => {});
    }

    override async webSocketError(ws: WebSocket): Promise<void> {
      this.#wakeUps.close += 1;
      await this.#wake(ws);
      const session = this.sessions.get(ws);
      session?.close(CLOSE.internal, "Connection error", "error");
      await session?.run(() => {});
    }

    #ended(session: Session<M>): void {
      const disconnect = () => outsideTransaction(() => this.#dispatcher.disconnect(session));
      this.keep(session.run(disconnect));
    }

    override async alarm(): Promise<void> {
      this.#wakeUps.alarm += 1;
      await this.#wake();
      const now = Date.now();
      for (const name of this.timers.due(now)) {
        try {
          await room.timerHandlers.get(name)?.(this);
        } catch (error) {
          log("timer_failed", { room: label, timer: name, error });
          this.timers.soonest(name, now + RETRY_MS);
        }
        this.timers.done(name);
      }
      this.#sweeper.sweep(now);
      if (room.onDue && this.#dueAt() <= now) {
        try {
          await room.onDue(this);
        } catch (error) {
          log("due_failed", { room: label, error });
          this.#dueNotBefore = now + RETRY_MS;
        }
      }
      this.timers.rearm();
    }

    /** The earliest deadline that is stored nowhere, in ms. */
    #nextDeadline(): number | undefined {
      const dueAt = Math.max(this.#dueAt(), this.#dueNotBefore);
      const next = Math.min(dueAt, this.#sweeper.nextDeadline());
      return next === Number.POSITIVE_INFINITY ? undefined : next;
    }

    #dueAt(): number {
      return room.dueAt?.(this) ?? Number.POSITIVE_INFINITY;
    }

    // ── For handlers, and over RPC ────────────────────────────────────────────────────────────

    ingest(name: string, data: unknown): CallResult | Promise<CallResult> {
      this.#wakeUps.rpc += 1;
      const waking = this.#wake();
      return waking
        ? waking.then(() => this.#dispatcher.call(name, data))
        : this.#dispatcher.call(name, data);
    }

    emitToChannel(channel: string, event: string, data?: unknown): number {
      this.#wakeUps.rpc += 1;
      void this.#wake();
      return this.#emitter.toChannel(channel, event, data);
    }

    emitToUser(userId: string, event: string, data?: unknown): number {
      this.#wakeUps.rpc += 1;
      void this.#wake();
      return this.#emitter.toUser(userId, event, data);
    }

    broadcast(channel: string, data: unknown, options: BroadcastOptions = {}): number {
      return this.#emitter.broadcast(channel, data, options);
    }

    sendToUser(userId: string, channel: string, data?: unknown): number {
      return this.#emitter.sendToUser(userId, channel, data);
    }

    getSessionCount(): number {
      return this.sessions.size;
    }

    getConnectedUserIds(): string[] {
      return this.#connections.userIds();
    }

    getUserSessions(userId: string): WebSocket[] {
      return [...this.sessionsOf(userId)].map(({ ws }) => ws);
    }

    sessionsOf(userId: string): ReadonlySet<Session<M>> {
      return this.#connections.ofUser(userId);
    }

    cleanupStaleSessions(): number {
      const before = this.sessions.size;
      this.#connections.endStale();
      this.#sweeper.sweep(Date.now());
      return before - this.sessions.size;
    }

    inspect(): Inspection {
      const { alarmAt } = this.timers;
      return {
        instance: this.#instance,
        startedAt: this.#startedAt.toISOString(),
        starts: this.#starts,
        wakeUps: { ...this.#wakeUps },
        sessions: this.sessions.size,
        users: this.#connections.userCount,
        alarm: alarmAt === null ? null : new Date(alarmAt).toISOString(),
      };
    }

    getStorage(): DurableObjectStorage {
      return this.#storage;
    }

    atFlush(key: string, build: () => void): void {
      afterCommit(() => this.#outbox.defer(key, build));
    }

    keep(promise: Promise<unknown>): void {
      this.#state.waitUntil(promise.catch((error) => log("task_failed", { room: label, error })));
    }
  }

  Object.defineProperty(Actor, "name", { value: className(room.name ?? websocketPath) });
  return Actor as unknown as ActorHandlerClass<E>;
}

/** Verani's: makes the sessions of an actor from its sockets. Here every start does so. */
export function restoreSessions(actor: Pick<VeraniActor, "cleanupStaleSessions">): void {
  actor.cleanupStaleSessions();
}
