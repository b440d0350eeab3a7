import { CLOSE, endsSession } from "../src/wire/close.ts";
import { RollcallError } from "../src/wire/errors.ts";
import { PING, PROBE, type Untyped } from "../src/wire/frames.ts";
import { subprotocolsFor } from "../src/wire/subprotocol.ts";

/**
 * A WebSocket that reconnects. It knows connections, not events: it carries text.
 *
 * Every wait is a deadline on the wall clock. It is checked when a timer fires and when the page wakes,
 * so a laptop that slept, or a tab that was throttled, notices at once. There is one timer, since there
 * is one thing to wait for at a time: an open connection (connecting), a ping or its answer (connected),
 * the next attempt (reconnecting).
 */

export type ConnectionState =
  | "connecting"
  | "connected"
  | "disconnected"
  | "reconnecting"
  | "error";

/** How a client reconnects: with random waits that grow. */
export interface ReconnectionConfig {
  enabled: boolean;
  /** Attempts without a lasting connection before giving up. 0: never give up. */
  maxAttempts: number;
  /** The widest wait before the first new attempt, in ms. Each wait is random below its bound. */
  initialDelay: number;
  /** The widest wait that the bound grows to, in ms. */
  maxDelay: number;
  /** What the bound grows by with each attempt. */
  backoffMultiplier: number;
}

/** How a connection ended: the `CloseEvent`, or what we closed it with ourselves. */
export interface CloseInfo {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;
}

/** What we need of a WebSocket, which browsers, Node ≥ 22, Workers and the package `ws` all have. */
export interface WebSocketLike {
  readonly readyState: number;
  /** Sends a text frame. */
  send(text: string): void;
  /** Begins to close the socket. */
  close(code?: number, reason?: string): void;
  /** Calls `listener` for each event of a type. */
  addEventListener(
    type: "open" | "message" | "close" | "error",
    listener: (event: Untyped) => void,
  ): void;
}

/** A class of sockets, such as the global `WebSocket`. */
export type WebSocketClass = new (url: string, protocols?: string[]) => WebSocketLike;

/** Where to connect. */
export interface Address {
  url: string;
  /** Sent as a subprotocol, so that it stands in no URL. */
  token?: string | undefined;
}

export interface SocketOptions {
  reconnection: ReconnectionConfig;
  /** Time between pings, in ms; 0: none, and a dead peer is not noticed, unless the server asks for pings. */
  pingInterval: number;
  /** What a ping is, where the room's codec names another than {@link PING}. */
  ping?: string;
  /** Time that a ping may stay unanswered, in ms; 0: for ever. Any message is an answer. */
  pongTimeout: number;
  /** Time from the request for the URL to an open socket, in ms. */
  connectionTimeout: number;
  WebSocket?: WebSocketClass;
}

export interface SocketListener {
  state(state: ConnectionState): void;
  open(): void;
  message(data: unknown): void;
  error(error: unknown): void;
  /** A connection, or the attempt at one, ended. `final`: no other follows by itself. */
  close(event: CloseInfo, final: boolean): void;
}

/** After a connection that lived for so long, in ms, the next wait starts small again. */
const STABLE_MS = 5_000;
/** A timer that fires so late, in ms, means that this process slept or stalled: the peer may well live. */
const LATE_MS = 1_000;
/** Time for the peer to answer after a sleep, in ms. */
const PROBE_MS = 2_500;
/** With a longer delay, setTimeout fires at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A token is refreshed once this part of its time is over. */
const REFRESH_AT = 0.6;
/** However short a token lives, it is not refreshed more often, in ms. */
const MIN_REFRESH_MS = 1_000;

/** When a token that lives for `lifeMs` more is to be refreshed, in ms from now. */
export function refreshDelay(lifeMs: number): number {
  return Math.min(Math.max(lifeMs * REFRESH_AT, MIN_REFRESH_MS), LONGEST_TIMER_MS);
}

const OPEN = 1;
/** Refusals for lack of a valid token, in a row, after which the client gives up. */
const UNAUTHORIZED_MAX = 3;
/** An attempt that is older than this when the device wakes may hang for long, in ms. */
const HANGING_MS = 2_500;

/** A random name. `crypto.randomUUID` is not there in pages of insecure origins. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The address of a socket.
 *
 * @throws TypeError when `url` is none, or has another scheme than ws, wss, http and https
 */
