import { DurableObject, env as workerEnv, exports as workerExports } from "cloudflare:workers";
import type { StandardSchemaV1 } from "@standard-schema/spec";
import { log } from "../log.ts";
import { CLOSE, sendableCode } from "../wire/close.ts";
import { veraniCodec } from "../wire/codec.ts";
import { RollcallError, toErrorPayload } from "../wire/errors.ts";
import { encodeAck, encodeFrame, type Hello, type MessageFrame, PROBED } from "../wire/frames.ts";
import { negotiateProtocol } from "../wire/version.ts";
import type { IngestResult, Inspection } from "./call.ts";
import {
  type ActorEmit,
  afterCommit,
  type EmitBuilder,
  holdEmits,
  Outbox,
  outsideTransaction,
  type SocketEmit,
} from "./emit.ts";
import {
  type AnyEvents,
  type BroadcastOptions,
  type ConnectionMeta,
  type EventMap,
  FLUSH_MS,
  LIMITS,
  LIVENESS,
  type MessageContext,
  type Room,
  type RoomContext,
  type RpcBroadcastOptions,
  type VeraniActor,
} from "./room.ts";
import { checkMeta, type EndReason, Session, type SessionHost } from "./session.ts";
import { Timers } from "./timers.ts";

/** The actor over RPC. */
export interface ActorStub {
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
  /** Runs the room's ingest handler `name`. */
  ingest(name: string, data: unknown): Promise<IngestResult>;
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

const STARTS_KEY = "rollcall:starts";

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

/** At once, or as a promise where the schema needs time. */
function validate(schema: StandardSchemaV1, data: unknown): unknown {
  const checked = schema["~standard"].validate(data);
  return checked instanceof Promise ? checked.then(outputOf) : outputOf(checked);
}

function outputOf(result: StandardSchemaV1.Result<unknown>): unknown {
  if (!result.issues) return result.value;
  const issue = result.issues[0];
  const path = issue?.path?.map((part) => String(typeof part === "object" ? part.key : part));
  throw new RollcallError("invalid_data", issue?.message ?? "Invalid data", path?.join("."));
}

function isPending(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === "function";
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
  const flushMs = room.flushMs ?? FLUSH_MS;
  const websocketPath = room.websocketPath ?? "/ws";
  const label = room.name ?? websocketPath;

  class Actor extends DurableObject<E> implements VeraniActor<M, E, V>, SessionHost {
    declare readonly env: E;
    readonly state: DurableObjectState;
    readonly codec = codec;
    readonly limits = limits;
    readonly liveness = liveness;
    readonly sessions = new Map<WebSocket, Session<M>>();
    readonly name: string;
    readonly emit: ActorEmit<M, V>;
    readonly timers: Timers;
    readonly #byUser = new Map<string, Set<Session<M>>>();
    readonly #outbox: Outbox;
    readonly #storage: DurableObjectStorage;
    readonly #instance = crypto.randomUUID();
    readonly #startedAt = new Date();
    readonly #wakeUps = { fetch: 0, message: 0, close: 0, alarm: 0, rpc: 0 };
    #starts: number | null = null;
    #awake = false;
    /** A room's deadline whose handler failed waits until then, in ms. */
    #dueNotBefore = 0;
    /** When this instance last looked which sockets are dead, in ms. */
    #sweptAtMs = 0;

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
      this.state = state;
      this.name = state.id.name ?? state.id.toString();
      this.#storage = holdEmits(state.storage);
      this.#outbox = new Outbox(flushMs, () => this.sessions.size);
      this.emit = this.#actorEmit();
      this.timers = new Timers(state.storage, () => this.#nextDeadline());
      state.setWebSocketAutoResponse(new WebSocketRequestResponsePair(codec.ping, codec.pong));
      this.#restore();
      void state.blockConcurrencyWhile(async () => {
        await this.timers.load();
        if ((env as { ENVIRONMENT?: unknown }).ENVIRONMENT === "development") {
          this.#starts = (state.storage.kv.get<number>(STARTS_KEY) ?? 0) + 1;
          state.storage.kv.put(STARTS_KEY, this.#starts);
        }
      });
    }

    /** Makes the sessions from the sockets. */
    #restore(): void {
      for (const ws of this.state.getWebSockets()) {
        const session = Session.restore<M>(this, ws);
        if (!session) {
          ws.close(CLOSE.internal, "Session could not be restored");
          continue;
        }
        this.#admit(session);
      }
    }

    /**
     * Comes before the first event of an instance, and lets the room restore itself. A socket that
     * closed while the actor slept is not listed by the runtime any more when its close wakes the
     * actor: the room sees it here again before it sees it go. Should several have closed, each of
     * the others has the room restore itself once more.
     */
    #wake(closing?: WebSocket): Promise<void> | undefined {
      const late =
        closing && !this.sessions.has(closing) ? Session.restore<M>(this, closing) : null;
      if (this.#awake && !late) return undefined;
      if (late) this.#admit(late);
      if (!this.#awake) {
        const live = new Set([...this.sessions.values()].map(({ id }) => id));
        Session.sweepStorage(this.state, (id) => live.has(id));
      }
      this.#awake = true;
      return this.state.blockConcurrencyWhile(async () => {
        try {
          await room.onHibernationRestore?.(this);
        } catch (error) {
          log("restore_failed", { room: label, error });
        }
        for (const session of [...this.sessions.values()]) {
          if (session !== late && session.ws.readyState !== WebSocket.OPEN)
            session.disconnect("stale");
        }
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
      const url = new URL(request.url);
      if (url.pathname !== websocketPath) {
        throw new RollcallError("not_found", `WebSocket endpoint is ${websocketPath}`);
      }
      if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") {
        throw new RollcallError("upgrade_required", `${websocketPath} takes WebSockets only`);
      }
      const meta = await this.#extractMeta(request);
      // Who comes in is not to meet those who died where nobody was left to have them missed.
      if (liveness.probeMs > 0) this.#sweepUnlessJustDone();
      if (this.sessions.size >= limits.sockets) {
        throw new RollcallError("too_many_sockets", "The room is full");
      }
      if (this.sessionsOf(meta.userId).size >= limits.socketsPerUser) {
        throw new RollcallError("too_many_sockets", "This user has too many connections");
      }

      const { 0: client, 1: server } = new WebSocketPair();
      this.state.acceptWebSocket(server);
      const query = url.searchParams;
      const protocol = negotiateProtocol(query, codec.protocol2 ? 2 : 1);
      const probes = liveness.probeMs > 0 && protocol === 2 && query.get("probe") === "1";
      let session: Session<M>;
      try {
        session = Session.accept(this, server, meta, protocol, probes);
      } catch (thrown) {
        server.close(CLOSE.internal, "Internal error");
        throw thrown;
      }
      this.#admit(session);
      this.#watchOver(session);
      if (protocol === 2) {
        const { pingMs, probeMs } = liveness;
        const hello: Hello = {
          protocol,
          session: session.id,
          epoch: this.#instance,
          seq: 0,
          pingMs,
          ...(probes && { lookMs: probeMs }),
        };
        session.enqueue(encodeFrame({ type: "hello", data: hello }));
      }
      await session.run(() => this.#connect(session));
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
        // Verani's rooms throw a plain Error for "go away"; a bug here must not let anybody in either.
        log("refused", { room: label, error: thrown });
        throw new RollcallError("unauthorized", "Connection refused");
      }
      return checkMeta(meta);
    }

    async #connect(session: Session<M>): Promise<void> {
      const ctx = this.#context(session);
      try {
        await room.onConnect?.(ctx);
      } catch (error) {
        const code = error instanceof RollcallError ? error.closeCode : CLOSE.internal;
        await this.#failed(error, ctx);
        session.close(code, toErrorPayload(error).message);
        return;
      }
      if (session.ended) return this.#disconnect(session);
      session.open = true;
      this.#writeBack(session);
    }

    override webSocketMessage(ws: WebSocket, raw: string | ArrayBuffer): Promise<void> | void {
      this.#wakeUps.message += 1;
      const waking = this.#wake();
      return waking ? waking.then(() => this.#receive(ws, raw)) : this.#receive(ws, raw);
    }

    #receive(ws: WebSocket, raw: string | ArrayBuffer): Promise<void> | void {
      const session = this.sessions.get(ws);
      if (!session) return;
      const now = Date.now();
      if (now >= expiry(session)) return this.#expire(session);
      const verdict = session.admit(now);
      if (verdict !== "ok") {
        if (verdict === "flooding") session.close(CLOSE.rateLimited, "Too many frames");
        else if (verdict === "limited") {
          session.sendError({
            code: "rate_limited",
            message: "Too many frames; some were dropped",
          });
        }
        return;
      }
      let frame: MessageFrame | null;
      try {
        frame = codec.parse(raw, limits.frameBytes);
      } catch (thrown) {
        if (!(thrown instanceof RollcallError)) log("parse_failed", { room: label, error: thrown });
        if (thrown instanceof RollcallError && thrown.code === "too_large") {
          session.close(CLOSE.tooBig, thrown.message);
        } else session.sendError(toErrorPayload(thrown));
        return;
      }
      if (frame === null) return;
      if (frame.type === "ping") session.enqueue(codec.pong);
      else if (frame.type === "probe" && session.probes) this.#probe(session);
      else if (session.protocol === 2 && frame.type === "ack") {
        session.settleAck(frame.id ?? "", { data: frame.data });
      } else if (session.protocol === 2 && frame.type === "nack") {
        const why = frame.error?.message || "The client refused";
        const error = new RollcallError("unprocessable", why);
        session.settleAck(frame.id ?? "", { error });
      } else {
        const received = frame;
        return session.run(() => this.#dispatch(session, received));
      }
    }

    async #dispatch(session: Session<M>, frame: MessageFrame): Promise<void> {
      if (session.ended) return;
      const ctx = this.#context(session, frame);
      const handlers = room.handlersOf(frame.type);
      try {
        let result: unknown;
        if (handlers.length > 0) {
          const data: unknown = frame.data ?? {};
          for (const { schema, run } of handlers) {
            const returned = await run(ctx, schema ? await validate(schema, data) : data);
            result ??= returned;
          }
        } else if (room.onMessage) {
          result = await room.onMessage(ctx, frame);
        } else if (frame.id !== undefined) {
          throw new RollcallError("unknown_event", `No handler for ${frame.type}`);
        } else return;
        if (frame.id !== undefined && session.protocol === 2) {
          session.enqueue(encodeAck(frame.id, result));
        }
      } catch (error) {
        await this.#failed(error, ctx);
        session.sendError(toErrorPayload(error), frame.id);
      }
      if (session.isStale) this.#writeBack(session);
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
      this.#sweep(now);
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

    // ── Sessions ──────────────────────────────────────────────────────────────────────────────

    #admit(session: Session<M>): void {
      session.emit = this.#socketEmit(session) as SocketEmit<never>;
      this.sessions.set(session.ws, session);
      this.#index(session);
    }

    #index(session: Session<M>): void {
      const { userId } = session.meta;
      const own = this.#byUser.get(userId);
      if (own) own.add(session);
      else this.#byUser.set(userId, new Set([session]));
      session.indexedAs = userId;
    }

    #unindex(session: Session<M>): void {
      const own = this.#byUser.get(session.indexedAs);
      own?.delete(session);
      if (own?.size === 0) this.#byUser.delete(session.indexedAs);
    }

