import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  type RosterDiff,
  type RosterEntry,
  type RosterSync,
  rosterOf,
  type Status,
} from "../rooms/presence/roster.ts";
import { type ErrorPayload, RollcallError, toErrorPayload } from "../src/wire/errors.ts";
import {
  encodeAck,
  encodeNack,
  type Hello,
  type MessageFrame,
  parseFrames,
  type Untyped,
  unwrapEvent,
} from "../src/wire/frames.ts";
import {
  type CloseInfo,
  type ConnectionState,
  LONGEST_TIMER_MS,
  ReconnectingSocket,
  type ReconnectionConfig,
  type SocketOptions,
} from "./socket.ts";

export type {
  Roster,
  RosterDiff,
  RosterEntry,
  RosterSync,
  Status,
} from "../rooms/presence/roster.ts";
export { type ErrorCode, type ErrorPayload, RollcallError } from "../src/wire/errors.ts";
export {
  type ClientMessage,
  decodeClientMessage,
  decodeFrame,
  decodeServerMessage,
  encodeClientMessage,
  encodeFrame,
  encodeServerMessage,
  type MessageFrame,
  type ServerMessage,
  type Untyped,
  type VeraniMessage,
} from "../src/wire/frames.ts";
export { PROTOCOL_VERSION } from "../src/wire/version.ts";
export type { CloseInfo, ConnectionState, ReconnectionConfig, WebSocketLike } from "./socket.ts";

/**
 * Names and types the events of a room, seen from the server: what comes `in` is what the client
 * emits, what goes `out` is what it hears. `acks` tells what `emitWithAck` resolves to.
 */
export interface EventMap {
  in: object;
  out: object;
  acks?: object;
}
/** Any event with any data, as in Verani. */
export interface AnyEvents {
  in: Record<string, Untyped>;
  out: Record<string, Untyped>;
}

/** The events of a presence room: `new VeraniClient<PresenceEvents>(url)`. */
export interface PresenceEvents {
  in: { "presence.status": { status: Status }; "presence.list": object };
  out: { [P in PresenceEvent as P["event"]]: P["data"] } & {
    "presence.sync": RosterSync;
    "presence.diff": RosterDiff;
  };
}

/** What a server may always say. */
interface ProtocolEvents {
  error: ErrorPayload;
}
type Heard<E extends EventMap> = E["out"] & ProtocolEvents;
type Args<T, Rest extends unknown[] = []> = undefined extends T
  ? [data?: T, ...rest: Rest]
  : [data: T, ...rest: Rest];
type Answer<E extends EventMap, K> = E extends { acks: infer A }
  ? K extends keyof A
    ? A[K]
    : Untyped
  : Untyped;

export interface AckOptions {
  /** ms to wait for the answer, time in the queue included. Default 10 000. */
  timeoutMs?: number;
}

/** An emit that was thrown away: more than `maxQueueSize` waited, or the client was closed. */
export interface DroppedMessage {
  type: string;
  data: Untyped;
  reason: "full" | "closed";
}

export interface VeraniClientOptions {
  /** How to come back after a loss. */
  reconnection?: Partial<ReconnectionConfig>;
  /** ms between pings, default 5000; a server may ask for them more often. 0: only if it asks. */
  pingInterval?: number;
  /** ms until a ping without an answer ends the connection. Default 5000. */
  pongTimeout?: number;
  /** Emits kept while there is no connection; past it the oldest is dropped. Default 100. */
  maxQueueSize?: number;
  /** ms until an attempt to connect has failed. Default 10 000. */
  connectionTimeout?: number;
  /**
   * Sent as `token=` in the URL. A function is asked anew for each connection; where it throws or
   * rejects, the attempt has failed and the next one asks again.
   */
  token?: string | (() => string | Promise<string>);
  /** The WebSocket class, where there is no global one: in Node < 22 that of the package `ws`. */
  WebSocket?: NonNullable<SocketOptions["WebSocket"]>;
  /** Hears what the client does; it is silent otherwise. */
  log?: (event: string, fields: Record<string, unknown>) => void;
}

export interface ConnectionStateInfo {
  state: ConnectionState;
  isConnected: boolean;
  isConnecting: boolean;
  /** Attempts to come back since a connection last held for 5 s. */
  reconnectAttempts: number;
  /** Grows with each attempt to connect. */
  connectionId: number;
}

/** Verani's, but for `maxAttempts`: a laptop that was closed overnight has to come back too. */
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
};

/** `defaults` with what is given; an `undefined` from plain JavaScript gives nothing. */
function filled<T extends object>(defaults: T, given: Partial<T>): T {
  const result = { ...defaults };
  for (const key in defaults) result[key] = given[key] ?? defaults[key];
  return result;
}

type Handler = (data: Untyped) => unknown;

// Methods, not function types: callbacks written for Verani name `CloseEvent` and `Event` here.
interface Callbacks {
  open(): void;
  close(event: CloseInfo): void;
  error(error: unknown): void;
  state(state: ConnectionState): void;
  dropped(message: DroppedMessage): void;
  log(event: string, fields: Record<string, unknown>): void;
}

