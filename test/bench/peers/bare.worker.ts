/** What one writes without a framework: a Durable Object that loops `ws.send`. */
import { DurableObject } from "cloudflare:workers";

export class Room extends DurableObject {
  #next = 0;

  override fetch(): Response {
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    return new Response(null, { status: 101, webSocket: client });
  }

  override webSocketMessage(_: WebSocket, raw: string | ArrayBuffer): void {
    const { id, text } = JSON.parse(raw as string).data;
    const data = { type: "said", n: this.#next++, id, text };
    const frame = JSON.stringify({ type: "event", channel: "default", data });
    for (const ws of this.ctx.getWebSockets()) ws.send(frame);
  }
}

export default {
  fetch(request: Request, env: { ROOM: DurableObjectNamespace }): Promise<Response> {
    return env.ROOM.getByName("bench").fetch(request);
  },
};
