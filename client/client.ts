/**
 * The client of rooms and presence rooms: {@link VeraniClient}. For pages, Workers, Node and React Native.
 *
 * @module
 */
import type {
  AnyState,
  AnyUser,
  PresenceCount,
  PresenceEvent,
  RosterEntry,
  Status,
} from "../rooms/presence/roster.ts";
import { CLOSE, endsSession } from "../src/wire/close.ts";
import {
  type ErrorCode,
  type ErrorPayload,
  RollcallError,
  toErrorPayload,
} from "../src/wire/errors.ts";
import type { AckOf, AnyEvents, CodesOf, EventMap, Payload } from "../src/wire/events.ts";
import {
  CONFIRMED,
  encodeAck,
  encodeFrame,
  encodeNack,
  type FrameLimits,
  type Hello,
  HISTORY,
  type MessageFrame,
  parseFrames,
  type Untyped,
  unwrapEvent,
} from "../src/wire/frames.ts";
import { assertJson } from "../src/wire/json.ts";
import type { Other } from "./others.ts";
import { type Outgoing, OutgoingQueue } from "./outgoing.ts";
import { RosterKeeper } from "./presence.ts";
import { type OpenInfo, ResumableSession } from "./session.ts";
import {
  type CloseInfo,
  type ConnectionState,
  LONGEST_TIMER_MS,
  ReconnectingSocket,
  type ReconnectionConfig,
  randomId,
  refreshDelay,
  type SocketOptions,
  toSocketUrl,
} from "./socket.ts";
import { OwnState, type StateOptions } from "./state.ts";

export type {
  AnyState,
  AnyUser,
  PresenceCount,
  PresenceEvents,
  Roster,
  RosterDiff,
  RosterEntry,
  RosterPage,
  RosterSync,
  Status,
} from "../rooms/presence/roster.ts";
export { type ErrorCode, type ErrorPayload, RollcallError } from "../src/wire/errors.ts";
export type { AnyEvents, CodesOf, EventMap } from "../src/wire/events.ts";
export {
  type ClientMessage,
  decodeClientMessage,
  decodeFrame,
  decodeServerMessage,
  encodeClientMessage,
  encodeFrame,
  encodeServerMessage,
  type Hello,
  type MessageFrame,
  type ResumeRefusal,
  type ServerMessage,
  type Untyped,
  type VeraniMessage,
} from "../src/wire/frames.ts";
export { PROTOCOL_VERSION } from "../src/wire/version.ts";
export type { Other } from "./others.ts";
export type { OpenInfo } from "./session.ts";
export type {
  CloseInfo,
  ConnectionState,
  ReconnectionConfig,
  WebSocketClass,
  WebSocketLike,
} from "./socket.ts";

export type { StateOptions } from "./state.ts";

/** The events of a room, by the type of its declaration: `EventsOf<typeof board>`. */
export type EventsOf<R extends { readonly "~events"?: EventMap }> = NonNullable<R["~events"]>;
/** The states of a presence room, by its events. */
export type StateOf<E extends EventMap> = E["in"] extends {
  "presence.state": { state: infer State };
}
  ? NonNullable<State>
  : AnyState;
/** What the server knows of the users of a presence room, by its events. */
export type UserOf<E extends EventMap> = E["out"] extends {
  "presence.sync": { users: RosterEntry<string, object, infer User>[] };
}
  ? User
  : AnyUser;
/** The statuses of the users of a presence room, by its events. */
export type StatusOf<E extends EventMap> = E["out"] extends {
  "presence.status": { status: infer S extends string };
}
  ? S
  : Status;
/** The users of a presence room, by its events. */
export type EntryOf<E extends EventMap> = RosterEntry<StatusOf<E>, StateOf<E>, UserOf<E>>;
/** The connections in a presence room, by its events. */
export type OtherOf<E extends EventMap> = Other<StateOf<E>, UserOf<E>, StatusOf<E>>;

/** The errors with which an `emitWithAck` may reject, by a room's events. */
export type ErrorOf<E extends EventMap> = RollcallError & { readonly code: CodesOf<E> };

