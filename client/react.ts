"use client";

import {
  useCallback,
  useEffect,
  useInsertionEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import { type DeviceEvents, replaceDevice } from "../rooms/devices/device.ts";
import type { Mood, MoodState } from "../rooms/moods/tally.ts";
import { type RosterSync, type Status, snapshot } from "../rooms/presence/roster.ts";
import {
  type AnyEvents,
  type CloseInfo,
  type ConnectionState,
  type EventMap,
  type PresenceEvents,
  type Untyped,
  VeraniClient,
  type VeraniClientOptions,
} from "./client.ts";
import type { Device } from "./devices.ts";
import { joinMoods, type MoodOptions, type MoodSession } from "./moods.ts";

export type { Mood, MoodState } from "../rooms/moods/tally.ts";
export type { RosterEntry, RosterSync, Status } from "../rooms/presence/roster.ts";
export type { Device } from "./devices.ts";

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
function soon(start: () => () => void): () => void {
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

/** The value of the last render, for callbacks that run later. */
function useLatest<T>(value: T): { readonly current: T } {
  const ref = useRef(value);
  useInsertionEffect(() => {
    ref.current = value;
  });
  return ref;
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

const PRESENCE_EVENTS = ["sync", "online", "update", "offline", "status"].map(
  (name) => `presence.${name}`,
);
const NOBODY: RosterSync = { users: [], totalUsers: 0, totalConnections: 0 };

/** The users in a presence room, oneself included. During a break they are as last received. */
export function usePresence<E extends EventMap>({ client }: RoomHandle<E>): RosterSync {
  const store = useMemo(() => {
    const room = client as unknown as VeraniClient | null;
    let seen: RosterSync | null = null;
    return {
      subscribe(onChange: () => void): () => void {
        if (!room) return () => {};
        // A diff arrives as many events: one snapshot does for all of them.
        let due = false;
        const refresh = (): void => {
          if (due) return;
          due = true;
          queueMicrotask(() => {
            due = false;
            seen = null;
            onChange();
          });
        };
        // What came between rendering and now was not heard.
        seen = null;
        for (const event of PRESENCE_EVENTS) room.on(event, refresh);
        return () => {
          for (const event of PRESENCE_EVENTS) room.off(event, refresh);
        };
      },
      get(): RosterSync {
        if (!room || room.roster.size === 0) return NOBODY;
        seen ??= snapshot([...room.roster.values()].map((entry) => ({ ...entry })));
        return seen;
      },
    };
  }, [client]);
  return useSyncExternalStore(store.subscribe, store.get, () => NOBODY);
}

/**
 * A user's status in the room, and a function to change it. The client keeps a status over breaks: it
 * sends what was chosen without a connection once it is connected, and sets it again when the room has
 * forgotten it. A later choice on another device wins.
 */
export function useStatus<E extends EventMap>(
  room: RoomHandle<E>,
  userId: string,
): [status: Status, setStatus: (status: Status) => void] {
  const { users } = usePresence(room);
  // Of whatever events, it is a presence room.
  const presence = room as unknown as RoomHandle<PresenceEvents>;
  const { client } = presence;
  // Chosen before there is a client, which then keeps it, over breaks as well.
  const early = useRef<Status | null>(null);

  useEffect(() => {
    if (client && early.current !== null) {
      client.emit("presence.status", { status: early.current });
      early.current = null;
    }
  }, [client]);

  const setStatus = useCallback(
    (status: Status) => {
      if (client) client.emit("presence.status", { status });
      else early.current = status;
    },
    [client],
  );
  return [users.find((user) => user.userId === userId)?.status ?? "online", setStatus];
}

const NO_DEVICES: readonly Device[] = [];

/**
 * The devices of a user, live, each in the place where it first stood.
 *
 * @param url of the devices socket: `wss://<host>/ws/devices?user_id=<uuid>`; null for not yet
 * @param options `token`: a presence token with scope `presence:read`
 */
export function useDevices(url: string | null, options: RoomOptions = {}): readonly Device[] {
  const room = useRoom<DeviceEvents>(url, options);
  const [seen, setSeen] = useState({ url, devices: NO_DEVICES });
  useEvent(room, "device.sync", ({ devices }) => setSeen({ url, devices }));
  // An old server puts the event's name into the data.
  useEvent(room, "device.update", ({ type: _, ...device }: Device & { type?: string }) =>
    setSeen((before) => {
      const known = before.url === url ? before.devices : NO_DEVICES;
      return { url, devices: replaceDevice(known, device) };
    }),
  );
  // Another user's devices are not to be seen in the meantime.
  return seen.url === url ? seen.devices : NO_DEVICES;
}

/**
 * Counts the visitor while mounted. Returns how many are here, and in which mood; null until known.
 *
 * @param url the server's: `https://example.com`; another one moves there, null leaves
 * @param mood another one is sent at once
 * @param options `sessionId` (default: a random one per mount) and `WebSocket`, read when it joins
 */
export function useMoods(
  url: string | null,
  mood: Mood = "presence",
  options: Pick<MoodOptions, "sessionId" | "WebSocket"> = {},
): MoodState | null {
  const [seen, setSeen] = useState<{ url: string; state: MoodState } | null>(null);
  const session = useRef<MoodSession | null>(null);
  const latest = useLatest({ mood, ...options });

  useEffect(() => {
    if (url === null) return;
    return soon(() => {
      const onState = (state: MoodState): void => setSeen({ url, state });
      const joined = joinMoods({ ...latest.current, url, onState });
      session.current = joined;
      return () => {
        session.current = null;
        joined.leave();
      };
    });
  }, [url, latest]);
  useEffect(() => session.current?.setMood(mood), [mood]);

  return seen?.url === url ? seen.state : null;
}
