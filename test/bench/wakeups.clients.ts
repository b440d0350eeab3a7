/** Idle clients of presence rooms: ours as it comes, and ones that ping as often with messages. */
import { setTimeout as sleep } from "node:timers/promises";
import { VeraniClient } from "../../client/client.ts";
import { PING } from "../../src/wire/frames.ts";
import { answerParent } from "../kit/processes.ts";
import { openSocket, PlainWebSocket } from "../kit/sockets.ts";

export interface Task {
  url: string;
  clients: number;
  rooms: number;
}

/** As often as our client pings. */
const PING_MS = 5_000;
/** Rooms, and the clients of a room, begin apart, as they do in life. */
const APART_MS = 20;

answerParent(async ({ url, clients, rooms }: Task) => {
  for (let i = 0; i < clients * rooms; i++) {
    const [room, user] = [`room-${i % rooms}`, `user-${i}`];
    const ours = new VeraniClient(`${url}/ws/presence?room=${room}`, {
      token: `user:${user}`,
      WebSocket: PlainWebSocket,
    });
    await ours.waitForConnection();
    for (const path of ["/ws?room=room", "/parties/party/room"]) {
      const query = path.startsWith("/ws") ? `&user=${user}` : `?user=${user}`;
      const socket = await openSocket(`${url}${path}-${i % rooms}${query}`, "none", () => {});
      setInterval(() => socket.send(PING), PING_MS);
    }
    await sleep(APART_MS);
  }
});