export function toSocketUrl(url: string): URL {
  const target = new URL(url, (globalThis as { location?: { href: string } }).location?.href);
  target.protocol = target.protocol.replace(/^http/, "ws");
  if (target.protocol !== "ws:" && target.protocol !== "wss:") {
    throw new TypeError(
      `${url} is no address of a WebSocket: it begins with ws://, wss:// or http`,
    );
  }
  // A WebSocket refuses an address with a fragment.
  target.hash = "";
  return target;
}
const WAKE_EVENTS = ["visibilitychange", "pageshow", "focus", "online", "resume"];

/** What a page has and Node and Workers have not. Typed here, so that no DOM library is needed. */
interface Page {
  document?: { readonly hidden: boolean };
  addEventListener(type: string, listener: () => void, options: { signal: AbortSignal }): void;
  Worker: new (url: string) => TickerLike;
  WebSocket: WebSocketClass;
}
interface TickerLike {
  onmessage: (() => void) | null;
  postMessage(delayMs: number): void;
  terminate(): void;
}
const page = globalThis as unknown as Page;

/** ms since `then`. A clock that was set back makes it long ago, so that nothing waits for ever. */
function since(then: number): number {
  const ms = Date.now() - then;
  return ms < 0 ? Number.MAX_SAFE_INTEGER : ms;
}

/** Fires once after a while, on time also in a hidden tab, where browsers delay timers. */
class Alarm {
  readonly #ring: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ticker: TickerLike | null | undefined;

  constructor(ring: () => void) {
    this.#ring = ring;
  }

  /** Infinity: not at all. */
  set(ms: number): void {
    clearTimeout(this.#timer);
    const delayMs = Math.min(Math.max(ms, 0), LONGEST_TIMER_MS);
    if (ms < Infinity) this.#timer = setTimeout(this.#ring, delayMs);
    if (ms < Infinity && page.document?.hidden) {
      if (this.#ticker === undefined) this.#ticker = this.#startTicker();
      this.#ticker?.postMessage(delayMs);
    } else {
      this.#ticker?.terminate();
      this.#ticker = undefined;
    }
  }

  // Timers of a Worker are not throttled. Where the page's CSP forbids one, the timeout has to do.
  #startTicker(): TickerLike | null {
    try {
      const code = "let t;onmessage=e=>{clearTimeout(t);t=setTimeout(postMessage,e.data,0)}";
      tickerUrl ??= URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      const ticker = new page.Worker(tickerUrl);
      ticker.onmessage = this.#ring;
      return ticker;
    } catch {
      return null;
    }
  }
}
let tickerUrl: string | undefined;

export class ReconnectingSocket {
  state: ConnectionState = "disconnected";
  /** Attempts to reconnect since a connection was last stable. */
  attempts = 0;
  /** Connections tried so far: the number of the current one. */
  connections = 0;

  readonly #url: () => Promise<Address>;
  readonly #options: SocketOptions;
  readonly #on: SocketListener;
  readonly #alarm = new Alarm(() => this.#check(false));
  /** No further attempt follows by itself. */
  isFinal = false;
  #refusals = 0;
  /** Grows whenever a connection begins or ends: events of an earlier one are ignored. */
  #generation = 0;
  #ws: WebSocketLike | undefined;
  #watch: AbortController | undefined;

  // Not connected: when the wait began, how long it is, and whether the server asked for it.
  #waitFrom = 0;
  #waitMs = Infinity;
  #isFull = false;

  // Connected.
  #openedAt = 0;
  #pingMs = 0;
  #pingedAt = 0;
  /** How long after the last `probed` a ping is to be a probe. */
  #probeMs = Infinity;
  #probedAt = 0;
  /** When the oldest unanswered ping left. */
  #askedAt: number | undefined;
  /** That ping followed a sleep: little time to answer, and no second chance. */
  #isProbing = false;

  /**
   * @param url where to connect; called anew for each attempt; a rejection is a failed attempt
   * @param on looked up when it fires
   * @throws TypeError where there is neither a global WebSocket nor the option
   */
  constructor(url: () => Promise<Address>, options: SocketOptions, on: SocketListener) {
    if (!options.WebSocket && typeof page.WebSocket !== "function") {
      throw new TypeError(
        "There is no WebSocket here: give the option WebSocket, as of the package ws",
      );
    }
    this.#url = url;
    this.#options = options;
    this.#on = on;
  }

