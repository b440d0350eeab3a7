/**
 * The clients of the reconnect storm: real ones, each library as it comes, in rooms of a presence
 * server. A client is back when its socket is open again. It is in sync when it knows the roster,
 * from a new list or by resuming, and everybody is in it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PartySocket } from "partysocket";
import { io } from "socket.io-client";
import WebSocket from "ws";
import { type PresenceEvents, VeraniClient } from "../../client/client.ts";
import { answerParent } from "../kit/processes.ts";
import { PlainWebSocket } from "../kit/sockets.ts";

export type Library = "Rollcall" | "partysocket" | "socket.io-client";

export type Task =
  | { do: "connect"; library: Library; url: string; rooms: number; usersPerRoom: number }
  /** Answers once all have lost their connections since now, and are back and in sync. */
  | { do: "watch" };

export interface Back {
  /** ms since the epoch, of the last of them. */
  allBackAtMs: number;
  allInSyncAtMs: number;
}

let usersPerRoom = 0;
let watching: { cut: Set<Client>; resolve(back: Back): void } | undefined;
let allBackAtMs = 0;
let back = 0;
let synced = 0;

class Client {
  #isBack = false;
  #isInSync = false;
  #here = new Set<string>();
  /** Whether the list is of this connection, or of the session that it resumed. */
  #isKnown = false;

  opened(isResumed = false): void {
    this.#isKnown ||= isResumed;
    this.#enter(true);
  }

  closed(): void {
    this.#isKnown = false;
    this.#enter(false);
    watching?.cut.add(this);
  }

  received(event: string, data: { users?: { userId: string }[]; userId?: string }): void {
    if (event === "presence.sync") {
      this.#here = new Set(data.users?.map(({ userId }) => userId));
      this.#isKnown = true;
    } else if (event === "presence.online") this.#here.add(data.userId as string);
    else if (event === "presence.offline") this.#here.delete(data.userId as string);
    this.#enter(this.#isBack);
  }

  #enter(isBack: boolean): void {
    const isInSync = isBack && this.#isKnown && this.#here.size === usersPerRoom;
    back += Number(isBack) - Number(this.#isBack);
    synced += Number(isInSync) - Number(this.#isInSync);
    this.#isBack = isBack;
    this.#isInSync = isInSync;
    const now = Date.now();
    if (back < clients.length) allBackAtMs = now;
    else if (synced === clients.length) settle(now);
  }
}

let clients: Client[] = [];

function settle(allInSyncAtMs: number): void {
  if (!watching || watching.cut.size < clients.length) return;
  watching.resolve({ allBackAtMs, allInSyncAtMs });
  watching = undefined;
}

const LIBRARIES: Record<
  Library,
  (client: Client, url: string, room: string, user: string) => void
> = {
  Rollcall(client, url, room, user) {
    const target = `${url}/ws/presence?room=${room}`;
    const ours = new VeraniClient<PresenceEvents>(target, {
      token: `user:${user}`,
      WebSocket: PlainWebSocket,
    });
    ours.onOpen(({ resumed }) => client.opened(resumed));
    ours.onClose(() => client.closed());
    ours.on("presence.sync", (data) => client.received("presence.sync", data));
    ours.on("presence.online", (data) => client.received("presence.online", data));
    ours.on("presence.offline", (data) => client.received("presence.offline", data));
  },
  partysocket(client, url, room, user) {
    const party = new PartySocket({
      host: url.replace("ws://", ""),
      party: "presence",
      room,
      query: { user },
      WebSocket,
    });
    party.addEventListener("open", () => client.opened());
    party.addEventListener("close", () => client.closed());
    party.addEventListener("message", ({ data }) => {
      const { data: event } = JSON.parse(data);
      client.received(event.type, event);
    });
  },
  "socket.io-client"(client, url, room, user) {
    const socket = io(url, { transports: ["websocket"], query: { room, user }, forceNew: true });
    socket.on("connect", () => client.opened());
    socket.on("disconnect", () => client.closed());
    for (const event of ["presence.sync", "presence.online", "presence.offline"]) {
      socket.on(event, (data) => client.received(event, data));
    }
  },
};

/** A client that is not back by then does not come back. */
const GIVE_UP_MS = 300_000;

answerParent(async (task: Task): Promise<Back> => {
  const watchdog = setTimeout(() => {
    const { length } = clients;
    throw new Error(`${back} of ${length} back, ${synced} in sync after ${GIVE_UP_MS} ms`);
  }, GIVE_UP_MS);
  const { promise, resolve } = Promise.withResolvers<Back>();
  if (task.do === "watch") watching = { cut: new Set(), resolve };
  else {
    const { library, url, rooms } = task;
    usersPerRoom = task.usersPerRoom;
    clients = Array.from({ length: rooms * usersPerRoom }, () => new Client());
    watching = { cut: new Set(clients), resolve };
    for (const [i, client] of clients.entries()) {
      LIBRARIES[library](client, url, `room-${i % rooms}`, `user-${i}`);
      // A storm is not what is measured here: a few at a time.
      if (i % 20 === 19) await sleep(20);
    }
  }
  const result = await promise;
  clearTimeout(watchdog);
  return result;
});