    #writeBack(session: Session<M>): void {
      if (session.ended) return;
      try {
        session.store();
        const { expiresAtMs } = session.meta;
        if (expiresAtMs !== undefined) this.timers.wakeAt(expiresAtMs);
        if (session.meta.userId !== session.indexedAs) {
          this.#unindex(session);
          this.#index(session);
        }
      } catch (error) {
        log("meta_not_stored", { room: label, error });
        session.sendError({ code: "internal", message: "Internal error" });
      }
    }

    /** Closes whose token or silence has lasted too long. */
    #sweep(now: number): void {
      this.#sweptAtMs = now;
      for (const session of [...this.sessions.values()]) {
        if (now >= expiry(session)) this.#expire(session);
        else if (session.isDead(now)) session.close(CLOSE.dead, "No ping", "dead");
      }
    }

    /** One look per ping interval does, however many ask. @returns whether it was time */
    #sweepUnlessJustDone(): boolean {
      const now = Date.now();
      if (Math.abs(now - this.#sweptAtMs) < liveness.pingMs) return false;
      this.#sweep(now);
      return true;
    }

    /** A probe from `asker`: sweeps, and lets the others know, so that they need not probe. */
    #probe(asker: Session<M>): void {
      const swept = this.#sweepUnlessJustDone();
      for (const session of swept ? this.sessions.values() : [asker]) {
        if (session.probes) session.enqueue(PROBED);
      }
    }

    /** Sees to it that the alarm comes when `session` may have died or expired. */
    #watchOver(session: Session<M>): void {
      const { deadAfterMs } = liveness;
      const sweepMs = session.probes ? PROBED_SWEEP_MS : liveness.sweepMs;
      const swept = Date.now() + Math.max(sweepMs, deadAfterMs);
      this.timers.wakeAt(Math.min(session.deadAt().ms, swept, expiry(session)));
    }

    #nextDeadline(): number | undefined {
      let dead = Number.POSITIVE_INFINITY;
      let next = Math.max(this.#dueAt(), this.#dueNotBefore);
      let allProbe = true;
      for (const session of this.sessions.values()) {
        allProbe &&= session.probes;
        const { ms, first } = session.deadAt();
        if (first) next = Math.min(next, ms);
        else dead = Math.min(dead, ms);
        next = Math.min(next, expiry(session));
      }
      const sweepMs = allProbe ? PROBED_SWEEP_MS : liveness.sweepMs;
      next = Math.min(next, Math.max(dead, Date.now() + sweepMs));
      return next === Number.POSITIVE_INFINITY ? undefined : next;
    }

    #dueAt(): number {
      return room.dueAt?.(this) ?? Number.POSITIVE_INFINITY;
    }

    #expire(session: Session<M>): void {
      session.sendError({ code: "token_expired", message: "The token has expired" });
      session.close(CLOSE.unauthorized, "Token expired", "expired");
    }

    requestFlush(session: Session): void {
      this.#outbox.request(session);
    }

    ended(session: Session, _reason: EndReason): void {
      const own = session as unknown as Session<M>;
      const wasOpen = own.open;
      own.open = false;
      this.sessions.delete(own.ws);
      this.#unindex(own);
      // While `onConnect` still runs it is #connect that finds out, and runs this afterwards.
      if (wasOpen) this.keep(own.run(() => outsideTransaction(() => this.#disconnect(own))));
    }

    async #disconnect(session: Session<M>): Promise<void> {
      const ctx = this.#context(session);
      try {
        await room.onDisconnect?.(ctx);
      } catch (error) {
        await this.#failed(error, ctx);
      }
    }

    /** Logs what no client should see, and lets the room know of everything. */
    async #failed(error: unknown, ctx: RoomContext<M, E, V>): Promise<void> {
      if (!(error instanceof RollcallError)) log("handler_failed", { room: label, error });
      try {
        await room.onError?.(error instanceof Error ? error : new Error(String(error)), ctx);
      } catch (second) {
        log("on_error_failed", { room: label, error: second });
      }
    }

    #context(session: Session<M>, frame?: MessageFrame): Context<M, E, V> {
      return new Context(this, session, frame);
    }

    // ── Emit ──────────────────────────────────────────────────────────────────────────────────

    /** The one way out for events. Encodes once; counts whom it goes to. */
    #publish(meant: Session<M>[], event: string, data: unknown, channel: string): number {
      if (meant.length === 0) return 0;
      const text = codec.encodeEvent(event, data, channel);
      afterCommit(() => {
        for (const session of meant) session.enqueue(text);
      });
      return meant.length;
    }

    #builder(targets: () => Session<M>[], channel: string): EmitBuilder<V> {
      return { emit: (event, data) => this.#publish(targets(), event, data, channel) };
    }

    #inChannel(channel: string, except?: WebSocket): Session<M>[] {
      return this.#open(
        (session) => session.ws !== except && session.meta.channels.includes(channel),
      );
    }

    #open(isMeant: (session: Session<M>) => boolean): Session<M>[] {
      const meant: Session<M>[] = [];
      for (const session of this.sessions.values()) {
        if (session.open && isMeant(session)) meant.push(session);
      }
      return meant;
    }

    #openOf(userId: string): Session<M>[] {
      return [...this.sessionsOf(userId)].filter((session) => session.open);
    }

    #actorEmit(): ActorEmit<M, V> {
      const toChannel = (channel: string) => this.#builder(() => this.#inChannel(channel), channel);
      return {
        emit: (event, data) => toChannel("default").emit(event, data),
        to: toChannel,
        toUser: (userId) => this.#builder(() => this.#openOf(userId), "default"),
        where: (isMeant) => this.#builder(() => this.#open(isMeant), "default"),
      };
    }

    #socketEmit(session: Session<M>): SocketEmit<V> {
      const own = () => session.meta.channels[0] ?? "default";
      return {
        emit: (event, data) => {
          const text = codec.encodeEvent(event, data, own());
          afterCommit(() => session.enqueue(text));
        },
        emitWithAck: async (event, data, { timeoutMs = 10_000 } = {}) => {
          if (session.protocol !== 2) {
            const why = "This client speaks protocol 1, which has no acks";
            throw new RollcallError("unprocessable", why);
          }
          const id = crypto.randomUUID();
          const text = codec.encodeEvent(event, data, own(), id);
          const answer = session.awaitAck(id, Math.min(Math.max(timeoutMs, 1), 60_000));
          afterCommit(() => session.enqueue(text));
          return answer;
        },
        to: (target) =>
          session.meta.channels.includes(target)
            ? this.#builder(() => this.#inChannel(target, session.ws), target)
            : this.#builder(() => this.#openOf(target), own()),
      };
    }

    broadcast(channel: string, data: unknown, options: BroadcastOptions = {}): number {
      const { except, userIds, clientIds } = options;
      const targets = this.#inChannel(channel, except).filter(
        ({ meta }) =>
          (!userIds || userIds.includes(meta.userId)) &&
          (!clientIds || clientIds.includes(meta.clientId)),
      );
      const { event, rest } = nameOf(data);
      return this.#publish(targets, event, rest, channel);
    }

    sendToUser(userId: string, channel: string, data?: unknown): number {
      const targets = this.#openOf(userId).filter(({ meta }) => meta.channels.includes(channel));
      const { event, rest } = nameOf(data);
      return this.#publish(targets, event, rest, channel);
    }

    emitToChannel(channel: string, event: string, data?: unknown): number {
      this.#wakeUps.rpc += 1;
      void this.#wake();
      return this.#publish(this.#inChannel(channel), event, data, channel);
    }

    emitToUser(userId: string, event: string, data?: unknown): number {
      this.#wakeUps.rpc += 1;
      void this.#wake();
      return this.#publish(this.#openOf(userId), event, data, "default");
    }

    atFlush(key: string, build: () => void): void {
      afterCommit(() => this.#outbox.defer(key, build));
    }

    // ── Looks and calls ───────────────────────────────────────────────────────────────────────

    getSessionCount(): number {
      return this.sessions.size;
    }

    getConnectedUserIds(): string[] {
      return [...this.#byUser.keys()];
    }

    getUserSessions(userId: string): WebSocket[] {
      return [...this.sessionsOf(userId)].map(({ ws }) => ws);
    }

    sessionsOf(userId: string): ReadonlySet<Session<M>> {
      return this.#byUser.get(userId) ?? new Set();
    }

    cleanupStaleSessions(): number {
      const stale = [...this.sessions.values()].filter(
        ({ ws }) => ws.readyState !== WebSocket.OPEN,
      );
      const before = this.sessions.size;
      for (const session of stale) session.disconnect("stale");
      this.#sweep(Date.now());
      return before - this.sessions.size;
    }

    getStorage(): DurableObjectStorage {
      return this.#storage;
    }

    keep(promise: Promise<unknown>): void {
      this.state.waitUntil(promise.catch((error) => log("task_failed", { room: label, error })));
    }

    ingest(name: string, data: unknown): IngestResult | Promise<IngestResult> {
      this.#wakeUps.rpc += 1;
      const waking = this.#wake();
      return waking ? waking.then(() => this.#ingest(name, data)) : this.#ingest(name, data);
    }

    /** At once where it can be: a promise costs the runtime as much as a short handler. */
    #ingest(name: string, data: unknown): IngestResult | Promise<IngestResult> {
      const done = (value: unknown): IngestResult => ({ ok: true, value });
      const failed = (error: unknown): IngestResult => {
        if (!(error instanceof RollcallError))
          log("ingest_failed", { room: label, ingest: name, error });
        return { ok: false, error: toErrorPayload(error) };
      };
      try {
        const declared = room.ingests.get(name);
        if (!declared) throw new RollcallError("unknown_event", `No ingest named ${name}`);
        const run = (checked: unknown) => declared.run(this, checked);
        const checked = validate(declared.schema, data);
        const value = isPending(checked) ? checked.then(run) : run(checked);
        return isPending(value) ? Promise.resolve(value).then(done, failed) : done(value);
      } catch (error) {
        return failed(error);
      }
    }

    inspect(): Inspection {
      const { alarmAt } = this.timers;
      return {
        instance: this.#instance,
        startedAt: this.#startedAt.toISOString(),
        starts: this.#starts,
        wakeUps: { ...this.#wakeUps },
        sessions: this.sessions.size,
        users: this.#byUser.size,
        alarm: alarmAt === null ? null : new Date(alarmAt).toISOString(),
      };
    }
  }

  Object.defineProperty(Actor, "name", { value: className(room.name ?? websocketPath) });
  return Actor as unknown as ActorHandlerClass<E>;
}

/** What handlers get. A class, since accessors of a literal would be made anew for each message. */
class Context<M extends ConnectionMeta, E, V extends EventMap> implements MessageContext<M, E, V> {
  readonly actor: VeraniActor<M, E, V>;
  readonly ws: WebSocket;
  readonly session: Session<M>;
  readonly emit: SocketEmit<V>;
  readonly frame: MessageFrame;

  constructor(
    actor: VeraniActor<M, E, V>,
    session: Session<M>,
    frame: MessageFrame = { type: "connect" },
  ) {
    this.actor = actor;
    this.ws = session.ws;
    this.session = session;
    this.emit = session.emit as unknown as SocketEmit<V>;
    this.frame = frame;
  }

  get meta(): M {
    this.session.metaAsked = true;
    return this.session.meta;
  }

  set meta(meta: M) {
    this.session.metaAsked = true;
    this.session.meta = meta;
  }
}

/** Time between two looks at sockets whose clients see to it that we look, in ms. */
const PROBED_SWEEP_MS = 10 * 60_000;
/** Time after which a timer whose handler threw is tried again, in ms. */
const RETRY_MS = 5_000;

function expiry(session: Session): number {
  return session.meta.expiresAtMs ?? Number.POSITIVE_INFINITY;
}

/** Verani's `broadcast` takes the event's name as the data's `type`. */
function nameOf(data: unknown): { event: string; rest: unknown } {
  if (
    typeof data === "object" &&
    data !== null &&
    "type" in data &&
    typeof data.type === "string"
  ) {
    const { type, ...rest } = data;
    return { event: type, rest };
  }
  return { event: "event", rest: data };
}

/** Verani's: makes the sessions of an actor from its sockets. Ours did so when it started. */
export function restoreSessions(actor: Pick<VeraniActor, "cleanupStaleSessions">): void {
  actor.cleanupStaleSessions();
}
