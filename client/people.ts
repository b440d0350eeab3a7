import { TokenRefresh, type TokenSource } from "./refresh.ts";
import {
  type CloseInfo,
  type ConnectionState,
  ReconnectingSocket,
  type SocketOptions,
  toSocketUrl,
} from "./socket.ts";

export type { CloseInfo, ConnectionState, WebSocketLike } from "./socket.ts";

export interface PeopleClientOptions {
  /** A JWT; a function is called anew for each connection, and before its JWT expires. */
  token: TokenSource;
  /** The WebSocket class, where there is no global one: in Node < 22 that of the package `ws`. */
  WebSocket?: NonNullable<SocketOptions["WebSocket"]>;
  onStateChange?(state: ConnectionState): void;
  onClose?(event: CloseInfo): void;
  /** Faults of the socket, of the token, of a listener; refusals of the server by their code. */
  onError?(error: unknown): void;
}

/** Users that one socket watches. */
const WATCHED = 500;
const PATH = "/ws/people";

const RECONNECTION = {
  enabled: true,
  maxAttempts: 0,
  initialDelay: 1_000,
  maxDelay: 30_000,
  backoffMultiplier: 1.5,
};

/** A refusal by the server, for example `rate_limited`. */
export class PeopleError extends Error {
  override readonly name = "PeopleError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/**
 * Watches whether users are online: up to 500, by one socket, which connects at once and comes back after a
 * loss. A user whom the token does not allow to see looks offline. A server needs `DIRECTORY=on`.
 *
 * @example
 * const people = new PeopleClient("wss://example.com", { token: () => freshToken() });
 * const stop = people.watch(["ann", "ben"], (userId, online) => show(userId, online));
 */
export class PeopleClient {
  readonly #socket: ReconnectingSocket;
  readonly #options: PeopleClientOptions;
  readonly #listeners = new Map<string, Set<(userId: string, online: boolean) => void>>();
  readonly #online = new Map<string, boolean>();
  /** Users whose watching the server does not know of yet. */
  readonly #due = new Set<string>();
  #isDue = false;

  /**
   * @param url the server's origin, with the path that Rollcall is mounted under
   * @throws TypeError when `url` is none
   */
  constructor(url: string, options: PeopleClientOptions) {
    this.#options = options;
    const target = toSocketUrl(url);
    if (!target.pathname.endsWith(PATH)) {
      target.pathname = target.pathname.replace(/\/+$/, "") + PATH;
    }
    // A refusal then comes as a close code, which a page can see.
    target.searchParams.set("v", "3");
    const refresh = new TokenRefresh(
      options.token,
      (text) => this.#socket.send(text),
      (error) => this.#fail(error),
    );
    const { WebSocket } = options;
    this.#socket = new ReconnectingSocket(
      async () => ({ url: target.href, token: (await refresh.get()) ?? undefined }),
      {
        reconnection: RECONNECTION,
        pingInterval: 25_000,
        pongTimeout: 10_000,
        connectionTimeout: 10_000,
        ping: "ping",
        ...(WebSocket && { WebSocket }),
      },
      {
        state: (state) => this.#notify(() => options.onStateChange?.(state)),
        open: () => {
          refresh.begin();
          this.#send("watch", [...this.#listeners.keys()]);
          this.#due.clear();
        },
        message: (data) => this.#receive(data),
        error: (error) => this.#fail(error),
        close: (event) => {
          refresh.stop();
          this.#notify(() => options.onClose?.(event));
        },
      },
    );
    this.#socket.open();
  }

  get state(): ConnectionState {
    return this.#socket.state;
  }

  /** Whether each watched user is online, as last received. One that is not known yet is not in it. */
  get online(): ReadonlyMap<string, boolean> {
    return this.#online;
  }

  /**
   * Watches users.
   *
   * @param onChange runs for each of them once it is known how they are, and at each change
   * @returns ends it
   * @throws RangeError for more than 500 users altogether
   */
  watch(
    userIds: Iterable<string>,
    onChange: (userId: string, online: boolean) => void,
  ): () => void {
    const ids = new Set(userIds);
    if (new Set([...this.#listeners.keys(), ...ids]).size > WATCHED) {
      throw new RangeError(`A client watches at most ${WATCHED} users`);
    }
    // A function of its own: the same one may be given twice.
    const listener = (userId: string, online: boolean) => onChange(userId, online);
    for (const id of ids) {
      const listeners = this.#listeners.get(id);
      if (listeners) listeners.add(listener);
      else {
        this.#listeners.set(id, new Set([listener]));
        this.#due.add(id);
      }
      const online = this.#online.get(id);
      if (online !== undefined) this.#notify(() => listener(id, online));
    }
    this.#sendSoon();
    return () => this.#unwatch(ids, listener);
  }

  /** Ends the connection, and stays away until {@link reconnect}. */
  disconnect(): void {
    this.#socket.stop();
  }

  /** Connects now, whatever the state. */
  reconnect(): void {
    this.#socket.open();
  }

  #unwatch(ids: ReadonlySet<string>, listener: (userId: string, online: boolean) => void): void {
    const gone: string[] = [];
    for (const id of ids) {
      const listeners = this.#listeners.get(id);
      if (!listeners?.delete(listener) || listeners.size > 0) continue;
      this.#listeners.delete(id);
      this.#online.delete(id);
      if (!this.#due.delete(id)) gone.push(id);
    }
    this.#send("unwatch", gone);
  }

  /** What is asked for in one turn goes in one message: the server takes few of them. */
  #sendSoon(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      if (this.state !== "connected") return;
      this.#send("watch", [...this.#due]);
      this.#due.clear();
    });
  }

  #send(type: "watch" | "unwatch", ids: readonly string[]): void {
    if (ids.length > 0) this.#socket.send(JSON.stringify({ type, ids }));
  }

  #receive(data: unknown): void {
    if (typeof data !== "string" || data === "pong") return;
    let message: Record<string, unknown>;
    try {
      message = JSON.parse(data) as Record<string, unknown>;
    } catch {
      return;
    }
    const { type, users, userId, online } = message;
    if (type === "people.sync" && Array.isArray(users)) {
      for (const user of users) this.#learn(user?.userId, user?.online);
    } else if (type === "people.update") this.#learn(userId, online);
    else if (type === "error") {
      this.#fail(new PeopleError(String(message.code), String(message.message ?? message.code)));
    }
  }

  #learn(userId: unknown, online: unknown): void {
    if (typeof userId !== "string" || typeof online !== "boolean") return;
    const listeners = this.#listeners.get(userId);
    if (!listeners || this.#online.get(userId) === online) return;
    this.#online.set(userId, online);
    for (const listener of [...listeners]) this.#notify(() => listener(userId, online));
  }

  #fail(error: unknown): void {
    try {
      this.#options.onError?.(error);
    } catch {
      // A fault of the callback for faults can be reported nowhere.
    }
  }

  /** Calls code of the app. Whatever it does, the connection goes on. */
  #notify(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#fail(error);
    }
  }
}
