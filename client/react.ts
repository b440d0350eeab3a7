/**
 * Hooks over the clients. They connect in effects only: once under StrictMode, and never on a server.
 *
 * @module
 */
"use client";

import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { type DeviceEvents, replaceDevice } from "../rooms/devices/device.ts";
import type { Mood, MoodState } from "../rooms/moods/tally.ts";
import { type RosterDiff, type RosterSync, snapshot } from "../rooms/presence/roster.ts";
import type {
  EventMap,
  PresenceEvents,
  StateOf,
  StatusOf,
  Untyped,
  UserOf,
  VeraniClient,
} from "./client.ts";
import type { Device } from "./devices.ts";
import { joinMoods, type MoodOptions, type MoodSession } from "./moods.ts";
import { type RoomHandle, type RoomOptions, soon, useEvent, useLatest, useRoom } from "./room.ts";

export type { Mood, MoodState } from "../rooms/moods/tally.ts";
export type { RosterEntry, RosterSync, Status } from "../rooms/presence/roster.ts";
export type {
  EventsOf,
  Other,
  OtherOf,
  PresenceEvents,
  StateOf,
  StateOptions,
  StatusOf,
  UserOf,
} from "./client.ts";
export type { Device } from "./devices.ts";
export { useCount, useMyState, useOthers, useTyping } from "./hooks.ts";
export { type RoomHandle, type RoomOptions, useEvent, useRoom } from "./room.ts";

const PRESENCE_EVENTS = ["sync", "diff", "online", "update", "offline", "status"].map(
  (name) => `presence.${name}`,
);
const NOBODY: RosterSync = { users: [], totalUsers: 0, totalConnections: 0 };

/** The users in a presence room, oneself included. During a break they are as last received. */
export function usePresence<E extends EventMap>({
  client,
}: RoomHandle<E>): RosterSync<StatusOf<E>, StateOf<E>, UserOf<E>> {
  const store = useMemo(() => {
    const room = client as unknown as VeraniClient | null;
    let seen: RosterSync | null = null;
    return {
      subscribe(onChange: () => void): () => void {
        if (!room) return () => {};
        // A diff arrives as many events: one snapshot does for all of them.
        let due = false;
        const refresh = (data?: Partial<RosterDiff>): void => {
          // Of a diff only its updates may come without an event of their own.
          if (due || data?.updates?.length === 0) return;
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
  return useSyncExternalStore(store.subscribe, store.get, () => NOBODY) as Untyped;
}

/**
 * A user's status in the room, and a function to change it. The client keeps a status over breaks: it
 * sends what was chosen without a connection once it is connected, and sets it again when the room has
 * forgotten it. A later choice on another device wins.
 */
export function useStatus<E extends EventMap>(
  room: RoomHandle<E>,
  userId: string,
): [status: StatusOf<E>, setStatus: (status: StatusOf<E>) => void] {
  const { users } = usePresence(room);
  // Of whatever events, it is a presence room.
  const presence = room as unknown as RoomHandle<PresenceEvents<StatusOf<E>>>;
  const { client } = presence;
  // Chosen before there is a client, which then keeps it, over breaks as well.
  const early = useRef<StatusOf<E> | null>(null);

  useEffect(() => {
    if (client && early.current !== null) {
      client.emit("presence.status", { status: early.current });
      early.current = null;
    }
  }, [client]);

  const setStatus = useCallback(
    (status: StatusOf<E>) => {
      if (client) client.emit("presence.status", { status });
      else early.current = status;
    },
    [client],
  );
  return [
    users.find((user) => user.userId === userId)?.status ?? ("online" as StatusOf<E>),
    setStatus,
  ];
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
