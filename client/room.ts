import { useEffect, useInsertionEffect, useMemo, useRef, useState } from "react";
import {
  type AnyEvents,
  type CloseInfo,
  type ConnectionState,
  type EventMap,
  type Untyped,
  VeraniClient,
  type VeraniClientOptions,
} from "./client.ts";

/**
 * Hooks over {@link VeraniClient}. They connect in effects only, so that a server renders them as
 * "nobody here yet", and a component that StrictMode mounts twice connects once.
 */

/** A connection as components share it: make it once with {@link useRoom}, hand it down. */
export interface RoomHandle<E extends EventMap = AnyEvents> {
  /** Null until the component is mounted in a browser, and while `url` is null. */
  readonly client: VeraniClient<E> | null;
  readonly state: ConnectionState;
  /** How the last connection, or attempt, ended, until one opens: a refusal has 4400, 4401 or 4403. */
  readonly close: CloseInfo | null;
  /** Calls back for `event` of this client and of those that follow it. Returns a function that ends it. For effects. */
  listen<K extends keyof E["out"] & string>(
    event: K,
    listener: (data: E["out"][K]) => unknown,
  ): () => void;
}

/** Options of {@link useRoom}. */
export type RoomOptions = Omit<VeraniClientOptions, "log">;

/**
 * Connects to a room while the component is mounted, and leaves with it.
 *
 * @param url as {@link VeraniClient} takes it; another one connects anew, null disconnects
 * @param options are read at each connect: a `token` function may close over fresh state. Where
 *   there was none, a token connects anew
 *
 * @example
 * const room = useRoom<ChatEvents>("wss://example.com/ws/chat", { token });
 * useEvent(room, "said", (message) => append(message));
 */
export function useRoom<E extends EventMap = AnyEvents>(
  url: string | null,
  options: RoomOptions = {},
): RoomHandle<E> {
  const [client, setClient] = useState<VeraniClient<E> | null>(null);
  const [state, setState] = useState<ConnectionState>("disconnected");
  const [close, setClose] = useState<CloseInfo | null>(null);
  const [listeners] = useState(() => new Listeners());
  const latest = useLatest(options);
  const hasToken = options.token !== undefined;

  useEffect(() => {
    if (url === null) return;
    return soon(() => {
      const made = new VeraniClient<E>(url, {
        ...latest.current,
        ...(hasToken && { token: () => resolveToken(latest.current.token) }),
      });
      // Before the first message, which may come sooner than the next render.
      listeners.attach(made as unknown as VeraniClient);
      made.onStateChange(setState);
      made.onClose(({ code, reason, wasClean }) => setClose({ code, reason, wasClean }));
      made.onOpen(() => setClose(null));
      setState(made.getState());
      setClient(made);
      return () => {
        listeners.attach(null);
        made.close();
        setClient(null);
        setState("disconnected");
      };
    });
  }, [url, hasToken, latest, listeners]);

  return useMemo(
    () => ({ client, state, close, listen: listeners.add }),
    [client, state, close, listeners],
  );
}

/**
 * Runs `start` after this tick, unless ended before: StrictMode unmounts and mounts again within one.
 * Returns a function that ends what `start` began.
 */
export function soon(start: () => () => void): () => void {
  let mounted = true;
  let end: (() => void) | undefined;
  queueMicrotask(() => {
    if (mounted) end = start();
  });
  return () => {
    mounted = false;
    end?.();
  };
}

async function resolveToken(token: RoomOptions["token"]): Promise<string | null | undefined> {
  return typeof token === "function" ? token() : token;
}

type Listener = (data: Untyped) => unknown;

/** The listeners of a room: they outlive its clients, and are there before the first. */
class Listeners {
  readonly #entries = new Set<{ event: string; listener: Listener }>();
  #client: VeraniClient | null = null;

  attach(client: VeraniClient | null): void {
    this.#client = client;
    for (const { event, listener } of this.#entries) client?.on(event, listener);
  }

  readonly add = (event: string, heard: Listener): (() => void) => {
    // A function of its own: the same one may be given twice.
    const listener: Listener = (data) => heard(data);
    const entry = { event, listener };
    this.#entries.add(entry);
    this.#client?.on(event, listener);
    return () => {
      this.#entries.delete(entry);
      this.#client?.off(event, listener);
    };
  };
}

/**
 * Calls back for `event` while mounted, from the first one on. The handler of the last render counts; it
 * need not be memoised. What it returns is the ack where the server asks for one.
 */
export function useEvent<E extends EventMap, K extends keyof E["out"] & string>(
  { listen }: RoomHandle<E>,
  event: K,
  handler: (data: E["out"][K]) => unknown,
): void {
  const latest = useLatest(handler);
  useEffect(
    () => listen(event, (data: E["out"][K]) => latest.current(data)),
    [listen, event, latest],
  );
}

/** The value of the last render, for callbacks that run later. */
export function useLatest<T>(value: T): { readonly current: T } {
  const ref = useRef(value);
  useInsertionEffect(() => {
    ref.current = value;
  });
  return ref;
}