interface Outgoing {
  type: string;
  data: Untyped;
  id?: string;
}

interface PendingAck {
  resolve(data: Untyped): void;
  reject(error: RollcallError): void;
  timer: ReturnType<typeof setTimeout>;
}

/**
 * A live connection to a room: hears its events, emits to it, and comes back by itself after a loss,
 * except when the server closed with 1000 (leave), 4400 (bad request) or 4403 (forbidden).
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
  /** By event; true for those that hear it once. */
  readonly #handlers = new Map<string, Map<Handler, boolean>>();
  readonly #acks = new Map<string, PendingAck>();
  readonly #waiting = new Set<(error?: RollcallError) => void>();
  #callbacks: Partial<Callbacks> = {};
  #queue: (Outgoing & { text: string })[] = [];
  #roster: Roster = new Map();
  #lastId = 0;

  /**
   * @param url `ws:` or `wss:` (`http:` and `https:` do as well); in a page it may be relative
   * @throws TypeError when `url` is none
   */
  constructor(url: string, options: VeraniClientOptions = {}) {
    const { token, log, WebSocket } = options;
    this.#options = filled(DEFAULTS, options);
    if (log) this.#callbacks.log = log;
    const target = new URL(url, (globalThis as { location?: { href: string } }).location?.href);
    target.protocol = target.protocol.replace("http", "ws");
    target.searchParams.set("v", "2");
    target.searchParams.set("probe", "1");

    this.#socket = new ReconnectingSocket(
      async () => {
        if (token !== undefined) {
          target.searchParams.set("token", typeof token === "function" ? await token() : token);
        }
        return target.href;
      },
      {
        ...this.#options,
        reconnection: filled(DEFAULT_RECONNECTION_CONFIG, options.reconnection ?? {}),
        ...(WebSocket && { WebSocket }),
      },
      {
        state: (state) => {
          this.#tell("log", "state", { state });
          this.#tell("state", state);
        },
        open: () => {
          this.#flush();
          for (const settle of this.#waiting) settle();
          this.#tell("open");
        },
        message: (data) => {
          for (const frame of parseFrames(data)) {
            // A handler may have left in the middle of a list.
            if (this.#socket.state !== "connected") return;
            this.#receive(frame);
          }
        },
        error: (error) => this.#fail(error),
        close: (event, final) => {
          const { code, reason } = event;
          this.#tell("log", "close", { code, reason, final });
          this.#giveUp(final, `Closed with ${code} ${reason}`);
          this.#tell("close", event);
        },
      },
    );
    this.#socket.open();
  }

  /** Who is in the room, as far as its presence events told. Stands still while disconnected. */
  get roster(): ReadonlyMap<string, Readonly<RosterEntry>> {
    return this.#roster;
  }

  /**
   * Hears `event`. When the server asks for an answer (protocol 2), the first value that a handler
   * returns or resolves to is the ack, and what it throws the nack.
   */
  on<K extends keyof Heard<E> & string>(event: K, callback: (data: Heard<E>[K]) => unknown): void {
    this.#listen(event, callback, false);
  }

  /** Hears the next `event` only. */
  once<K extends keyof Heard<E> & string>(
    event: K,
    callback: (data: Heard<E>[K]) => unknown,
  ): void {
    this.#listen(event, callback, true);
  }

  off<K extends keyof Heard<E> & string>(event: K, callback: (data: Heard<E>[K]) => unknown): void {
    this.#handlers.get(event)?.delete(callback);
  }

  /**
   * Sends `event`, now or once connected. While away the last `maxQueueSize` emits are kept.
   *
   * @throws TypeError for data that JSON cannot hold
   */
  emit<K extends keyof E["in"] & string>(event: K, ...[data]: Args<E["in"][K]>): void {
    this.#post({ type: event, data });
  }

  /**
   * Sends `event` and waits for what the room's handler returns. One that waits in the queue when
   * the connection is lost is still sent after it, within its time.
   *
   * @throws RollcallError the server's code, `timeout`, or `disconnected`
   */
  emitWithAck<K extends keyof E["in"] & string>(
    event: K,
    ...[data, options]: Args<E["in"][K], [options?: AckOptions]>
  ): Promise<Answer<E, K>> {
    const { timeoutMs = 10_000 } = options ?? {};
    return new Promise((resolve, reject) => {
      const id = String(++this.#lastId);
      const timer = setTimeout(
        () => this.#settle(id, new RollcallError("timeout", `No answer in ${timeoutMs} ms`)),
        Math.min(timeoutMs, LONGEST_TIMER_MS),
      );
      this.#acks.set(id, { resolve, reject, timer });
      this.#post({ type: event, data, id });
    });
  }

  /** The callback for an open connection. A later one replaces it, here and below. */
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

  onStateChange(callback: Callbacks["state"]): void {
    this.#callbacks.state = callback;
  }

  /** The callback for emits that will never be sent. */
  onDropped(callback: Callbacks["dropped"]): void {
    this.#callbacks.dropped = callback;
  }

  getState(): ConnectionState {
    return this.#socket.state;
  }

  isConnected(): boolean {
    return this.#socket.isOpen;
  }

  get isConnecting(): boolean {
    return this.#socket.state === "connecting";
  }

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
    if (this.isConnected()) return Promise.resolve();
    return new Promise((resolve, reject) => {
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
    this.#socket.stop();
    this.#giveUp(true, "Disconnected");
  }

  /** {@link disconnect}, and forgets the queue, all handlers and all callbacks. */
  close(): void {
    this.disconnect();
    for (const { type, data } of this.#queue.splice(0)) {
      this.#tell("dropped", { type, data, reason: "closed" });
    }
    this.#handlers.clear();
    this.#callbacks = {};
  }

  #listen(event: string, callback: Handler, once: boolean): void {
    const handlers = this.#handlers.get(event) ?? new Map<Handler, boolean>();
    this.#handlers.set(event, handlers.set(callback, once && handlers.get(callback) !== false));
  }

  /** Calls back, where somebody waits for it. Whatever it does, the connection goes on. */
  #tell<K extends keyof Callbacks>(name: K, ...args: Parameters<Callbacks[K]>): void {
    try {
      (this.#callbacks[name] as ((...args: unknown[]) => void) | undefined)?.(...args);
    } catch (error) {
      if (name !== "error" && name !== "log") this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    this.#tell("log", "error", { error });
    this.#tell("error", error);
  }

  #post(message: Outgoing): void {
    this.#queue.push({ ...message, text: JSON.stringify(message) });
    this.#flush();
    if (this.#queue.length <= this.#options.maxQueueSize) return;
    // The oldest says least about now.
    const { type, data, id } = this.#queue.shift() as Outgoing;
    if (id) this.#settle(id, new RollcallError("disconnected", "The queue is full"));
    this.#tell("log", "dropped", { type });
    this.#tell("dropped", { type, data, reason: "full" });
  }

  #flush(): void {
    let sent = 0;
    for (const { text } of this.#queue) {
      if (!this.#socket.send(text)) break;
      sent++;
    }
    this.#queue.splice(0, sent);
  }

  /** Nobody will answer what was sent; nor, if there is no further attempt, what was not. */
  #giveUp(final: boolean, message: string): void {
    for (const id of [...this.#acks.keys()]) {
      if (!final && this.#queue.some((queued) => queued.id === id)) continue;
      this.#settle(id, new RollcallError("disconnected", message));
    }
    if (!final) return;
    for (const settle of this.#waiting) settle(new RollcallError("disconnected", message));
  }

  #settle(id: string, error: RollcallError | undefined, data?: Untyped): void {
    const ack = this.#acks.get(id);
    if (!ack) return;
    this.#acks.delete(id);
    clearTimeout(ack.timer);
    this.#queue = this.#queue.filter((queued) => queued.id !== id);
    error ? ack.reject(error) : ack.resolve(data);
  }

  #receive(frame: MessageFrame): void {
    const { type, id } = frame;
    if (type === "pong") return;
    if (type === "probed") this.#socket.probed();
    else if (type === "hello" && frame.data?.protocol === 2) {
      const hello: Hello = frame.data;
      this.#tell("log", "hello", { pingMs: hello.pingMs });
      this.#socket.pingWithin(hello.pingMs);
      if (hello.lookMs !== undefined) this.#socket.probeWithin(hello.lookMs);
    } else if (id !== undefined && type === "ack") {
      this.#settle(id, undefined, frame.data);
    } else if (id !== undefined && type === "nack") {
      const { code, message, path } = frame.error ?? toErrorPayload(undefined);
      this.#settle(id, new RollcallError(code, message, path));
    } else {
      const { event, data } = unwrapEvent(frame);
      const singles = this.#fold(event, data);
      this.#dispatch(event, data, id);
      for (const single of singles) {
        this.#dispatch(single.event, { type: single.event, ...single.data });
      }
    }
  }

  /** Keeps the roster. @returns a diff as single events */
  #fold(event: string, data: Untyped): PresenceEvent[] {
    try {
      if (event === "presence.sync") this.#roster = rosterOf(data);
      else if (event === "presence.diff") return applyDiff(this.#roster, data);
      else if (event.startsWith("presence.")) {
        applyEvent(this.#roster, { event, data } as PresenceEvent);
      }
    } catch {
      // A room may mean something of its own by these names.
    }
    return [];
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
      this.#socket.send(encodeNack(id, error.toJSON()));
    }
  }

  async #answer(answers: unknown[], id: string | undefined): Promise<void> {
    const { connections } = this.#socket;
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
    // The next connection's server knows nothing of this question.
    if (reply && connections === this.#socket.connections) this.#socket.send(reply);
  }
}
