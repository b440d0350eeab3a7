import { CLOSE, cutReason, sendableCode } from "../wire/close.ts";
import type { Codec } from "../wire/codec.ts";
import { type ErrorPayload, RollcallError } from "../wire/errors.ts";
import { encodeNack, joinFrames } from "../wire/frames.ts";
import { isProtocol, type Protocol } from "../wire/version.ts";
import type { SocketEmit } from "./emit.ts";
import type { ConnectionMeta, Limits, Liveness } from "./room.ts";

/** Storage key of a meta that outgrew the attachment. */
const SPILL_PREFIX = "rollcall:session:";
/** How far what is stored of when a client was last heard of may lag behind, in ms. */
const SEEN_LAG_MS = 1_000;
/** Characters of a user's or a client's id. */
const ID_LENGTH = 256;
const CHANNELS = 1_000;

/** Why a session ended; for logs. */
export type EndReason =
  | "closed"
  | "error"
  | "send_failed"
  | "dead"
  | "expired"
  | "refused"
  | "stale";

/** What is kept with the socket over hibernation. */
interface Attachment {
  rollcall: 1;
  id: string;
  protocol: Protocol;
  /** Server time of the last frame, in ms; until the first one, of the upgrade. */
  seenAtMs: number;
  /** Nothing has come from the client yet. */
  unheard?: true;
  /** Its client sends probes (`Liveness.probeMs`). */
  probes?: true;
  /** Absent when it lies in storage under the session's id. */
  meta?: unknown;
}

/** What a session needs of its actor. */
export interface SessionHost {
  readonly state: DurableObjectState;
  readonly codec: Codec;
  readonly limits: Limits;
  readonly liveness: Liveness;
  /** Asks that {@link Session.flush} be called: at the end of this turn, or of the window. */
  requestFlush(session: Session): void;
  /** Takes the session off every list, at once, then runs `onDisconnect`. */
  ended(session: Session, reason: EndReason): void;
}

/** A meta is what a room says it is, but what the framework relies on is checked. */
export function checkMeta<M extends ConnectionMeta>(meta: M): M {
  const { userId, clientId, channels, expiresAtMs } = meta;
  if (typeof userId !== "string" || userId === "" || userId.length > ID_LENGTH) {
    throw new RollcallError("bad_request", `userId must have 1 to ${ID_LENGTH} characters`);
  }
  if (typeof clientId !== "string" || clientId === "" || clientId.length > ID_LENGTH) {
    throw new RollcallError("bad_request", `clientId must have 1 to ${ID_LENGTH} characters`);
  }
  if (expiresAtMs !== undefined && !(expiresAtMs > 0)) {
    throw new RollcallError("bad_request", "expiresAtMs must be a time in ms");
  }
  if (
    !Array.isArray(channels) ||
    channels.length > CHANNELS ||
    channels.some((c) => typeof c !== "string")
  ) {
    throw new RollcallError("bad_request", `channels must be at most ${CHANNELS} strings`);
  }
  return meta;
}

function keptMeta<M>({ state }: SessionHost, kept: Attachment): M {
  return ("meta" in kept ? kept.meta : state.storage.kv.get(SPILL_PREFIX + kept.id)) as M;
}

function parseAttachment(value: unknown): Attachment | null {
  if (typeof value !== "object" || value === null) return null;
  const { rollcall, id, protocol, seenAtMs } = value as Partial<Attachment>;
  if (rollcall !== 1 || typeof id !== "string" || typeof seenAtMs !== "number") return null;
  return isProtocol(protocol) ? (value as Attachment) : null;
}

/**
 * One live connection. Its socket and attachment are the truth; this object is made from them at
 * every start of the actor and writes back what changes.
 */
