/** What our rooms do, written for PartyServer as its own examples are: hibernation on, `broadcast`. */
import { type Connection, type ConnectionContext, routePartykitRequest, Server } from "partyserver";

/** What one client sends, all receive. */
export class Room extends Server {
  static override options = { hibernate: true };
  #next = 0;

  override onMessage(_: Connection, message: string | ArrayBuffer | ArrayBufferView): void {
    const { id, text } = JSON.parse(message as string).data;
    this.broadcast(frame({ type: "said", n: this.#next++, id, text }));
  }
}

interface User {
  userId: string;
  username: string;
  devices: number;
  status: string;
}

/** Presence, kept on the connections: a new client receives the list, the others an event. */
export class Presence extends Server {
  static override options = { hibernate: true };

  override onConnect(connection: Connection<User>, { request }: ConnectionContext): void {
    const userId = new URL(request.url).searchParams.get("user") ?? "";
    const self: User = { userId, username: userId, devices: 1, status: "online" };
    connection.setState(self);
    const users = [...this.getConnections<User>()].map(({ state }) => state);
    const totals = { totalUsers: users.length, totalConnections: users.length };
    connection.send(frame({ type: "presence.sync", users, ...totals }));
    const online = frame({ type: "presence.online", ...self, timestamp: Date.now() });
    this.broadcast(online, [connection.id]);
  }

  /** A client that means to notice a dead connection pings; nothing else answers it. */
  override onMessage(
    connection: Connection,
    message: string | ArrayBuffer | ArrayBufferView,
  ): void {
    if (JSON.parse(message as string).type === "ping") connection.send('{"type":"pong"}');
  }

  override onClose(connection: Connection<User>): void {
    const { userId, username } = connection.state as User;
    const offline = { type: "presence.offline", userId, username, timestamp: Date.now() };
    this.broadcast(frame(offline), [connection.id]);
  }
}

/** Publishes to all of its connections, and answers with what they answer. */
export class Publisher extends Server {
  static override options = { hibernate: true };
  readonly #waiting = new Map<string, { left: number; results: unknown[]; finish(): void }>();

  override async onRequest(request: Request): Promise<Response> {
    const { payload } = (await request.json()) as { payload: unknown };
    const envelopeId = crypto.randomUUID();
    const { promise, resolve: finish } = Promise.withResolvers<void>();
    const clientCount = [...this.getConnections()].length;
    const waiting = { left: clientCount, results: [], finish };
    this.#waiting.set(envelopeId, waiting);
    this.broadcast(JSON.stringify({ envelopeId, payload }));
    const timer = setTimeout(finish, 5_000);
    await promise;
    clearTimeout(timer);
    this.#waiting.delete(envelopeId);
    return Response.json({ clientCount, results: waiting.results });
  }

  override onMessage(_: Connection, message: string | ArrayBuffer | ArrayBufferView): void {
    const { envelopeId, result } = JSON.parse(message as string);
    const waiting = this.#waiting.get(envelopeId);
    if (!waiting) return;
    waiting.results.push(result);
    waiting.left -= 1;
    if (waiting.left === 0) waiting.finish();
  }
}

function frame(data: object): string {
  return JSON.stringify({ type: "event", channel: "default", data });
}

export default {
  async fetch(request: Request, env: Cloudflare.Env): Promise<Response> {
    return (await routePartykitRequest(request, env)) ?? new Response(null, { status: 404 });
  },
};
