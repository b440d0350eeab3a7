import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { AnyState, PresenceCount } from "../rooms/presence/roster.ts";
import type { EventMap, Other, OtherOf, StateOf, StateOptions, VeraniClient } from "./client.ts";
import { type RoomHandle, useLatest } from "./room.ts";

/** Hooks of presence rooms: a component renders again only when what it selected has changed. */

type AnyOthers = ReadonlyMap<string, Other>;

const NOBODY: AnyOthers = new Map();
const NO_COUNT: PresenceCount = { totalUsers: 0, totalConnections: 0 };
const COUNT_EVENTS = ["others", "presence.count", "presence.sync"] as const;
/** After so long without a key, a user does not type any more, in ms. */
const TYPING_MS = 3_000;
/** Typing ends by itself after so long, in ms: a client that is gone can take nothing back. */
const TYPING_TTL_MS = 6_000;

/** Whether two values are the same, or hold the same: lists, maps and plain objects, one level deep. */
function isSame(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (a.constructor !== b.constructor) return false;
  const entriesOf = (value: object): [unknown, unknown][] =>
    value instanceof Map ? [...value] : Object.entries(value);
  const [of, others] = [entriesOf(a), entriesOf(b)];
  return (
    of.length === others.length &&
    of.every(([key, value], i) => key === others[i]?.[0] && Object.is(value, others[i]?.[1]))
  );
}

/** A value that is read from the client, and is a new one only when it differs. */
function useSelected<T>(
  client: VeraniClient | null,
  events: readonly string[],
  select: (client: VeraniClient | null) => T,
): T {
  const last = useRef<{ value: T } | null>(null);
  const subscribe = useCallback(
    (onChange: () => void) => {
      // A function of its own: a client keeps each one once.
      const heard = () => onChange();
      for (const event of events) client?.on(event, heard);
      return () => {
        for (const event of events) client?.off(event, heard);
      };
    },
    [client, events],
  );
  const get = (): T => {
    const value = select(client);
    if (last.current === null || !isSame(last.current.value, value)) last.current = { value };
    return last.current.value;
  };
  return useSyncExternalStore(subscribe, get, () => select(null));
}

const OTHERS = ["others"];

/**
 * The other connections in a presence room; or what `select` makes of them, by their ids. The component
 * renders again only when that has changed: lists, maps and objects are compared one level deep.
 *
 * @example
 * const cursor = useOthers(room, (others) => others.get(session)?.state?.cursor);
 */
export function useOthers<E extends EventMap>(room: RoomHandle<E>): readonly OtherOf<E>[];
export function useOthers<E extends EventMap, T>(
  room: RoomHandle<E>,
  select: (others: ReadonlyMap<string, OtherOf<E>>) => T,
): T;
export function useOthers({ client }: RoomHandle, select = listOf): unknown {
  return useSelected(client, OTHERS, (from) => select(from?.others ?? NOBODY));
}

function listOf(others: AnyOthers): unknown {
  return [...others.values()];
}

/** How many users and connections are in a presence room, oneself included. */
export function useCount<E extends EventMap>({ client }: RoomHandle<E>): PresenceCount {
  const any = client as unknown as VeraniClient | null;
  return useSelected(any, COUNT_EVENTS, (from) => from?.count ?? NO_COUNT);
}

/** What a client says of itself, of which `typing` is a part that ends by itself. */
class MyState {
  base: AnyState | null = null;
  options: StateOptions = {};
  readonly #client: VeraniClient;
  #typingUntilMs = 0;
  #appliedAtMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: VeraniClient) {
    this.#client = client;
  }

  apply(): void {
    this.#appliedAtMs = Date.now();
    if (this.#typingUntilMs <= this.#appliedAtMs) this.#client.setState(this.base, this.options);
    else this.#client.setState({ ...this.base, typing: true }, { ttlMs: TYPING_TTL_MS });
  }

  type(isTyping: boolean): void {
    const now = Date.now();
    const wasTyping = this.#typingUntilMs > now;
    this.#typingUntilMs = isTyping ? now + TYPING_MS : 0;
    clearTimeout(this.#timer);
    if (isTyping) this.#timer = setTimeout(() => this.type(false), TYPING_MS);
    // Sent again only in time before it ends.
    const isDue = isTyping !== wasTyping || now - this.#appliedAtMs > TYPING_MS;
    if (isDue || !isTyping) this.apply();
  }
}

const states = new WeakMap<VeraniClient, MyState>();

function myStateOf(client: VeraniClient): MyState {
  const state = states.get(client) ?? new MyState(client);
  states.set(client, state);
  return state;
}

/**
 * What this connection says of itself, and a function to replace it. It is sent at most once per
 * `stateMs`, and again after a break.
 *
 * @param initial is sent once connected; null: nothing
 *
 * @example
 * const [, setMine] = useMyState(room, { cursor: null });
 * <main onPointerMove={({ clientX, clientY }) => setMine({ cursor: [clientX, clientY] })} />
 */
export function useMyState<E extends EventMap>(
  { client }: RoomHandle<E>,
  initial: StateOf<E> | null,
): [
  state: StateOf<E> | null,
  setState: (state: StateOf<E> | null, options?: StateOptions) => void,
] {
  const [state, setState] = useState(initial);
  const latest = useRef({ state: initial as AnyState | null, options: {} as StateOptions });
  const any = client as unknown as VeraniClient | null;

  const send = useCallback(() => {
    if (!any) return;
    Object.assign(myStateOf(any), { base: latest.current.state, options: latest.current.options });
    myStateOf(any).apply();
  }, [any]);
  useEffect(send, [send]);

  const replace = useCallback(
    (next: StateOf<E> | null, options: StateOptions = {}) => {
      latest.current = { state: next, options };
      setState(next);
      send();
    },
    [send],
  );
  return [state, replace];
}

/**
 * Who types, and a function to call with each key: `type()`, or `type(false)` once the text is sent. Typing
 * is `typing: true` in the connection's state; it ends 3 s after the last key, or with the client.
 */
export function useTyping<E extends EventMap>(
  room: RoomHandle<E>,
): [typing: readonly OtherOf<E>[], type: (isTyping?: boolean) => void] {
  const typing = useOthers(room, (others) =>
    [...others.values()].filter(({ state }) => (state as AnyState | undefined)?.typing === true),
  );
  const latest = useLatest(room.client as unknown as VeraniClient | null);
  const type = useMemo(
    () =>
      (isTyping = true): void => {
        if (latest.current) myStateOf(latest.current).type(isTyping);
      },
    [latest],
  );
  return [typing, type];
}
