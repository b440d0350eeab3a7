/**
 * Whether users are online: {@link PeopleClient}.
 *
 * @module
 */
import { type PlainOptions, PlainSocket } from "./plain.ts";
import type { ConnectionState } from "./socket.ts";

export type { PlainOptions, TokenSource } from "./plain.ts";
export type { CloseInfo, ConnectionState, WebSocketClass, WebSocketLike } from "./socket.ts";

/** `onError` gets the refusals of the server as {@link PeopleError}s, too. */
export type PeopleClientOptions = PlainOptions;

/** Users that one socket watches. */
const WATCHED = 500;
const PATH = "/ws/people";

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
  readonly #socket: PlainSocket;
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
    const open = () => {
      this.#send("watch", [...this.#listeners.keys()]);
      this.#due.clear();
    };
    const message = (given: Record<string, unknown>) => this.#receive(given);
    this.#socket = new PlainSocket(url, options, { open, message }, PATH);
    this.#socket.open();
  }

  /** The connection's state. */
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
      if (online !== undefined) this.#socket.notify(() => listener(id, online));
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

  #receive(message: Record<string, unknown>): void {
    const { type, users, userId, online } = message;
    if (type === "people.sync" && Array.isArray(users)) {
      for (const user of users) this.#learn(user?.userId, user?.online);
    } else if (type === "people.update") this.#learn(userId, online);
    else if (type === "error") {
      this.#socket.fail(
        new PeopleError(String(message.code), String(message.message ?? message.code)),
      );
    }
  }

  #learn(userId: unknown, online: unknown): void {
    if (typeof userId !== "string" || typeof online !== "boolean") return;
    const listeners = this.#listeners.get(userId);
    if (!listeners || this.#online.get(userId) === online) return;
    this.#online.set(userId, online);
    for (const listener of [...listeners]) this.#socket.notify(() => listener(userId, online));
  }
}
