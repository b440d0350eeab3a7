import { log } from "../log.ts";
import { CLOSE, cutReason, endsSession, sendableCode } from "../wire/close.ts";
import type { Codec } from "../wire/codec.ts";
import type { ErrorPayload } from "../wire/errors.ts";
import { CONFIRM, encodeAck, encodeNack, joinFrames, numberFrame } from "../wire/frames.ts";
import type { Protocol } from "../wire/version.ts";
import { Acks, type Answer } from "./acks.ts";
import {
  type Attachment,
  attach,
  deleteMeta,
  type Loss,
  newAttachment,
  readAttachment,
  readLost,
  readMeta,
  type SessionState,
  spillMeta,
  writeMeta,
} from "./attachment.ts";
import type { Counters } from "./counters.ts";
import { Inbox } from "./inbox.ts";
import { FrameBudget, type Limits, type Verdict } from "./limits.ts";
import { type Deadline, type Liveness, type Peer, silenceDeadline } from "./liveness.ts";
import { type ConnectionMeta, checkMeta, digestMeta, renewMeta } from "./meta.ts";
import type { Recipient } from "./outbox.ts";
import { SessionReader } from "./reader.ts";

/** A client is asked to confirm after this part of what it may have unread. */
const ASK_PART = 1 / 16;
/** A client that cannot be asked may be sent so many times as much. */
const UNASKED_TIMES = 4;
/** How far the stored time of a client's last frame may lag behind, in ms. */
const SEEN_LAG_MS = 1_000;
/** The time left to an `onConnect` that takes long, in ms. */
const CONNECT_MS = 30_000;

/** Why a session ended; for logs. */
export type EndReason =
  | "closed"
  | "error"
  | "send_failed"
  | "dead"
  | "expired"
  | "refused"
  | "stale"
  | "lost";

/**
 * How a session departed. `left`: its client closed the socket, or its page was closed. `lost`: the line
 * broke, or the client fell silent, and it did not come back in time. `kicked`: the server closed it
 * for good. `expired`: its token has.
 */
export type Departure = "left" | "lost" | "kicked" | "expired";

/** How a session ended. */
export interface DepartureInfo {
  reason: Departure;
  /** What its socket closed with; 1006 where no close frame came. */
  code: number;
}

/** Close codes of a client that went by itself: 1005 stands for a close without a code. */
const LEFT: ReadonlySet<number> = new Set([CLOSE.leave, CLOSE.goingAway, 1005]);

function departureOf(code: number, end: EndReason): DepartureInfo {
  const isFinal = endsSession(code);
  let reason: Departure = "lost";
  if (end === "expired") reason = "expired";
  else if (end === "closed" && (isFinal || LEFT.has(code))) reason = "left";
  else if (end === "refused" && isFinal) reason = "kicked";
  return { reason, code };
}

/** What a session needs of its actor. */
export interface SessionHost<M extends ConnectionMeta = ConnectionMeta> {
  readonly state: DurableObjectState;
  readonly codec: Codec;
  readonly limits: Limits;
  readonly liveness: Liveness;
  readonly counters: Pick<Counters, "add">;
  /** Requests a {@link Session.flush}: at the end of this tick, or of the window. */
  requestFlush(session: Session<M>): void;
  /** The last number that a frame was given. */
  readonly lastSeq: number;
  /** For a session of protocol 3 that begins. */
  newReader(id: string): SessionReader;
  /** A handler has the meta of `session` and may change it until {@link stored}. */
  changing(session: Session<M>): void;
  /** The meta of `session` is the stored one, and a handler may have changed it. */
  stored(session: Session<M>, isChanged: boolean): void;
  /** Takes the session off every index at once, then runs `onDisconnect`. */
  ended(session: Session<M>, reason: EndReason): void;
  /** The session has lost its socket, which closed with `code`. @returns false when it has to end */
  lost(session: Session<M>, code: number): boolean;
  /** What {@link Session.storeReader} writes has changed. */
  changed(session: Session<M>): void;
  /** A number for a frame that only the client of `session` gets. */
  nextSeq(session: Session<M>): number;
  /** A number for the answer `text` to the emit `id`. */
  answerSeq(session: Session<M>, id: string, text: string): number;
  /** Sends an event to the client of `session` alone. */
  sendTo(session: Session<M>, text: string): void;
}

