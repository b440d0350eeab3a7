/** Presence as one writes it without a framework: every arrival and departure is an event to everyone. */
import { DurableObject } from "cloudflare:workers";

export class Room extends DurableObject {
  override fetch(request: Request): Response {
    const userId = new URL(request.url).searchParams.get("user") ?? "";
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    const self = { userId, username: userId, devices: 1, status: "online" };
    server.serializeAttachment(self);

    const here = this.ctx.getWebSockets();
    const users = here.map((ws) => ws.deserializeAttachment());
    const totals = { totalUsers: users.length, totalConnections: here.length };
    server.send(frame({ type: "presence.sync", users, ...totals }));
    const online = frame({ type: "presence.online", ...self, timestamp: Date.now() });
    for (const ws of here) if (ws !== server) ws.send(online);
    return new Response(null, { status: 101, webSocket: client });
  }

  override webSocketMessage(ws: WebSocket, raw: string | ArrayBuffer): void {
    if (JSON.parse(raw as string).type === "ping") ws.send('{"type":"pong"}');
  }

  override webSocketClose(ws: WebSocket): void {
    const { userId, username } = ws.deserializeAttachment();
    const offline = frame({ type: "presence.offline", userId, username, timestamp: Date.now() });
    for (const other of this.ctx.getWebSockets()) if (other !== ws) other.send(offline);
  }
}

function frame(data: object): string {
  return JSON.stringify({ type: "event", channel: "default", data });
}

export default {
  fetch(request: Request, env: { ROOM: DurableObjectNamespace }): Promise<Response> {
    const name = new URL(request.url).searchParams.get("room") ?? "";
    return env.ROOM.getByName(name).fetch(request);
  },
};
