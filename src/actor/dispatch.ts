import { log } from "../log.ts";
import { CLOSE } from "../wire/close.ts";
import type { Codec } from "../wire/codec.ts";
import { RollcallError, toErrorPayload } from "../wire/errors.ts";
import { encodeAckText, encodeNack, HISTORY, type MessageFrame } from "../wire/frames.ts";
import type { CallResult } from "./call.ts";
import type { EmitBuilder, Emitter, EventMap, SocketEmit } from "./emit.ts";
import type { HistoryPages } from "./history.ts";
import type { Sweeper } from "./liveness.ts";
import { type ConnectionMeta, can } from "./meta.ts";
import { NewestEvents, type Received } from "./newest.ts";
import type { MessageContext, ResumeInfo, Room, RoomContext, VeraniActor } from "./room.ts";
import { validate } from "./schema.ts";
import type { Session } from "./session.ts";
import { metaWith } from "./upgrade.ts";

/** The argument of handlers. A class: a literal would make its accessors anew for each message. */
class Context<M extends ConnectionMeta, E, V extends EventMap> implements MessageContext<M, E, V> {
  readonly actor: VeraniActor<M, E, V>;
  readonly ws: WebSocket;
  readonly session: Session<M>;
  readonly frame: MessageFrame;
  readonly #emitter: Emitter<M, V>;
  #emit: SocketEmit<V> | undefined;

  constructor(
    actor: VeraniActor<M, E, V>,
    emitter: Emitter<M, V>,
    session: Session<M>,
    frame: MessageFrame,
  ) {
    this.actor = actor;
    this.#emitter = emitter;
    this.ws = session.ws;
    this.session = session;
    this.frame = frame;
  }

  get emit(): SocketEmit<V> {
    this.#emit ??= this.#emitter.of(this.session);
    return this.#emit;
  }

  // Accessors, so that handlers may take them out of the context.
  get toUser(): (userId: string) => EmitBuilder<V> {
    return this.actor.emit.toUser;
  }

  get toChannel(): (channel: string) => EmitBuilder<V> {
    return (channel) => this.#emitter.toOthers(channel, this.session);
  }

  can(operation: string): boolean {
    return can(this.session.meta, this.actor.name, operation);
  }

  get meta(): M {
    this.session.change();
    return this.session.meta;
  }

  set meta(meta: M) {
    if (typeof meta !== "object" || meta === null) throw new TypeError("A meta must be an object");
    this.session.change();
    this.session.meta = meta;
  }
}

const DROPPED = { code: "rate_limited", message: "Too many frames; some were dropped" } as const;

/** Whether a frame is for the room's handlers, and not an answer or of the protocol itself. */
function isEvent({ type }: MessageFrame): boolean {
  return type !== "ack" && type !== "nack" && type !== "ping";
}

/** The type of a frame with a new token. */
const AUTH = "auth";

function isAuth({ type, data }: MessageFrame): boolean {
  return type === AUTH && typeof data?.token === "string";
}

function isHistory({ type }: MessageFrame): boolean {
  return type === HISTORY;
}

function isPending(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === "function";
}

/** Runs the handlers of a room for frames, calls and the ends of connections. */
export class Dispatcher<M extends ConnectionMeta, E, V extends EventMap> {
  readonly #room: Room<M, E, V>;
  readonly #label: string;
  readonly #actor: VeraniActor<M, E, V>;
  readonly #emitter: Emitter<M, V>;
  readonly #sweeper: Sweeper;
  readonly #frameBytes: number;
  readonly #codec: Codec;
  readonly #history: HistoryPages<M>;
  readonly #newest: NewestEvents<Session<M>>;