/** What a client may always hear. */
interface ProtocolEvents<E extends EventMap> {
  error: ErrorPayload<CodesOf<E>>;
  /** Of this client, in a presence room: once per message that changed {@link VeraniClient.others}. */
  others: ReadonlyMap<string, OtherOf<E>>;
}
type Received<E extends EventMap> = E["out"] & ProtocolEvents<E>;

/** Options of {@link VeraniClient.emitWithAck}. */
export interface AckOptions {
  /** Time to wait for the answer, in ms, with the time in the queue. Default 10 000. */
  timeoutMs?: number;
}

/** An emit that was dropped: more than `maxQueueSize` waited without a connection, or the client was closed. */
export interface DroppedMessage {
  type: string;
  data: Untyped;
  reason: "full" | "closed";
}

/** An event that was emitted before. */
export interface PastEvent {
  event: string;
  channel: string;
  data: Untyped;
  /** When it was emitted: the server's time, in ms. */
  atMs: number;
}

/** A part of a room's history. */
export interface HistoryPage {
  /** Oldest first. */
  events: PastEvent[];
  /** For the page before this one; null when there is none. */
  before: string | null;
}

type Token = string | null | undefined;

/** Options of a {@link VeraniClient}. */
export interface VeraniClientOptions {
  /** How it reconnects. */
  reconnection?: Partial<ReconnectionConfig>;
  /** Time between pings, in ms; default 5 000. A server may ask for them more often. 0: only if it asks. */
  pingInterval?: number;
  /** Time until a ping without an answer ends the connection, in ms. Default 5 000. */
  pongTimeout?: number;
  /** Emits that are kept while there is no connection; beyond it the oldest is dropped. Default 100. */
  maxQueueSize?: number;
  /** Time until an attempt to connect has failed, in ms. Default 10 000. */
  connectionTimeout?: number;
  /**
   * Sent beside the URL, as a subprotocol. A function is called anew for each connection; where it throws
   * or rejects, the attempt has failed and the next one calls it again. Null or undefined: no token.
   */
  token?: string | (() => Token | Promise<Token>);
  /** `query`: the token is sent as `token=` in the URL, for servers that know no other way. */
  tokenIn?: "query";
  /**
   * In a room whose log is durable: the last so many events of the client's channels come first, on
   * connecting; after a break, those that it has missed.
   */
  rewind?: number;
  /** Least time between two states that are sent, in ms. Default 50. */
  stateMs?: number;
  /** The WebSocket class, where there is no global one: in Node < 22 that of the package `ws`. */
  WebSocket?: NonNullable<SocketOptions["WebSocket"]>;
  /** Called with what the client does; it logs nothing itself. */
  log?: (event: string, fields: Record<string, unknown>) => void;
}

/** The connection of a client, as {@link VeraniClient.getConnectionState} gives it. */
export interface ConnectionStateInfo {
  state: ConnectionState;
  isConnected: boolean;
  isConnecting: boolean;
  /** Attempts to reconnect since a connection last lived for 5 s. */
  reconnectAttempts: number;
  /** Grows with each attempt to connect. */
  connectionId: number;
}

/** Verani's, but for `maxAttempts`: a laptop that was closed overnight reconnects too. */
export const DEFAULT_RECONNECTION_CONFIG: ReconnectionConfig = {
  enabled: true,
  maxAttempts: 0,
  initialDelay: 1_000,
  maxDelay: 30_000,
  backoffMultiplier: 1.5,
};

const DEFAULTS = {
  pingInterval: 5_000,
  pongTimeout: 5_000,
  maxQueueSize: 100,
  connectionTimeout: 10_000,
  stateMs: 50,
};

/** `defaults` with the given values; an `undefined` from plain JavaScript is none. */
function filled<T extends object>(defaults: T, given: Partial<T>): T {
  const result = { ...defaults };
  for (const key in defaults) result[key] = given[key] ?? defaults[key];
  return result;
}