  get isOpen(): boolean {
    return this.state === "connected" && this.#ws?.readyState === OPEN;
  }

  /** Connects now, dropping the connection there may be. */
  open(): void {
    if (this.#leave("reconnect", false)) {
      this.attempts = 0;
      this.#connect();
    }
  }

  /** Closes with 1000 and stays away until {@link open}. */
  stop(): void {
    this.#leave("disconnect", true);
  }

  /** @returns false, with nothing sent, when there is no open connection */
  send(text: string): boolean {
    if (!this.isOpen) return false;
    try {
      this.#ws?.send(text);
      return true;
    } catch {
      return false;
    }
  }

  /** This connection's server asks for a ping at least every `ms`. */
  pingWithin(ms: number): void {
    if (!(ms > 0) || (this.#pingMs > 0 && this.#pingMs <= ms)) return;
    // It is already waiting for the first one.
    if (!this.#pingMs) this.#ping(false);
    this.#pingMs = ms;
    this.#alarm.set(this.#dueMs());
  }

  /** This connection's server asks for a probe each `ms`, from any one of its clients. */
  probeWithin(ms: number): void {
    if (ms > 0) this.#probeMs = ms;
    this.probed();
  }

  /** A client has probed: this one need not for a while. */
  probed(): void {
    this.#probedAt = Date.now();
  }

  async #connect(): Promise<void> {
    const generation = ++this.#generation;
    this.isFinal = false;
    this.connections++;
    this.#watchPage();
    this.#enter("connecting", this.#options.connectionTimeout);
    try {
      const { url, token } = await this.#url();
      if (generation !== this.#generation) return;
      const WebSocket = this.#options.WebSocket ?? page.WebSocket;
      this.#attach(
        token === undefined ? new WebSocket(url) : new WebSocket(url, subprotocolsFor(token)),
      );
    } catch (error) {
      if (generation === this.#generation) this.#fail(error);
    }
  }

  #attach(ws: WebSocketLike): void {
    const generation = this.#generation;
    this.#ws = ws;
    ws.addEventListener("open", () => {
      if (generation === this.#generation) this.#opened();
      else ws.close();
    });
    ws.addEventListener("message", ({ data }) => {
      if (generation !== this.#generation) return;
      this.#askedAt = undefined;
      this.#isProbing = false;
      this.#refusals = 0;
      this.#on.message(data);
    });
    ws.addEventListener("error", (event) => {
      if (generation === this.#generation) this.#on.error(event);
    });
    ws.addEventListener("close", (event) => {
      if (generation === this.#generation) this.#lost(event);
    });
  }

  #opened(): void {
    this.#openedAt = this.#pingedAt = Date.now();
    this.#pingMs = this.#options.pingInterval;
    this.#probeMs = Infinity;
    this.#askedAt = undefined;
    this.#isProbing = false;
    const generation = this.#generation;
    this.#enter("connected", Infinity);
    if (generation !== this.#generation) return;
    // At once: only from a socket that has pinged does the server expect that it goes on.
    if (this.#pingMs > 0) this.#ping(false);
    this.#alarm.set(this.#dueMs());
    this.#on.open();
  }

  #fail(error: unknown): void {
    const generation = this.#generation;
    this.#on.error(error);
    if (generation === this.#generation) this.#drop(error instanceof Error ? error.message : "");
  }

  /** Gives the connection up by our own deadline. Its close event may be long in coming. */
  #drop(reason: string): void {
    const ws = this.#ws;
    this.#lost({ code: CLOSE.dead, reason, wasClean: false });
    // A reason has at most 123 bytes.
    ws?.close(CLOSE.dead);
  }

  #leave(reason: string, final: boolean): boolean {
    const ws = this.#ws;
    const event = { code: CLOSE.leave, reason, wasClean: true };
    const stayed = this.#disconnect(event, final);
    ws?.close(event.code, reason);
    return stayed;
  }

  #lost(event: CloseInfo): void {
    const { enabled, maxAttempts, initialDelay, maxDelay, backoffMultiplier } =
      this.#options.reconnection;
    if (this.state === "connected" && since(this.#openedAt) >= STABLE_MS) this.attempts = 0;
    // With a new token it may pass, but not for ever.
    if (event.code === CLOSE.unauthorized) this.#refusals += 1;
    const isUnauthorized = this.#refusals >= UNAUTHORIZED_MAX;
    if (isUnauthorized) this.#refusals = 0;
    const isRefused = event.code !== CLOSE.unauthorized && endsSession(event.code);
    const stays = !enabled || isRefused || isUnauthorized;
    const exhausted = maxAttempts > 0 && this.attempts >= maxAttempts;
    if (!this.#disconnect(event, stays || exhausted) || stays) return;
    if (exhausted) {
      this.#enter("error", Infinity);
      return;
    }
    // Full jitter: clients that were cut off together come back spread over the whole window.
    const capMs = Math.min(maxDelay, initialDelay * backoffMultiplier ** this.attempts++);
    this.#isFull = event.code === CLOSE.tryLater;
    this.#enter("reconnecting", Math.random() * capMs + (this.#isFull ? capMs : 0));
  }

  /** The one way out. @returns false when a callback has begun something else meanwhile */
  #disconnect(event: CloseInfo, final: boolean): boolean {
    const generation = ++this.#generation;
    const tried = this.state === "connecting" || this.state === "connected";
    this.#ws = undefined;
    this.isFinal = final;
    if (final) {
      this.#watch?.abort();
      this.#watch = undefined;
    }
    this.#enter("disconnected", Infinity);
    if (tried) this.#on.close(event, final && generation === this.#generation);
    return generation === this.#generation;
  }

  #enter(state: ConnectionState, waitMs: number): void {
    const changed = state !== this.state;
    this.state = state;
    this.#waitFrom = Date.now();
    this.#waitMs = waitMs;
    this.#alarm.set(this.#dueMs());
    if (changed) this.#on.state(state);
  }

  /** ms until something has to be done; 0 or less when it is time. */
  #dueMs(): number {
    if (this.state !== "connected") return this.#waitMs - since(this.#waitFrom);
    if (!(this.#pingMs > 0)) return Infinity;
    return Math.min(this.#pingMs - since(this.#pingedAt), this.#pongDueMs());
  }

  #pongDueMs(): number {
    const { pongTimeout } = this.#options;
    if (this.#askedAt === undefined || !pongTimeout) return Infinity;
    return (this.#isProbing ? Math.min(pongTimeout, PROBE_MS) : pongTimeout) - since(this.#askedAt);
  }

  /** Does what is due. `woken`: the page has just become active, so the connection is checked at once. */
  #check(woken: boolean): void {
    const dueMs = this.#dueMs();
    const { state } = this;
    if (state === "connected") {
      // What was missed in our sleep may lie unread: ask before giving the connection up.
      const asleep = (woken && dueMs < Infinity) || dueMs < -LATE_MS;
      if (asleep && !this.#isProbing) this.#ping(true);
      else if (this.#pongDueMs() <= 0) this.#drop("No answer to a ping");
      else if (dueMs <= 0) this.#ping(false);
    } else if (state === "reconnecting" && (dueMs <= 0 || (woken && !this.#isFull))) {
      this.#connect();
    } else if (state === "connecting" && woken && since(this.#waitFrom) > HANGING_MS) {
      // It began before the sleep, or on another network.
      const ws = this.#ws;
      const event = { code: CLOSE.dead, reason: "Overdue", wasClean: false };
      if (this.#disconnect(event, false)) this.#connect();
      ws?.close();
    } else if (state === "connecting" && dueMs <= 0) {
      const { connectionTimeout } = this.#options;
      this.#fail(new RollcallError("timeout", `Not connected in ${connectionTimeout} ms`));
    }
    this.#alarm.set(this.#dueMs());
  }

  #ping(probing: boolean): void {
    const now = Date.now();
    this.#pingedAt = now;
    this.#askedAt = probing ? now : (this.#askedAt ?? now);
    this.#isProbing = probing || this.#isProbing;
    const isProbe = since(this.#probedAt) >= this.#probeMs;
    if (isProbe) this.#probedAt = now;
    this.send(isProbe ? PROBE : (this.#options.ping ?? PING));
  }

  #watchPage(): void {
    if (!page.document || this.#watch) return;
    this.#watch = new AbortController();
    const { signal } = this.#watch;
    for (const type of WAKE_EVENTS)
      page.addEventListener(type, () => this.#check(true), { signal });
  }
}
