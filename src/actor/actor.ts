import { DurableObject } from "cloudflare:workers";
import { log } from "../log.ts";
import { CLOSE, sendableCode } from "../wire/close.ts";
import { veraniCodec } from "../wire/codec.ts";
import type { CallResult, Inspection } from "./call.ts";
import { Connections } from "./connections.ts";
import { GRACE_MS, RESUME_MS } from "./continuity.ts";
import { Counters } from "./counters.ts";
import { Dispatcher } from "./dispatch.ts";
import type { Distribution, DistributionHost, Shard } from "./distribution.ts";
import {
  type ActorEmit,
  type AnyEvents,
  type BroadcastOptions,
  Emitter,
  type EventMap,
} from "./emit.ts";
import { HistoryPages, type RoomLog } from "./history.ts";
import { LIMITS } from "./limits.ts";
import { LIVENESS, Sweeper } from "./liveness.ts";
import { LOG } from "./log.ts";
import { FIRST_GENERATION } from "./logstore.ts";
import { type ConnectionMeta, can } from "./meta.ts";
import { FLUSH_MS, Outbox } from "./outbox.ts";
import { isSettledSoon } from "./retry.ts";
import type { Room, VeraniActor } from "./room.ts";
import type { Session } from "./session.ts";
import { type ActorHandlerClass, type ActorStub, findActor, toClassName } from "./stub.ts";
import { Timers } from "./timers.ts";
import { afterCommit, bufferEmits, outsideTransaction } from "./transaction.ts";
import { answerUpgrade } from "./upgrade.ts";

/** Storage key of the actor's name. */
const NAME_KEY = "rollcall:name";
/** Storage key of the number of starts, in development. */
const STARTS_KEY = "rollcall:starts";
/** A clock that goes back by more than this has been set back, in ms. */
const SET_BACK_MS = 1_000;
/** Time for the closes of other sockets to arrive, so that the room restores itself once for all, in ms. */
const LATE_CLOSES_MS = 10;