/** A server that is silent for so long after the upgrade has not refused it, in ms. */
const READY_MS = 1_000;
/** Emits that are sent before the server has said how many it takes. */
const FIRST_EMITS = 20;
/** Answers to questions that are kept for a break. */
const KEPT_ANSWERS = 20;
const RESUMED_ELSEWHERE = "Resumed elsewhere";

/** What a close code means for the app. The others are losses, which mend themselves. */
const REFUSALS: Readonly<Record<number, ErrorCode>> = {
  [CLOSE.badRequest]: "bad_request",
  [CLOSE.unauthorized]: "unauthorized",
  [CLOSE.forbidden]: "forbidden",
  [CLOSE.rateLimited]: "rate_limited",
};

function setOrDelete(query: URLSearchParams, name: string, value: string | undefined): void {
  if (value === undefined) query.delete(name);
  else query.set(name, value);
}

/** The event of a frame with its data as it was emitted: without the name that travels beside it. */
function bareEvent(frame: MessageFrame): { event: string; data: Untyped } {
  const { event, data } = unwrapEvent(frame);
  if (frame.type !== "event" || data !== frame.data || event !== data?.type) return { event, data };
  const { type: _, ...emitted } = data;
  return { event, data: emitted };
}

type Handler = (data: Untyped) => unknown;

// Methods, not function types: callbacks written for Verani name `CloseEvent` and `Event` here.
interface Callbacks {
  open(info: OpenInfo): void;
  close(event: CloseInfo): void;
  error(error: unknown): void;
  state(state: ConnectionState): void;
  dropped(message: DroppedMessage): void;
  log(event: string, fields: Record<string, unknown>): void;
}

interface PendingAck {
  message: Outgoing;
  text: string;
  resolve(data: Untyped): void;
  reject(error: RollcallError): void;
  timer: ReturnType<typeof setTimeout>;
}

/**
 * A live connection to a room: it receives events, emits, and reconnects by itself, except when the
 * server closed with 1000 (leave), 4400 (bad request), 4403 (forbidden) or 4404 (kicked), or three times
 * in a row with 4401 (unauthorized). After a break it resumes its session: what was sent meanwhile
 * arrives, once and in order.
 *
 * The client connects at once. It keeps the roster of a presence room: a `presence.diff` reaches the
 * app as `presence.online`, `presence.update`, `presence.status` and `presence.offline`.
 *
 * @example
 * const client = new VeraniClient("wss://example.com/ws/presence", { token: () => freshToken() });
 * client.on("presence.online", ({ username }) => greet(username));
 * client.emit("presence.status", { status: "busy" });
 */
