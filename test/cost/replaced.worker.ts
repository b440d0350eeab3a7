/**
 * The designs that Rollcall replaces, as one writes them in an afternoon: what they cost is measured
 * on the same day. They do less than Rollcall (no tokens, no limits, no recovery), which is in their favour.
 */
import { DurableObject } from "cloudflare:workers";

export interface ReplacedEnv {
  PINGED: DurableObjectNamespace;
  WOKEN: DurableObjectNamespace;
  SSE: DurableObjectNamespace;
  KV: KVNamespace;
}

const ACK_TIMEOUT_MS = 5_000;
const KEEP_ALIVE_MS = 15_000;
const MOOD_TTL_MS = 30_000;

/** A room by hand: whoever says something is heard by all; pings are answered by the actor. */
abstract class Room extends DurableObject {
  readonly #awaited = new Map<string, { left: number; finish(): void }>();

  constructor(state: DurableObjectState, env: never) {
    super(state, env);
    state.storage.sql.exec("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, body TEXT)");
  }

  protected abstract take(ws: WebSocket): void;
  protected abstract sockets(): Iterable<WebSocket>;

  override async fetch(request: Request): Promise<Response> {
    if (request.method === "POST") return this.#publish(await request.text());
    const { 0: client, 1: server } = new WebSocketPair();
    this.take(server);
    this.#tell(JSON.stringify({ type: "joined" }));
    return new Response(null, { status: 101, webSocket: client });
  }

  protected hear(ws: WebSocket, text: string): void {
    if (text === '{"type":"ping"}') {
      ws.send('{"type":"pong"}');
      return;
    }
    const { type, id } = JSON.parse(text) as { type: string; id?: string };
    if (type === "subscribe") return;
    if (type === "ack") {
      const awaited = this.#awaited.get(id ?? "");
      if (awaited && --awaited.left === 0) awaited.finish();
      return;
    }
    if (type === "push") this.ctx.storage.sql.exec("INSERT INTO events (body) VALUES (?)", text);
    this.#tell(text);
  }

  async #publish(payload: string): Promise<Response> {
    const id = crypto.randomUUID();
    const left = [...this.sockets()].length;
    if (left > 0) {
      const { promise, resolve: finish } = Promise.withResolvers<void>();
      this.#awaited.set(id, { left, finish });
      const timer = setTimeout(finish, ACK_TIMEOUT_MS);
      this.#tell(JSON.stringify({ envelopeId: id, payload }));
      await promise;
      clearTimeout(timer);
      this.#awaited.delete(id);
    }
    return Response.json({ clientCount: left });
  }

  #tell(text: string): void {
    for (const ws of this.sockets()) ws.send(text);
  }
}

/** With the WebSocket API that every tutorial shows: no hibernation. */
export class PingedRoom extends Room {
  readonly #sockets = new Set<WebSocket>();

  protected sockets(): Iterable<WebSocket> {
    return this.#sockets;
  }

  protected take(ws: WebSocket): void {
    ws.accept();
    this.#sockets.add(ws);
    ws.addEventListener("message", ({ data }) => this.hear(ws, String(data)));
    ws.addEventListener("close", () => {
      this.#sockets.delete(ws);
      ws.close();
    });
  }
}

/** With sockets that may hibernate, were it not for the pings that its code answers. */
export class WokenRoom extends Room {
  protected sockets(): Iterable<WebSocket> {
    return this.ctx.getWebSockets();
  }

  protected take(ws: WebSocket): void {
    this.ctx.acceptWebSocket(ws);
  }

  override webSocketMessage(ws: WebSocket, text: string | ArrayBuffer): void {
    this.hear(ws, String(text));
  }
}

interface Beat {
  user_id: string;
  device_id: string;
  status: string;
  ttl_ms: number;
}

/** Devices of a user: each beat is stored and moves the alarm; streams are held open in the actor. */
export class SseDevices extends DurableObject {
  readonly #writers = new Set<WritableStreamDefaultWriter<Uint8Array>>();
  readonly #encoder = new TextEncoder();

  override async fetch(request: Request): Promise<Response> {
    if (request.method !== "POST") return this.#stream();
    const beat = (await request.json()) as Beat;
    await this.ctx.storage.put(beat.device_id, { ...beat, atMs: Date.now() });
    await this.ctx.storage.setAlarm(Date.now() + beat.ttl_ms);
    this.#tell(beat);
    return new Response(null, { status: 204 });
  }

  async #stream(): Promise<Response> {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    this.#writers.add(writer);
    const keepAlive = setInterval(() => {
      void writer.write(this.#encoder.encode(": keep-alive\n\n"));
    }, KEEP_ALIVE_MS);
    const leave = () => {
      clearInterval(keepAlive);
      this.#writers.delete(writer);
    };
    writer.closed.then(leave, leave);
    for (const beat of (await this.ctx.storage.list<Beat>()).values()) this.#tell(beat);
    return new Response(readable, { headers: { "Content-Type": "text/event-stream" } });
  }

  #tell(beat: Beat): void {
    const bytes = this.#encoder.encode(`data: ${JSON.stringify(beat)}\n\n`);
    for (const writer of this.#writers) writer.write(bytes).catch(() => {});
  }

  override async alarm(): Promise<void> {
    const now = Date.now();
    for (const [key, beat] of await this.ctx.storage.list<Beat & { atMs: number }>()) {
      if (beat.status !== "online" || now < beat.atMs + beat.ttl_ms) continue;
      await this.ctx.storage.put(key, { ...beat, status: "offline" });
      this.#tell({ ...beat, status: "offline" });
    }
  }
}

/** One value per user, read and written back with every heartbeat. */
async function kvBeat(beat: Beat, { KV }: ReplacedEnv): Promise<Response> {
  const devices = (await KV.get<Record<string, object>>(beat.user_id, "json")) ?? {};
  devices[beat.device_id] = { ...beat, atMs: Date.now() };
  await KV.put(beat.user_id, JSON.stringify(devices));
  return new Response(null, { status: 204 });
}

/** One value for the whole app, read and written back with every heartbeat. */
async function kvMood(
  { sessionId, mood }: { sessionId: string; mood?: string },
  { KV }: ReplacedEnv,
): Promise<Response> {
  const now = Date.now();
  const all = (await KV.get<Record<string, { mood: string; atMs: number }>>("moods", "json")) ?? {};
  const here = Object.entries(all).filter(([, { atMs }]) => now - atMs < MOOD_TTL_MS);
  const next = Object.fromEntries(here);
  if (mood === undefined) delete next[sessionId];
  else next[sessionId] = { mood, atMs: now };
  await KV.put("moods", JSON.stringify(next));
  return Response.json({ count: Object.keys(next).length });
}

export async function replaced(request: Request, env: ReplacedEnv): Promise<Response> {
  const [, design, name = ""] = new URL(request.url).pathname.split("/");
  switch (design) {
    case "pinged":
      return env.PINGED.getByName(name).fetch(request);
    case "woken":
      return env.WOKEN.getByName(name).fetch(request);
    case "sse":
      return env.SSE.getByName(name).fetch(request);
    case "kv-moods":
      return kvMood(await request.json(), env);
    case "kv-devices":
      return request.method === "POST"
        ? kvBeat(await request.json(), env)
        : Response.json((await env.KV.get(name, "json")) ?? {});
    default:
      return new Response(null, { status: 404 });
  }
}