/**
 * One live connection. Its socket and attachment are the truth; this object is made from them at
 * every start of the actor, and writes changes back.
 */
export class Session<M extends ConnectionMeta = ConnectionMeta> implements Recipient, Peer {
  readonly protocol: Protocol;
  /** @internal What its client has been sent, under protocol 3. */
  readonly reader: SessionReader | undefined;
  /** @internal Its socket has closed, and it is about to be lost, or to end. */
  isLate = false;
  /** @internal How it lost its socket, while it has none. */
  loss: Loss | undefined;
  /** For reading. A handler that changes it uses `ctx.meta`, which is written back. */
  meta: M;
  /** Whether events reach it: from the end of `onConnect` until it ends. */
  open: boolean;
  /** @internal How it departed, once it has. */
  departure: DepartureInfo = { reason: "lost", code: 1006 };
  /** @internal Whether the outbox will flush it. */
  isDue = false;
  /** @internal The user and the channels it is listed under: `meta` as it was stored. */
  listedUser = "";
  listedChannels: readonly string[] = [];

  readonly #host: SessionHost<M>;
  #ws: WebSocket;
  readonly #attachment: Attachment;
  readonly #budget: FrameBudget;
  /** @internal */
  readonly inbox: Inbox;
  /** The `seenAtMs` that the next instance would read. */
  #storedSeenAtMs = Number.NEGATIVE_INFINITY;
  /** Whether a handler took the meta, and may have changed it, since it was last stored. */
  #isChanging = false;
  /** Whether the meta is in storage, since it is too big for the attachment. */
  #isSpilled: boolean;
  #connectByMs = Number.POSITIVE_INFINITY;
  #ended = false;
  /** UTF-16 units that were sent, and not confirmed; and since it was asked. */
  #unreadUnits = 0;
  #sinceAskedUnits: number | null = null;
  #queue: string[] | null = null;
  /** What leads its frames: until it is open they wait, since older ones are to come before. */
  #held: ((frames: readonly string[]) => string[]) | undefined;
  #acks: Acks | null = null;

  private constructor(
    host: SessionHost<M>,
    ws: WebSocket,
    attachment: Attachment,
    meta: M,
    open: boolean,
    isSpilled: boolean,
  ) {
    this.#host = host;
    this.reader = SessionReader.restore(attachment.id, attachment.reader);
    if (this.reader) this.reader.channels = [...meta.channels];
    this.protocol = this.reader ? 3 : attachment.protocol;
    this.#attachment = attachment;
    this.meta = meta;
    this.open = open;
    this.#isSpilled = isSpilled;
    this.#budget = new FrameBudget(host.limits);
    this.inbox = new Inbox(host.limits.inboxUnits);
    this.#ws = ws;
    this.#takeOver(ws);
  }

  /** The client's socket; a closed one while it has none. */
  get ws(): WebSocket {
    return this.#ws;
  }