export class Session<M extends ConnectionMeta = ConnectionMeta> {
  readonly ws: WebSocket;
  readonly id: string;
  readonly protocol: 1 | 2;
  /** Whether its client sends probes. */
  readonly probes: boolean;
  /** To look at. Who means to change it asks for `ctx.meta`, which has it written back. */
  meta: M;
  /** Whether a handler asked for the meta, and may have changed it, since it was last stored. */
  metaAsked = false;
  /** Whether events reach it: from the end of `onConnect` until its departure. */
  open: boolean;
  /** Whether the outbox holds it ready for the next flush. */
  waits = false;
  emit!: SocketEmit<never>;
  /** The user it is listed under; follows `meta.userId` once a handler is done. */
  indexedAs = "";

  readonly #host: SessionHost;
  #seenAtMs: number;
  #unheard: boolean;
  /** `seenAtMs` as the next instance would find it, if it would find this one heard of. */
  #storedSeenAtMs = Number.NEGATIVE_INFINITY;
  #ended = false;
  #spilled = false;
  #queue: string[] | null = null;
  #tail: Promise<void> | null = null;
  #tokens: number;
  #refilledAtMs = 0;
  #told = false;
  readonly #acks = new Map<
    string,
    (outcome: { data: unknown } | { error: RollcallError }) => void
  >();

  private constructor(host: SessionHost, ws: WebSocket, kept: Attachment, meta: M, open: boolean) {
    this.#host = host;
    this.ws = ws;
    this.id = kept.id;
    this.protocol = kept.protocol;
    this.probes = kept.probes === true;
    this.meta = meta;
    this.open = open;
    this.#seenAtMs = kept.seenAtMs;
    this.#unheard = kept.unheard === true;
    this.#tokens = host.limits.framesBurst;
    // A room may use the socket itself, as Verani's do: what it emitted before must go out before.
    ws.send = (data) => {
      this.flush();
      WebSocket.prototype.send.call(ws, data);
    };
    ws.close = (code, reason) => {
      this.flush();
      WebSocket.prototype.close.call(ws, code, reason);
    };
  }

  /** A session for a socket just accepted. */
  static accept<M extends ConnectionMeta>(
    host: SessionHost,
    ws: WebSocket,
    meta: M,
    protocol: Protocol,
    probes: boolean,
  ): Session<M> {
    const id = crypto.randomUUID();
    const seenAtMs = Date.now();
    const kept: Attachment = {
      rollcall: 1,
      id,
      protocol,
      seenAtMs,
      unheard: true,
      ...(probes && { probes }),
    };
    const session = new Session(host, ws, kept, meta, false);
    session.store();
    return session;
  }

