import {
  type CloseInfo,
  type ConnectionState,
  ReconnectingSocket,
  randomId,
  refreshDelay,
  type SocketOptions,
  toSocketUrl,
} from "./socket.ts";

type Token = string | null | undefined;

/** A JWT, or a function that is called anew for each connection, and before its JWT expires. */
export type TokenSource = string | (() => Token | Promise<Token>);

/** Options of clients whose wire is plain JSON with a bare `ping`. */
export interface PlainOptions {
  /**
   * A JWT; a function is called anew for each connection, and before its JWT expires. Null or undefined:
   * no token.
   */
  token: TokenSource;
  /** The WebSocket class, where there is no global one: in Node < 22 that of the package `ws`. */
  WebSocket?: NonNullable<SocketOptions["WebSocket"]>;
  /** Called with each new state of the connection. */
  onStateChange?(state: ConnectionState): void;
  /** Called when a connection, or an attempt, ends. */
  onClose?(event: CloseInfo): void;
  /** Faults of the socket, of the token, of the app's functions; refusals of the server. */
  onError?(error: unknown): void;
}

const SOCKET = {
  reconnection: {
    enabled: true,
    maxAttempts: 0,
    initialDelay: 1_000,
    maxDelay: 30_000,
    backoffMultiplier: 1.5,
  },
  pingInterval: 25_000,
  pongTimeout: 10_000,
  connectionTimeout: 10_000,
  ping: "ping",
};

/** What a client does with its socket. */
interface Listener {
  open(): void;
  /** A JSON object from the server. */
  message(message: Record<string, unknown>): void;
}

/** A socket of the user's actor: JSON messages, a bare `ping`, a token that is refreshed. */
export class PlainSocket {
  readonly #options: PlainOptions;
  readonly #socket: ReconnectingSocket;
  readonly #refresh: TokenRefresh;

  /**
   * @param path it ends the URL's path, unless that ends with it already; default: the URL's own
   * @throws TypeError when `url` is none
   */
  constructor(url: string, options: PlainOptions, listener: Listener, path = "") {
    this.#options = options;
    const target = toSocketUrl(url);
    if (!target.pathname.endsWith(path)) {
      target.pathname = target.pathname.replace(/\/+$/, "") + path;
    }
    // A refusal then comes as a close code, which a page can see.
    target.searchParams.set("v", "3");
    this.#refresh = new TokenRefresh(
      options.token,
      (text) => this.send(text),
      (error) => this.fail(error),
    );
    const { WebSocket } = options;
    this.#socket = new ReconnectingSocket(
      async () => ({ url: target.href, token: (await this.#refresh.get()) ?? undefined }),
      { ...SOCKET, ...(WebSocket && { WebSocket }) },
      {
        state: (state) => this.notify(() => options.onStateChange?.(state)),
        open: () => {
          this.#refresh.begin();
          listener.open();
        },
        message: (data) => {
          const message = parse(data);
          if (message) listener.message(message);
        },
        error: (error) => this.fail(error),
        close: (event) => {
          this.#refresh.stop();
          this.notify(() => options.onClose?.(event));
        },
      },
    );
  }

  get state(): ConnectionState {
    return this.#socket.state;
  }

  /** How many connections there have been. */
  get connections(): number {
    return this.#socket.connections;
  }

  /** Connects now, whatever the state. */
  open(): void {
    this.#socket.open();
  }

  /** Ends the connection, and stays away. */
  stop(): void {
    this.#refresh.stop();
    this.#socket.stop();
  }

  /** Sends text; nothing while there is no connection. */
  send(text: string): void {
    this.#socket.send(text);
  }

  fail(error: unknown): void {
    try {
      this.#options.onError?.(error);
    } catch {
      // A fault of the callback for faults can be reported nowhere.
    }
  }

  /** Calls code of the app. Whatever it does, the connection goes on. */
  notify(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.fail(error);
    }
  }
}

function parse(data: unknown): Record<string, unknown> | null {
  try {
    const value: unknown = typeof data === "string" && data !== "pong" ? JSON.parse(data) : null;
    return typeof value === "object" ? (value as Record<string, unknown> | null) : null;
  } catch {
    return null;
  }
}

/**
 * Shows the server a fresh token before the one of the connection expires, so that it need not close the
 * connection.
 */
class TokenRefresh {
  readonly #source: TokenSource;
  readonly #send: (text: string) => void;
  readonly #fail: (error: unknown) => void;
  #given: Token;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param send sends a frame, and nothing while there is no connection */
  constructor(source: TokenSource, send: (text: string) => void, fail: (error: unknown) => void) {
    this.#source = source;
    this.#send = send;
    this.#fail = fail;
  }

  /** The token of the next connection. */
  async get(): Promise<Token> {
    this.#given = typeof this.#source === "function" ? await this.#source() : this.#source;
    return this.#given;
  }

  /** The connection is open. */
  begin(): void {
    this.#after(this.#given);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #after(given: Token): void {
    const source = this.#source;
    const lifeMs = lifeOf(given);
    this.stop();
    if (typeof source !== "function" || lifeMs === undefined) return;
    const timer = setTimeout(() => void this.#refresh(source, timer), refreshDelay(lifeMs));
    this.#timer = timer;
  }

  async #refresh(
    source: () => Token | Promise<Token>,
    timer: ReturnType<typeof setTimeout>,
  ): Promise<void> {
    try {
      const fresh = await source();
      // The connection has ended meanwhile.
      if (!fresh || this.#timer !== timer) return;
      this.#send(JSON.stringify({ type: "auth", id: randomId(), data: { token: fresh } }));
      this.#after(fresh);
    } catch (error) {
      // It is closed with 4401 then, and comes back with a token that it asks for anew.
      this.#fail(error);
    }
  }
}

/**
 * How long a JWT still lives, in ms; undefined where that cannot be read. By this device's clock, unless
 * that is plainly wrong: then as long as a JWT that was signed just now.
 */
function lifeOf(token: Token): number | undefined {
  try {
    const base64 = token?.split(".")[1]?.replaceAll("-", "+").replaceAll("_", "/") ?? "";
    const { exp, iat } = JSON.parse(atob(base64)) as { exp?: number; iat?: number };
    const lifeMs = Number(exp) * 1_000 - Date.now();
    const wholeMs = (Number(exp) - Number(iat)) * 1_000;
    if (lifeMs > 0 && !(lifeMs > wholeMs)) return lifeMs;
    return wholeMs > 0 ? wholeMs : undefined;
  } catch {
    return undefined;
  }
}