  /** @param label names the room in the log */
  constructor(
    room: Room<M, E, V>,
    label: string,
    actor: VeraniActor<M, E, V>,
    parts: {
      emitter: Emitter<M, V>;
      sweeper: Sweeper;
      codec: Codec;
      frameBytes: number;
      history: HistoryPages<M>;
    },
  ) {
    this.#room = room;
    this.#label = label;
    this.#actor = actor;
    this.#emitter = parts.emitter;
    this.#sweeper = parts.sweeper;
    this.#codec = parts.codec;
    this.#history = parts.history;
    this.#frameBytes = parts.frameBytes;
    this.#newest = new NewestEvents(room.newest, (session, received) => {
      void this.#runNewest(session, received);
    });
  }

  // ── Frames ──────────────────────────────────────────────────────────────────────────────────

  /** A message from the client of `session`: at once where no handler has to run. */
  receive(session: Session<M>, raw: string | ArrayBuffer): Promise<void> | void {
    const now = Date.now();
    if (now >= session.expiresAtMs) return session.expire();
    const { frame, fault } = this.#parse(raw);
    if (frame && this.#newest.has(frame.type)) {
      session.heard(now);
      return this.#receiveNewest(session, { frame, raw }, now);
    }
    const verdict = session.receive(now);
    if (verdict === "flooding") return session.close(CLOSE.rateLimited, "Too many frames");
    if (fault) this.#refuse(session, fault.error, verdict === "ok");
    if (verdict !== "ok") {
      // A client that waits for an answer gets one; the others learn of the first dropped frame.
      if (frame?.id !== undefined && isEvent(frame)) session.sendDropped(frame.id, DROPPED);
      else if (verdict === "limited") session.sendError(DROPPED);
      return;
    }
    if (!frame) return;
    if (frame.type === "ping") session.enqueue(this.#codec.pong);
    else if (frame.type === "confirmed" && session.protocol === 3) session.confirmed();
    else if (frame.type === "probe" && session.probes) this.#sweeper.probe(session);
    else if (session.protocol >= 2 && frame.type === "ack") {
      session.settleAck(frame.id ?? "", { data: frame.data });
    } else if (session.protocol >= 2 && frame.type === "nack") {
      const why = frame.error?.message || "The client refused";
      session.settleAck(frame.id ?? "", { error: new RollcallError("unprocessable", why) });
    } else {
      const room = session.inbox.roomFor(raw);
      if (room === "flooded") session.close(CLOSE.rateLimited, "Too much waits to be handled");
      else if (room === "full") {
        if (frame.id !== undefined) session.sendDropped(frame.id, DROPPED);
      } else if (isHistory(frame) || frame.id === undefined || !session.isRepeated(frame.id)) {
        return session.inbox.handle(raw, () => this.#dispatch(session, frame));
      }
    }
  }

  #parse(raw: string | ArrayBuffer): { frame?: MessageFrame | null; fault?: { error: unknown } } {
    try {
      return { frame: this.#codec.parse(raw, this.#frameBytes) };
    } catch (error) {
      return { fault: { error } };
    }
  }

  #refuse(session: Session<M>, error: unknown, isReported: boolean): void {
    const isCoded = error instanceof RollcallError;
    if (!isCoded) log("parse_failed", { room: this.#label, error });
    if (isCoded && error.code === "too_large") session.close(CLOSE.tooBig, error.message);
    else if (isReported) session.sendError(toErrorPayload(error));
  }

  #receiveNewest(session: Session<M>, received: Received, now: number): Promise<void> | void {
    const outcome = this.#newest.take(session, received, now);
    if (outcome === "flooding") return session.close(CLOSE.rateLimited, "Too many frames");
    if (outcome.run) return this.#runNewest(session, received);
    const id = outcome.replaced?.frame.id;
    if (id !== undefined) session.sendDropped(id, DROPPED);
  }

  #runNewest(session: Session<M>, { frame, raw }: Received): Promise<void> | void {
    if (session.inbox.roomFor(raw) !== "ok") {
      if (frame.id !== undefined) session.sendDropped(frame.id, DROPPED);
    } else if (frame.id === undefined || !session.isRepeated(frame.id)) {
      return session.inbox.handle(raw, () => this.#dispatch(session, frame));
    }
  }

  /** Answers with a page of the room's events. A client that misses the answer asks again. */
  #sendHistory(session: Session<M>, { id, data }: MessageFrame): void {
    if (id === undefined || !session.reader) return;
    try {
      session.sendUnkept(encodeAckText(id, this.#history.read(session, data, Date.now())));
    } catch (error) {
      session.sendUnkept(encodeNack(id, toErrorPayload(error)));
    }
  }

  /** The client shows a new token of the same user: its session lives on, with the new grant. */
  async #refresh(session: Session<M>, { id, data }: MessageFrame): Promise<void> {
    const options = { room: this.#room, env: this.#actor.env as E, label: this.#label };
    const ctx = new Context(this.#actor, this.#emitter, session, { type: "connect" });
    try {
      const fresh = await metaWith(session.path, data.token, options);
      if (session.ended) return;
      if (fresh.userId !== session.meta.userId) {
        throw new RollcallError("forbidden", "The token is another user's");
      }
      await this.#room.onRefresh?.(ctx, fresh);
      if (session.ended) return;
      session.renew(fresh);
      this.#store(session);
      if (id !== undefined) session.answer(id, { expiresAtMs: fresh.expiresAtMs ?? null });
    } catch (error) {
      if (!(error instanceof RollcallError)) await this.#report(error, ctx);
      const payload = toErrorPayload(error);
      if (session.protocol >= 2 || id === undefined) session.sendError(payload, id);
      else session.enqueue(encodeNack(id, payload));
    }
  }

  async #dispatch(session: Session<M>, frame: MessageFrame): Promise<void> {
    if (session.ended) return;
    if (isHistory(frame)) return this.#sendHistory(session, frame);
    if (isAuth(frame) && this.#room.extractMeta) return this.#refresh(session, frame);
    const ctx = new Context(this.#actor, this.#emitter, session, frame);
    const handlers = this.#room.handlersOf(frame.type);
    try {
      let result: unknown;
      if (handlers.length > 0) {
        const data: unknown = frame.data ?? {};
        for (const { schema, run } of handlers) {
          const returned = await run(ctx, schema ? await validate(schema, data) : data);
          result ??= returned;
        }
      } else if (this.#room.onMessage) {
        result = await this.#room.onMessage(ctx, frame);
      } else if (frame.id !== undefined) {
        throw new RollcallError("unknown_event", `No handler for ${frame.type}`);
      } else return;
      if (frame.id !== undefined && session.protocol >= 2) session.answer(frame.id, result);
    } catch (error) {
      await this.#report(error, ctx);
      session.sendError(toErrorPayload(error), frame.id);
    }
    if (session.isStale) this.#store(session);
  }

  // ── Connections ─────────────────────────────────────────────────────────────────────────────

  /** Runs `onConnect`; opens the session, or closes it if that fails. */
  async connect(session: Session<M>, isReload = false): Promise<void> {
    const ctx = new Context(this.#actor, this.#emitter, session, { type: "connect" });
    try {
      await this.#room.onConnect?.(ctx);
    } catch (error) {
      const code = error instanceof RollcallError ? error.closeCode : CLOSE.internal;
      await this.#report(error, ctx);
      session.close(code, toErrorPayload(error).message);
      if (isReload) await this.disconnect(session);
      return;
    }
    // It ended while `onConnect` ran.
    if (session.ended) return this.disconnect(session);
    session.opened();
    // A durable room stores it even where no handler took its meta.
    session.change();
    this.#store(session);
  }

  /** Runs `onResume` after the client's earlier handlers. */
  async resume(session: Session<M>, info: ResumeInfo): Promise<void> {
    if (session.ended) return;
    const ctx = new Context(this.#actor, this.#emitter, session, { type: "connect" });
    try {
      await this.#room.onResume?.(ctx, info);
    } catch (error) {
      await this.#report(error, ctx);
    }
    if (session.isStale) this.#store(session);
  }

  /** Runs `onDisconnect`. */
  async disconnect(session: Session<M>): Promise<void> {
    const ctx = new Context(this.#actor, this.#emitter, session, { type: "connect" });
    try {
      await this.#room.onDisconnect?.(ctx, session.departure);
    } catch (error) {
      await this.#report(error, ctx);
    }
  }

  /** Stores what a handler changed. */
  #store(session: Session<M>): void {
    if (session.ended) return;
    try {
      session.store();
      const { expiresAtMs } = session.meta;
      if (expiresAtMs !== undefined) this.#actor.timers.wakeAt(expiresAtMs);
    } catch (error) {
      log("meta_not_stored", { room: this.#label, error });
      session.sendError({ code: "internal", message: "Internal error" });
    }
  }

  /** Logs errors that no client should see, and gives every error to the room. */
  async #report(error: unknown, ctx: RoomContext<M, E, V>): Promise<void> {
    if (!(error instanceof RollcallError)) {
      log("handler_failed", { room: this.#label, error });
    }
    try {
      // In here: not everything that can be thrown has a text.
      await this.#room.onError?.(error instanceof Error ? error : new Error(String(error)), ctx);
    } catch (second) {
      log("on_error_failed", { room: this.#label, error: second });
    }
  }

  // ── Calls ───────────────────────────────────────────────────────────────────────────────────

  /** Runs a call. At once where it can: a promise costs the runtime as much as a short handler. */
  call(name: string, data: unknown): CallResult | Promise<CallResult> {
    const done = (value: unknown): CallResult => ({ ok: true, value });
    const failed = (error: unknown): CallResult => {
      if (!(error instanceof RollcallError)) {
        log("call_failed", { room: this.#label, call: name, error });
      }
      return { ok: false, error: toErrorPayload(error) };
    };
    try {
      const declared = this.#room.callHandlers.get(name);
      if (!declared) throw new RollcallError("unknown_event", `No call named ${name}`);
      const run = (checked: unknown) => declared.run(this.#actor, checked);
      const checked = validate(declared.schema, data);
      const value = isPending(checked) ? checked.then(run) : run(checked);
      return isPending(value) ? Promise.resolve(value).then(done, failed) : done(value);
    } catch (error) {
      return failed(error);
    }
  }
}
