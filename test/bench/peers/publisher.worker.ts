/** Publishing with acks as one writes it without a framework, and without a check of the sender. */
import { DurableObject } from "cloudflare:workers";

export class Publisher extends DurableObject {
  readonly #waiting = new Map<string, { left: number; results: unknown[]; finish(): void }>();

  override fetch(): Response {
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    return new Response(null, { status: 101, webSocket: client });
  }

  async publish(payload: unknown): Promise<object> {
    const envelopeId = crypto.randomUUID();
    const { promise, resolve: finish } = Promise.withResolvers<void>();
    const sockets = this.ctx.getWebSockets();
    const waiting = { left: sockets.length, results: [], finish };
    this.#waiting.set(envelopeId, waiting);
    const text = JSON.stringify({ envelopeId, payload });
    for (const ws of sockets) ws.send(text);
    const timer = setTimeout(finish, 5_000);
    await promise;
    clearTimeout(timer);
    this.#waiting.delete(envelopeId);
    return { clientCount: sockets.length, results: waiting.results };
  }

  override webSocketMessage(_: WebSocket, raw: string | ArrayBuffer): void {
    const { envelopeId, result } = JSON.parse(raw as string);
    const waiting = this.#waiting.get(envelopeId);
    if (!waiting) return;
    waiting.results.push(result);
    waiting.left -= 1;
    if (waiting.left === 0) waiting.finish();
  }
}

export default {
  async fetch(
    request: Request,
    env: { PUBLISHER: DurableObjectNamespace<Publisher> },
  ): Promise<Response> {
    const actor = env.PUBLISHER.getByName("bench");
    if (request.headers.get("Upgrade") === "websocket") return actor.fetch(request);
    const { payload } = (await request.json()) as { payload: unknown };
    return Response.json(await actor.publish(payload));
  },
};
