/** Idle clients of presence rooms: ours as it comes, and ones that ping as often with messages. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import { VeraniClient, type WebSocketLike } from "../../client/client.ts";

export interface Task {
  url: string;
  clients: number;
  rooms: number;
}

/** As often as our client pings. */
const PING_MS = 5_000;
const PING = '{"type":"ping"}';
/** Rooms, and the clients of a room, begin apart, as they do in life. */
const APART_MS = 20;

process.on("message", async ({ url, clients, rooms }: Task) => {
  for (let i = 0; i < clients * rooms; i++) {
    const [room, user] = [`room-${i % rooms}`, `user-${i}`];
    const ours = new VeraniClient(`${url}/ws/presence?room=${room}`, {
      token: `user:${user}`,
      WebSocket: WebSocket as unknown as new (url: string) => WebSocketLike,
    });
    await ours.waitForConnection();
    for (const path of ["/ws?room=room", "/parties/party/room"]) {
      const query = path.startsWith("/ws") ? `&user=${user}` : `?user=${user}`;
      const ws = new WebSocket(`${url}${path}-${i % rooms}${query}`);
      ws.on("error", (error) => {
        throw error;
      });
      await once(ws, "open");
      setInterval(() => ws.send(PING), PING_MS);
    }
    await sleep(APART_MS);
  }
  process.send?.({});
});
