import type { ConnectionState, WebSocketLike } from "../../client/client.ts";
import { PING, PONG } from "../../src/wire/frames.ts";
import { Store } from "./store.ts";

/** What runs over the line: three sockets and a stream. */
export const WIRES = ["room", "devices", "moods", "fan-out"] as const;
export type Wire = (typeof WIRES)[number];

/** One ping and its answer. */
export interface RoundTrip {
  atMs: number;
  ms: number;
}

/** A time without the room's socket; null while it lasts. */
export interface Outage {
  fromMs: number;
  toMs: number | null;
}

/** How much of the past is kept, in ms. */
export const WINDOW_MS = 60_000;
/** ms between two pings. The runtime answers them: no actor wakes for it. */
export const PING_INTERVAL_MS = 2_000;
/** Comes back sooner than an app should: people are looking. */
export const RECONNECTION = { initialDelay: 400, maxDelay: 2_000 };

/** Why a socket ends that was cut. Any code but 1000, 4400 and 4403 makes the client come back. */
const CUT_CODE = 4000;

/**
 * The page's way to the server, which can be cut: open sockets end, and new ones come to nothing,
 * until it is mended. What goes over plain HTTP is other people's (daemons, backends) and goes on.
 */
export class Line {
  readonly states = new Store<Partial<Record<Wire, ConnectionState>>>({});
  readonly roundTrips = new Store<readonly RoundTrip[]>([]);
  readonly outages = new Store<readonly Outage[]>([]);
  /** When the line is mended, in ms since the epoch; null while it is whole. */
  readonly cutUntilMs = new Store<number | null>(null);
  readonly #sockets = new Set<WebSocket>();

  /** For a client's `WebSocket` option. Those of the room are also timed. */
  get WebSocket(): new (
    url: string,
    protocols?: string[],
  ) => WebSocketLike {
    return this.#socketClass(false);
  }
  get TimedWebSocket(): new (
    url: string,
    protocols?: string[],
  ) => WebSocketLike {
    return this.#socketClass(true);
  }

  #socketClass(timed: boolean): new (url: string, protocols?: string[]) => WebSocketLike {
    const connect = (url: string, protocols?: string[]) => this.#connect(url, protocols, timed);
    function Socket(url: string, protocols?: string[]): WebSocketLike {
      return connect(url, protocols);
    }
    // A function called with `new` gives the object it returns.
    return Socket as unknown as new (
      url: string,
    ) => WebSocketLike;
  }

  #connect(url: string, protocols: string[] | undefined, timed: boolean): WebSocketLike {
    if (this.cutUntilMs.value !== null) return new DeadSocket();
    const socket = timed
      ? new TimedSocket(url, protocols, (ms) => this.#answered(ms))
      : new WebSocket(url, protocols);
    this.#sockets.add(socket);
    socket.addEventListener("close", () => this.#sockets.delete(socket));
    return socket;
  }

  #answered(ms: number): void {
    const atMs = Date.now();
    const recent = this.roundTrips.value.filter((trip) => atMs - trip.atMs < WINDOW_MS);
    this.roundTrips.value = [...recent, { atMs, ms }];
  }

  /** How one of the wires is doing. */
  report(wire: Wire, state: ConnectionState): void {
    this.states.value = { ...this.states.value, [wire]: state };
    if (wire !== "room") return;
    const now = Date.now();
    const last = this.outages.value.at(-1);
    const isOut = last !== undefined && last.toMs === null;
    if (state === "connected" && isOut) {
      this.outages.value = [...this.outages.value.slice(0, -1), { ...last, toMs: now }];
    } else if (state === "reconnecting" && !isOut) {
      const recent = this.outages.value.filter(({ toMs }) => now - (toMs ?? now) < WINDOW_MS);
      this.outages.value = [...recent, { fromMs: now, toMs: null }];
    }
  }

  /** Cuts the line for `ms`. */
  cut(ms: number): void {
    if (this.cutUntilMs.value !== null) return;
    this.cutUntilMs.value = Date.now() + ms;
    for (const socket of this.#sockets) this.#sever(socket);
    setTimeout(() => {
      this.cutUntilMs.value = null;
    }, ms);
  }

  #sever(socket: WebSocket): void {
    const close = () => socket.close(CUT_CODE, "The line was cut");
    // Browsers complain about a close before the opening handshake is through.
    if (socket.readyState === WebSocket.CONNECTING) socket.addEventListener("open", close);
    else close();
  }
}

/** Measures each ping that waits for its pong. */
class TimedSocket extends WebSocket {
  #pingedAt: number | null = null;

  constructor(url: string, protocols: string[] | undefined, answered: (ms: number) => void) {
    super(url, protocols);
    this.addEventListener("message", ({ data }) => {
      if (data !== PONG || this.#pingedAt === null) return;
      answered(performance.now() - this.#pingedAt);
      this.#pingedAt = null;
    });
  }

  override send(text: string): void {
    if (text === PING) this.#pingedAt = performance.now();
    super.send(text);
  }
}

/** A connection that never comes about. */
class DeadSocket extends EventTarget implements WebSocketLike {
  readonly readyState = WebSocket.CLOSED;

  constructor() {
    super();
    setTimeout(() => this.dispatchEvent(new CloseEvent("close", { code: 1006 })));
  }

  send(): void {}
  close(): void {}
}