  #takeOver(ws: WebSocket): void {
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
    host: SessionHost<M>,
    ws: WebSocket,
    meta: M,
    protocol: Protocol,
    probes: boolean,
    path?: string,
  ): Session<M> {
    const attachment = newAttachment(protocol, probes);
    if (path !== undefined) attachment.path = path;
    if (protocol === 3) {
      attachment.reader = host.newReader(attachment.id).toStored();
      attachment.origin = digestMeta(meta);
    }
    const session = new Session(host, ws, attachment, meta, false, false);
    session.store();
    return session;
  }

  /** The session of a socket that outlived its actor's last instance; null if it has none of ours. */
  static restore<M extends ConnectionMeta>(host: SessionHost<M>, ws: WebSocket): Session<M> | null {
    try {
      const stored = readAttachment(ws);
      if (!stored) return null;
      const meta = checkMeta(readMeta(host.state, stored) as M);
      const { meta: _, ...attachment } = stored;
      // Frames may have come after the time that was stored: nobody is dead because the actor slept.
      if (attachment.unheard !== true) attachment.seenAtMs += SEEN_LAG_MS;
      return new Session(host, ws, attachment, meta, true, !("meta" in stored));
    } catch {
      return null;
    }
  }

  /** A session that was stored without a socket; null if it is damaged. */
  static restoreLost<M extends ConnectionMeta>(
    host: SessionHost<M>,
    stored: unknown,
  ): Session<M> | null {
    const lost = readLost(stored);
    if (!lost) return null;
    try {
      const meta = checkMeta(readMeta(host.state, lost) as M);
      const { meta: _, loss, ...attachment } = lost;
      // Rooms may look at a session's socket: this one is closed for good.
      const { 0: ws } = new WebSocketPair();
      const session = new Session(host, ws, attachment, meta, true, !("meta" in lost));
      session.loss = loss;
      session.departure = departureOf(loss.code, "closed");
      return session.reader ? session : null;
    } catch {
      return null;
    }
  }

  get id(): string {
    return this.#attachment.id;
  }

  /** @internal What the actor keeps with this session's socket. */
  get kept(): unknown {
    return this.#attachment.kept;
  }

  /** When the client was last known to be there, in ms. */
  get seenAtMs(): number {
    const pingedAtMs = this.#pingedAtMs() ?? 0;
    return Math.min(Date.now(), Math.max(this.#attachment.seenAtMs, pingedAtMs));
  }

  /** Whether its client sends probes. */
  get probes(): boolean {
    return this.#attachment.probes === true;
  }

  /** Whether it is no session any more. */
  get ended(): boolean {
    return this.#ended;
  }

  // ── State ───────────────────────────────────────────────────────────────────────────────────

  /** What {@link setState} was given last; it survives hibernation and a resume. */
  get state(): SessionState | undefined {
    return this.#attachment.state;
  }

  /** Keeps a short text with the session: written once per flush, beside the socket, and no row. */
  setState(state: SessionState | undefined): void {
    if (this.#ended) return;
    if (state) this.#attachment.state = state;
    else delete this.#attachment.state;
    this.#host.changed(this);
  }

  // ── Meta ────────────────────────────────────────────────────────────────────────────────────

  /** @internal A handler takes the meta, and may change it. */
  change(): void {
    if (this.#isChanging) return;
    this.#isChanging = true;
    this.#host.changing(this);
  }

  /**
   * Whether {@link store} is due after a frame. To write the time of each frame would cost as much as
   * handling a short one.
   */
  get isStale(): boolean {
    const lagMs = Math.abs(this.#attachment.seenAtMs - this.#storedSeenAtMs);
    return this.#isChanging || lagMs >= SEEN_LAG_MS;
  }

  /**
   * Writes the meta and the time of the last frame where they outlive the instance.
   *
   * @throws for a meta that is invalid or cannot be stored; the one stored last holds then
   */
  store(): void {
    if (this.#ended) return;
    const isChanged = this.#isChanging;
    try {
      this.#store();
    } catch (thrown) {
      const stored = readAttachment(this.ws);
      if (stored) this.meta = readMeta(this.#host.state, stored) as M;
      throw thrown;
    } finally {
      this.#host.stored(this, isChanged);
    }
  }

  /**
   * @internal Writes what changed with frames that were sent, and what the actor keeps here.
   *
   * @throws what the runtime throws when there is too much
   */
  storeReader(kept?: unknown): void {
    if (this.#ended || this.loss) return;
    if (kept !== undefined) this.#attachment.kept = kept;
    const attachment = this.#refreshed();
    if (this.#isSpilled) {
      attach(this.#ws, attachment);
      return;
    }
    // A handler may have made it one that cannot be stored: the one stored last holds until it is done.
    const meta = this.#isChanging ? readAttachment(this.#ws)?.meta : this.meta;
    // What is kept beside it may leave it too little room.
    this.#isSpilled = writeMeta(this.#host.state, this.#ws, attachment, meta, false);
  }

  /** @internal The session as it is stored without a socket. */
  toStored(): unknown {
    const { kept: _, ...attachment } = this.#refreshed();
    const lost = this.loss ? { ...attachment, loss: this.loss } : attachment;
    return this.#isSpilled ? lost : { ...lost, meta: this.meta };
  }

  #refreshed(): Attachment {
    if (this.reader) this.#attachment.reader = this.reader.toStored();
    return this.#attachment;
  }

  #store(): void {
    if (this.loss) {
      this.#isChanging = false;
      checkMeta(this.meta);
      if (this.#isSpilled) spillMeta(this.#host.state, this.id, this.meta);
      return;
    }
    const attachment = this.#refreshed();
    if (attachment.unheard !== true) this.#storedSeenAtMs = attachment.seenAtMs;
    const isChanged = this.#isChanging;
    this.#isChanging = false;
    if (this.#isSpilled && !isChanged) {
      // The meta in storage still holds: this saves a row per frame.
      attach(this.ws, attachment);
      return;
    }
    if (isChanged) checkMeta(this.meta);
    const { state } = this.#host;
    this.#isSpilled = writeMeta(state, this.ws, attachment, this.meta, this.#isSpilled);
  }

  /** @internal Where its client connected to, if its token expires. */
  get path(): string | undefined {
    return this.#attachment.path;
  }

  /** @internal The client has shown a new token, which `extractMeta` made `fresh` of. */
  renew(fresh: ConnectionMeta): void {
    this.change();
    const meta = { ...(this.meta as object) } as Record<string, unknown>;
    for (const key of ["expiresAtMs", "issuedAtS", "cap"] as const) {
      if (fresh[key] === undefined) delete meta[key];
      else meta[key] = fresh[key];
    }
    this.meta = meta as unknown as M;
  }

  // ── In ──────────────────────────────────────────────────────────────────────────────────────

  /** Runs `task` after all earlier tasks of this session: handlers of one client never overlap. */
  run(task: () => void | Promise<void>): Promise<void> {
    return this.inbox.run(task);
  }

  /** A frame came in at `now` (ms): its sender is alive, and pays for it. */
  receive(now: number): Verdict {
    this.heard(now);
    return this.#budget.take(now);
  }

  /** A frame came in at `now` (ms): its sender is alive. */
  heard(now: number): void {
    this.#host.counters.add("in");
    this.#attachment.seenAtMs = now;
    this.#attachment.unheard = false;
  }

  /** When it counts as dead if nothing comes. */
  deadline(): Deadline {
    const { liveness } = this.#host;
    const pingedAtMs = this.#pingedAtMs();
    const { protocol, seenAtMs, unheard } = this.#attachment;
    const deadline = this.meta.mayBeSilent
      ? { ms: Number.POSITIVE_INFINITY, isFirst: false }
      : silenceDeadline(liveness, protocol, seenAtMs, unheard === true, pingedAtMs);
    return this.open ? deadline : { ...deadline, ms: Math.min(deadline.ms, this.#connectByMs) };
  }

  /** Its `onConnect` takes long: if it does not end, the session counts as dead, also without pings. */
  limitConnect(): void {
    this.#connectByMs = Date.now() + CONNECT_MS;
  }

  /**
   * When the runtime answered its last ping, in ms, if ever. A time that is yet to come is one of
   * before the clock was set back: the client has been silent since the clock was found so, at most.
   */
  #pingedAtMs(): number | undefined {
    const attachment = this.#attachment;
    const pingedAtMs = this.#host.state.getWebSocketAutoResponseTimestamp(this.#ws)?.getTime();
    const now = Date.now();
    const newestMs = Math.max(attachment.seenAtMs, pingedAtMs ?? 0);
    if (newestMs > now + SEEN_LAG_MS && newestMs !== attachment.aheadMs) {
      attachment.aheadMs = newestMs;
      attachment.seenAtMs = now;
      this.storeReader();
    }
    return pingedAtMs !== undefined && pingedAtMs > now + SEEN_LAG_MS
      ? attachment.seenAtMs
      : pingedAtMs;
  }

  /** Whether its client has been silent for so long that it counts as dead at `now` (ms). */
  isDead(now: number): boolean {
    return now >= this.deadline().ms;
  }

  /** When its token expires, in ms; Infinity for never. */
  get expiresAtMs(): number {
    const { expiresAtMs } = this.meta;
    // A handler that runs may have written anything.
    return typeof expiresAtMs === "number" && expiresAtMs > 0
      ? expiresAtMs
      : Number.POSITIVE_INFINITY;
  }

  // ── Out ─────────────────────────────────────────────────────────────────────────────────────

  /** Queues encoded text; queued text leaves in order, by {@link flush}. False once it has ended. */
  enqueue(text: string): boolean {
    if (this.#ended || this.loss) return false;
    // Most queues hold one frame: a literal takes the memory of one, a push to an empty list of 17.
    if (this.#queue === null) this.#queue = [text];
    else this.#queue.push(text);
    this.#host.requestFlush(this);
    return true;
  }

  /** Sends what is queued: one message under protocol 2, else one per frame. */
  flush(join: (frames: readonly string[]) => string = joinFrames): void {
    const frames = this.#queue;
    if (frames === null || this.#held) return;
    this.#queue = null;
    this.#host.counters.add("out", "", frames.length);
    try {
      if (this.protocol >= 2) this.#send(join(frames));
      else for (const frame of frames) this.#send(frame);
    } catch {
      // The runtime may still list the socket as open: without this the session would stay for ever.
      this.close(CLOSE.internal, "Send failed", "send_failed");
      return;
    }
    const { unreadUnits } = this.#host.limits;
    const mayHave = this.protocol === 3 ? unreadUnits : unreadUnits * UNASKED_TIMES;
    if (this.#unreadUnits > mayHave) {
      this.close(CLOSE.tryLater, "Too much waits to be read", "send_failed");
    }
  }

  #send(text: string): void {
    WebSocket.prototype.send.call(this.#ws, text);
    this.#unreadUnits += text.length;
    if (this.#sinceAskedUnits !== null) this.#sinceAskedUnits += text.length;
    else if (this.protocol === 3 && this.#unreadUnits > this.#host.limits.unreadUnits * ASK_PART) {
      this.#sinceAskedUnits = 0;
      WebSocket.prototype.send.call(this.#ws, CONFIRM);
    }
  }

  /** @internal Its client has read all that was sent before it was asked. */
  confirmed(): void {
    this.#unreadUnits = this.#sinceAskedUnits ?? this.#unreadUnits;
    this.#sinceAskedUnits = null;
  }

  /**
   * Sends a frame of which the client needs only the newest, such as a snapshot: after a resume it is
   * not sent again, but {@link RoomDefinition.onResume} learns whether it was missed.
   */
  sendSnapshot(text: string): void {
    if (!this.reader) {
      this.enqueue(text);
      return;
    }
    const seq = this.#host.nextSeq(this);
    this.reader.snapshotSeq = seq;
    this.enqueue(numberFrame(text, seq));
  }

  /**
   * @internal Its frames wait until it is open.
   *
   * @param lead makes what is sent then from the frames that have waited
   */
  hold(lead: (frames: readonly string[]) => string[]): void {
    this.#held = lead;
  }

  /** @internal `onConnect` is done: events reach it from now on. */
  opened(): void {
    this.open = true;
    this.#host.counters.add("opened");
    this.reader?.opened(this.#host.lastSeq);
    if (!this.#held) return;
    const frames = this.#held(this.#queue ?? []);
    this.#held = undefined;
    this.#queue = null;
    for (const frame of frames) this.enqueue(frame);
  }

  /** @internal The page is new: it begins with `onConnect`, and with none of the answers before. */
  reload(): void {
    this.open = false;
    this.reader?.reload();
    this.#acks?.rejectAll();
  }

  /**
   * @internal Whether the client sent the emit `id` before the line broke, and sends it again. It is
   * not run again: the answer that it was given is the answer.
   */
  isRepeated(id: string): boolean {
    const known = this.reader?.begin(id);
    if (known) this.#answer(id, known.text);
    else if (known === undefined && this.reader?.mayHaveRun(id, Date.now())) {
      this.sendError({ code: "disconnected", message: "It may have run before the break" }, id);
    }
    return known !== undefined || this.reader?.isAnswered(id) === true;
  }

  /** Answers the frame `id` of the client. */
  answer(id: string, data: unknown): void {
    this.#answer(id, encodeAck(id, data));
  }

  #answer(id: string, text: string): void {
    if (!this.reader) {
      this.enqueue(text);
      return;
    }
    const seq = this.#host.answerSeq(this, id, text);
    this.reader.answer(id, seq, text);
    this.enqueue(numberFrame(text, seq));
  }

  /** Answers the frame `id`, which was not handled: the client may send it again. */
  sendDropped(id: string, error: ErrorPayload): void {
    if (this.protocol >= 2) this.sendUnkept(encodeNack(id, error));
  }

  /** Sends an answer that is not sent again after a break: the client asks again. */
  sendUnkept(text: string): void {
    this.enqueue(this.reader ? numberFrame(text, this.#host.nextSeq(this)) : text);
  }

  /** Sends an error to the client, as the answer to frame `id` where it asked for one. */
  sendError(error: ErrorPayload, id?: string): void {
    if (id !== undefined && this.protocol >= 2) {
      this.#answer(id, encodeNack(id, error));
      return;
    }
    try {
      const text = this.#host.codec.encodeError(error);
      if (text !== null) this.#host.sendTo(this, text);
    } catch (thrown) {
      // A room's own codec: a token must expire nevertheless.
      log("error_not_sent", { error: thrown });
    }
  }

  /** Waits for the client's ack of `id`. Rejects with `timeout`, `disconnected`, or its nack. */
  awaitAck(id: string, timeoutMs: number): Promise<unknown> {
    this.#acks ??= new Acks();
    const answer = this.#acks.wait(id, timeoutMs);
    if (this.#ended) this.#acks.rejectAll();
    return answer;
  }

  /** @internal Takes a client's answer to a question. */
  settleAck(id: string, answer: Answer): void {
    this.#acks?.settle(id, answer);
  }

  // ── End ─────────────────────────────────────────────────────────────────────────────────────

  /**
   * Closes the socket with `code` after what is queued, and disconnects. A code that may not be sent
   * becomes 1000; a reason is cut to the 123 bytes of a close frame.
   */
  close(code: number, reason: string, end: EndReason = "refused"): void {
    if (this.#ended) return;
    this.#closeSocket(code, reason);
    this.closed(code, end);
  }

  #closeSocket(code: number, reason: string): void {
    if (this.loss) return;
    try {
      this.#ws.close(sendableCode(code), cutReason(reason));
    } catch {
      // Already closed: only the session is left to end.
    }
  }

  /** Its socket has closed with `code`: the session is lost, and can be resumed, or it ends. */
  closed(code: number, end: EndReason): void {
    if (this.#ended || (this.loss && !endsSession(code))) return;
    if (!this.loss) this.#host.counters.add("closed", `${code}`);
    this.departure = departureOf(code, end);
    const isLost = this.reader !== undefined && !endsSession(code);
    if (isLost && this.open && this.#host.lost(this, code)) {
      this.#queue = null;
      this.#ws.serializeAttachment(null);
    } else this.disconnect(end);
  }

  /** @internal Its channels that a resume with the meta `fresh` takes away from it. */
  revokedBy(fresh: M): Set<string> {
    const { channels } = renewMeta(this.meta, fresh, this.#attachment.origin ?? {});
    const revoked = new Set(this.meta.channels);
    for (const channel of channels) revoked.delete(channel);
    return revoked;
  }

  /**
   * @internal The client is back with the socket `ws`. What the old socket had not sent is dropped: it
   * is in the log.
   *
   * @param fresh the meta as `extractMeta` makes it now
   */
  resume(ws: WebSocket, fresh: M): void {
    if (!this.loss) {
      this.#queue = null;
      this.#closeSocket(CLOSE.goingAway, "Resumed elsewhere");
      this.#ws.serializeAttachment(null);
    }
    this.isLate = false;
    this.loss = undefined;
    this.#ws = ws;
    this.#unreadUnits = 0;
    this.#sinceAskedUnits = null;
    this.#takeOver(ws);
    this.#attachment.seenAtMs = Date.now();
    this.#attachment.unheard = true;
    this.change();
    this.meta = renewMeta(this.meta, fresh, this.#attachment.origin ?? {});
    this.#attachment.origin = { ...this.#attachment.origin, ...digestMeta(fresh) };
    this.store();
  }

  /** @internal Its client has a new session. */
  supersede(): void {
    this.#closeSocket(CLOSE.goingAway, "Resumed elsewhere");
    this.disconnect("lost");
  }

  /** Closes the socket because its token has expired. */
  expire(): void {
    this.sendError({ code: "token_expired", message: "The token has expired" });
    this.close(CLOSE.unauthorized, "Token expired", "expired");
  }

  /** The one disconnect path: a close, an error, a failed send and a ghost all come here. Idempotent. */
  disconnect(reason: EndReason): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#queue = null;
    this.#acks?.rejectAll();
    if (this.#isSpilled) deleteMeta(this.#host.state, this.id);
    // A closing socket may outlast this instance; the next one must not take it for a session.
    if (!this.loss) this.#ws.serializeAttachment(null);
    this.#host.ended(this, reason);
  }
}