  /** The session of a socket that outlived its actor's last instance; null if it is none of ours. */
  static restore<M extends ConnectionMeta>(host: SessionHost, ws: WebSocket): Session<M> | null {
    const kept = parseAttachment(ws.deserializeAttachment());
    if (!kept) return null;
    try {
      const session = new Session(host, ws, kept, checkMeta(keptMeta<M>(host, kept)), true);
      session.#spilled = !("meta" in kept);
      // Nobody dies of a sleep of ours.
      if (!session.#unheard) session.#seenAtMs += SEEN_LAG_MS;
      return session;
    } catch {
      return null;
    }
  }

  /** Deletes what sessions that are no longer here left in storage. */
  static sweepStorage(state: DurableObjectState, isLive: (id: string) => boolean): void {
    for (const [key] of state.storage.kv.list({ prefix: SPILL_PREFIX })) {
      if (!isLive(key.slice(SPILL_PREFIX.length))) state.storage.kv.delete(key);
    }
  }

  /**
   * Whether {@link store} is due after a frame. To write down each frame's time would cost as much as
   * handling a short one.
   */
  get isStale(): boolean {
    const lagMs = Math.abs(this.#seenAtMs - this.#storedSeenAtMs);
    return this.metaAsked || lagMs >= SEEN_LAG_MS;
  }

  /**
   * Writes meta and liveness back to where they outlive the instance. A meta that is none, or cannot
   * be stored, is thrown for and forgotten: the one stored last holds.
   */
  store(): void {
    if (this.#ended) return;
    try {
      this.#store();
    } catch (thrown) {
      const kept = parseAttachment(this.ws.deserializeAttachment());
      if (kept) this.meta = keptMeta<M>(this.#host, kept);
      throw thrown;
    }
  }

  #store(): void {
    const kept: Attachment = {
      rollcall: 1,
      id: this.id,
      protocol: this.protocol,
      seenAtMs: this.#seenAtMs,
      ...(this.#unheard && { unheard: true }),
      ...(this.probes && { probes: true }),
    };
    if (!this.#unheard) this.#storedSeenAtMs = this.#seenAtMs;
    const asked = this.metaAsked;
    this.metaAsked = false;
    if (this.#spilled && !asked) {
      // What lies in storage still holds: a row less for each frame.
      this.ws.serializeAttachment(kept);
      return;
    }
    if (asked) checkMeta(this.meta);
    const key = SPILL_PREFIX + this.id;
    try {
      this.ws.serializeAttachment({ ...kept, meta: this.meta });
      if (this.#spilled) this.#host.state.storage.kv.delete(key);
      this.#spilled = false;
    } catch {
      // The runtime throws for what is over its limit and for what cannot be cloned at all; the
      // second also fails below, and the handler hears of it.
      this.#host.state.storage.kv.put(key, this.meta);
      this.ws.serializeAttachment(kept);
      this.#spilled = true;
    }
  }

  /** Runs `task` after all earlier tasks of this session: handlers of one client never overlap. */
  run(task: () => void | Promise<void>): Promise<void> {
    const tail = this.#tail;
    const next = tail === null ? Promise.resolve(task()) : tail.then(task);
    const settled = next.finally(() => {
      if (this.#tail === settled) this.#tail = null;
    });
    this.#tail = settled;
    return settled;
  }

  /**
   * A frame came in at `now`: the sender lives, and pays one token for it. `limited` is said once,
   * then frames are `dropped` in silence until the sender has waited.
   */
  admit(now: number): "ok" | "limited" | "dropped" | "flooding" {
    this.#seenAtMs = now;
    this.#unheard = false;
    const { framesPerSecond, framesBurst } = this.#host.limits;
    if (framesBurst === Number.POSITIVE_INFINITY || framesPerSecond === Number.POSITIVE_INFINITY) {
      return "ok";
    }
    const refill = ((now - this.#refilledAtMs) / 1000) * framesPerSecond;
    this.#tokens = Math.min(framesBurst, this.#tokens + refill) - 1;
    this.#refilledAtMs = now;
    if (this.#tokens >= 0) {
      this.#told = false;
      return "ok";
    }
    // Whoever goes on for another burst after being told does not listen.
    if (this.#tokens < -framesBurst) return "flooding";
    if (this.#told) return "dropped";
    this.#told = true;
    return "limited";
  }

  /**
   * When this socket counts as dead if nothing comes, in ms; Infinity where silence is allowed.
   * `first`: it has yet to show that there is anybody, and is looked at in time rather than at the
   * next sweep.
   */
  deadAt(): { ms: number; first: boolean } {
    const { pingMs, firstPingMs, deadAfterMs, legacyDeadAfterMs, requirePing } =
      this.#host.liveness;
    // Who speaks protocol 2 was told in `hello` how often to ping: silence is no way to stay for ever.
    const mustPing = requirePing || (this.protocol === 2 && pingMs > 0);
    const pinged = this.#host.state.getWebSocketAutoResponseTimestamp(this.ws)?.getTime();
    if (pinged === undefined) {
      if (!mustPing) return { ms: Number.POSITIVE_INFINITY, first: false };
      if (this.protocol === 2 && this.#unheard) {
        return { ms: this.#seenAtMs + firstPingMs, first: true };
      }
    }
    const after = this.protocol === 2 ? deadAfterMs : legacyDeadAfterMs;
    return { ms: Math.max(pinged ?? 0, this.#seenAtMs) + after, first: false };
  }

  /** Whether its client has been silent for so long that it counts as dead at `now` (ms). */
  isDead(now: number): boolean {
    return now >= this.deadAt().ms;
  }

  /** Queues encoded text; it leaves in order, by {@link flush}. False once the session has departed. */
  enqueue(text: string): boolean {
    if (this.#ended) return false;
    // Most queues hold one frame: a literal takes what that needs, a push to an empty list 17 times.
    if (this.#queue === null) this.#queue = [text];
    else this.#queue.push(text);
    this.#host.requestFlush(this as unknown as Session);
    return true;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Sends what is queued: one message under protocol 2, else one per frame. */
  flush(join: (frames: readonly string[]) => string = joinFrames): void {
    const frames = this.#queue;
    if (frames === null) return;
    this.#queue = null;
    try {
      if (this.protocol === 2) WebSocket.prototype.send.call(this.ws, join(frames));
      else for (const frame of frames) WebSocket.prototype.send.call(this.ws, frame);
    } catch {
      // The socket may still count as open to the runtime: whoever is not here must not stay listed.
      this.close(CLOSE.internal, "Send failed", "send_failed");
    }
  }

  /** Tells the client of an error, in answer to frame `id` where it asked for one. */
  sendError(error: ErrorPayload, id?: string): void {
    if (id !== undefined && this.protocol === 2) {
      this.enqueue(encodeNack(id, error));
      return;
    }
    const text = this.#host.codec.encodeError(error);
    if (text !== null) this.enqueue(text);
  }

  /**
   * Closes the socket with `code` after what is queued, and departs. A code that may not be sent
   * becomes 1000; a reason is cut to the 123 bytes that a close frame holds.
   */
  close(code: number, reason: string, end: EndReason = "refused"): void {
    try {
      this.ws.close(sendableCode(code), cutReason(reason));
    } catch {
      // Already closed: only the departure is left to do.
    }
    this.disconnect(end);
  }

  /** Waits for the client's ack of `id`. Rejects with `timeout`, `disconnected`, or its nack. */
  awaitAck(id: string, timeoutMs: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => settle({ error: new RollcallError("timeout", "The client did not answer in time") }),
        timeoutMs,
      );
      const settle = (outcome: { data: unknown } | { error: RollcallError }): void => {
        clearTimeout(timer);
        this.#acks.delete(id);
        if ("data" in outcome) resolve(outcome.data);
        else reject(outcome.error);
      };
      this.#acks.set(id, settle);
      if (this.#ended) this.#abandonAcks();
    });
  }

  /** The client answered `id`; unknown and second answers are ignored. */
  settleAck(id: string, outcome: { data: unknown } | { error: RollcallError }): void {
    this.#acks.get(id)?.(outcome);
  }

  /** The one way out: a close, an error, a failed send and a ghost all come here. Idempotent. */
  disconnect(reason: EndReason): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#queue = null;
    this.#abandonAcks();
    if (this.#spilled) this.#host.state.storage.kv.delete(SPILL_PREFIX + this.id);
    // A closing socket may outlast this instance; the next one must not take it for a session.
    this.ws.serializeAttachment(null);
    this.#host.ended(this as unknown as Session, reason);
  }

  #abandonAcks(): void {
    // An error takes note of the stack, which costs as much as all else in a departure.
    if (this.#acks.size === 0) return;
    const error = new RollcallError("disconnected", "The client left before it answered");
    for (const settle of [...this.#acks.values()]) settle({ error });
  }
}

/** Verani's: keeps `meta` with the socket, where the next instance finds it. */
export function storeAttachment(ws: WebSocket, meta: ConnectionMeta): void {
  const kept = parseAttachment(ws.deserializeAttachment()) ?? {
    rollcall: 1,
    id: crypto.randomUUID(),
    protocol: 1,
    seenAtMs: Date.now(),
  };
  ws.serializeAttachment({ ...kept, meta: checkMeta(meta) } satisfies Attachment);
}