/** Makes one actor of several of a room; undefined where a room is one actor. */
export interface Distribute<E> {
  /** The room that an actor belongs to. */
  roomOf(actorName: string): string;
  create(host: DistributionHost, env: E): Distribution | undefined;
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
>(room: Room<M, E, V>, distribute?: Distribute<E>): ActorHandlerClass<E, V> {
  const codec = room.codec ?? veraniCodec;
  const limits = { ...LIMITS, ...room.limits };
  const liveness = { ...LIVENESS, ...room.liveness };
  const { graceMs = GRACE_MS, resumeMs = RESUME_MS } = room;
  const websocketPath = room.websocketPath ?? "/ws";
  const label = room.name ?? websocketPath;

  class Actor extends DurableObject<E> implements VeraniActor<M, E, V> {
    declare readonly env: E;
    readonly name: string;
    readonly sessions: ReadonlyMap<WebSocket, Session<M>>;
    readonly emit: ActorEmit<M, V>;
    readonly timers: Timers;
    readonly log: RoomLog;
    readonly counters: Counters;
    readonly #state: DurableObjectState;
    readonly #storage: DurableObjectStorage;
    readonly #connections: Connections<M>;
    readonly #outbox: Outbox;
    readonly #sweeper: Sweeper;
    readonly #emitter: Emitter<M, V>;
    readonly #dispatcher: Dispatcher<M, E, V>;
    readonly #distribution: Distribution | undefined;
    readonly #instance = crypto.randomUUID();
    readonly #startedAt = new Date();
    readonly #wakeUps = { fetch: 0, message: 0, close: 0, alarm: 0, rpc: 0 };
    #starts: number | null = null;
    #isAwake = false;
    /** When the last event came, in ms. */
    #eventAtMs = 0;
    /** The restore that is due for sockets that closed while the actor slept. */
    #lateRestore: Promise<void> | undefined;

    static get(id: string): ActorStub {
      // `name` is that of the class that was exported, or the room's in PascalCase.
      return findActor(this.name, id);
    }

    constructor(state: DurableObjectState, env: E) {
      super(state, env);
      const { name = state.storage.kv.get<string>(NAME_KEY) ?? state.id.toString() } = state.id;
      this.name = distribute?.roomOf(name) ?? name;
      this.#state = state;
      this.#storage = bufferEmits(state.storage, () => this.timers.watch());
      this.counters = new Counters(env, label);
      this.#outbox = new Outbox(room.flushMs ?? FLUSH_MS, () => this.sessions.size);
      const logOptions = typeof room.log === "function" ? room.log(env) : room.log;
      const continuity = { graceMs, resumeMs, log: { ...LOG, ...logOptions } };
      this.#connections = new Connections(
        {
          ...{ state, codec, limits, liveness, continuity, outbox: this.#outbox },
          counters: this.counters,
          wakeAt: (atMs) => this.timers.wakeAt(atMs),
          roomsEntries: () => room.storedEvents?.(state.storage) ?? [],
          owner: distribute ? `room ${this.name}` : state.id.toString(),
          // Shards must not take the numbers of each other for their own.
          firstGeneration: distribute ? undefined : FIRST_GENERATION,
          distribution: () => this.#distribution,
        },
        (session) => this.#ended(session),
      );
      this.sessions = this.#connections.sessions;
      this.log = this.#connections.log;
      this.#sweeper = new Sweeper(liveness, () => this.sessions.values());
      this.#emitter = new Emitter(this.#connections);
      this.emit = this.#emitter.actor;
      this.timers = new Timers(state.storage, label, {
        nextDeadline: () => this.#nextDeadline(),
        dueAt: () => room.onDue && room.dueAt?.(this),
        onDue: () => room.onDue?.(this),
        onTimer: (name) => {
          if (this.#distribution?.rings(name)) return this.#distribution.ring();
          return room.timerHandlers.get(name)?.(this);
        },
      });
      this.#distribution = distribute?.create(this.#distributionHost(name), env);
      this.#dispatcher = new Dispatcher(room, label, this, {
        emitter: this.#emitter,
        sweeper: this.#sweeper,
        codec,
        frameBytes: limits.frameBytes,
        history: new HistoryPages(
          this.log,
          (meta) => continuity.log.durable && this.#mayReadHistory(meta),
        ),
      });
      state.setWebSocketAutoResponse(new WebSocketRequestResponsePair(codec.ping, codec.pong));
      for (const ws of state.getWebSockets()) {
        const session = this.#connections.restore(ws);
        if (!session) ws.close(CLOSE.internal, "Session could not be restored");
      }
      this.#connections.continuity.restore();
      void state.blockConcurrencyWhile(async () => {
        await this.timers.load();
        if ((env as { ENVIRONMENT?: unknown }).ENVIRONMENT === "development") {
          this.#starts = (state.storage.kv.get<number>(STARTS_KEY) ?? 0) + 1;
          state.storage.kv.put(STARTS_KEY, this.#starts);
        }
      });
    }

    #distributionHost(actorName: string): DistributionHost {
      const { continuity } = this.#connections;
      return {
        actorName,
        storage: this.#state.storage,
        log: continuity.log,
        epoch: () => continuity.logEpoch,
        origins: continuity.origins,
        stub: (name) => findActor(this.constructor.name, name),
        deliver: (scope, text, origin) => {
          if (!scope.room) return this.#emitter.relayed(scope, text, origin);
          this.#relayed(text, origin[0]);
          return 0;
        },
        append: (text, relay) => {
          afterCommit(() => this.#connections.deliver([], { only: [] }, text, { relay }));
        },
        store: () => {
          if (continuity.options.log.durable) continuity.requestStore();
        },
        restart: (reason) => this.#connections.restart(reason),
        keepName: () => this.#keepName(actorName),
        wakeAt: (name, atMs) => this.timers.set(name, atMs),
        keep: (promise) => this.keep(promise),
      };
    }

    get shard(): Shard | undefined {
      return this.#distribution?.shard;
    }

    #relayed(text: string, from: number): void {
      try {
        room.onRelay?.(this, JSON.parse(text).data, from);
      } catch (error) {
        log("relay_failed", { room: label, error });
      }
    }

    /**
     * Runs before the first event of an instance, and lets the room restore itself. If a close wakes
     * the actor, the runtime does not list the closed socket any more: its session is restored here,
     * so that the room sees it before its end. If more sockets have closed, the room restores itself
     * once more for all of them together.
     */
    #wake(closing?: WebSocket): Promise<void> | undefined {
      const now = Date.now();
      // The clock was set back: the alarm would come too late for those who fall silent.
      if (now < this.#eventAtMs - SET_BACK_MS) this.timers.rearm();
      this.#eventAtMs = now;
      const late = closing && this.#connections.noteClosing(closing);
      if (this.#isAwake) return late ? this.#restoreLate() : undefined;
      this.#isAwake = true;
      this.#connections.sweepStorage();
      this.#distribution?.start();
      return this.#restoreRoom();
    }

    #restoreLate(): Promise<void> {
      this.#lateRestore ??= outsideTransaction(async () => {
        await scheduler.wait(LATE_CLOSES_MS);
        this.#lateRestore = undefined;
        await this.#restoreRoom();
      });
      return this.#lateRestore;
    }

    #restoreRoom(): Promise<void> {
      return this.#state.blockConcurrencyWhile(async () => {
        const restoring = (async () => room.onHibernationRestore?.(this))().catch((error) =>
          log("restore_failed", { room: label, error }),
        );
        // The runtime would throw the actor away after 30 s, and the next one would hang as well.
        if (!(await isSettledSoon(restoring))) log("restore_late", { room: label });
        this.#connections.endStale();
      });
    }

    // ── Events of the runtime ─────────────────────────────────────────────────────────────────

    override async fetch(request: Request): Promise<Response> {
      this.#wakeUps.fetch += 1;
      await this.#wake();
      return answerUpgrade(request, {
        room,
        mayReadHistory: (meta) => this.#mayReadHistory(meta),
        env: this.env,
        websocketPath,
        label,
        epoch: this.#instance,
        connections: this.#connections,
        sweeper: this.#sweeper,
        admit: (userId) => this.#distribution?.admit(userId),
        onAccept: async (session, deadlineMs, isReload) => {
          this.timers.wakeAt(deadlineMs);
          const connecting = session.run(() => this.#dispatcher.connect(session, isReload));
          if (!(await isSettledSoon(connecting))) {
            session.limitConnect();
            this.timers.wakeAt(session.deadline().ms);
          }
          return connecting;
        },
        onResume: (session, deadlineMs, info) => {
          this.timers.wakeAt(deadlineMs);
          this.keep(session.run(() => this.#dispatcher.resume(session, info)));
        },
      });
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
      const session = this.#connections.closedWith(ws);
      try {
        WebSocket.prototype.close.call(ws, sendableCode(code), reason);
      } catch {
        // Closed on both sides already.
      }
      session?.closed(code, "closed");
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
      this.keep(session.inbox.finish(disconnect));
    }

    override async alarm(info?: { readonly scheduledTime?: number }): Promise<void> {
      this.#wakeUps.alarm += 1;
      this.timers.rangAt = info?.scheduledTime;
      await this.#wake();
      const now = Date.now();
      try {
        // First, since a room's handlers may take long.
        this.#sweeper.sweep(now);
        this.#connections.continuity.sweep(now);
        const ringing = this.timers.ring(now);
        this.keep(ringing);
        await isSettledSoon(ringing);
      } finally {
        // Without it no deadline would ever come again.
        this.timers.rearm();
      }
    }

    #mayReadHistory(meta: M): boolean {
      return room.mayReadHistory?.(meta) ?? can(meta, this.name, "history");
    }

    /** The earliest deadline of a session, in ms; Infinity for none. */
    #nextDeadline(): number {
      return Math.min(this.#sweeper.nextDeadline(), this.#connections.continuity.nextDeadline());
    }

    // ── For handlers, and over RPC ────────────────────────────────────────────────────────────

    ingest(name: string, data: unknown): CallResult | Promise<CallResult> {
      this.#wakeUps.rpc += 1;
      const waking = this.#wake();
      const run = () => this.#distribution?.call(name, data) ?? this.#dispatcher.call(name, data);
      return waking ? waking.then(run) : run();
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
      return this.#connections.count;
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

    keepName(): void {
      this.#keepName(this.#state.id.name ?? this.name);
    }

    #keepName(name: string): void {
      const { kv } = this.#state.storage;
      if (kv.get(NAME_KEY) === undefined) kv.put(NAME_KEY, name);
    }

    closeUser(
      userId: string,
      code: number,
      reason: string,
      matches: (session: Session<M>) => boolean = () => true,
    ): number {
      return this.#connections.closeUser(userId, code, reason, matches);
    }

    cleanupStaleSessions(): number {
      const clean = (): number => {
        const before = this.sessions.size;
        this.#connections.endStale();
        this.#sweeper.sweep(Date.now());
        return before - this.sessions.size;
      };
      // Over RPC it may be the first event of an instance. Handlers never see the promise.
      const waking = this.#wake();
      return waking ? (waking.then(clean) as unknown as number) : clean();
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
        silent: Array.from(this.sessions.values(), (session) => {
          const { protocol, seenAtMs } = session;
          const { ms } = session.deadline();
          return { protocol, seenAtMs, deadAtMs: Number.isFinite(ms) ? ms : null };
        })
          .sort((a, b) => a.seenAtMs - b.seenAtMs)
          .slice(0, 3),
      };
    }

    getStorage(): DurableObjectStorage {
      return this.#storage;
    }

    sendNewest(text: string, matches: (session: Session<M>) => boolean): number {
      return this.#connections.sendNewest(text, matches);
    }

    atFlush(key: string, build: () => void): void {
      afterCommit(() => this.#outbox.defer(key, build));
    }

    keep(promise: Promise<unknown>): void {
      this.#state.waitUntil(promise.catch((error) => log("task_failed", { room: label, error })));
    }
  }

  Object.defineProperty(Actor, "name", { value: toClassName(room.name ?? websocketPath) });
  return Actor as unknown as ActorHandlerClass<E, V>;
}

/** Verani's: makes the sessions of an actor from its sockets. Here every start does so. */
export function restoreSessions(actor: Pick<VeraniActor, "cleanupStaleSessions">): void {
  actor.cleanupStaleSessions();
}
