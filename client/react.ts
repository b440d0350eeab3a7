import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { type RosterSync, type Status, snapshot } from "../src/roster.ts";
import {
  type AnyEvents,
  type ConnectionState,
  type EventMap,
  VeraniClient,
  type VeraniClientOptions,
} from "./index.ts";

/**
 * Hooks over {@link VeraniClient}. They connect in effects only, so that a server renders them as
 * "nobody here yet", and a component that StrictMode mounts twice connects once.
 */

/** A connection as components share it: make it once with {@link useRoom}, hand it down. */
export interface RoomHandle<E extends EventMap = AnyEvents> {
  /** Null until the component is mounted in a browser, and while `url` is null. */
  readonly client: VeraniClient<E> | null;
  readonly state: ConnectionState;
}

export type RoomOptions = Omit<VeraniClientOptions, "log">;

/**
 * Connects to a room while the component is mounted, and leaves with it.
 *
 * @param url as {@link VeraniClient} takes it; another one connects anew, null disconnects
 * @param options are read at each connect: a `token` function may close over fresh state
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
  const latest = useLatest(options);

  useEffect(() => {
    if (url === null) return;
    let made: VeraniClient<E> | undefined;
    let mounted = true;
    // StrictMode unmounts and mounts again within this very turn: connect after it.
    queueMicrotask(() => {
      if (!mounted) return;
      const { token } = latest.current;
      made = new VeraniClient<E>(url, {
        ...latest.current,
        ...(token === undefined ? {} : { token: () => resolveToken(latest.current.token) }),
      });
      made.onStateChange(setState);
      setState(made.getState());
      setClient(made);
    });
    return () => {
      mounted = false;
      made?.close();
      setClient(null);
      setState("disconnected");
    };
  }, [url, latest]);

  return { client, state };
}

async function resolveToken(token: RoomOptions["token"]): Promise<string> {
  return typeof token === "function" ? token() : (token ?? "");
}

/** The value of the last render, for callbacks that run later. */
function useLatest<T>(value: T): { readonly current: T } {
  const ref = useRef(value);
  useEffect(() => {
    ref.current = value;
  });
  return ref;
}

/** Hears `event` while mounted. The handler of the last render counts; it need not be memoised. */
export function useEvent<E extends EventMap, K extends keyof E["out"] & string>(
  { client }: RoomHandle<E>,
  event: K,
  handler: (data: E["out"][K]) => void,
): void {
  const latest = useLatest(handler);
  useEffect(() => {
    if (!client) return;
    const untyped = client as unknown as VeraniClient;
    const listener = (data: E["out"][K]) => latest.current(data);
    untyped.on(event, listener);
    return () => untyped.off(event, listener);
  }, [client, event, latest]);
}

const PRESENCE_EVENTS = ["sync", "online", "update", "offline", "status"].map(
  (name) => `presence.${name}`,
);
const NOBODY: RosterSync = { users: [], totalUsers: 0, totalConnections: 0 };

/** Who is in a presence room, oneself included; as last heard while disconnected. */
export function usePresence<E extends EventMap>({ client }: RoomHandle<E>): RosterSync {
  const seen = useRef(NOBODY);
  const subscribe = useCallback(
    (onChange: () => void) => {
      if (!client) return () => {};
      const untyped = client as unknown as VeraniClient;
      // A diff arrives as many events: one snapshot does for all of them.
      let due = false;
      const refresh = (): void => {
        if (due) return;
        due = true;
        queueMicrotask(() => {
          due = false;
          seen.current = snapshot(client.roster.values());
          onChange();
        });
      };
      for (const event of PRESENCE_EVENTS) untyped.on(event, refresh);
      refresh();
      return () => {
        for (const event of PRESENCE_EVENTS) untyped.off(event, refresh);
      };
    },
    [client],
  );
  return useSyncExternalStore(
    subscribe,
    () => seen.current,
    () => NOBODY,
  );
}

/**
 * A user's own status, and how to change it. The room forgets a status when the user's last device
 * leaves, so what was chosen here is told again after a reconnect.
 *
 * @param userId whom the room knows this connection as
 */
export function useStatus<E extends EventMap>(
  room: RoomHandle<E>,
  userId: string,
): [status: Status, setStatus: (status: Status) => void] {
  const { client, state } = room;
  const { users } = usePresence(room);
  const status = users.find((user) => user.userId === userId)?.status ?? "online";
  const chosen = useRef<Status | null>(null);

  const tell = useCallback(
    (next: Status) =>
      (client as unknown as VeraniClient)?.emit("presence.status", { status: next }),
    [client],
  );
  useEffect(() => {
    if (state === "connected" && chosen.current && chosen.current !== "online")
      tell(chosen.current);
  }, [state, tell]);

  const setStatus = useCallback(
    (next: Status) => {
      chosen.current = next;
      tell(next);
    },
    [tell],
  );
  return [status, setStatus];
}

/** A device as the device contract tells of it. */
export interface Device {
  device_id: string;
  user_id: string;
  status: "online" | "offline";
  source: string;
  sent_at_ms: number;
  seq: number;
  ttl_ms: number;
}

/**
 * The devices of a user, live.
 *
 * @param url of the devices socket: `wss://<host>/ws/devices?user_id=<uuid>`; null for not yet
 * @param options `token`: a presence token with scope `presence:read`
 */
export function useDevices(url: string | null, options: RoomOptions = {}): readonly Device[] {
  const room = useRoom<DeviceEvents>(url, options);
  const [devices, setDevices] = useState<readonly Device[]>([]);
  useEvent(room, "device.sync", ({ devices: all }) => setDevices(all));
  useEvent(room, "device.update", (device) =>
    setDevices((known) => [
      ...known.filter(({ device_id }) => device_id !== device.device_id),
      device,
    ]),
  );
  return devices;
}

interface DeviceEvents {
  in: object;
  out: { "device.sync": { devices: Device[] }; "device.update": Device };
}