export class VeraniClient<E extends EventMap = AnyEvents> {
  readonly #socket: ReconnectingSocket;
  readonly #options: typeof DEFAULTS;
  readonly #session: ResumableSession;
  readonly #outgoing: OutgoingQueue;
  readonly #presence: RosterKeeper;
  readonly #state: OwnState;
  /** By event; true for those that get it once. */
  readonly #handlers = new Map<string, Map<Handler, boolean>>();
  readonly #acks = new Map<string, PendingAck>();
  /** Answers to the server's questions, by their ids: a question may come again after a break. */
  readonly #answers = new Map<string, string>();
  /** Emits that were sent on earlier connections, and wait for their answers. */
  #unanswered: string[] = [];
  /** This connection's `open` has been told. */
  #isReady = false;
  readonly #waiting = new Set<(error?: RollcallError) => void>();
  /** Unlike that of any other client, or of this page before it was loaded again. */
  readonly #idPrefix = `${randomId().slice(0, 16)}-`;
  #callbacks: Partial<Callbacks> = {};
  #lastId = 0;
  /** What the server speaks; 0 until it has sent something. */
  #protocol: 0 | 1 | 2 | 3 = 0;
  #info: OpenInfo = { resumed: false, replayed: 0 };
  #hadSession = false;
  #limits: FrameLimits | undefined;
  #readyTimer: ReturnType<typeof setTimeout> | undefined;
  readonly #token: VeraniClientOptions["token"];
  /** How far the server's clock is ahead, in ms. */
  #aheadMs = 0;
  #refreshTimer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param url `ws:` or `wss:` (`http:` and `https:` do as well); in a page it may be relative
   * @throws TypeError when `url` is none
   */
  constructor(url: string, options: VeraniClientOptions = {}) {
    const { token, log, rewind, WebSocket } = options;
    this.#options = filled(DEFAULTS, options);
    this.#token = token;
    if (log) this.#callbacks.log = log;
    const target = toSocketUrl(url);
    this.#session = new ResumableSession(target.href);
    target.searchParams.set("v", "3");
    target.searchParams.set("probe", "1");
    this.#presence = new RosterKeeper(
      (events) => this.#dispatchAll(events),
      (data) => this.#push({ type: "presence.status", data }),
      () => this.#dispatch("others", this.others),
    );
    this.#state = new OwnState(this.#options.stateMs, (data) => {
      this.#socket.send(encodeFrame({ type: "presence.state", data }));
    });
    this.#outgoing = new OutgoingQueue(
      this.#options.maxQueueSize,
      (text) => this.#socket.send(text),
      (message) => this.#drop(message, "full", "The queue is full"),
    );

    this.#socket = new ReconnectingSocket(
      async () => {
        const given = (typeof token === "function" ? await token() : token) ?? undefined;
        if (options.tokenIn === "query") setOrDelete(target.searchParams, "token", given);
        setOrDelete(target.searchParams, "resume", this.#session.query);
        if (rewind) {
          target.searchParams.set("rewind", String(rewind));
          setOrDelete(target.searchParams, "since", this.#session.cursor);
        }
        return { url: target.href, token: options.tokenIn === "query" ? undefined : given };
      },
      {
        ...this.#options,
        reconnection: filled(DEFAULT_RECONNECTION_CONFIG, options.reconnection ?? {}),
        ...(WebSocket && { WebSocket }),
      },
      {
        state: (state) => {
          this.#notify("log", "state", { state });
          this.#notify("state", state);
        },
        open: () => {
          this.#protocol = 0;
          this.#isReady = false;
          this.#unanswered = [...this.#acks.keys()].filter((id) => !this.#outgoing.has(id));
          // A refusal is a close right after the upgrade. Each server answers the first ping at once.
          this.#readyTimer = setTimeout(() => this.#ready(), READY_MS);
          // With a session to resume, emits wait for those that have to be sent again before them.
          if (this.#session.query === undefined) this.#outgoing.open(undefined, FIRST_EMITS);
        },
        message: (data) => this.#message(data),
        error: (error) => this.#fail(error),
        close: (event, final) => this.#closed(event, final),
      },
    );
    this.#socket.open();
  }

  /** Who is in the room, by its presence events. It stands still while there is no connection. */
  get roster(): ReadonlyMap<string, Readonly<EntryOf<E>>> {
    return this.#presence.roster as ReadonlyMap<string, Untyped>;
  }

  /** The other connections in a presence room, by their ids: a new map for each change. */
  get others(): ReadonlyMap<string, OtherOf<E>> {
    return this.#presence.others.all as ReadonlyMap<string, Untyped>;
  }

  /** This connection as others see it; null until it is known, as in a large room. */
  get me(): OtherOf<E> | null {
    const { me } = this.#presence.others;
    if (!me) return null;
    const { state: known, ...rest } = me;
    const state = this.#state.current === undefined ? known : this.#state.current;
    return (state ? { ...rest, state } : rest) as OtherOf<E>;
  }

  /** How many users and connections are in a presence room, as far as it has told. */
  get count(): PresenceCount {
    return this.#presence.count;
  }

  /**
   * Replaces what this connection says of itself in a presence room; null takes it back. It is sent at
   * most once per `stateMs`, always with its last value, and again for a new session.
   *
   * @throws TypeError for data that JSON cannot hold
   */
  setState(state: StateOf<E> | null, options: StateOptions = {}): void {
    assertJson(state, "The state");
    this.#state.set(state, options);
  }

  /**
   * Calls back for `event`. When the server asks for an answer, the first value that a handler returns
   * or resolves to is the ack, and an error that it throws the nack.
   */
  on<K extends keyof Received<E> & string>(
    event: K,
    callback: (data: Received<E>[K]) => unknown,
  ): void {
    this.#listen(event, callback, false);
  }

  /** Calls back for the next `event` only. */
  once<K extends keyof Received<E> & string>(
    event: K,
    callback: (data: Received<E>[K]) => unknown,
  ): void {
    this.#listen(event, callback, true);
  }

  /** Ends what {@link VeraniClient.on} or `once` began. Without a callback, for all of the event. */
  off<K extends keyof Received<E> & string>(
    event: K,
    callback: (data: Received<E>[K]) => unknown,
  ): void {
    this.#handlers.get(event)?.delete(callback);
  }

  /**
   * Sends `event`, now or once connected. Without a connection the last `maxQueueSize` emits are kept.
   *
   * @throws TypeError for data that JSON cannot hold: a Map, a function, NaN …
   * @throws RollcallError `too_large` for more than the server takes in a frame
   */
  emit<K extends keyof E["in"] & string>(event: K, ...[data]: Payload<E["in"][K]>): void {
    this.#push({ type: event, data });
    if (event === "presence.status") this.#presence.chose(data);
  }

  #push(message: Outgoing): void {
    this.#outgoing.push(message, this.#outgoing.encode(message));
  }

  /**
   * Sends `event` and waits for what the room's handler returns. It waits through a break of the
   * connection: the server runs it once, also if it is sent again.
   *
   * @throws TypeError for data that JSON cannot hold
   * @throws RollcallError the server's code, `timeout`, `too_large`, or `disconnected`
   */
  emitWithAck<K extends keyof E["in"] & string>(
    event: K,
    ...[data, options]: Payload<E["in"][K], [options?: AckOptions]>
  ): Promise<AckOf<E, K, Untyped>> {
    return this.#ask(event, data, options);
  }

  /**
   * Reads events of before, of the client's channels, in a room whose log is durable.
   *
   * @param options.before of a later page; without it, the newest
   * @param options.limit 1–100, default 100
   * @throws RollcallError `forbidden`, `rate_limited`, `not_found` for a page of another log
   */
  async history(options: { before?: string; limit?: number } = {}): Promise<HistoryPage> {
    const { events, before } = await this.#ask(HISTORY, options);
    const toPast = ({ atMs, frame }: { atMs: number; frame: MessageFrame }): PastEvent => ({
      ...bareEvent(frame),
      channel: frame.channel ?? "default",
      atMs,
    });
    return { events: events.map(toPast), before };
  }

  #ask(event: string, data: Untyped, { timeoutMs = 10_000 }: AckOptions = {}): Promise<Untyped> {
    return new Promise((resolve, reject) => {
      if (this.#socket.isFinal) throw new RollcallError("disconnected", "Disconnected");
      const id = this.#idPrefix + String(++this.#lastId);
      const message = { type: event, data, id };
      const text = this.#outgoing.encode(message);
      const timer = setTimeout(
        () => this.#settle(id, new RollcallError("timeout", `No answer in ${timeoutMs} ms`)),
        Math.min(timeoutMs, LONGEST_TIMER_MS),
      );
      this.#acks.set(id, { message, text, resolve, reject, timer });
      this.#outgoing.push(message, text);
    });
  }

  /** How the current connection began. */
  get resumed(): OpenInfo {
    return this.#info;
  }

  /**
   * The callback for an open connection, with how it began. A later callback replaces it, here and
   * below.
   */
  onOpen(callback: Callbacks["open"]): void {
    this.#callbacks.open = callback;
  }

  /** The callback for the end of a connection or of an attempt. 4408: our own deadline passed. */
  onClose(callback: Callbacks["close"]): void {
    this.#callbacks.close = callback;
  }

  /** The callback for faults: of the socket (an `Event`), a deadline, the token, a handler. */
  onError(callback: Callbacks["error"]): void {
    this.#callbacks.error = callback;
  }

  /** The callback for each change of the connection's state. */
  onStateChange(callback: Callbacks["state"]): void {
    this.#callbacks.state = callback;
  }

  /** The callback for emits that will never be sent. */
  onDropped(callback: Callbacks["dropped"]): void {
    this.#callbacks.dropped = callback;
  }

  /** The connection's state. */
  getState(): ConnectionState {
    return this.#socket.state;
  }

  /** Whether the connection is open. */
  isConnected(): boolean {
    return this.#socket.isOpen;
  }

  /** Whether an attempt to connect is under way. */
  get isConnecting(): boolean {
    return this.#socket.state === "connecting";
  }

  /** The connection's state, with its counters. */
  getConnectionState(): ConnectionStateInfo {
    return {
      state: this.#socket.state,
      isConnected: this.isConnected(),
      isConnecting: this.isConnecting,
      reconnectAttempts: this.#socket.attempts,
      connectionId: this.#socket.connections,
    };
  }

  /**
   * Resolves once connected, over as many attempts as fit into twice the `connectionTimeout`.
   *
   * @throws RollcallError `timeout`, or `disconnected` when there will be no further attempt
   */
  waitForConnection(): Promise<void> {
    if (this.isConnected() && this.#protocol > 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      if (this.#socket.isFinal) throw new RollcallError("disconnected", "Disconnected");
      const settle = (error?: RollcallError): void => {
        clearTimeout(timer);
        this.#waiting.delete(settle);
        error ? reject(error) : resolve();
      };
      const timer = setTimeout(
        () => settle(new RollcallError("timeout", "Not connected in time")),
        Math.min(this.#options.connectionTimeout * 2, LONGEST_TIMER_MS),
      );
      this.#waiting.add(settle);
    });
  }

  /** Connects now, whatever the state; also after {@link disconnect}. */
  reconnect(): void {
    this.#socket.open();
  }

  /** Leaves with 1000 and stays away. What is queued waits for {@link reconnect}; acks do not. */
  disconnect(): void {
    this.#session.forget();
    this.#socket.stop();
    this.#giveUp(true, "Disconnected");
  }

  /** {@link disconnect}, and forgets the queue, all handlers and all callbacks. */
  close(): void {
    this.disconnect();
    this.#session.stop();
    this.#presence.stop();
    this.#state.close();
    for (const message of this.#outgoing.clear()) this.#drop(message, "closed", "Closed");
    this.#handlers.clear();
    this.#callbacks = {};
  }

  #listen(event: string, callback: Handler, once: boolean): void {
    const handlers = this.#handlers.get(event) ?? new Map<Handler, boolean>();
    this.#handlers.set(event, handlers.set(callback, once && handlers.get(callback) !== false));
  }

  /** Calls code of the app. Whatever it does, the connection goes on. */
  #notify<K extends keyof Callbacks>(name: K, ...args: Parameters<Callbacks[K]>): void {
    try {
      (this.#callbacks[name] as ((...args: unknown[]) => void) | undefined)?.(...args);
    } catch (error) {
      if (name !== "error" && name !== "log") this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    this.#notify("log", "error", { error });
    this.#notify("error", error);
  }

  #drop({ type, data, id }: Outgoing, reason: DroppedMessage["reason"], why: string): void {
    if (id) this.#settle(id, new RollcallError("disconnected", why));
    this.#notify("log", "dropped", { type });
    this.#notify("dropped", { type, data, reason });
  }

  // ── The connection ──────────────────────────────────────────────────────────────────────────

  #message(data: unknown): void {
    const { connections } = this.#socket;
    let begins = false;
    for (const frame of parseFrames(data)) {
      // The runtime answers pings also before the actor has said a word.
      const isAnswer = frame.type !== "pong" || this.#session.query === undefined;
      begins ||= this.#protocol === 0 && isAnswer;
      // A handler may have disconnected in the middle of a list.
      if (this.#socket.state !== "connected" || connections !== this.#socket.connections) return;
      if (frame.type === "hello" && this.#protocol < 2) {
        this.#begin(frame.data);
        begins = true;
      } else this.#receive(frame);
    }
    if (begins) this.#ready();
    const { roster, others } = this.#presence;
    if (this.#protocol === 3 && others.follow(roster)) this.#dispatch("others", this.others);
  }

  /** The first frame of protocol 2 and later. */
  #begin(hello: Hello): void {
    const { protocol, pingMs, lookMs, limits, reason, graceMs = 0 } = hello;
    if (!(protocol >= 2 && protocol <= 3)) return;
    this.#protocol = protocol;
    this.#info = this.#session.begin(hello);
    this.#notify("log", "hello", { pingMs, ...this.#info });
    this.#socket.pingWithin(pingMs);
    if (lookMs !== undefined) this.#socket.probeWithin(lookMs);
    this.#limits = limits;
    this.#presence.begin(hello);
    const { expiresAtMs, nowMs = Date.now() } = hello;
    this.#aheadMs = nowMs - Date.now();
    if (expiresAtMs !== undefined) this.#refreshIn(expiresAtMs - nowMs);
    if (this.#info.resumed) return;
    for (const id of this.#unanswered) {
      this.#settle(id, new RollcallError("disconnected", "The session is a new one"));
    }
    this.#answers.clear();
    if (this.#hadSession) this.#presence.restart(reason === "restarted" ? graceMs : 0);
  }

  /** Shows the server a fresh token in time, so that it need not close the connection. */
  #refreshIn(lifeMs: number): void {
    const token = this.#token;
    clearTimeout(this.#refreshTimer);
    if (typeof token !== "function") return;
    const refresh = async (): Promise<void> => {
      try {
        const given = await token();
        if (!given || !this.isConnected()) return;
        const { expiresAtMs } = await this.#ask("auth", { token: given });
        if (expiresAtMs) this.#refreshIn(expiresAtMs - this.#aheadMs - Date.now());
      } catch (error) {
        // It is closed with 4401 then, and comes back with a token that it asks for anew.
        this.#fail(error);
      }
    };
    this.#refreshTimer = setTimeout(() => void refresh(), refreshDelay(lifeMs));
  }

  /** The server has sent something: it has not refused the client. */
  #ready(): void {
    clearTimeout(this.#readyTimer);
    if (this.#protocol === 0) this.#protocol = 1;
    if (this.#protocol < 2) this.#info = { resumed: false, replayed: 0 };
    if (this.#protocol < 2 && this.#hadSession) this.#presence.restart(0);
    this.#hadSession = true;
    if (this.#info.resumed) {
      for (const reply of this.#answers.values()) this.#socket.send(reply);
      const sent = this.#unanswered.flatMap((id) => this.#acks.get(id) ?? []);
      this.#outgoing.repeat(sent.map(({ message, text }) => ({ ...message, text })));
    }
    this.#unanswered = [];
    this.#outgoing.open(this.#limits);
    if (this.#protocol === 3) this.#state.open(this.#info.resumed);
    for (const settle of [...this.#waiting]) settle();
    if (!this.#isReady) this.#notify("open", this.#info);
    this.#isReady = true;
  }

  #closed(event: CloseInfo, final: boolean): void {
    const { code, reason } = event;
    clearTimeout(this.#readyTimer);
    clearTimeout(this.#refreshTimer);
    this.#state.close();
    const wasRefused = this.#protocol === 0 && REFUSALS[code] !== undefined;
    this.#outgoing.close(wasRefused);
    const isTakenOver = code === CLOSE.goingAway && reason === RESUMED_ELSEWHERE;
    if (final || isTakenOver || endsSession(code)) this.#session.forget();
    this.#notify("log", "close", { code, reason, final });
    const errorCode = REFUSALS[code];
    if (errorCode) this.#fail(new RollcallError(errorCode, reason || `Closed with ${code}`));
    this.#giveUp(final, `Closed with ${code} ${reason}`);
    this.#notify("close", event);
  }

  /** Nobody will answer what was sent; nor, if there is no further attempt, what was not. */
  #giveUp(final: boolean, message: string): void {
    if (final || this.#session.query === undefined) this.#giveUpSent(message, final);
    if (!final) return;
    for (const settle of [...this.#waiting]) settle(new RollcallError("disconnected", message));
  }

  #giveUpSent(message: string, queuedToo = false): void {
    for (const id of [...this.#acks.keys()]) {
      if (!queuedToo && this.#outgoing.has(id)) continue;
      this.#settle(id, new RollcallError("disconnected", message));
    }
  }

  #settle(id: string, error: RollcallError | undefined, data?: Untyped): void {
    const ack = this.#acks.get(id);
    if (!ack) return;
    this.#acks.delete(id);
    clearTimeout(ack.timer);
    this.#outgoing.remove(id);
    error ? ack.reject(error) : ack.resolve(data);
  }

  // ── Frames ──────────────────────────────────────────────────────────────────────────────────

  #receive(frame: MessageFrame): void {
    const { type, id, seq } = frame;
    if (type === "pong" || !this.#session.take(seq)) return;
    if (type === "probed") this.#socket.probed();
    else if (type === "confirm") this.#socket.send(CONFIRMED);
    else if (id !== undefined && type === "ack") {
      this.#settle(id, undefined, frame.data);
    } else if (id !== undefined && type === "nack") {
      this.#settle(id, RollcallError.from(frame.error ?? toErrorPayload(undefined)));
    } else {
      const known = id === undefined ? undefined : this.#answers.get(id);
      if (known) {
        this.#socket.send(known);
        return;
      }
      const { event, data } = this.#protocol >= 2 ? bareEvent(frame) : unwrapEvent(frame);
      const { before, after } = this.#presence.fold(event, data);
      this.#dispatchAll(before);
      this.#dispatch(event, data, id);
      this.#dispatchAll(after);
    }
  }

  #dispatchAll(events: readonly PresenceEvent[]): void {
    for (const { event, data } of events) {
      // As protocol 1 has it: the name stands in the data, too.
      this.#dispatch(event, this.#protocol >= 2 ? data : { type: event, ...data });
    }
  }

  #dispatch(event: string, data: Untyped, id?: string): void {
    const handlers = this.#handlers.get(event);
    const answers: unknown[] = [];
    for (const [handler, once] of [...(handlers ?? [])]) {
      if (once) handlers?.delete(handler);
      try {
        const answer = handler(data);
        if (id !== undefined || answer instanceof Promise) answers.push(answer);
      } catch (error) {
        answers.push(Promise.reject(error));
      }
    }
    if (answers.length > 0) void this.#answer(answers, id);
    else if (id !== undefined) {
      const error = new RollcallError("unknown_event", `Nobody here listens to ${event}`);
      this.#reply(id, encodeNack(id, error.toJSON()));
    }
  }

  /** Answers a question, now or when the session is resumed. */
  #reply(id: string, text: string): void {
    if (this.#protocol === 3) {
      this.#answers.set(id, text);
      const [oldest = ""] = this.#answers.keys();
      if (this.#answers.size > KEPT_ANSWERS) this.#answers.delete(oldest);
    }
    this.#socket.send(text);
  }

  async #answer(answers: unknown[], id: string | undefined): Promise<void> {
    const session = this.#info;
    let reply: string | undefined;
    try {
      const all = await Promise.all(answers);
      if (id !== undefined)
        reply = encodeAck(
          id,
          all.find((answer) => answer !== undefined),
        );
    } catch (error) {
      this.#fail(error);
      if (id !== undefined) reply = encodeNack(id, toErrorPayload(error));
    }
    // The server of a new session knows nothing of this question.
    const isCurrent = session === this.#info || this.#info.resumed;
    if (reply && id !== undefined && isCurrent) this.#reply(id, reply);
  }
}
